"""Single calls that are made at once travel together: one statement, one commit, and each caller its own answer."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from headrace.queues.base import QueueError, QueueUnavailableError
from headrace.queues.batches import MAX_BATCH_JOBS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from headrace.job import NewJob

MAX_BATCH_BYTES = 4 * 1024 * 1024

_Call = tuple["Sequence[NewJob]", "asyncio.Future[list[str]]"]


class Coalescer:
    """Collects what is asked for while a statement is under way, and sends it with the next.

    Nobody waits for company: a call that comes alone goes at once. No call returns before its jobs are durable.

    Parameters
    ----------
    send
        Enqueues jobs, all or none, and gives their ids in order.
    """

    def __init__(self, send: Callable[[Sequence[NewJob]], Awaitable[list[str]]]) -> None:
        self._send = send
        self._calls: deque[_Call] = deque()
        self._sender: asyncio.Task[None] | None = None

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[str]:
        """The ids of the jobs, once they are durable.

        Cancelled before its turn, a call enqueues nothing; cancelled later, it may have.
        """
        future: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self._calls.append((jobs, future))
        if self._sender is None:
            self._sender = asyncio.create_task(self._run())
        return await future

    async def flushed(self) -> None:
        """Wait until nothing is under way."""
        if self._sender is not None:
            await asyncio.wait([self._sender])

    async def _run(self) -> None:
        try:
            while calls := self._next_batch():
                await self._answer(calls)
        finally:
            self._sender = None
            for _, future in self._calls:  # Only where this task itself was cancelled.
                future.cancel()
            self._calls.clear()

    def _next_batch(self) -> list[_Call]:
        batch: list[_Call] = []
        count = size = 0
        while self._calls and count < MAX_BATCH_JOBS and size < MAX_BATCH_BYTES:
            jobs, future = self._calls.popleft()
            if not future.cancelled():
                batch.append((jobs, future))
                count += len(jobs)
                size += sum(len(job.payload) for job in jobs)
        return batch

    async def _answer(self, calls: Sequence[_Call]) -> None:
        try:
            ids = await self._send([job for jobs, _ in calls for job in jobs])
        except QueueUnavailableError as error:
            for _, future in calls:
                _fail(future, error)
        except QueueError as error:
            # One of them is at fault; the others shall not pay for it.
            if len(calls) == 1:
                _fail(calls[0][1], error)
            else:
                for call in calls:
                    await self._answer([call])
        except BaseException:
            for _, future in calls:
                future.cancel()
            raise
        else:
            start = 0
            for jobs, future in calls:
                end = start + len(jobs)
                if not future.done():
                    future.set_result(ids[start:end])
                start = end


def _fail(future: asyncio.Future[list[str]], error: QueueError) -> None:
    if not future.done():
        # An exception of its own for each caller: its traceback grows as it is raised.
        future.set_exception(type(error)(*error.args))
