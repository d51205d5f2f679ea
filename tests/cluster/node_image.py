"""kind's node image: kind's own where a registry gives it, else one made of Debian and of what we compile."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster import base_images, build, versions
from cluster.base_images import build_image, exists, pulled
from cluster.engine import docker
from cluster.places import NODE_SOURCES, fingerprint, locked
from cluster.processes import pipe, run, succeeds, wait_until
from cluster.progress import step

# The one that kind was released with.
_RELEASED = "kindest/node:v1.37.0@sha256:a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5"
_SOURCES = NODE_SOURCES / "image"
_CONTAINER = "headrace-node-build"
_ENTRYPOINT = ("/usr/local/bin/entrypoint", "/sbin/init")
_NODE_COMMANDS = ("kubeadm", "kubectl", "kubelet")
_CONTAINERD_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeImage:
    """The image of a node.

    Attributes
    ----------
    carries_cni
        Whether its pod network is in it, so that kind must not install one whose image is not there.
    """

    name: str
    carries_cni: bool


def node_image() -> NodeImage:
    """Return the node image, pulled or built."""
    released = pulled(_RELEASED)
    if released:
        return NodeImage(name=released, carries_cni=False)
    key = fingerprint(base_images.debian(), versions.KIND, versions.COREDNS, NODE_SOURCES)
    image = f"headrace/node:v{versions.KUBERNETES}-{key}"
    with locked("node-image"):
        if not exists(image):
            _build(image)
    return NodeImage(name=image, carries_cni=True)


def _build(image: str) -> None:
    debian = base_images.debian()
    kube = build.kubernetes() / "kube"
    system_images = _system_images(debian, kube)
    base = _base(debian)
    with step(f"put {image} together"), _container(base) as container:
        docker("cp", str(kube), f"{container}:/usr/bin/kube")
        _inside("cd /usr/bin && for name in {}; do ln -sf kube $name; done", " ".join(_NODE_COMMANDS))
        _inside("printf v{} > /kind/version", versions.KUBERNETES)
        pause = next(name for name in system_images if "/pause:" in name)
        _inside("sed -i 's#sandbox_image = .*#sandbox_image = \"{}\"#' /etc/containerd/config.toml", pause)
        _import(system_images)
        # The container's own entry point only sleeps.
        docker("commit", f"--change=ENTRYPOINT {json.dumps(_ENTRYPOINT)}", container, image)


def _base(debian: str) -> str:
    """Build the node without Kubernetes."""
    with tempfile.TemporaryDirectory() as folder:
        context = Path(folder) / "context"
        shutil.copytree(_SOURCES, context)
        files = build.module_sources(f"sigs.k8s.io/kind@v{versions.KIND}") / "images" / "base" / "files"
        # The contents alone: Go's module cache is read-only, and the image must not be.
        shutil.copytree(files, context / "files", copy_function=shutil.copyfile)
        run(["chmod", "-R", "u+w", context])
        return build_image(
            "headrace/node-base", _SOURCES / "Dockerfile.base", context=context, arguments={"BASE_IMAGE": debian}
        )


def _system_images(debian: str, kube: Path) -> list[str]:
    """Build the images that kubeadm asks for, under the names that it asks for."""
    wanted = run(
        [kube.with_name("kubeadm"), "config", "images", "list", f"--kubernetes-version=v{versions.KUBERNETES}"]
    ).split()
    made = {
        "kube": _image_of("headrace/kubernetes", "Dockerfile.kubernetes", kube, {"BASE_IMAGE": debian}),
        "coredns": _image_of("headrace/coredns", "Dockerfile.command", build.coredns(), {"COMMAND": "coredns"}),
        "pause": _image_of("headrace/pause", "Dockerfile.command", build.pause(), {"COMMAND": "pause"}),
    }
    for name in wanted:
        component = name.rsplit("/", 1)[-1].partition(":")[0]
        docker("tag", made.get(component, made["kube"]), name)
    return wanted


def _image_of(repository: str, dockerfile: str, binary: Path, arguments: dict[str, str]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(binary, folder)
        return build_image(repository, _SOURCES / dockerfile, context=Path(folder), arguments=arguments)


@contextmanager
def _container(base: str) -> Iterator[str]:
    """Run a node that only sleeps; one left by a build that was killed goes first."""
    docker("rm", "--force", _CONTAINER)
    docker(
        "run",
        "--detach",
        "--privileged",
        "--network=none",
        f"--name={_CONTAINER}",
        "--entrypoint=sleep",
        base,
        "infinity",
    )
    try:
        yield _CONTAINER
    finally:
        docker("rm", "--force", _CONTAINER)


def _inside(script: str, *values: str) -> None:
    docker("exec", _CONTAINER, "sh", "-ec", script.format(*values))


def _import(images: Sequence[str]) -> None:
    """Put `images` into the node's containerd, packed: it unpacks them where they are run."""
    docker("exec", "--detach", _CONTAINER, "containerd")
    wait_until(
        "containerd in the node",
        lambda: succeeds(["docker", "exec", _CONTAINER, "ctr", "version"]),
        timeout_seconds=_CONTAINERD_TIMEOUT_SECONDS,
    )
    pipe(
        ["docker", "save", *images],
        ["docker", "exec", "--interactive", _CONTAINER, "ctr", "-n=k8s.io", "images", "import", "--no-unpack", "-"],
        failure="the node's containerd refuses the images of Kubernetes",
    )
    _inside("pkill containerd; while pgrep containerd >/dev/null; do sleep 0.1; done; rm -rf /run/containerd")
