"""The operator's reconcilers with their work queues, over a cluster in memory."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

from headrace_operator.core.model import ObjectKey, QueueDepth
from headrace_operator.core.rollout import OperatorRelease
from headrace_operator.reconcile.controllers import Controllers
from headrace_operator.reconcile.observations import Observations
from support.memory_cluster import MemoryBackend, MemoryCluster, SetClock

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from headrace_operator.core.provider import Place

QUEUE = ObjectKey("shop", "thumbnails")
POOL = ObjectKey("shop", "workers")


class Backend(MemoryBackend):
    """Its readings are observed, as those of sampling are."""

    def __init__(self, clock: SetClock, observations: Observations) -> None:
        super().__init__(clock)
        self._observations = observations

    def follow(self, queue: ObjectKey, place: Place) -> None:
        super().follow(queue, place)
        self.read(queue)

    def read(self, queue: ObjectKey) -> None:
        reading = self.reading(queue)
        assert reading is not None
        self._observations.remember_reading(queue, reading)


class Process:
    """One operator over a cluster that others may write to, too."""

    def __init__(self, clock: SetClock) -> None:
        self.clock = clock
        self.observations = Observations(clock)
        self.looks: Counter[str] = Counter()
        """How many were taken at the objects of a kind."""
        self.controllers = Controllers(clock, self.observations, lambda kind, *_: self.looks.update([kind]))
        self.backend = Backend(clock, self.observations)

    async def lead(self, cluster: MemoryCluster, story: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async with self.controllers.running(
            cluster=cluster,
            providers={"Postgres": self.backend},
            sampling=self.backend,
            as_seen_from_here=lambda host, _: host,
            release=OperatorRelease(image="headrace/worker:test"),
            metrics_api_failure=lambda: None,
        ):
            await story()

    async def count(self, ready: int) -> None:
        """The depth changes, and some seconds pass."""
        self.backend.depth = QueueDepth(ready=ready)
        self.backend.read(QUEUE)
        self.controllers.show_news(QUEUE, is_urgent=True)
        await self.pass_by()

    async def pass_by(self) -> None:
        for _ in range(20):
            self.clock.move(0.5)
            await asyncio.sleep(0.5)

    def show(self, cluster: MemoryCluster) -> None:
        for kind, key in (("JobQueue", QUEUE), ("JobWorkerPool", POOL)):
            manifest = cluster.find(kind, key)
            assert manifest is not None
            self.controllers.show(manifest)

    def desired_workers(self) -> list[float]:
        """What HorizontalPodAutoscalers would read."""
        return [value.value for value in self.observations.values("background_jobs_desired_workers", "shop")]


def cluster_of(process: Process) -> MemoryCluster:
    cluster = MemoryCluster(process.controllers.objects)
    cluster.secrets[ObjectKey("shop", "pg")] = {"dsn": b"postgresql://u:p@db/shop"}
    spec = {"provider": "Postgres", "postgres": {"connection": {"secretRef": {"name": "pg"}}}}
    metadata = {"namespace": "shop", "annotations": {}}
    kind = {"apiVersion": "headrace.dev/v1alpha1", "kind": "JobQueue"}
    cluster._store({**kind, "metadata": {**metadata, "name": QUEUE.name}, "spec": spec})
    pool = {"queueRef": {"name": QUEUE.name}, "handler": {"exec": {"command": ["true"]}}}
    pool["autoscaling"] = {"mode": "Direct"}
    cluster._store({**kind, "kind": "JobWorkerPool", "metadata": {**metadata, "name": POOL.name}, "spec": pool})
    return cluster
