"""Headrace, driven as `headrace worker` drives it: metrics on and served, no history kept.

Settings: ``slots``, how many jobs run at a time; left out, it is the worker's default.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import prometheus_client

from benchmarks.contestants.contestant import Counter, Finish, MissingError, Producer, Startable, Taker
from benchmarks.contestants.failure import fail
from benchmarks.contestants.ledger import Ledger
from benchmarks.contestants.order import PROGRAM, Order, Workload
from headrace import App, Context
from headrace.health import Pulse, serving
from headrace.job import Job, NewJob, new_job
from headrace.metrics import Metrics
from headrace.queues import from_url
from headrace.queues.base import Owner, Queue, QueueSettings
from headrace.queues.errors import UnsupportedCapabilityError
from headrace.queues.postgres import Place, PostgresProvisioner
from headrace.queues.settlement import Complete
from headrace.retry import RetryPolicy
from headrace.runtime.handlers import Handler
from headrace.runtime.handlers.python import PythonHandler
from headrace.runtime.outcome import COMPLETED, Outcome
from headrace.runtime.worker import Worker

QUEUE = "bench"
_DEFAULT_SLOTS = 10
_HISTORY_SECONDS = 3600.0
# Of a request by itself.
_TAKEN = 15
_HELD_BY_ONE = 300


class _Producer:
    def __init__(self, queue: Queue, workload: Workload) -> None:
        self._queue = queue
        self._workload = workload

    def prepare(self, numbers: Sequence[int]) -> list[NewJob]:
        workload = self._workload
        return [
            new_job(
                "noop",
                workload.payload(number),
                priority=workload.priority(number),
                group=workload.group(number),
                delay_seconds=workload.delay_seconds(number),
                deduplication_key=workload.key(number),
            )
            for number in numbers
        ]

    async def enqueue(self, prepared: list[NewJob]) -> None:
        try:
            await self._queue.enqueue(prepared)
        except UnsupportedCapabilityError as error:
            raise MissingError(str(error)) from None


def producer(queue: Queue, workload: Workload) -> Producer:
    """Whoever enqueues, on an open queue."""
    return _Producer(queue, workload)


class Headrace:
    """See `benchmarks.contestants.contestant.Contestant`."""

    def __init__(self, order: Order) -> None:
        self._order = order

    async def install(self) -> None:
        owner = Owner(namespace="", name=QUEUE, uid="")
        kept_seconds = _HISTORY_SECONDS if self._order.workload.history else 0.0
        settings = QueueSettings(completed_retention_seconds=kept_seconds)
        await PostgresProvisioner(Place(dsn=self._order.dsn)).ensure(QUEUE, settings, owner)

    @asynccontextmanager
    async def producing(self) -> AsyncIterator[Producer]:
        async with from_url(self._order.dsn, QUEUE) as queue:
            yield _Producer(queue, self._order.workload)

    @asynccontextmanager
    async def counting(self) -> AsyncIterator[Counter]:
        # The queue's own counts stop at 100,000.
        connection = await asyncpg.connect(self._order.dsn)
        try:

            async def remaining() -> int:
                assert not await connection.fetchval("SELECT count(*) FROM headrace.dead_jobs"), "no job fails here"
                count: int = await connection.fetchval(
                    "SELECT (SELECT count(*) FROM headrace.jobs) + (SELECT count(*) FROM headrace.parked_jobs)"
                )
                return count

            yield remaining
        finally:
            await connection.close()

    @asynccontextmanager
    async def working(self, ledger: Ledger, *, waits: bool) -> AsyncIterator[asyncio.Task[None]]:
        queue = self._queue(waits=waits)
        ledger.watch(queue, "receive")
        slots = int(self._order.settings.get("slots", _DEFAULT_SLOTS))
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        metrics = Metrics()
        worker = Worker(queue, self._handler(ledger, slots), metrics.of("benchmarks", QUEUE), slots=slots)
        pulse = Pulse()
        with serving(
            *("127.0.0.1", 0),
            is_stuck=lambda: pulse.is_stuck,
            is_ready=lambda: worker.is_ready,
            metrics=metrics.render,
            depths=metrics.render_depths,
        ):
            beating = asyncio.create_task(pulse.run())
            running = asyncio.create_task(worker.run())
            try:
                yield running
            finally:
                worker.stop()
                await running
                beating.cancel()

    @asynccontextmanager
    async def taking(self) -> AsyncIterator[Taker]:
        async with from_url(self._order.dsn, QUEUE) as queue, from_url(self._order.dsn, QUEUE) as others:
            await queue.keep_alive()
            yield _Taker(queue, others)

    def command(self) -> list[str]:
        return [
            *(str(Path(sys.executable).with_name("headrace")), "worker", "--dsn", self._order.dsn, "--queue", QUEUE),
            *("--app", "benchmarks.contestants.apps.ours:app", "--metrics-address", "127.0.0.1:0"),
        ]

    def _queue(self, *, waits: bool) -> Queue:
        dsn = self._order.dsn
        # What waits is woken (mode MessageQueue); what drains needs no waking.
        return from_url(dsn, QUEUE, listens=waits)

    def _handler(self, ledger: Ledger, slots: int) -> Handler:
        # Imported as the worker's command does: what a worker does not use is not in its memory.
        match self._order.workload.handler:
            case "python":
                return _functions(ledger, slots, self._order.workload)
            case "http":
                from headrace.runtime.handlers.http import HttpHandler  # noqa: PLC0415

                return _noting(HttpHandler(self._order.url), ledger)
            case "exec":
                from headrace.runtime.handlers.exec import ExecHandler  # noqa: PLC0415

                return _noting(ExecHandler([PROGRAM]), ledger)


class _Taker:
    def __init__(self, queue: Queue, others: Queue) -> None:
        self._queue = queue
        self._others = others

    async def hold(self, jobs: int) -> None:
        # Without heartbeats, each call is under a lease of its own.
        held = 0
        while held < jobs:
            held += len(await self._others.receive(min(_HELD_BY_ONE, jobs - held)))

    async def take(self) -> Finish:
        deliveries = await self._queue.receive(_TAKEN)
        assert deliveries, "there are jobs"

        async def finish() -> None:
            settled = await self._queue.settle([Complete(delivery=delivery) for delivery in deliveries])
            assert not settled.refused, "they are held"

        return finish


def _functions(ledger: Ledger, slots: int, workload: Workload) -> Handler:
    app = App()

    async def noop(payload: dict[str, Any]) -> None:
        ledger.handled(payload["number"])
        if ledger.alarm is not None:
            await ledger.alarm.wait()
        if workload.seconds:
            await asyncio.sleep(workload.seconds)

    async def failing(payload: dict[str, Any], context: Context) -> None:
        if context.attempt == 1 and workload.fails(payload["number"]):
            fail(payload["number"])
        ledger.handled(payload["number"])

    at_once = RetryPolicy(initial_delay_seconds=0.0)
    app.job("noop", retry=at_once)(failing if workload.failing else noop)
    return PythonHandler(app, threads=slots)


def _noting(handler: Handler, ledger: Ledger) -> Handler:
    """Jobs outside of this process can't note that they run."""
    run = handler.run

    async def noted(job: Job, context: Callable[[], Context]) -> Outcome:
        try:
            outcome = await run(job, context)
        except Exception as error:
            ledger.failed(repr(error))
            raise
        if outcome is COMPLETED:
            ledger.handled(int(job.id))
        else:
            ledger.failed(str(outcome))
        return outcome

    handler.run = noted  # type: ignore[method-assign]
    return handler


def create(order: Order) -> Startable:
    """The contestant of this module."""
    return Headrace(order)
