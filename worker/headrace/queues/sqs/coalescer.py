"""Jobs that are enqueued at once travel together, ten to a call, several calls at a time; each caller is answered."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from headrace.queues.base import Enqueued
from headrace.queues.errors import (
    PartlyEnqueuedError,
    QueueAccessError,
    QueueError,
    QueueNotFoundError,
    QueueUnavailableError,
)
from headrace.queues.sqs.calls import MOST_CALLS, UNTOLD, may_help_again, outcomes, own_copy
from headrace.queues.sqs.capabilities import MAX_MESSAGE_BYTES
from headrace.queues.sqs.errors import SqsError, ThrottledError
from headrace.queues.sqs.place import MAX_MESSAGES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from headrace.queues.sqs.messages import Outgoing

LINGER_SECONDS = 0.005
"""How long a few jobs wait for company while other calls are under way. Whoever comes alone goes at once."""

PAUSES_SECONDS = (0.1, 0.3, 1.0)
"""Before what the service could not take is sent again."""


class _Call:
    """Jobs of one caller."""

    __slots__ = ("answer", "done", "failed", "left")

    def __init__(self, count: int) -> None:
        self.left = count
        self.done: list[Enqueued | None] = [None] * count
        self.failed: dict[int, QueueError] = {}
        self.answer: asyncio.Future[list[Enqueued]] = asyncio.get_running_loop().create_future()

    def ended(self) -> None:
        """All of its jobs have an outcome."""
        if self.answer.done():
            return
        done, failed = self.done, self.failed
        if not failed:
            self.answer.set_result(done)  # type: ignore[arg-type]  # each is there
        elif len(failed) == len(done):
            self.answer.set_exception(own_copy(failed[min(failed)]))
        else:
            self.answer.set_exception(
                PartlyEnqueuedError(
                    {place: each for place, each in enumerate(done) if each is not None},
                    {place: str(failed[place]) for place in sorted(failed)},
                )
            )


class _Waiting(NamedTuple):
    """A job on its way."""

    call: _Call
    place: int
    message: Outgoing
    tries: int = 0

    @property
    def is_answered(self) -> bool:
        """Whether its caller has its outcome."""
        return self.call.done[self.place] is not None or self.place in self.call.failed


class Coalescer:
    """Collects jobs, and sends them.

    Parameters
    ----------
    send
        Calls ``SendMessageBatch`` with these entries.
    """

    def __init__(self, send: Callable[[list[dict[str, Any]]], Awaitable[dict[str, Any]]]) -> None:
        self._send_batch = send
        self._waiting: deque[_Waiting] = deque()
        self._sending: dict[asyncio.Task[None], list[_Waiting]] = {}
        self._again: dict[asyncio.TimerHandle, list[_Waiting]] = {}
        self._soon: asyncio.Handle | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    async def enqueue(self, messages: Sequence[Outgoing]) -> list[Enqueued]:
        """What became of the jobs, once they are durable.

        Cancelled before its turn, a call enqueues nothing; cancelled later, it may have.
        """
        call = _Call(len(messages))
        self._waiting.extend([_Waiting(call, place, message) for place, message in enumerate(messages)])
        self._idle.clear()
        if len(self._waiting) >= MAX_MESSAGES and self._sending:
            self._flush()
        elif self._soon is None:
            # Others of this turn of the loop come along.
            self._soon = asyncio.get_running_loop().call_soon(self._flush_now)
        return await call.answer

    async def flushed(self) -> None:
        """Wait until nothing is under way."""
        await self._idle.wait()

    def close(self) -> None:
        """Wait for nothing any more: who waits is told."""
        waiting, self._waiting = list(self._waiting), deque()
        for task, batch in self._sending.items():
            task.cancel()
            waiting += batch
        for timer, hopeful in self._again.items():
            timer.cancel()
            waiting += hopeful
        self._again.clear()
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        closed = QueueUnavailableError("the queue was closed before an answer came: the jobs may be there, or not")
        self._fail(waiting, closed)

    # When

    def _flush_now(self) -> None:
        self._soon = None
        self._flush(lingers=False)

    def _flush(self, *, lingers: bool = True) -> None:
        """Send what makes full calls, and the rest where it need not wait for company."""
        while self._waiting and len(self._sending) < MOST_CALLS:
            if len(self._waiting) < MAX_MESSAGES and self._sending and lingers:
                if self._soon is None:
                    self._soon = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._flush_now)
                return
            if not (batch := self._next_batch()):
                break
            task = asyncio.create_task(self._send(batch))
            self._sending[task] = batch
            task.add_done_callback(self._sent)
        if not (self._waiting or self._sending or self._again):
            self._idle.set()

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.pop(task)
        self._flush()

    def _next_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        waiting = self._waiting
        while waiting and len(batch) < MAX_MESSAGES:
            first = waiting[0]
            if batch and size + first.message.size_bytes > MAX_MESSAGE_BYTES:
                break
            waiting.popleft()
            if not first.call.answer.done():
                batch.append(first)
                size += first.message.size_bytes
        return batch

    # What became of it

    async def _send(self, batch: Sequence[_Waiting]) -> None:
        entries = []
        for number, waiting in enumerate(batch):
            entry = waiting.message.entry
            entry["Id"] = str(number)
            entries.append(entry)
        try:
            answer = await self._send_batch(entries)
        except ThrottledError as error:
            # Nothing of it was done.
            self._try_again(batch, error)
        except (QueueUnavailableError, QueueAccessError, QueueNotFoundError) as error:
            self._fail(batch, error)
        except QueueError as error:
            if len(batch) > 1:
                # One of them may be at fault; the others shall not pay for it.
                for waiting in batch:
                    await self._send([waiting])
            else:
                self._fail(batch, error)
        except BaseException:
            self._fail(batch, QueueUnavailableError("no answer came: the jobs may be there, or not"))
            raise
        else:
            self._answer(batch, outcomes("SendMessageBatch", answer, len(batch)))

    def _answer(self, batch: Sequence[_Waiting], told: Sequence[QueueError | None]) -> None:
        for waiting, error in zip(batch, told, strict=True):
            if error is None:
                call = waiting.call
                call.done[waiting.place] = Enqueued(waiting.message.id)
                call.left -= 1
                if not call.left:
                    call.ended()
            elif may_help_again(error) and not (isinstance(error, SqsError) and error.code == UNTOLD):
                # The service says that it did not take this one.
                self._try_again([waiting], error)
            else:
                self._fail([waiting], error)

    def _try_again(self, batch: Sequence[_Waiting], error: QueueError) -> None:
        hopeful = [
            waiting._replace(tries=waiting.tries + 1) for waiting in batch if waiting.tries < len(PAUSES_SECONDS)
        ]
        self._fail([waiting for waiting in batch if waiting.tries >= len(PAUSES_SECONDS)], error)
        if not hopeful:
            return
        loop = asyncio.get_running_loop()

        def again() -> None:
            self._again.pop(timer)
            self._waiting.extendleft(reversed(hopeful))
            self._flush()

        timer = loop.call_later(PAUSES_SECONDS[hopeful[0].tries - 1], again)
        self._again[timer] = hopeful

    @staticmethod
    def _fail(batch: Sequence[_Waiting], error: QueueError) -> None:
        for waiting in batch:
            if waiting.is_answered:  # When all is closed, a job may be met twice.
                continue
            call = waiting.call
            call.failed[waiting.place] = error
            call.left -= 1
            if not call.left:
                call.ended()
