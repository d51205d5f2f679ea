"""PgQueuer's worker on a queue that costs nothing. Settings: ``batch``, how many jobs it takes at a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pgqueuer
from pgqueuer.adapters.inmemory import InMemoryDriver, InMemoryQueries
from pgqueuer.models import Job

from benchmarks.contestants.contestant import Contestant, Counter
from benchmarks.contestants.order import Order, Workload
from benchmarks.contestants.pgqueuer import PgQueuer


class StandIn(InMemoryQueries):  # type: ignore[misc]
    """Its backend in memory, but that it hands out what is ready, and counts what is completed."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(driver=InMemoryDriver())
        self.unfinished = workload.jobs
        self._ready = [_job(number, workload) for number in range(workload.jobs)]

    async def dequeue(self, batch_size: int, *_: Any, **__: Any) -> list[Any]:
        # As the one in memory does: without, no job would run before all are taken.
        await asyncio.sleep(0)
        jobs = self._ready[-batch_size:]
        del self._ready[-batch_size:]
        return jobs

    async def log_jobs(self, job_status: list[tuple[Any, str, Any]]) -> None:
        self.unfinished -= sum(status == "successful" for _, status, _ in job_status)


class PgQueuerAlone(PgQueuer):
    """See `benchmarks.contestants.contestant.Contestant`."""

    def __init__(self, order: Order) -> None:
        super().__init__(order)
        self._stand_in = StandIn(order.workload)

    @asynccontextmanager
    async def counting(self) -> AsyncIterator[Counter]:
        async def remaining() -> int:
            return int(self._stand_in.unfinished)

        yield remaining

    @asynccontextmanager
    async def _worker(self) -> AsyncIterator[Any]:
        yield pgqueuer.PgQueuer(self._stand_in.driver, queries=self._stand_in)


def create(order: Order) -> Contestant:
    """The contestant of this module."""
    return PgQueuerAlone(order)


def _job(number: int, workload: Workload) -> Any:
    now = datetime.now(UTC)
    return Job(
        id=number,
        priority=0,
        created=now,
        updated=now,
        heartbeat=now,
        execute_after=now,
        status="picked",
        entrypoint="noop",
        payload=json.dumps(workload.payload(number)).encode(),
        queue_manager_id=None,
        headers=None,
    )
