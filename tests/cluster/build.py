"""The tools that a machine may lack, compiled from their Go modules into the user's cache.

Each build stands in a folder of its own, named by version and by a hash of our sources; it is made beside and renamed
into place, so that a folder which is there is complete, however often a run was killed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from cluster import toolchain, versions
from cluster.places import NODE_SOURCES, cache, fingerprint, locked
from cluster.processes import run
from cluster.progress import step

# The names under which the one Kubernetes binary is called.
KUBERNETES_COMMANDS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubeadm",
    "kubectl",
    "kubelet",
)


def kubernetes() -> Path:
    """Return the folder with all commands of Kubernetes and etcd."""

    def compile_into(folder: Path) -> None:
        major, minor, _ = versions.parse(versions.KUBERNETES)
        stamp = {
            "gitVersion": f"v{versions.KUBERNETES}",
            "gitMajor": str(major),
            "gitMinor": str(minor),
            "gitTreeState": "clean",
            "gitCommit": "unknown",
            # Fixed, so that the same sources make the same file.
            "buildDate": "1970-01-01T00:00:00Z",
        }
        flags = [f"-X k8s.io/component-base/version.{name}={value}" for name, value in stamp.items()]
        _go_build(NODE_SOURCES / "kube", folder / "kube", link_flags=flags)
        for name in KUBERNETES_COMMANDS:
            (folder / name).symlink_to("kube")

    return _cached(
        f"kubernetes-{versions.KUBERNETES}",
        fingerprint(NODE_SOURCES / "kube"),
        compile_into,
        hint="the first time about 6 minutes on two cores",
    )


def coredns() -> Path:
    """Return the CoreDNS binary."""
    folder = _cached(
        f"coredns-{versions.COREDNS}",
        fingerprint(NODE_SOURCES / "coredns"),
        lambda folder: _go_build(NODE_SOURCES / "coredns", folder / "coredns"),
        hint="about a minute",
    )
    return folder / "coredns"


def kind() -> Path:
    """Return the kind command."""
    module = f"sigs.k8s.io/kind@v{versions.KIND}"
    folder = _cached(f"kind-{versions.KIND}", fingerprint(module), lambda folder: _go_install(module, folder))
    return folder / "kind"


def helm() -> Path:
    """Return the helm command."""
    module = f"helm.sh/helm/v4/cmd/helm@v{versions.HELM}"
    flags = [f"-X helm.sh/helm/v4/internal/version.version=v{versions.HELM}"]
    folder = _cached(
        f"helm-{versions.HELM}",
        fingerprint(module, *flags),
        lambda folder: _go_install(module, folder, link_flags=flags),
        hint="about two minutes",
    )
    return folder / "helm"


def pause() -> Path:
    """Return the process that holds a pod's namespaces."""
    folder = _cached(
        "pause-1",
        fingerprint(NODE_SOURCES / "pause"),
        lambda folder: _go_build(NODE_SOURCES / "pause", folder / "pause"),
    )
    return folder / "pause"


def module_sources(module: str) -> Path:
    """Return the folder of a Go module's sources, given as `path@version`."""
    told = run([toolchain.go(), "mod", "download", "-json", module], environment=_environment())
    return Path(json.loads(told)["Dir"])


def _cached(name: str, key: str, make: Callable[[Path], None], *, hint: str = "") -> Path:
    place = cache() / f"{name}-{key}"
    if place.is_dir():
        return place
    with locked(place.name):
        if not place.is_dir():
            unfinished = place.with_name(f".{place.name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            with step(f"compile {name.replace('-', ' ')}", hint=hint):
                make(unfinished)
            unfinished.rename(place)
    return place


def _go_build(sources: Path, output: Path, *, link_flags: list[str] | None = None) -> None:
    run(
        [
            toolchain.go(),
            "build",
            "-trimpath",
            f"-ldflags={' '.join(['-s', '-w', *(link_flags or [])])}",
            "-o",
            output,
            ".",
        ],
        directory=sources,
        environment=_environment(),
    )


def _go_install(module: str, folder: Path, *, link_flags: list[str] | None = None) -> None:
    run(
        [toolchain.go(), "install", "-trimpath", f"-ldflags={' '.join(['-s', '-w', *(link_flags or [])])}", module],
        environment={**_environment(), "GOBIN": str(folder)},
    )


def _environment() -> dict[str, str]:
    # No C, so that the binaries run in any image; and no toolchain but the one chosen.
    return {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off"}
