"""Reporting what becomes of jobs: in batches, and again and again until the backend has taken it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING

from headrace.idempotency.base import IdempotencyError
from headrace.logs import described
from headrace.queues.errors import QueueError
from headrace.queues.settlement import Complete, DeadLetter, Discard, Release, Retry

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from collections.abc import Set as AbstractSet

    from headrace.metrics import QueueMetrics
    from headrace.queues.base import Delivery, DeliveryKey, Queue
    from headrace.queues.settlement import Settled, Settlement
    from headrace.runtime.idempotency_guard import IdempotencyGuard
    from headrace.runtime.job_log import JobLog
    from headrace.runtime.nudge import Nudge

log = logging.getLogger(__name__)

FULL_BATCH = 500
"""So many are reported as soon as they are there; and so many may be unreported before a worker takes fewer jobs."""

LINGER_SECONDS = 0.01
"""How long the first of a batch waits for company while the worker is busy."""

_MAX_BATCH = 2 * FULL_BATCH

_FIRST_PAUSE_SECONDS = 0.1
_LAST_PAUSE_SECONDS = 2.0


class Settler:
    """Takes settlements at once, reports them when it can.

    Parameters
    ----------
    queue
        Where to report.
    metrics
        Counts what the backend took, and what it refused.
    job_log
        Is told of dead letters and refusals.
    nudge
        Is given after each report: there may be room for more jobs.
    guard
        Is told of every end before the queue is. None: no idempotency.
    """

    def __init__(
        self,
        queue: Queue,
        metrics: QueueMetrics,
        job_log: JobLog,
        *,
        nudge: Nudge,
        guard: IdempotencyGuard | None = None,
    ) -> None:
        self._queue = queue
        self._guard = guard
        self._metrics = metrics
        self._job_log = job_log
        self._nudge = nudge
        self._pending: list[Settlement] = []
        self._reporting: list[Settlement] = []
        # Ended when others had them, and whether they were done: their keys are finished or freed all the same.
        self._late: list[tuple[Delivery, bool]] = []
        self._lost: set[DeliveryKey] = set()
        self._is_flushing = False
        self._has_work = asyncio.Event()
        self._at_once = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()
        self._failure = ""
        self.unreported_bytes = 0
        """How large the payloads of the unreported are: they are in memory for as long."""

    @property
    def is_stuck(self) -> bool:
        """Whether the last report failed: no use in taking more jobs."""
        return bool(self._failure)

    @property
    def unreported(self) -> int:
        """How many jobs have ended here and are still held at the queue."""
        return len(self._pending) + len(self._reporting)

    def add(self, settlements: Sequence[Settlement], *, at_once: bool = True) -> None:
        """Report them; unless at once, after a moment in which others may come."""
        if not settlements:
            return
        was_idle = not self._pending
        self._pending += settlements
        self.unreported_bytes += _payload_bytes(settlements)
        if at_once or len(self._pending) >= FULL_BATCH:
            self._wake()
            self._at_once.set()
        elif was_idle:
            self._wake()

    def release(self, deliveries: Iterable[Delivery]) -> None:
        """Jobs go back at once, nothing charged."""
        self.add([Release(delivery=delivery) for delivery in deliveries])

    def lose(self, keys: AbstractSet[DeliveryKey]) -> None:
        """Others have these jobs: what is unreported of them would be refused."""
        lost = [settlement for settlement in self._pending if settlement.delivery.key in keys]
        for settlement in self._reporting:
            if isinstance(settlement, Complete) and settlement.delivery.key in keys:
                self.end_lost(settlement.delivery, is_done=True)
        for settlement in lost:
            self.end_lost(settlement.delivery, is_done=isinstance(settlement, Complete))
        if lost:
            self._metrics.refused_completions.inc(len(lost))
            self._pending = [settlement for settlement in self._pending if settlement.delivery.key not in keys]
            self.unreported_bytes -= _payload_bytes(lost)
        self._lost |= keys

    def end_lost(self, delivery: Delivery, *, is_done: bool) -> None:
        """It has ended here, though others have it: only its key is to know."""
        if self._guard is not None:
            self._late.append((delivery, is_done))
            self._wake()
            self._at_once.set()

    async def flushed(self) -> None:
        """Wait until everything has been reported, to the queue alone where the idempotency store does not answer."""
        self._is_flushing = True
        self._at_once.set()
        await self._settled.wait()

    def _wake(self) -> None:
        self._settled.clear()
        self._has_work.set()

    async def run(self) -> None:
        """Report, until cancelled."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            await self._has_work.wait()
            if not self._at_once.is_set():
                await _wait(self._at_once, LINGER_SECONDS)
            self._has_work.clear()
            self._at_once.clear()
            await self._report()
            if not (self._pending or self._late):
                self._settled.set()
            else:
                self._has_work.set()
                if self.is_stuck:
                    self._nudge.give()
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, _LAST_PAUSE_SECONDS)
                    continue
                if len(self._pending) >= FULL_BATCH:
                    self._at_once.set()
            self._nudge.give()
            pause = _FIRST_PAUSE_SECONDS

    async def _report(self) -> None:
        """One try at the next batch; what fails stays."""
        failure = ""
        if self._late and self._guard is not None:
            late, self._late = self._late, []
            done = [delivery for delivery, is_done in late if is_done]
            await self._guard.finish(done, is_last_try=True)
            self._guard.forget(done)
            await self._guard.release([delivery for delivery, is_done in late if not is_done])
        batch, self._pending = self._pending[:_MAX_BATCH], self._pending[_MAX_BATCH:]
        self._reporting = batch
        self._lost.clear()
        unsettled: list[Settlement] = []
        try:
            if self._guard is not None:
                batch, unsettled, failure = await self._told_to(self._guard, batch)
            if batch:
                settled = await self._queue.settle(batch)
                self._count(batch, settled)
                if settled.unsettled:
                    unsettled += settled.unsettled
                    failure = settled.error or "the backend did not take all of them"
        except QueueError as error:
            unsettled += batch
            failure = str(error)
        # Settled again, what was lost meanwhile would be refused.
        kept = [settlement for settlement in unsettled if settlement.delivery.key not in self._lost]
        if kept:
            self._pending = kept + self._pending
        reported, self._reporting = self._reporting, []
        self.unreported_bytes += _payload_bytes(kept) - _payload_bytes(reported)
        if failure and not self._failure:
            log.warning("outcomes not reported queue=%s, trying again: %s", self._queue.name, failure)
        elif self._failure and not failure:
            log.info("outcomes reported queue=%s", self._queue.name)
        self._failure = failure

    async def _told_to(
        self, guard: IdempotencyGuard, batch: list[Settlement]
    ) -> tuple[list[Settlement], list[Settlement], str]:
        """Tell the guard first: what the queue may be told now, what must wait for the store, and why."""
        done = [settlement for settlement in batch if isinstance(settlement, Complete)]
        others = [settlement for settlement in batch if not isinstance(settlement, Complete)]
        waiting: list[Settlement] = []
        failure = ""
        if done:
            try:
                taken = await guard.finish([settlement.delivery for settlement in done], is_last_try=self._is_flushing)
            except IdempotencyError as error:
                waiting += done
                done = []
                failure = str(error)
            else:
                for delivery in taken:
                    log.warning("finish refused, another run has the key %s", described(delivery.job))
                    others.append(Release(delivery=delivery, delay_seconds=1.0))
                if taken:
                    done = [settlement for settlement in done if settlement.delivery not in taken]
        if others:
            # All in one call: where the store is away, each takes seconds.
            await guard.release([settlement.delivery for settlement in others])
        return [*done, *others], waiting, failure

    def _count(self, batch: list[Settlement], settled: Settled) -> None:
        """What the queue has said of a batch."""
        if settled.accepted == len(batch) and not settled.dead_lettered:
            self._count_accepted(batch)
            return
        refused = _keys(settled.refused)
        dead = _keys(settled.dead_lettered)
        ended: list[Delivery] = []
        completed = retried = failed = released = cancelled = 0
        unsettled = _keys(settled.unsettled)
        for settlement in batch:
            key = settlement.delivery.key if refused or dead or unsettled else None
            if key in refused:
                self._job_log.refused(settlement.delivery.job)
                ended.append(settlement.delivery)
                continue
            if key in unsettled:
                continue
            match settlement:
                case Complete():
                    completed += 1
                    ended.append(settlement.delivery)
                case Release():
                    released += 1
                case Discard():
                    cancelled += 1
                case Retry() if key not in dead:
                    retried += 1
                case Retry() | DeadLetter():
                    failed += 1
                    self._job_log.dead_lettered(settlement.delivery.job)
        if self._guard is not None and ended:
            self._guard.forget(ended)
        metrics = self._metrics
        metrics.completed.inc(completed)
        metrics.retried.inc(retried)
        metrics.failed.inc(failed)
        metrics.released.inc(released)
        metrics.cancelled.inc(cancelled)
        metrics.refused_completions.inc(len(refused))

    def _count_accepted(self, batch: list[Settlement]) -> None:
        """All of it came about, and nobody is dead: for most jobs, so in a fraction of the time."""
        kinds = Counter(map(type, batch))
        metrics = self._metrics
        metrics.completed.inc(kinds[Complete])
        metrics.retried.inc(kinds[Retry])
        metrics.failed.inc(kinds[DeadLetter])
        metrics.released.inc(kinds[Release])
        metrics.cancelled.inc(kinds[Discard])
        if self._guard is not None and kinds[Complete]:
            self._guard.forget([settlement.delivery for settlement in batch if isinstance(settlement, Complete)])


def _payload_bytes(settlements: Iterable[Settlement]) -> int:
    return sum([len(settlement.delivery.job.payload) for settlement in settlements])


def _keys(settlements: Iterable[Settlement]) -> frozenset[DeliveryKey]:
    return frozenset(settlement.delivery.key for settlement in settlements)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
