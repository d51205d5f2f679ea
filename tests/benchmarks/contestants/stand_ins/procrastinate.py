"""Procrastinate's worker on a queue that costs nothing. Settings: ``concurrency``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import procrastinate
from procrastinate.testing import InMemoryConnector

from benchmarks.contestants.contestant import Contestant, Counter
from benchmarks.contestants.order import Order, Workload
from benchmarks.contestants.procrastinate import Procrastinate


class StandIn(InMemoryConnector):  # type: ignore[misc]
    """Its backend for tests, but that it hands out what is ready, and counts what is finished.

    As it is, that backend looks at every job beside every other, each time that one is fetched.
    """

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        self.unfinished = workload.jobs
        self._ready = [_row(number, workload) for number in range(workload.jobs)]

    async def fetch_job_one(self, **_: Any) -> dict[str, Any]:
        return self._ready.pop() if self._ready else {"id": None}

    async def finish_job_run(self, *, status: str, **_: Any) -> None:
        self.unfinished -= status == "succeeded"


class ProcrastinateAlone(Procrastinate):
    """See `benchmarks.contestants.contestant.Contestant`."""

    def __init__(self, order: Order) -> None:
        super().__init__(order)
        self._stand_in = StandIn(order.workload)

    @asynccontextmanager
    async def counting(self) -> AsyncIterator[Counter]:
        async def remaining() -> int:
            return int(self._stand_in.unfinished)

        yield remaining

    def _app(self, connections: int) -> Any:
        del connections
        return procrastinate.App(connector=self._stand_in)


def create(order: Order) -> Contestant:
    """The contestant of this module."""
    return ProcrastinateAlone(order)


def _row(number: int, workload: Workload) -> dict[str, Any]:
    return {
        # It takes 0 for none.
        "id": number + 1,
        "queue_name": "default",
        "task_name": "noop",
        "priority": 0,
        "lock": None,
        "queueing_lock": None,
        "args": workload.payload(number),
        "status": "doing",
        "scheduled_at": None,
        "attempts": 0,
        "abort_requested": False,
        "worker_id": 1,
    }
