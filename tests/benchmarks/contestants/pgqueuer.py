"""PgQueuer, through its own dispatch.

Settings: ``batch``, how many jobs it takes at a time (left out: its default, 10); ``concurrent``, how many it holds at
most (left out: its default, no limit); ``autovacuum``, whether its own tuning of the tables is applied.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import asyncpg
import pgqueuer
from pgqueuer import DatabaseRetryEntrypointExecutor
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode

from benchmarks.contestants.contestant import Counter, MissingError, Producer, Startable
from benchmarks.contestants.failure import fail
from benchmarks.contestants.ledger import Ledger
from benchmarks.contestants.order import Order, Workload

_DEFAULT_BATCH = 10
# Its calls wait for each other on one connection.
_CONNECTIONS_OF_CALLERS = 10

_Call = tuple[list[str], list[bytes], list[int], None, list[str | None] | None]


class _Producer:
    def __init__(self, queries: Any, workload: Workload) -> None:
        self._queries = queries
        self._workload = workload

    def prepare(self, numbers: Sequence[int]) -> _Call:
        workload = self._workload
        payloads = [json.dumps(workload.payload(number)).encode() for number in numbers]
        priorities = [workload.priority(number) for number in numbers]
        keys = [workload.key(number) for number in numbers] if workload.keyed else None
        return ["noop"] * len(numbers), payloads, priorities, None, keys

    async def enqueue(self, prepared: _Call) -> None:
        await self._queries.enqueue(*prepared)


class PgQueuer:
    """See `benchmarks.contestants.contestant.Contestant`."""

    def __init__(self, order: Order) -> None:
        self._order = order

    async def install(self) -> None:
        if self._order.workload.groups:
            raise MissingError("message groups")
        # Of finished jobs, its log of their states says no more than their ids: it is there in any case.
        if self._order.workload.history:
            raise MissingError("a history of finished jobs with their payloads")
        connection = await asyncpg.connect(self._order.dsn)
        queries = Queries(AsyncpgDriver(connection))
        await queries.install()
        if self._order.settings.get("autovacuum"):
            await queries.optimize_autovacuum()
        await connection.close()

    @asynccontextmanager
    async def producing(self) -> AsyncIterator[Producer]:
        async with AsyncExitStack() as stack:
            if self._order.verb == "enqueue_concurrent":
                size = _CONNECTIONS_OF_CALLERS
                pool = await stack.enter_async_context(
                    asyncpg.create_pool(self._order.dsn, min_size=size, max_size=size)
                )
                driver = AsyncpgPoolDriver(pool)
            else:
                connection = await asyncpg.connect(self._order.dsn)
                stack.push_async_callback(connection.close)
                driver = AsyncpgDriver(connection)
            yield _Producer(Queries(driver), self._order.workload)

    @asynccontextmanager
    async def counting(self) -> AsyncIterator[Counter]:
        connection = await asyncpg.connect(self._order.dsn)

        async def remaining() -> int:
            count: int = await connection.fetchval("SELECT count(*) FROM pgqueuer")
            return count

        yield remaining
        await connection.close()

    @asynccontextmanager
    async def working(self, ledger: Ledger, *, waits: bool) -> AsyncIterator[asyncio.Task[None]]:
        async def noop(job: Any) -> None:
            # By its own id: there is no decoding of payloads in this library, so none is charged to it.
            if not job.attempts and workload.fails(job.id):
                fail(job.id)
            ledger.handled(job.id)
            if ledger.alarm is not None:
                await ledger.alarm.wait()
            if workload.seconds:
                await asyncio.sleep(workload.seconds)

        workload = self._order.workload
        at_once = partial(DatabaseRetryEntrypointExecutor, initial_delay=timedelta())
        async with self._worker() as worker:
            worker.entrypoint("noop", executor_factory=at_once if workload.failing else None)(noop)
            ledger.watch(worker.qm, "fetch_jobs")
            running = asyncio.create_task(
                worker.run(
                    batch_size=int(self._order.settings.get("batch", _DEFAULT_BATCH)),
                    max_concurrent_tasks=self._order.settings.get("concurrent"),
                    mode=QueueExecutionMode.continuous if waits else QueueExecutionMode.drain,
                )
            )
            try:
                yield running
            finally:
                worker.shutdown.set()
                await running

    def command(self) -> list[str]:
        return [sys.executable, "-m", "benchmarks.contestants.apps.pgqueuer"]

    @asynccontextmanager
    async def _worker(self) -> AsyncIterator[Any]:
        connection = await asyncpg.connect(self._order.dsn)
        yield pgqueuer.PgQueuer(AsyncpgDriver(connection))
        await connection.close()


def create(order: Order) -> Startable:
    """The contestant of this module."""
    return PgQueuer(order)
