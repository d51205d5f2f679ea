"""Enqueuing from code without an event loop: a thread of ours has one.

Threads that enqueue at the same time share its calls, as coroutines do: ten jobs a call, and the price of one.
"""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any, TypeVar

from headrace.queues.capabilities import refuse_unsupported
from headrace.queues.errors import QueueError, QueueNotFoundError, QueueUnavailableError
from headrace.queues.sqs.capabilities import CAPABILITIES
from headrace.queues.sqs.place import parse_url
from headrace.queues.sqs.queue import SqsQueue

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from types import TracebackType
    from typing import Self

    from headrace.job import NewJob
    from headrace.queues.base import Enqueued
    from headrace.queues.sqs.place import SqsAddress

Result = TypeVar("Result")

# Far longer than calls with all their tries take: an answer that isn't there by then never comes.
_ANSWER_SECONDS = 120.0


class SqsProducer:
    """Enqueues by itself: when `enqueue` returns, the jobs are durable.

    Made once a process and shared by its threads; connects when it is first needed, and again after a fork. Use it as a
    context manager, or call `close`.

    Parameters
    ----------
    dsn
        ``sqs://HOST/ACCOUNT/NAME``, as that of `headrace.from_url`.
    queue
        What people call the queue that it leads to: the name of its JobQueue. Defaults to the URL's last part.
    **options
        Those of `headrace.from_url` for SQS that say where the queue is, and who asks.

    Raises
    ------
    QueueError
        When the URL is none of SQS, or an option is out of bounds.
    """

    def __init__(self, dsn: str, *, queue: str | None = None, **options: Any) -> None:
        self._address: SqsAddress = parse_url(dsn, **options)
        self._name = queue or self._address.name
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._looping: _Looping | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. Enqueuing afterwards opens new ones."""
        with self._lock:
            looping, self._looping = self._looping, None
        # That of a parent process is not ours to end, nor does its thread live here.
        if looping is not None and self._process == os.getpid():
            looping.end()

    def enqueue(self, queue: str, jobs: Sequence[NewJob]) -> list[Enqueued]:
        """Enqueue jobs; returns what became of each, in order, once they are durable.

        Raises
        ------
        PartlyEnqueuedError
            When some jobs were enqueued and others not.
        QueueUnavailableError
            When SQS can't be reached or does not answer in time; the jobs may or may not be there.
        QueueError
            When the URL leads to another queue, or to none, or a job is refused; nothing was enqueued.
        """
        if queue not in {self._name, self._address.name}:
            raise QueueNotFoundError(f"queue {queue}: this producer's URL leads to queue {self._name}; give that name")
        refuse_unsupported(jobs, CAPABILITIES)
        return self._open().enqueue(jobs) if jobs else []

    def _open(self) -> _Looping:
        with self._lock:
            if self._process != os.getpid():
                self._looping, self._process = None, os.getpid()
            if self._looping is None:
                self._looping = _Looping(SqsQueue(self._address, self._name))
            return self._looping


class _Looping:
    """A thread with an event loop, and a queue that is open on it."""

    def __init__(self, queue: SqsQueue) -> None:
        self._queue = queue
        self._loop = asyncio.new_event_loop()
        # A program that ends waits for no producer that nobody closed.
        self._thread = threading.Thread(target=self._loop.run_forever, name="headrace-producer", daemon=True)
        self._thread.start()
        try:
            self._run(queue.__aenter__())
        except BaseException:
            self._stop()
            raise

    def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        return self._run(self._queue.enqueue(jobs))

    def end(self) -> None:
        try:
            self._run(self._queue.__aexit__(None, None, None))
        finally:
            self._stop()

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        if not self._loop.is_running() and not self._thread.is_alive():
            work.close()
            raise QueueError("the producer was closed meanwhile")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(_ANSWER_SECONDS)
        except FutureTimeoutError:
            future.cancel()
            raise QueueUnavailableError("SQS did not answer in time") from None

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def open_producer(url: str, **options: Any) -> SqsProducer:
    """See `headrace.queues.producer_from_url`."""
    return SqsProducer(url, **options)
