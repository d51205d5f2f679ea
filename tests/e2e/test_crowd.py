"""Hundreds of queues that wait for work cost as good as nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cluster import deploy
from support.crowd import Crowd
from support.kubectl import Kubectl

if TYPE_CHECKING:
    from support.stage import Stage

SIZE = 500
QUIET_SECONDS = 45


def operators_page(stage: Stage) -> str:
    """The operator's metrics."""
    kubectl = stage.kubectl
    system = Kubectl(binary=kubectl.binary, kubeconfig=kubectl.kubeconfig, namespace=deploy.NAMESPACE)
    [pod] = system.list("pods", selector="app.kubernetes.io/component=operator")
    path = f"/api/v1/namespaces/{deploy.NAMESPACE}/pods/{pod['metadata']['name']}:8080/proxy/metrics"
    return system.run("get", "--raw", path)


def sessions(stage: Stage) -> int:
    """How many sessions the queues' database has seen begin; asked from beside it."""
    dsn = urlsplit(stage.dsn)
    beside = replace(stage, dsn=dsn._replace(path="/postgres").geturl())
    database = dsn.path.removeprefix("/")
    [row] = beside.sql("SELECT sessions FROM pg_stat_database WHERE datname = $1", database)
    return int(row["sessions"])


def test_five_hundred_idle_queues_and_pools_are_all_ready_and_cost_no_write_and_no_login(stage: Stage) -> None:
    crowd = Crowd(
        kubectl=stage.kubectl, size=SIZE, page=lambda: operators_page(stage), sessions=lambda: sessions(stage)
    )
    crowd.create()
    crowd.wait_ready()
    crowd.wait_at_rest()
    cost = crowd.cost_of(QUIET_SECONDS)
    print(cost)
    assert cost.logins == 0
    # What other tests leave behind, whose namespaces are being deleted, may be written of; none of ours is.
    assert cost.writes <= SIZE / 25
    assert cost.requests <= SIZE / 5
    # A quarter of what 500 have cost once, when each was looked at every few seconds; a busy machine counts more of it.
    assert cost.cores <= 0.1
