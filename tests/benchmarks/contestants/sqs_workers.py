"""sqs-workers, through its own loop: it receives ten, runs them one after another, and deletes the ten in one call.

Settings: ``threads``, how many of its loops, or of callers' own calls, go on at a time: it knows no event loop.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import boto3
from sqs_workers import SQSEnv

from benchmarks.contestants import sqs_server
from benchmarks.contestants.contestant import Contestant, Counter, Producer
from benchmarks.contestants.ledger import Ledger, clock
from benchmarks.contestants.order import Order

_WAIT_SECONDS = 1


class _Producer:
    def __init__(self, queue: Any, task: Any, threads: ThreadPoolExecutor) -> None:
        self._queue = queue
        self._task = task
        self._threads = threads

    def prepare(self, numbers: Sequence[int]) -> Sequence[int]:
        return numbers

    async def enqueue(self, prepared: Sequence[int]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._threads, self._send, prepared)

    def _send(self, numbers: Sequence[int]) -> None:
        if len(numbers) == 1:
            self._task.delay(number=numbers[0])
            return
        with self._queue.add_batch():
            for number in numbers:
                self._task.delay(number=number)


class _Stopping:
    """Its shutdown policy: when we say so."""

    def __init__(self) -> None:
        self.said = threading.Event()

    def update_state(self, result: object) -> None:
        """Asked for by the library."""

    def need_shutdown(self) -> bool:
        return self.said.is_set()


class SqsWorkers:
    """See `benchmarks.contestants.contestant.Contestant`."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._threads = int(order.settings.get("threads", 1))
        os.environ["AWS_ENDPOINT_URL_SQS"] = sqs_server.endpoint_of(order.dsn)

    def _queue(self) -> Any:
        session = boto3.Session(
            aws_access_key_id=sqs_server.ACCESS_KEY_ID,
            aws_secret_access_key=sqs_server.SECRET_ACCESS_KEY,
            region_name=sqs_server.REGION,
        )
        return SQSEnv(session=session).queue(self._order.dsn.rpartition("/")[2])

    async def install(self) -> None:
        assert self._order.dsn, "the queue is there"

    @asynccontextmanager
    async def producing(self) -> AsyncIterator[Producer]:
        queue = self._queue()

        def handler(number: int) -> None:
            raise AssertionError(number)

        noop = queue.processor("noop")(handler)

        queue.get_queue()
        with ThreadPoolExecutor(self._threads) as threads:
            yield _Producer(queue, noop, threads)

    def counting(self) -> AbstractAsyncContextManager[Counter]:
        return sqs_server.counting(self._order)

    @asynccontextmanager
    async def working(self, ledger: Ledger, *, waits: bool) -> AsyncIterator[asyncio.Task[None]]:
        del waits  # It always does.
        loop = asyncio.get_running_loop()
        queue = self._queue()

        def handler(number: int) -> None:
            loop.call_soon_threadsafe(ledger.handled, number)

        queue.processor("noop")(handler)

        queue.get_queue()
        stopping = _Stopping()

        async def run() -> None:
            work = [
                asyncio.to_thread(queue.process_queue, shutdown_policy=stopping, wait_second=_WAIT_SECONDS)
                for _ in range(self._threads)
            ]
            await asyncio.gather(*work)

        ledger.receiving_at = clock()
        running = asyncio.create_task(run())
        try:
            yield running
        finally:
            stopping.said.set()
            await running


def create(order: Order) -> Contestant:
    """The contestant of this module."""
    return SqsWorkers(order)
