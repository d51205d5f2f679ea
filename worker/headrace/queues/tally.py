"""What settlements add up to: a worker's share of `Totals`. Pure."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, cast

from headrace.queues.base import SERVICE_BUCKETS_SECONDS
from headrace.queues.settlement import Complete, DeadLetter, Retry

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from headrace.queues.settlement import Settlement

_BUCKETS = len(SERVICE_BUCKETS_SECONDS) + 1


class Tally:
    """Counts of what came about; since the last report, where they are reported."""

    def __init__(self) -> None:
        self.completed = 0
        self.failed = 0
        self.dead_lettered = 0
        self.service_seconds = 0.0
        self.service_histogram = [0] * _BUCKETS

    def count(self, settlements: Sequence[Settlement], dead: Iterable[Settlement]) -> None:
        """Count settlements, all of one kind, that were accepted; `dead` are those whose jobs are dead now."""
        if not settlements:
            return
        kind = type(settlements[0])
        if kind is Complete:
            self.completed += len(settlements)
        elif kind is Retry:
            self.failed += len(settlements)
        elif kind is not DeadLetter:
            return
        timed = cast("Sequence[Complete | Retry | DeadLetter]", settlements)
        if kind is DeadLetter:
            burials = cast("Sequence[DeadLetter]", settlements)
            self.failed += sum(burial.run_seconds is not None or burial.failure is not None for burial in burials)
        ran_seconds = [settlement.run_seconds for settlement in timed if settlement.run_seconds is not None]
        self.service_seconds += sum(ran_seconds)
        histogram = self.service_histogram
        for seconds in ran_seconds:
            histogram[bisect_left(SERVICE_BUCKETS_SECONDS, seconds)] += 1
        self.dead_lettered += sum(1 for _ in dead)

    def take(self) -> tuple[int, int, int, float, list[int]]:
        """All counts, as a heartbeat reports them; they begin at zero again."""
        histogram = self.service_histogram if any(self.service_histogram) else []
        taken = (self.completed, self.failed, self.dead_lettered, self.service_seconds, histogram)
        Tally.__init__(self)
        return taken

    def put_back(self, taken: tuple[int, int, int, float, list[int]]) -> None:
        """What was taken has not been reported."""
        completed, failed, dead_lettered, service_seconds, service_histogram = taken
        self.completed += completed
        self.failed += failed
        self.dead_lettered += dead_lettered
        self.service_seconds += service_seconds
        for bucket, count in enumerate(service_histogram):
            self.service_histogram[bucket] += count
