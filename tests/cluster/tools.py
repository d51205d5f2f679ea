"""The commands around a cluster: those on PATH where they are new enough, else the ones we compile."""

from __future__ import annotations

import os
from pathlib import Path

from cluster import build, versions
from cluster.errors import ClusterError
from cluster.processes import run


def kind() -> Path:
    """Return a kind command that knows the node image of this Kubernetes."""
    return _on_path("kind", ["version"], versions.OLDEST_KIND) or build.kind()


def kubectl() -> Path:
    """Return a kubectl that may talk to this Kubernetes: one minor version apart at most."""
    return _on_path("kubectl", ["version", "--client"], versions.OLDEST_KUBECTL) or build.kubernetes() / "kubectl"


def helm() -> Path:
    """Return a helm command."""
    return _on_path("helm", ["version", "--short"], versions.OLDEST_HELM) or build.helm()


def _on_path(name: str, ask_version: list[str], oldest: str) -> Path | None:
    """Return the first command of this name on PATH that is `oldest` or newer: an old one may hide a new one."""
    for folder in os.get_exec_path():
        command = Path(folder) / name
        if os.access(command, os.X_OK) and versions.at_least(_says(command, ask_version), oldest):
            return command
    return None


def _says(command: Path, arguments: list[str]) -> str:
    try:
        return run([command, *arguments])
    except (ClusterError, OSError):
        return ""
