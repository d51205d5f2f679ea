"""How long attempts may run."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from headrace.runtime.attempt import Fate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headrace.runtime.attempt import Attempt
    from headrace.runtime.job_log import JobLog
    from headrace.runtime.outcome import Outcome


class TimeLimits:
    """Stops the attempts whose time is over.

    Parameters
    ----------
    running
        What runs, in the order of the starts; somebody else's to change.
    seconds
        How long an attempt may run whose terms say nothing.
    job_log
        Is told of those that take too long.
    """

    def __init__(self, running: Mapping[asyncio.Task[Outcome], Attempt], seconds: float, job_log: JobLog) -> None:
        self._running = running
        self._seconds = seconds
        self._job_log = job_log
        self._timer: asyncio.TimerHandle | None = None

    def start(self, attempt: Attempt, loop: asyncio.AbstractEventLoop, now: float) -> None:
        """Its time begins, at this moment of the loop's clock."""
        own_seconds = attempt.terms.timeout_seconds
        attempt.limit_seconds = self._seconds if own_seconds is None else own_seconds
        attempt.ends_at = now + attempt.limit_seconds
        if own_seconds is not None:
            attempt.timer = loop.call_at(attempt.ends_at, self._time_out, attempt)
        elif self._timer is None:
            # One timer for all of the same limit: a timer each would cost a short job more than it takes.
            self._timer = loop.call_at(attempt.ends_at, self._stop_overdue)

    def extend(self, attempt: Attempt, seconds: float) -> None:
        """Let it run so long from now, if it still does."""
        if attempt.task is None or attempt.task not in self._running:
            return
        loop = asyncio.get_running_loop()
        if attempt.timer is not None:
            attempt.timer.cancel()
        attempt.limit_seconds += loop.time() + seconds - attempt.ends_at
        attempt.ends_at = loop.time() + seconds
        attempt.timer = loop.call_at(attempt.ends_at, self._time_out, attempt)

    def _stop_overdue(self) -> None:
        """Those without a timer have one limit, so the oldest are the first."""
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        for attempt in self._running.values():
            if attempt.timer is not None or attempt.is_stopped:
                continue
            if attempt.ends_at > now:
                self._timer = loop.call_at(attempt.ends_at, self._stop_overdue)
                break
            self._time_out(attempt)

    def _time_out(self, attempt: Attempt) -> None:
        if not attempt.is_stopped:
            self._job_log.timed_out(attempt.delivery.job, attempt.limit_seconds)
            attempt.stop(Fate.TIMED_OUT)
