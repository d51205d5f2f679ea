"""Procrastinate, through its own worker. Its locks are the nearest to message groups: in order, one at a time.

Settings: ``concurrency`` (left out: its default, 1) and ``delete_jobs`` (left out: its default, "never").
"""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import procrastinate
import psycopg
from procrastinate.worker import Worker

from benchmarks.contestants.contestant import Counter, Producer, Startable
from benchmarks.contestants.failure import fail
from benchmarks.contestants.ledger import Ledger
from benchmarks.contestants.order import Order, Workload

_DEFAULT_CONCURRENCY = 1
_MIN_CONNECTIONS = 4
# A server has a hundred by default; jobs need one to begin and to end.
_MAX_CONNECTIONS = 20
_CONNECTIONS_OF_CALLERS = 12

_UNFINISHED = "SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"


class _Producer:
    def __init__(self, task: Any, workload: Workload) -> None:
        self._task = task
        self._workload = workload

    def prepare(self, numbers: Sequence[int]) -> list[tuple[Any, list[dict[str, Any]]]]:
        # Jobs of one call share their priority and lock.
        workload = self._workload
        calls: dict[tuple[int, str | None, str | None], list[dict[str, Any]]] = defaultdict(list)
        for number in numbers:
            call = workload.priority(number), workload.group(number), workload.key(number)
            calls[call].append(workload.payload(number))
        return [
            (self._task.configure(priority=priority, lock=group, queueing_lock=key), payloads)
            for (priority, group, key), payloads in calls.items()
        ]

    async def enqueue(self, prepared: list[tuple[Any, list[dict[str, Any]]]]) -> None:
        for deferrer, payloads in prepared:
            if len(payloads) == 1:
                await deferrer.defer_async(**payloads[0])
            else:
                await deferrer.batch_defer_async(*payloads)


class Procrastinate:
    """See `benchmarks.contestants.contestant.Contestant`."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._concurrency = int(order.settings.get("concurrency", _DEFAULT_CONCURRENCY))

    def _app(self, connections: int) -> Any:
        connector = procrastinate.PsycopgConnector(conninfo=self._order.dsn, min_size=connections, max_size=connections)
        return procrastinate.App(connector=connector)

    async def install(self) -> None:
        async with self._app(1).open_async() as app:
            await app.schema_manager.apply_schema_async()

    @asynccontextmanager
    async def producing(self) -> AsyncIterator[Producer]:
        async def noop(**_: Any) -> None:
            pass

        connections = _CONNECTIONS_OF_CALLERS if self._order.verb == "enqueue_concurrent" else 1
        async with self._app(connections).open_async() as app:
            yield _Producer(app.task(name="noop")(noop), self._order.workload)

    @asynccontextmanager
    async def counting(self) -> AsyncIterator[Counter]:
        async with await psycopg.AsyncConnection.connect(self._order.dsn, autocommit=True) as connection:

            async def remaining() -> int:
                row = await (await connection.execute(_UNFINISHED)).fetchone()
                assert row is not None
                return int(row[0])

            yield remaining

    @asynccontextmanager
    async def working(self, ledger: Ledger, *, waits: bool) -> AsyncIterator[asyncio.Task[None]]:
        workload = self._order.workload

        async def noop(context: Any, number: int, **_: Any) -> None:
            if not context.job.attempts and workload.fails(number):
                fail(number)
            ledger.handled(number)
            if ledger.alarm is not None:
                await ledger.alarm.wait()

        connections = min(max(_MIN_CONNECTIONS, self._concurrency + 2), _MAX_CONNECTIONS)
        async with self._app(connections).open_async() as app:
            app.task(name="noop", pass_context=True, retry=workload.failing > 0)(noop)
            ledger.watch(app.job_manager, "fetch_job")
            worker = Worker(
                app,
                concurrency=self._concurrency,
                # The last one that failed may come again when nothing else is left.
                wait=waits or workload.failing > 0,
                listen_notify=waits,
                delete_jobs=str(self._order.settings.get("delete_jobs", "never")),
                install_signal_handlers=False,
            )
            running = asyncio.create_task(worker.run())
            try:
                yield running
            finally:
                worker.stop()
                await running

    def command(self) -> list[str]:
        return [
            str(Path(sys.executable).with_name("procrastinate")),
            *("--app", "benchmarks.contestants.apps.procrastinate.app", "worker"),
        ]


def create(order: Order) -> Startable:
    """The contestant of this module."""
    return Procrastinate(order)
