"""Headrace on the cluster: images built and loaded, the chart installed by helm, ready when it returns."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster import images, kind, tools
from cluster.engine import docker
from cluster.errors import ClusterError
from cluster.places import REPOSITORY
from cluster.processes import run
from cluster.progress import step

RELEASE = "headrace"
NAMESPACE = "headrace-system"
_CHART = REPOSITORY / "charts" / "headrace"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """A cluster on which Headrace runs, and the commands to talk to it."""

    kubeconfig: Path
    kubectl: Path


def deploy(extra_images: Mapping[str, Path] | None = None, *, backends: Collection[str] = images.BACKENDS) -> Access:
    """Bring up the cluster where it is not, build and load the images, install or upgrade the chart.

    Parameters
    ----------
    extra_images
        Further images on top of the worker's, by name: the folders of their Dockerfiles.
    backends
        Which of the tests' own servers are wanted. Defaults to all.
    """
    cluster = kind.up()
    built = images.build_images(extra_images, backends=backends)
    cluster.load_images(built)
    _install(cluster)
    return Access(kubeconfig=cluster.kubeconfig, kubectl=cluster.kubectl)


def access() -> Access:
    """Return the cluster that the end-to-end tests run on: the one that KUBECONFIG names, if asked to, else our own.

    With ``HEADRACE_E2E_USE_KUBECONFIG=1`` Headrace must be installed there, and its images at hand.
    """
    if os.environ.get("HEADRACE_E2E_USE_KUBECONFIG") != "1":
        return deploy()
    named = os.environ.get("KUBECONFIG")
    if not named or not Path(named).is_file():
        raise ClusterError("HEADRACE_E2E_USE_KUBECONFIG=1 needs KUBECONFIG to name a file: set it, or unset both")
    return Access(kubeconfig=Path(named), kubectl=tools.kubectl())


def _install(cluster: kind.Cluster) -> None:
    kubectl = (str(cluster.kubectl), f"--kubeconfig={cluster.kubeconfig}")
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    }
    with step("install the chart"):
        run([*kubectl, "apply", "--server-side", "-f", "-"], stdin=json.dumps(namespace))
        run(
            [
                *(cluster.helm, "upgrade", RELEASE, _CHART, "--install", "--wait", "--timeout=120s"),
                *(f"--kubeconfig={cluster.kubeconfig}", f"--namespace={NAMESPACE}"),
                *("--set=image.repository=headrace/operator", "--set=image.tag=dev"),
                *("--set=worker.image.repository=headrace/worker", "--set=worker.image.tag=dev"),
                # The tag stays while the image changes: its id rolls the operator.
                f"--set-string=podAnnotations.headrace\\.dev/image-id={_image_id(images.OPERATOR)}",
            ],
            failure="helm can't install the chart",
        )


def _image_id(image: str) -> str:
    return docker("image", "inspect", "--format={{.Id}}", image).strip()
