"""What objects cost the Kubernetes API that can't be brought about for long: next to nothing."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from headrace_operator.core.conditions import find
from headrace_operator.core.model import ObjectKey, QueueDepth
from support.jumping_loop import run_jumping
from support.memory_cluster import Manifest, MemoryCluster, SetClock
from support.memory_process import Process

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

SIZE = 20
KEYS = [ObjectKey("shop", f"queue-{number}") for number in range(SIZE)]
CONNECTING_SECONDS = 5.0
"""How long a dead database is waited for."""


class LoopsClock(SetClock):
    """Goes as the event loop's time does."""

    def now(self) -> datetime:
        return self.time + timedelta(seconds=asyncio.get_running_loop().time())


class Scene:
    """Queues, each on a database of its own, and a pool on each."""

    def __init__(self, *, redis: bool = False) -> None:
        self.process = Process(LoopsClock())
        self.cluster = MemoryCluster(self.process.controllers.objects)
        for key in KEYS:
            self.put_secret(key)
            postgres = {"connection": {"secretRef": {"name": key.name}}}
            self.put("JobQueue", key, {"provider": "Postgres", "postgres": postgres})
            pool: dict[str, Any] = {"queueRef": {"name": key.name}, "handler": {"exec": {"command": ["true"]}}}
            if redis:
                pool["idempotency"] = {"redis": {"secretRef": {"name": f"redis-of-{key.name}"}}}
            self.put("JobWorkerPool", key, pool | {"autoscaling": {"mode": "Direct", "minReplicas": 0}})
        self.process.backend.depth = QueueDepth()

    def put_secret(self, key: ObjectKey, *, user: str = "u") -> None:
        self.cluster.secrets[key] = {"dsn": f"postgresql://{user}:p@{key.name}/shop".encode()}

    def put(self, kind: str, key: ObjectKey, spec: Manifest) -> None:
        metadata = {"namespace": key.namespace, "name": key.name, "annotations": {}}
        self.cluster._store(
            {"apiVersion": "headrace.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec},
        )

    async def minutes(self, number: float) -> int:
        """So much time passes; returns how many requests that cost."""
        before = self.cluster.requests
        await asyncio.sleep(60 * number)
        return self.cluster.requests - before

    def break_databases(self) -> None:
        """From now on they take connections and say nothing."""
        self.process.backend.break_off()
        take_time = self.process.backend._take_time

        async def wait_in_vain(progress: Callable[[str], None]) -> None:
            if self.process.backend.failure is not None:
                await asyncio.sleep(CONNECTING_SECONDS)
            await take_time(progress)

        self.process.backend._take_time = wait_in_vain  # type: ignore[method-assign]

    def show_all(self) -> None:
        for kind in ("JobQueue", "JobWorkerPool"):
            for key in KEYS:
                manifest = self.cluster.find(kind, key)
                assert manifest is not None
                self.process.controllers.show(manifest)

    def reasons(self, kind: str) -> set[str]:
        """Why the objects of a kind are Ready, or not."""
        found = (self.cluster.find(kind, key) for key in KEYS)
        ready = (find(manifest["status"]["conditions"], "Ready") for manifest in found if manifest is not None)
        return {str(condition["reason"]) for condition in ready if condition is not None}

    def run(self, story: Callable[[], Coroutine[Any, Any, None]]) -> None:
        run_jumping(self.process.lead(self.cluster, story))


def test_queues_on_dead_databases_and_their_pools_cost_three_requests_a_minute_and_pair() -> None:
    scene = Scene()
    scene.break_databases()

    async def story() -> None:
        scene.show_all()
        await scene.minutes(3)
        assert scene.reasons("JobQueue") == {"BackendUnreachable"}
        assert scene.reasons("JobWorkerPool") == {"QueueNotReady"}
        assert await scene.minutes(5) <= 5 * 3 * SIZE
        assert scene.process.backend.attempts >= 8 * 3 * SIZE
        # At its beginning, while it goes on, and at its end.
        assert scene.process.looks["JobQueue"] <= 3.5 * scene.process.backend.attempts

    scene.run(story)


def test_pools_whose_secret_is_missing_cost_two_requests_a_minute_each_and_start_when_it_comes() -> None:
    scene = Scene(redis=True)

    async def story() -> None:
        scene.show_all()
        await scene.minutes(3)
        assert scene.reasons("JobWorkerPool") == {"SecretNotFound"}
        # A minute's reading of the Secret that is missing, and of the queue's.
        assert await scene.minutes(5) <= 5 * 3 * SIZE
        for key in KEYS:
            scene.cluster.secrets[ObjectKey("shop", f"redis-of-{key.name}")] = {"uri": b"redis://cache:6379/0"}
        await scene.minutes(1.5)
        assert "SecretNotFound" not in scene.reasons("JobWorkerPool")

    scene.run(story)


def test_what_heals_is_ready_within_seconds_and_its_pool_with_it() -> None:
    scene = Scene()
    scene.break_databases()

    async def story() -> None:
        scene.show_all()
        await scene.minutes(10)
        scene.process.backend.failure = None
        await scene.minutes(0.5)
        assert scene.reasons("JobQueue") == {"Ready"}
        assert "QueueNotReady" not in scene.reasons("JobWorkerPool")

    scene.run(story)


def test_a_password_that_is_mended_is_noticed_within_a_minute_and_a_half() -> None:
    scene = Scene()

    async def story() -> None:
        for key in KEYS:
            scene.cluster.secrets[key] = {"dsn": b"mysql://u@db/shop"}
        scene.show_all()
        await scene.minutes(5)
        assert scene.reasons("JobQueue") == {"InvalidConnection"}
        assert scene.reasons("JobWorkerPool") == {"QueueNotReady"}
        assert await scene.minutes(5) <= 5 * 3 * SIZE
        for key in KEYS:
            scene.put_secret(key)
        await scene.minutes(1.5)
        assert scene.reasons("JobQueue") == {"Ready"}
        assert "QueueNotReady" not in scene.reasons("JobWorkerPool")

    scene.run(story)
