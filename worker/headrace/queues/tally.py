"""What settlements add up to: a backend's share of `Totals`, before it has told it to anybody."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from headrace.queues.base import SERVICE_BUCKETS_SECONDS
from headrace.queues.settlement import Complete, DeadLetter, Retry

if TYPE_CHECKING:
    from headrace.queues.settlement import Settlement


class Tally:
    """Counts of what came about. Only settlements that were accepted count."""

    def __init__(self) -> None:
        self.completed = 0
        self.failed = 0
        self.dead_lettered = 0
        self.service_seconds = 0.0
        self.service_histogram = [0] * (len(SERVICE_BUCKETS_SECONDS) + 1)

    def add(self, settlement: Settlement, *, is_dead: bool) -> None:
        """Count one more accepted settlement.

        Parameters
        ----------
        settlement
            What was accepted.
        is_dead
            Whether the job is dead now, or dropped where there is no dead-letter queue.
        """
        self.dead_lettered += is_dead
        if isinstance(settlement, Complete):
            self.completed += 1
        elif isinstance(settlement, Retry | DeadLetter):
            self.failed += 1
        else:
            return
        if settlement.run_seconds is not None:
            self.service_seconds += settlement.run_seconds
            self.service_histogram[bisect_left(SERVICE_BUCKETS_SECONDS, settlement.run_seconds)] += 1
