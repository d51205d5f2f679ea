"""Headrace, driven as `headrace worker` drives it: metrics on and served, no history kept.

Settings: ``slots``, how many jobs run at a time; left out, it is the worker's default.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import prometheus_client

from benchmarks.contestants.contestant import Contestant, Counter, MissingError, Producer
from benchmarks.contestants.ledger import Ledger
from benchmarks.contestants.order import Order, Workload
from headrace import App
from headrace.health import Pulse, serving
from headrace.job import NewJob, new_job
from headrace.metrics import Metrics
from headrace.queues import from_url
from headrace.queues.base import Owner, Queue, QueueSettings, UnsupportedCapabilityError
from headrace.queues.postgres import Place, PostgresProvisioner, PostgresQueue
from headrace.runtime.handlers.python import PythonHandler
from headrace.runtime.worker import Worker

QUEUE = "bench"
_DEFAULT_SLOTS = 10


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
            )
            for number in numbers
        ]

    async def enqueue(self, prepared: list[NewJob]) -> None:
        try:
            await self._queue.enqueue(prepared)
        except UnsupportedCapabilityError as error:
            raise MissingError(str(error)) from None


class Headrace:
    """See `benchmarks.contestants.contestant.Contestant`."""

    def __init__(self, order: Order) -> None:
        self._order = order

    async def install(self) -> None:
        owner = Owner(namespace="", name=QUEUE, uid="")
        await PostgresProvisioner(Place(dsn=self._order.dsn)).ensure(QUEUE, QueueSettings(), owner)

    @asynccontextmanager
    async def producing(self) -> AsyncIterator[Producer]:
        async with from_url(self._order.dsn, QUEUE) as queue:
            yield _Producer(queue, self._order.workload)

    @asynccontextmanager
    async def counting(self) -> AsyncIterator[Counter]:
        async with from_url(self._order.dsn, QUEUE) as queue:

            async def remaining() -> int:
                depth = await queue.depth()
                assert not depth.dead_lettered, "no job fails here"
                return depth.ready + depth.delayed + depth.in_flight

            yield remaining

    @asynccontextmanager
    async def working(self, ledger: Ledger, *, waits: bool) -> AsyncIterator[asyncio.Task[None]]:
        app = App()

        @app.job("noop")
        async def noop(payload: dict[str, int]) -> None:
            ledger.handled(payload["number"])

        dsn = self._order.dsn
        # What waits is woken (mode MessageQueue); what drains needs no waking.
        queue: Queue = PostgresQueue(Place(dsn=dsn), QUEUE, listens=True) if waits else from_url(dsn, QUEUE)
        ledger.watch(queue, "receive")
        slots = int(self._order.settings.get("slots", _DEFAULT_SLOTS))
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        metrics = Metrics()
        worker = Worker(queue, PythonHandler(app, threads=slots), metrics.of("benchmarks", QUEUE), slots=slots)
        pulse = Pulse()
        with serving(
            *("127.0.0.1", 0),
            is_stuck=lambda: pulse.is_stuck,
            is_ready=lambda: worker.is_ready,
            metrics=metrics.render,
        ):
            beating = asyncio.create_task(pulse.run())
            running = asyncio.create_task(worker.run())
            try:
                yield running
            finally:
                worker.stop()
                await running
                beating.cancel()


def create(order: Order) -> Contestant:
    """The contestant of this module."""
    return Headrace(order)
