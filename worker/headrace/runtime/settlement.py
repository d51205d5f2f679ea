"""Reporting what became of jobs: in batches, and again and again until the backend has taken it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace.idempotency.base import IdempotencyError
from headrace.logs import described
from headrace.queues.base import QueueError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from headrace.metrics import QueueMetrics
    from headrace.queues.base import Delivery, Queue, Settled
    from headrace.runtime.idempotency import IdempotencyGuard

log = logging.getLogger(__name__)

FULL_BATCH = 500
LINGER_SECONDS = 0.01
"""How long the first completion of a batch waits for company while the worker is busy."""

_FIRST_PAUSE_SECONDS = 0.1
_LAST_PAUSE_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """The attempt failed."""

    delivery: Delivery
    delay_seconds: float
    error: str
    traceback: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Nothing is charged."""

    delivery: Delivery
    delay_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """The job is given up."""

    delivery: Delivery
    reason: str
    error: str | None = None
    traceback: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Discard:
    """The job was cancelled, and has stopped."""

    delivery: Delivery


Outcome = Retry | Release | DeadLetter | Discard


class Settler:
    """Takes outcomes at once, reports them when it can.

    Parameters
    ----------
    queue
        Where to report.
    metrics
        Counts what the backend took, and what it refused.
    is_idle
        Whether nothing else is running, so that waiting for company is vain.
    guard
        Is told of every end before the queue is. None: no idempotency.
    """

    def __init__(
        self,
        queue: Queue,
        metrics: QueueMetrics,
        *,
        is_idle: Callable[[], bool],
        guard: IdempotencyGuard | None = None,
    ) -> None:
        self._queue = queue
        self._guard = guard
        # Done when the lease was lost: their keys are finished all the same, where nobody else has them.
        self._done_too_late: list[Delivery] = []
        self._is_flushing = False
        self._metrics = metrics
        self._is_idle = is_idle
        self._completed: list[Delivery] = []
        self._reporting: list[Delivery] = []
        self._others: list[Outcome] = []
        self._pending = asyncio.Event()
        self._full = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()
        self._failure: QueueError | IdempotencyError | None = None
        self.is_stuck = False
        """Whether the last report failed: no use in taking more jobs."""

    def complete(self, delivery: Delivery) -> None:
        """The job is done."""
        self._completed.append(delivery)
        count = len(self._completed)
        if count in {1, FULL_BATCH} or self._is_idle():
            self._wake(full=count >= FULL_BATCH or self._is_idle())

    def settle(self, outcome: Outcome) -> None:
        """Any other end."""
        self._others.append(outcome)
        self._wake(full=True)

    def release(self, deliveries: Iterable[Delivery]) -> None:
        """Jobs go back at once, nothing charged."""
        for delivery in deliveries:
            self.settle(Release(delivery=delivery))

    def forget(self) -> None:
        """The lease is lost: all that is unreported would be refused."""
        self._metrics.refused_completions.inc(len(self._completed) + len(self._others))
        if self._guard is not None:
            self._done_too_late += [*self._reporting, *self._completed]
            self._guard.forget_all(but=self._done_too_late)
            self._wake(full=True)
        self._completed.clear()
        self._others.clear()

    async def flushed(self) -> None:
        """Wait until everything has been reported, to the queue alone where the idempotency store does not answer."""
        self._is_flushing = True
        self._full.set()
        await self._settled.wait()

    def _wake(self, *, full: bool) -> None:
        self._settled.clear()
        self._pending.set()
        if full:
            self._full.set()

    async def run(self) -> None:
        """Report, until cancelled."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            await self._pending.wait()
            if not self._full.is_set():
                await _wait(self._full, LINGER_SECONDS)
            self._pending.clear()
            self._full.clear()
            await self._report()
            if not self._completed and not self._others:
                self._settled.set()
            elif self.is_stuck:
                self._pending.set()
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LAST_PAUSE_SECONDS)
                continue
            pause = _FIRST_PAUSE_SECONDS

    async def _report(self) -> None:
        """One try at everything that is pending; what fails stays."""
        self._failure = None
        if self._done_too_late and self._guard is not None:
            late, self._done_too_late = self._done_too_late, []
            await self._guard.finish(late, is_last_try=True)
            self._guard.forget(late)
        if completed := self._completed:
            self._completed, self._reporting = [], completed
            settled = await self._try(self._complete(completed))
            self._reporting = []
            if settled is None:
                self._completed = completed + self._completed
            else:
                self._metrics.completed.inc(settled.accepted)
                self._refused(settled)
        others, self._others = self._others, []
        if others and self._guard is not None:
            # All in one call: where the store is away, each takes seconds.
            await self._guard.release([other.delivery for other in others])
        for delay_seconds in sorted({other.delay_seconds for other in others if isinstance(other, Release)}):
            await self._release(
                [other for other in others if isinstance(other, Release) and other.delay_seconds == delay_seconds]
            )
        for other in others:
            if not isinstance(other, Release):
                await self._settle(other)
        if self._failure and not self.is_stuck:
            log.warning("outcomes not reported queue=%s, trying again: %s", self._queue.name, self._failure)
        elif self.is_stuck and not self._failure:
            log.info("outcomes reported queue=%s", self._queue.name)
        self.is_stuck = self._failure is not None

    async def _complete(self, deliveries: list[Delivery]) -> Settled:
        if self._guard is None:
            return await self._queue.complete(deliveries)
        taken = await self._guard.finish(deliveries, is_last_try=self._is_flushing)
        for delivery in taken:
            log.warning("finish refused, another run has the key %s", described(delivery.job))
            self.settle(Release(delivery=delivery, delay_seconds=1.0))
        done = [delivery for delivery in deliveries if delivery not in taken] if taken else deliveries
        settled = await self._queue.complete(done)
        self._guard.forget(done)
        return settled

    async def _release(self, releases: Sequence[Release]) -> None:
        deliveries = [release.delivery for release in releases]
        settled = await self._try(self._queue.release(deliveries, delay_seconds=releases[0].delay_seconds))
        if settled is None:
            self._others += releases
        else:
            self._metrics.released.inc(settled.accepted)
            self._refused(settled)

    async def _settle(self, outcome: Retry | DeadLetter | Discard) -> None:
        delivery = outcome.delivery
        match outcome:
            case Retry(delay_seconds=delay_seconds, error=error, traceback=traceback):
                call = self._queue.retry(delivery, delay_seconds=delay_seconds, error=error, traceback=traceback)
            case DeadLetter(reason=reason, error=given_error, traceback=traceback):
                call = self._queue.dead_letter(delivery, reason=reason, error=given_error, traceback=traceback)
            case _:
                call = self._queue.discard(delivery)
        settled = await self._try(call)
        if settled is None:
            self._others.append(outcome)
            return
        self._refused(settled)
        if isinstance(outcome, Discard):
            self._metrics.cancelled.inc(settled.accepted)
            return
        self._metrics.failed.inc(settled.dead_lettered)
        self._metrics.retried.inc(settled.accepted - settled.dead_lettered)
        if settled.dead_lettered:
            log.error("job dead-lettered %s", described(delivery.job))

    async def _try(self, call: Awaitable[Settled]) -> Settled | None:
        try:
            return await call
        except (QueueError, IdempotencyError) as error:
            self._failure = error
            return None

    def _refused(self, settled: Settled) -> None:
        self._metrics.refused_completions.inc(len(settled.refused))
        for delivery in settled.refused:
            log.warning("outcome refused, the lease was lost %s", described(delivery.job))


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
