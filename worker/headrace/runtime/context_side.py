"""The worker's side of a handler's `Context`: what a running job may ask of its worker."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from headrace.app import Context
from headrace.queues.base import Transactional
from headrace.queues.errors import PartlyEnqueuedError, UnsupportedCapabilityError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from headrace.job import NewJob
    from headrace.metrics import QueueMetrics
    from headrace.queues.base import Delivery, DeliveryKey, Enqueued, Progress, Queue
    from headrace.runtime.attempt import Attempt


class ContextSide:
    """Of one worker: makes contexts, and remembers what their handlers say.

    Parameters
    ----------
    queue
        The worker's.
    metrics
        Counts what handlers enqueue.
    extend
        Gives an attempt so many seconds from now.
    """

    def __init__(self, queue: Queue, metrics: QueueMetrics, extend: Callable[[Attempt, float], None]) -> None:
        self._queue = queue
        self._metrics = metrics
        self.extend = extend
        self._progress: dict[DeliveryKey, tuple[Delivery, Progress]] = {}

    def context_of(self, attempt: Attempt) -> Context:
        """What the attempt's handler may see and say."""
        return Context(attempt.delivery.job, _Run(self, attempt))

    def reports(self) -> list[tuple[Delivery, Progress]]:
        """How far jobs are, of those that have said so since the last call."""
        reports, self._progress = list(self._progress.values()), {}
        return reports

    def report(self, delivery: Delivery, progress: Progress) -> None:
        """Remember how far a job is; `reports` has the newest word of each."""
        self._progress[delivery.key] = (delivery, progress)

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        """Enqueue into the worker's own queue, and count what is known to be new."""
        try:
            enqueued = await self._queue.enqueue(jobs)
        except PartlyEnqueuedError as error:
            self._count(error.done.values())
            raise
        self._count(enqueued)
        return enqueued

    def _count(self, enqueued: Iterable[Enqueued]) -> None:
        self._metrics.enqueued.inc(sum(each.is_new is True for each in enqueued))

    def transactional(self) -> Transactional:
        """The queue, as one that takes part in transactions."""
        if not isinstance(self._queue, Transactional):
            raise UnsupportedCapabilityError(
                "complete: this queue's backend lives in no database; return from the handler instead"
            )
        return self._queue


class _Run:
    """One attempt under way; see `headrace.app.Run`."""

    __slots__ = ("_attempt", "_loop", "_side")

    def __init__(self, side: ContextSide, attempt: Attempt) -> None:
        self._side = side
        self._attempt = attempt
        self._loop = asyncio.get_running_loop()

    @property
    def is_cancelled(self) -> bool:
        return self._attempt.is_stopped

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        return await self._side.enqueue(jobs)

    async def complete_in(self, connection: Any) -> None:
        await self._side.transactional().complete_in(connection, self._attempt.delivery)

    def complete_in_sync(self, connection: Any) -> None:
        self._side.transactional().complete_in_sync(connection, self._attempt.delivery)

    def extend(self, seconds: float) -> None:
        self._loop.call_soon_threadsafe(self._side.extend, self._attempt, seconds)

    def report(self, progress: Progress) -> None:
        self._loop.call_soon_threadsafe(self._side.report, self._attempt.delivery, progress)
