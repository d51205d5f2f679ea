"""The chart as helm renders and installs it: a real helm, and a real API server to install into."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster import tools
from cluster.control_plane import ControlPlane
from cluster.places import REPOSITORY
from cluster.processes import run

Manifest = dict[str, Any]
Helm = Callable[..., str]
Render = Callable[..., list[Manifest]]

CHART = REPOSITORY / "charts" / "headrace"
NAMESPACE = "headrace-system"


@pytest.fixture(scope="session")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Run helm, apart from whatever the user has configured."""
    command = tools.helm()
    home = tmp_path_factory.mktemp("helm")
    environment = {f"HELM_{kind}_HOME": str(home / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}

    def call(*arguments: str | Path) -> str:
        return run([command, *arguments], environment=environment)

    return call


@pytest.fixture(scope="session")
def render(helm: Helm) -> Render:
    """Render the chart with some values set."""

    def call(*settings: str) -> list[Manifest]:
        sets = [f"--set={setting}" for setting in settings]
        text = helm("template", "headrace", CHART, f"--namespace={NAMESPACE}", "--kube-version=1.37.0", *sets)
        return [manifest for manifest in yaml.safe_load_all(text) if manifest]

    return call


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """A cluster without nodes, whose namespace for the chart enforces the restricted Pod Security Standard."""
    with ControlPlane() as running:
        running.kubectl("create", "namespace", NAMESPACE)
        running.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
        yield running
