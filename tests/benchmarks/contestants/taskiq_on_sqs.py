"""taskiq with taskiq-aio-sqs, through its own receiver: ten a receive, deleted one by one when they have run.

Settings: ``tasks``, how many run at a time. Its batches of what is sent are off: `kiq` would return before anything is
durable, and lose what a call of the service refuses.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from taskiq.acks import AcknowledgeType
from taskiq.receiver import Receiver
from taskiq_aio_sqs import SQSBroker

from benchmarks.contestants import sqs_server
from benchmarks.contestants.contestant import Contestant, Counter, Producer
from benchmarks.contestants.ledger import Ledger
from benchmarks.contestants.order import Order

_DEFAULT_TASKS = 100
_AT_ONCE = 20


class _Producer:
    def __init__(self, task: Any) -> None:
        self._task = task
        self._turns = asyncio.Semaphore(_AT_ONCE)

    def prepare(self, numbers: Sequence[int]) -> Sequence[int]:
        return numbers

    async def enqueue(self, prepared: Sequence[int]) -> None:
        if len(prepared) == 1:
            await self._task.kiq(prepared[0])
            return
        await asyncio.gather(*map(self._sent, prepared))

    async def _sent(self, number: int) -> None:
        async with self._turns:
            await self._task.kiq(number)


class TaskiqOnSqs:
    """See `benchmarks.contestants.contestant.Contestant`."""

    def __init__(self, order: Order) -> None:
        self._order = order

    def _broker(self) -> Any:
        return SQSBroker(
            self._order.dsn.rpartition("/")[2],
            endpoint_url=sqs_server.endpoint_of(self._order.dsn),
            region_name=sqs_server.REGION,
            aws_access_key_id=sqs_server.ACCESS_KEY_ID,
            aws_secret_access_key=sqs_server.SECRET_ACCESS_KEY,
            wait_time_seconds=1,
            max_number_of_messages=sqs_server.BATCH,
            visibility_timeout=120,
        )

    async def install(self) -> None:
        assert self._order.dsn, "the queue is there"

    @asynccontextmanager
    async def producing(self) -> AsyncIterator[Producer]:
        broker = self._broker()

        async def handler(number: int) -> None:
            raise AssertionError(number)

        noop = broker.task("noop")(handler)

        await broker.startup()
        try:
            yield _Producer(noop)
        finally:
            await broker.shutdown()

    def counting(self) -> AbstractAsyncContextManager[Counter]:
        return sqs_server.counting(self._order)

    @asynccontextmanager
    async def working(self, ledger: Ledger, *, waits: bool) -> AsyncIterator[asyncio.Task[None]]:
        del waits  # It always does.
        broker = self._broker()
        broker.is_worker_process = True

        async def handler(number: int) -> None:
            ledger.handled(number)

        broker.task("noop")(handler)

        tasks = int(self._order.settings.get("tasks", _DEFAULT_TASKS))
        receiver = Receiver(broker, max_async_tasks=tasks, run_startup=False, ack_type=AcknowledgeType.WHEN_EXECUTED)
        stop = asyncio.Event()
        await broker.startup()
        ledger.watch(broker, "listen")
        running = asyncio.create_task(receiver.listen(stop))
        try:
            yield running
        finally:
            stop.set()
            await running
            await broker.shutdown()


def create(order: Order) -> Contestant:
    """The contestant of this module."""
    return TaskiqOnSqs(order)
