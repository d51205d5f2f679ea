"""The cluster: kind with one node, made where there is none or only a sick one, else used as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster import engine, tools
from cluster.engine import docker
from cluster.errors import ClusterError
from cluster.node_image import NodeImage, node_image
from cluster.places import BUILD, KUBECONFIG, REPOSITORY, locked
from cluster.processes import pipe, run, succeeds, wait_until
from cluster.progress import say, step

NAME = "headrace"
_NODE = f"{NAME}-control-plane"
_CTR = ("ctr", "--namespace=k8s.io", "images")
_LOADED = "headrace.dev/docker-id"
# In the node: written when all of it is set up.
_COMPLETE = "/kind/headrace-complete"
_CONFIG = REPOSITORY / "kind-config.yaml"
# A node that is started again has its pods to start again too.
_RECOVERY_TIMEOUT_SECONDS = 90.0
_HEALTH_TIMEOUT_SECONDS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A cluster that is up, and the commands to talk to it.

    Attributes
    ----------
    kubeconfig
        The file of a cluster administrator.
    kubectl, helm
        Commands new enough for this Kubernetes.
    """

    kubeconfig: Path
    kubectl: Path

    @property
    def helm(self) -> Path:
        return tools.helm()

    def load_images(self, images: Sequence[str]) -> None:
        """Copy images from Docker into the cluster; those that it has already cost nothing."""
        load_images(images)


def up() -> Cluster:
    """Return a healthy cluster: the one that is there, or a new one."""
    engine.ensure()
    with locked("kind"):
        cluster = Cluster(kubeconfig=KUBECONFIG, kubectl=tools.kubectl())
        image = node_image()
        if not _reuse(image):
            _delete()
            _create(image, cluster)
    return cluster


def down() -> None:
    """Delete the cluster, and stop the Docker engine if it is our own: nothing is left running."""
    with locked("kind"):
        if engine.was_killed():
            engine.revive()
        if engine.answers():
            _delete()
        KUBECONFIG.unlink(missing_ok=True)
    engine.stop()


def is_up() -> bool:
    """Whether the cluster answers and its node is ready."""
    return engine.answers() and _node_runs() and _healthy()


def load_images(images: Sequence[str]) -> None:
    """Copy images from Docker into the cluster; those that it has already cost nothing."""
    if not _node_runs():
        raise ClusterError("there is no cluster to load images into: bring it up first")
    marks = {image: f"{_LOADED}={docker('image', 'inspect', '--format={{.Id}}', image).strip()}" for image in images}
    missing = [image for image, mark in marks.items() if not _is_loaded(image, mark)]
    if not missing:
        return
    with step(f"load {', '.join(missing)}"):
        importing = ["import", "--all-platforms", "--snapshotter=overlayfs", "-"]
        pipe(
            ["docker", "save", *missing],
            ["docker", "exec", "--interactive", _NODE, *_CTR, *importing],
            failure="the node's containerd refuses the images",
        )
        for image in missing:
            docker("exec", _NODE, *_CTR, "label", reference(image), marks[image])


def reference(image: str) -> str:
    """Return the full name by which containerd knows what Docker calls `image`."""
    registry, slash, _ = image.partition("/")
    if slash and ("." in registry or ":" in registry or registry == "localhost"):
        return image
    return f"docker.io/{image}" if slash else f"docker.io/library/{image}"


def configuration(base: str, *, carries_cni: bool, restrict_oom_score: bool) -> str:
    """Return kind's configuration for this machine: `base` and what differs from machine to machine.

    Parameters
    ----------
    base
        A configuration in YAML that has neither `networking` nor `containerdConfigPatches`.
    carries_cni
        Whether the node image brings its own pod network.
    restrict_oom_score
        Whether the node's containerd must not lower a container's OOM score below its own, which takes
        CAP_SYS_RESOURCE. Both of containerd's configuration versions are given; kind takes the one that fits.
    """
    parts = [base]
    if carries_cni:
        parts.append("networking:\n  disableDefaultCNI: true\n")
    if restrict_oom_score:
        parts.append(
            "containerdConfigPatches:\n"
            + "".join(
                f'- |-\n  version = {version}\n  [plugins."{plugin}"]\n    restrict_oom_score_adj = true\n'
                for version, plugin in ((2, "io.containerd.grpc.v1.cri"), (3, "io.containerd.cri.v1.runtime"))
            ),
        )
    return "".join(parts)


def _reuse(image: NodeImage) -> bool:
    """Whether there is a cluster of this node image that is healthy, or becomes so when its node is started."""
    if not succeeds(["docker", "container", "inspect", _NODE]):
        return False
    if docker("container", "inspect", "--format={{.Config.Image}}", _NODE).strip() != image.name:
        say("the cluster is of another version: it is made anew")
        return False
    patience = _HEALTH_TIMEOUT_SECONDS
    if not _node_runs():
        say("the cluster's node was stopped: starting it again")
        docker("start", _NODE)
        patience = _RECOVERY_TIMEOUT_SECONDS
    # Where kind was killed, kubeadm goes on inside the node and makes one that is ready, but takes no pods.
    if not succeeds(["docker", "exec", _NODE, "test", "-e", _COMPLETE]):
        say("the cluster was never completed: it is made anew")
        return False
    try:
        wait_until("the cluster", _healthy, timeout_seconds=patience)
    except ClusterError:
        say("the cluster is not healthy: it is made anew")
        return False
    BUILD.mkdir(exist_ok=True)
    run([tools.kind(), "export", "kubeconfig", f"--name={NAME}", f"--kubeconfig={KUBECONFIG}"])
    KUBECONFIG.chmod(0o600)
    return True


def _create(image: NodeImage, cluster: Cluster) -> None:
    BUILD.mkdir(exist_ok=True)
    config = BUILD / "kind-config.yaml"
    config.write_text(
        configuration(
            _CONFIG.read_text(),
            carries_cni=image.carries_cni,
            restrict_oom_score=engine.machine_lacks_sys_resource(),
        ),
    )
    create: list[str | Path] = [
        tools.kind(),
        "create",
        "cluster",
        f"--name={NAME}",
        f"--image={image.name}",
        f"--config={config}",
    ]
    dns = ["rollout", "status", "deployment/coredns", "--namespace=kube-system", "--timeout=180s"]
    with step("create the cluster"):
        run([*create, f"--kubeconfig={KUBECONFIG}", "--wait=180s"], failure="kind can't create the cluster")
        KUBECONFIG.chmod(0o600)
        run([cluster.kubectl, f"--kubeconfig={KUBECONFIG}", *dns], failure="the cluster's DNS does not come up")
        docker("exec", _NODE, "touch", _COMPLETE)


def _delete() -> None:
    if succeeds(["docker", "container", "inspect", _NODE]):
        with step("delete the cluster"):
            run([tools.kind(), "delete", "cluster", f"--name={NAME}", f"--kubeconfig={KUBECONFIG}"])


def _is_loaded(image: str, mark: str) -> bool:
    # kind's own way asks crictl, which Debian has not: the label says which of Docker's images this one was.
    label, _, identity = mark.partition("=")
    return bool(docker("exec", _NODE, *_CTR, "ls", "--quiet", f'name=={reference(image)},labels."{label}"=={identity}'))


def _node_runs() -> bool:
    return succeeds(["docker", "exec", _NODE, "true"])


def _healthy() -> bool:
    admin = "--kubeconfig=/etc/kubernetes/admin.conf"
    ready = ["wait", "node", "--all", "--for=condition=Ready", "--timeout=5s"]
    return succeeds(["docker", "exec", _NODE, "kubectl", admin, *ready])
