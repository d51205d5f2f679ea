"""The end-to-end suite's world: Headrace deployed by helm on a real cluster, a namespace for each test."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster import deploy
from support import stage as stages
from support.kubectl import Kubectl

if TYPE_CHECKING:
    from collections.abc import Iterator

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def cluster() -> Kubectl:
    """kubectl for a cluster on which Headrace is deployed."""
    access = deploy.access()
    return Kubectl(binary=access.kubectl, kubeconfig=access.kubeconfig)


@pytest.fixture
def stage(cluster: Kubectl) -> Iterator[stages.Stage]:
    """A namespace of the test's own, with a PostgreSQL in it."""
    with stages.stage(cluster) as made:
        yield made
