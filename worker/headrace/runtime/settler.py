"""Reporting what becomes of jobs: in batches, and again and again until the backend has taken it.

One report follows another. But where the backend settles few jobs with each call of its own (`SettlesApart`), several
are under way beside each other: else the next jobs would wait for the slowest of many calls.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from headrace.idempotency.base import IdempotencyError
from headrace.logs import described
from headrace.queues.base import SettlesApart
from headrace.queues.errors import QueueError
from headrace.queues.settlement import Complete, Release
from headrace.runtime.reported import Reported

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from collections.abc import Set as AbstractSet

    from headrace.metrics import QueueMetrics
    from headrace.queues.base import Delivery, DeliveryKey, Queue
    from headrace.queues.settlement import Settlement
    from headrace.runtime.idempotency_guard import IdempotencyGuard
    from headrace.runtime.job_log import JobLog
    from headrace.runtime.nudge import Nudge

log = logging.getLogger(__name__)

FULL_BATCH = 500
"""So many are reported as soon as they are there; and so many may be unreported before a worker takes fewer jobs."""

LINGER_SECONDS = 0.01
"""How long the first of a batch waits for company while the worker is busy."""

_MAX_BATCH = 2 * FULL_BATCH
_MOST_REPORTS = 16

_FIRST_PAUSE_SECONDS = 0.1
_LAST_PAUSE_SECONDS = 2.0


class _Report:
    """One report that is under way."""

    __slots__ = ("batch", "failures", "lost")

    def __init__(self, batch: list[Settlement], failures: int) -> None:
        self.batch = batch
        self.failures = failures
        """How many reports had failed when it began."""
        self.lost: set[DeliveryKey] = set()
        """What others have got meanwhile."""


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
        self._counts = Reported(metrics, job_log, guard)
        self._nudge = nudge
        # How many make one call, where calls go beside each other.
        self._together = queue.settled_together if isinstance(queue, SettlesApart) else None
        self._most_reports = 1 if self._together is None else _MOST_REPORTS
        self._full = FULL_BATCH if self._together is None else self._together
        self._pending: list[Settlement] = []
        self._reports: list[_Report] = []
        self._reporting = 0
        # Ended when others had them, and whether they were done: their keys are finished or freed all the same.
        self._late: list[tuple[Delivery, bool]] = []
        self._is_flushing = False
        self._is_hurried = False
        self._has_work = asyncio.Event()
        self._at_once = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()
        self._failure = ""
        self._failures = 0
        self.unreported_bytes = 0
        """How large the payloads of the unreported are: they are in memory for as long."""

    @property
    def is_stuck(self) -> bool:
        """Whether the last report failed: no use in taking more jobs."""
        return bool(self._failure)

    @property
    def unreported(self) -> int:
        """How many jobs have ended here and are still held at the queue."""
        return len(self._pending) + self._reporting

    @property
    def saves_calls(self) -> bool:
        """Whether a call costs the same however few are reported by it: company is worth a moment's wait."""
        return self._together is not None

    def add(self, settlements: Sequence[Settlement], *, at_once: bool = True) -> None:
        """Report them; unless at once, after a moment in which others may come."""
        if not settlements:
            return
        was_idle = not self._pending
        self._pending += settlements
        self.unreported_bytes += _payload_bytes(settlements)
        if at_once or len(self._pending) >= self._full:
            self._is_hurried |= at_once
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
        for report in self._reports:
            report.lost |= keys
            for settlement in report.batch:
                if isinstance(settlement, Complete) and settlement.delivery.key in keys:
                    self.end_lost(settlement.delivery, is_done=True)
        for settlement in lost:
            self.end_lost(settlement.delivery, is_done=isinstance(settlement, Complete))
        if lost:
            self._metrics.refused_completions.inc(len(lost))
            self._pending = [settlement for settlement in self._pending if settlement.delivery.key not in keys]
            self.unreported_bytes -= _payload_bytes(lost)

    def end_lost(self, delivery: Delivery, *, is_done: bool) -> None:
        """It has ended here, though others have it: only its key is to know."""
        if self._guard is not None:
            self._late.append((delivery, is_done))
            self._wake()
            self._at_once.set()

    async def flushed(self) -> None:
        """Wait until everything has been reported, to the queue alone where the idempotency store does not answer."""
        self._is_flushing = self._is_hurried = True
        self._at_once.set()
        await self._settled.wait()

    def _wake(self) -> None:
        self._settled.clear()
        self._has_work.set()

    async def run(self) -> None:
        """Report, until cancelled."""
        async with asyncio.TaskGroup() as group:
            await self._run(group)

    async def _run(self, group: asyncio.TaskGroup) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            await self._has_work.wait()
            if not self._at_once.is_set():
                await _wait(self._at_once, LINGER_SECONDS)
            if self._reports and (self._failure or len(self._reports) >= self._most_reports):
                self._has_work.clear()  # The end of a report sets it again.
                continue
            if self._failure:
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LAST_PAUSE_SECONDS)
            else:
                pause = _FIRST_PAUSE_SECONDS
            batch = self._next_batch()
            self._has_work.clear()
            self._at_once.clear()
            if batch or self._late:
                report = _Report(batch, self._failures)
                self._reports.append(report)
                self._reporting += len(batch)
                group.create_task(self._report(report))
            self._go_on()

    def _next_batch(self) -> list[Settlement]:
        """What is to be reported now: all, or where company is worth a wait, as much as makes whole calls."""
        pending = self._pending
        count = min(len(pending), _MAX_BATCH)
        if self._together is not None and self._at_once.is_set() and not (self._is_hurried or self._failure):
            count -= count % self._together
        if count == len(pending):
            self._is_hurried = self._is_flushing
        self._pending = pending[count:]
        return pending[:count]

    def _go_on(self) -> None:
        """With what there still is to report, if anything."""
        if self._pending or (self._late and not self._reports):
            self._has_work.set()
            if self._is_hurried or len(self._pending) >= self._full:
                self._at_once.set()
        elif not self._reports:
            # What could not be reported has been lost meanwhile: then nothing says any more that others can't be.
            self._failure = ""
            self._settled.set()
            self._nudge.give()

    async def _report(self, report: _Report) -> None:
        """One try at a batch; what fails stays."""
        failure = ""
        batch = report.batch
        unsettled: list[Settlement] = []
        try:
            if self._guard is not None:
                await self._tell_late(self._guard)
                batch, unsettled, failure = await self._told_to(self._guard, batch)
            if batch:
                settled = await self._queue.settle(batch)
                self._counts.count(batch, settled)
                if settled.unsettled:
                    unsettled += settled.unsettled
                    failure = settled.error or "the backend did not take all of them"
        except QueueError as error:
            unsettled += batch
            failure = str(error)
        # Settled again, what was lost meanwhile would be refused.
        kept = [settlement for settlement in unsettled if settlement.delivery.key not in report.lost]
        if kept:
            self._pending = kept + self._pending
        self._reports.remove(report)
        self._reporting -= len(report.batch)
        self.unreported_bytes += _payload_bytes(kept) - _payload_bytes(report.batch)
        self._note(failure, report)
        self._nudge.give()
        self._go_on()

    def _note(self, failure: str, report: _Report) -> None:
        """How a report went. One that was begun before another failed says nothing of what is now."""
        if failure:
            if not self._failure:
                log.warning("outcomes not reported queue=%s, trying again: %s", self._queue.name, failure)
            self._failures += 1
            self._failure = failure
        elif self._failure and report.failures == self._failures:
            log.info("outcomes reported queue=%s", self._queue.name)
            self._failure = ""

    async def _tell_late(self, guard: IdempotencyGuard) -> None:
        late, self._late = self._late, []
        done = [delivery for delivery, is_done in late if is_done]
        if done:
            await guard.finish(done, is_last_try=True)
            guard.forget(done)
        if others := [delivery for delivery, is_done in late if not is_done]:
            await guard.release(others)

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


def _payload_bytes(settlements: Iterable[Settlement]) -> int:
    return sum([len(settlement.delivery.job.payload) for settlement in settlements])


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
