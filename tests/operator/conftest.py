"""One control plane for all operator tests: real API server, our definitions, no nodes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster.control_plane import ControlPlane
from cluster.places import REPOSITORY


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """A running control plane that knows JobQueues and JobWorkerPools."""
    with ControlPlane() as running:
        running.kubectl("apply", "--server-side", f"--filename={REPOSITORY / 'crds'}")
        running.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
        yield running
