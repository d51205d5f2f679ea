"""Headrace's worker on a queue that costs nothing. Settings: those of `benchmarks.contestants.ours`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from benchmarks.contestants.contestant import Contestant, Counter
from benchmarks.contestants.order import Order, Workload
from benchmarks.contestants.ours import QUEUE, Headrace
from headrace.job import Job, new_job
from headrace.queues.base import Delivery, Owner, Queue, QueueSettings
from headrace.queues.memory import MemoryBackend, MemoryQueue
from headrace.queues.settlement import Settled, Settlement


class StandIn(MemoryQueue):
    """Hands out what is ready, and counts what is completed."""

    def __init__(self, workload: Workload) -> None:
        backend = MemoryBackend()
        backend.register(QUEUE, QueueSettings(), Owner(namespace="", name=QUEUE, uid=""))
        super().__init__(backend, QUEUE)
        self.unfinished = workload.jobs
        self._ready = [_delivery(number, workload) for number in range(workload.jobs)]

    async def receive(
        self,
        limit: int,
        *,
        wait_seconds: float = 0.0,
        stop: asyncio.Event | None = None,
        without: AbstractSet[str] = frozenset(),
    ) -> list[Delivery]:
        del wait_seconds, stop, without
        deliveries = self._ready[-limit:]
        del self._ready[-limit:]
        return deliveries

    async def settle(self, settlements: Sequence[Settlement]) -> Settled:
        self.unfinished -= len(settlements)
        return Settled(accepted=len(settlements))


class HeadraceAlone(Headrace):
    """See `benchmarks.contestants.contestant.Contestant`."""

    def __init__(self, order: Order) -> None:
        super().__init__(order)
        self._stand_in = StandIn(order.workload)

    @asynccontextmanager
    async def counting(self) -> AsyncIterator[Counter]:
        async def remaining() -> int:
            return self._stand_in.unfinished

        yield remaining

    def _queue(self, *, waits: bool) -> Queue:
        del waits
        return self._stand_in


def create(order: Order) -> Contestant:
    """The contestant of this module."""
    return HeadraceAlone(order)


def _delivery(number: int, workload: Workload) -> Delivery:
    made = new_job("noop", workload.payload(number))
    now = datetime.now(UTC)
    job = Job(
        id=str(number),
        queue=QUEUE,
        name=made.name,
        payload=made.payload,
        content_type=made.content_type,
        headers=made.headers,
        priority=made.priority,
        group=None,
        deduplication_key=None,
        attempt=1,
        enqueued_at=now,
        run_at=now,
        expires_at=None,
    )
    return Delivery(job=job, receipt="1")
