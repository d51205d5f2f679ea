"""What a backend has said of reports: counted, logged, and of no concern to the idempotency store any more."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from headrace.queues.settlement import Complete, DeadLetter, Discard, Release, Retry

if TYPE_CHECKING:
    from collections.abc import Iterable

    from headrace.metrics import QueueMetrics
    from headrace.queues.base import Delivery, DeliveryKey
    from headrace.queues.settlement import Settled, Settlement
    from headrace.runtime.idempotency_guard import IdempotencyGuard
    from headrace.runtime.job_log import JobLog


class Reported:
    """Is told what was reported and what came about of it.

    Parameters
    ----------
    metrics
        Counts what the backend took, and what it refused.
    job_log
        Is told of dead letters and refusals.
    guard
        May forget what has ended. None: no idempotency.
    """

    def __init__(self, metrics: QueueMetrics, job_log: JobLog, guard: IdempotencyGuard | None) -> None:
        self._metrics = metrics
        self._job_log = job_log
        self._guard = guard

    def count(self, batch: list[Settlement], settled: Settled) -> None:
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


def _keys(settlements: Iterable[Settlement]) -> frozenset[DeliveryKey]:
    return frozenset(settlement.delivery.key for settlement in settlements)
