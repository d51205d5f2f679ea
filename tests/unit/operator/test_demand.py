"""What sampling is told of a queue's pools."""

from __future__ import annotations

from typing import Any

import pytest

from headrace_operator.core.model import ObjectKey, WorkerPod
from headrace_operator.reconcile.demand import Demand
from headrace_operator.reconcile.objects import ObjectStore
from support.memory_cluster import MemoryCluster

QUEUE = ObjectKey("shop", "thumbnails")


class Pools:
    def __init__(self) -> None:
        objects = ObjectStore()
        self.cluster = MemoryCluster(objects)
        self.demand = Demand(objects, self.cluster)
        self._number = 0

    def add(self, queue: str = "thumbnails", replicas: int | None = 1, **autoscaling: Any) -> None:
        self._number += 1
        spec: dict[str, Any] = {"queueRef": {"name": queue}, "autoscaling": autoscaling}
        if replicas is not None:
            spec["replicas"] = replicas
        metadata = {"namespace": "shop", "name": f"pool-{self._number}"}
        self.cluster.put({"kind": "JobWorkerPool", "metadata": metadata, "spec": spec})


@pytest.fixture
def pools() -> Pools:
    return Pools()


@pytest.mark.parametrize(
    ("autoscaling", "seconds"),
    [
        ({}, 5),
        ({"mode": "HPA", "sampleIntervalSeconds": 1}, 1),
        ({"mode": "HPA", "sampleIntervalSeconds": 60}, 10),
        ({"mode": "Direct", "sampleIntervalSeconds": 60}, 60),
        ({"mode": "Off", "sampleIntervalSeconds": 60}, 15),
    ],
)
def test_a_pool_with_workers_wants_samples(pools: Pools, autoscaling: dict[str, Any], seconds: float) -> None:
    pools.add(**autoscaling)
    assert pools.demand.interval_seconds(QUEUE) == seconds


def test_of_several_pools_the_most_impatient_one_counts(pools: Pools) -> None:
    pools.add(mode="Direct", sampleIntervalSeconds=20)
    pools.add(mode="Direct", sampleIntervalSeconds=3)
    pools.add(mode="Direct", sampleIntervalSeconds=1, replicas=0)
    pools.add("mails", mode="Direct", sampleIntervalSeconds=1)
    assert pools.demand.interval_seconds(QUEUE) == 3


@pytest.mark.parametrize("replicas", [0, None])
def test_pools_at_zero_or_without_a_number_and_none_at_all_sleep(pools: Pools, replicas: int | None) -> None:
    assert pools.demand.interval_seconds(QUEUE) is None
    pools.add(replicas=replicas)
    assert pools.demand.interval_seconds(QUEUE) is None


def test_the_pods_of_all_pools_are_sources(pools: Pools) -> None:
    pod = WorkerPod(name="worker", address="http://10.0.0.1:8080", ready=True)
    pools.cluster.worker_pods = [pod]
    pools.add()
    pools.add(replicas=0)
    pools.add("mails")
    assert pools.demand.pods(QUEUE) == [pod, pod]
