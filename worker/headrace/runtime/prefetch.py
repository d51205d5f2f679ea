"""How many jobs to take beyond those that run: enough that slots never wait for the backend, no more than that.

Short jobs are taken in big batches, since a batch costs the backend little more than a single job. Long ones are left
in the queue, where any worker may take them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

PREFETCH_SECONDS = 0.2
"""So much work may wait in a worker."""

MAX_PREFETCH = 1000
"""So many jobs may wait in a worker, however short they are: that is what a killed one leaves behind."""

_WEIGHT = 0.1

# How often to look at how long jobs take: after so many, or so much work.
_LOOK_JOBS = 50
_LOOK_SECONDS = 0.1


class Prefetch:
    """Follows how long jobs take. Pure: no clock, no queue.

    Parameters
    ----------
    slots
        How many jobs run at a time.
    seconds
        So much work may wait. Defaults to `PREFETCH_SECONDS`.
    """

    def __init__(self, slots: int, seconds: float = PREFETCH_SECONDS) -> None:
        self._slots = slots
        self._seconds = seconds
        self._mean_seconds: float | None = None
        self._ran_jobs = 0
        self._ran_seconds = 0.0

    def ran(self, seconds: Sequence[float]) -> None:
        """These jobs took so long each: observed together with others, where they are few."""
        self._ran_jobs += len(seconds)
        self._ran_seconds += sum(seconds)
        if self._ran_jobs >= _LOOK_JOBS or self._ran_seconds >= _LOOK_SECONDS:
            self.observe(self._ran_jobs, self._ran_seconds)
            self._ran_jobs, self._ran_seconds = 0, 0.0

    def observe(self, jobs: int, seconds: float) -> None:
        """So many jobs took so long in all."""
        if jobs <= 0:
            return
        mean_seconds = seconds / jobs
        if self._mean_seconds is None or mean_seconds > self._mean_seconds:
            # Longer than thought: believed at once, since what was taken too much can't be run elsewhere.
            self._mean_seconds = mean_seconds
        else:
            self._mean_seconds += _WEIGHT * (mean_seconds - self._mean_seconds)

    @property
    def jobs(self) -> int:
        """How many jobs may wait; 0 as long as nothing is known."""
        if self._mean_seconds is None:
            return 0
        if self._mean_seconds * MAX_PREFETCH <= self._seconds * self._slots:
            return MAX_PREFETCH
        return int(self._seconds * self._slots / self._mean_seconds)
