"""Single calls that are made at once travel together: one statement, one commit, and each caller its own answer.

A call whose database is away may wait for it, for as long as its caller has patience; and one whose deduplication key
is held by somebody's open transaction waits aside, while the others go on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from headrace.queues.batches import MAX_BATCH_JOBS
from headrace.queues.errors import QueueError, QueueUnavailableError
from headrace.queues.postgres.errors import KeyTakenForNowError
from headrace.queues.postgres.patience import NothingDoneError, Patience, as_callers_know_it, pauses, size_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from headrace.job import NewJob
    from headrace.queues.base import Enqueued

MAX_BATCH_BYTES = 4 * 1024 * 1024

HELD_SECONDS = 30.0
"""How long a call waits for a deduplication key that an open transaction holds."""


class _Call:
    """Jobs of one caller."""

    def __init__(self, jobs: Sequence[NewJob], now: float, patience: Patience) -> None:
        self.jobs = jobs
        self.bytes = size_of(jobs)
        self.patient_until = now + patience.seconds
        self.held_until = now + HELD_SECONDS
        self.answer: asyncio.Future[list[Enqueued]] = asyncio.get_running_loop().create_future()

    def fail(self, error: QueueError) -> None:
        if not self.answer.done():
            # An exception of its own for each caller: its traceback grows as it is raised.
            self.answer.set_exception(as_callers_know_it(error))


class Coalescer:
    """Collects what is asked for while a statement is under way, and sends it with the next.

    Nobody waits for company: a call that comes alone goes at once. No call returns before its jobs are durable.

    Parameters
    ----------
    send
        Enqueues jobs, all or none; gives what became of them, in order. Raises `NothingDoneError` where it can be
        repeated at will.
    patience
        How long calls wait for a database that is away. Defaults to not at all.
    """

    def __init__(
        self, send: Callable[[Sequence[NewJob]], Awaitable[list[Enqueued]]], *, patience: Patience | None = None
    ) -> None:
        self._send = send
        self._patience = patience or Patience()
        self._calls: deque[_Call] = deque()
        self._waiting_bytes = 0
        self._held: deque[_Call] = deque()
        self._sender: asyncio.Task[None] | None = None
        self._retrier: asyncio.Task[None] | None = None
        self._is_away = False

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        """What became of the jobs, once they are durable.

        Cancelled before its turn, a call enqueues nothing; cancelled later, it may have.
        """
        call = _Call(jobs, asyncio.get_running_loop().time(), self._patience)
        if self._is_away:
            self._patience.check_room(self._waiting_bytes, call.bytes)
        self._append(call)
        if self._sender is None:
            self._sender = asyncio.create_task(self._run())
        return await call.answer

    async def flushed(self) -> None:
        """Wait until nothing is under way."""
        for task in (self._sender, self._retrier):
            if task is not None:
                await asyncio.wait([task])

    def close(self) -> None:
        """Wait for nothing any more: who waits is told."""
        for task in (self._sender, self._retrier):
            if task is not None:
                task.cancel()

    async def _run(self) -> None:
        waits = pauses()
        try:
            while calls := self._next_batch():
                try:
                    await self._answer(calls)
                except NothingDoneError as error:
                    self._is_away = True
                    if self._wait(calls, error):
                        await asyncio.sleep(next(waits))
                else:
                    self._is_away = False
                    waits = pauses()
        finally:
            self._sender = None
            _close(self._calls)  # Only where this task itself was cancelled.

    def _append(self, call: _Call) -> None:
        self._calls.append(call)
        self._waiting_bytes += call.bytes

    def _wait(self, calls: Sequence[_Call], error: QueueError) -> bool:
        """Put back those that still have patience, and let the others go; whether any has."""
        now = asyncio.get_running_loop().time()
        waiting = [call for call in calls if call.patient_until > now]
        for call in calls:
            if call.patient_until <= now:
                call.fail(error)
        self._calls.extendleft(reversed(waiting))
        self._waiting_bytes += sum(call.bytes for call in waiting)
        if self._patience.seconds:
            for call in self._calls:  # Behind them, nobody has more than who asked later.
                if call.patient_until > now:
                    break
                call.fail(error)
        return bool(waiting)

    def _next_batch(self) -> list[_Call]:
        batch: list[_Call] = []
        count = size = 0
        while self._calls and count < MAX_BATCH_JOBS and size < MAX_BATCH_BYTES:
            call = self._calls.popleft()
            self._waiting_bytes -= call.bytes
            if not call.answer.done():
                batch.append(call)
                count += len(call.jobs)
                size += call.bytes
        return batch

    async def _answer(self, calls: Sequence[_Call]) -> None:
        """Answer them all; raises `NothingDoneError` where none has an answer, and each may be sent again."""
        try:
            enqueued = await self._send([job for call in calls for job in call.jobs])
        except KeyTakenForNowError as error:
            # One of them waits for somebody; the others shall not.
            if len(calls) > 1:
                for call in calls:
                    await self._answer_alone(call)
            else:
                self._hold(calls[0], error)
        except NothingDoneError:
            raise
        except QueueUnavailableError as error:
            for call in calls:
                call.fail(error)
        except QueueError as error:
            # One of them is at fault; the others shall not pay for it.
            if len(calls) > 1:
                for call in calls:
                    await self._answer_alone(call)
            else:
                calls[0].fail(error)
        except BaseException:
            _close(calls)
            raise
        else:
            start = 0
            for call in calls:
                end = start + len(call.jobs)
                if not call.answer.done():
                    call.answer.set_result(enqueued[start:end])
                start = end

    async def _answer_alone(self, call: _Call) -> None:
        try:
            await self._answer([call])
        except NothingDoneError:
            self._append(call)  # With the next batch, which finds out for how long.
            if self._sender is None:
                self._sender = asyncio.create_task(self._run())

    # What waits for a key that an open transaction holds

    def _hold(self, call: _Call, error: QueueError) -> None:
        if asyncio.get_running_loop().time() >= call.held_until:
            call.fail(error)
            return
        self._held.append(call)
        if self._retrier is None:
            self._retrier = asyncio.create_task(self._retry())

    async def _retry(self) -> None:
        """Try them one by one, with pauses that leave most of the time to others."""
        waits = pauses()
        clock = asyncio.get_running_loop().time
        try:
            while self._held:
                started = clock()
                waiting = len(self._held)
                for _ in range(waiting):
                    call = self._held.popleft()
                    if not call.answer.done():
                        await self._answer_alone(call)
                if len(self._held) < waiting:
                    waits = pauses()
                await asyncio.sleep(max(next(waits), 3 * (clock() - started)) if self._held else 0)
        finally:
            self._retrier = None
            _close(self._held)


def _close(calls: Iterable[_Call]) -> None:
    for call in calls:
        call.fail(QueueUnavailableError("the queue was closed before an answer came: the jobs may be there, or not"))
