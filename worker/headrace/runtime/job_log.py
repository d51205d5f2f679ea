"""What the log says of jobs: each by itself, but of many alike one line a second for each name, with their number."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from headrace.logs import described
from headrace.runtime.attempt import Fate, Stopped
from headrace.runtime.outcome import Completed, Failed, GivenUp, Interrupted, Snoozed
from headrace.runtime.repeats import Repeats

if TYPE_CHECKING:
    from headrace.job import Job
    from headrace.runtime.attempt import Attempt, Ending

log = logging.getLogger(__name__)

SAY_SECONDS = 1.0
"""How often what has repeated is said."""


_STOPPED_FATES = frozenset({Fate.HANDED_BACK, Fate.LOST})
_LEVELS = {"dead-lettered": logging.ERROR, "snoozed": logging.INFO, "interrupted": logging.INFO}


class JobLog:
    """Of one worker's jobs.

    Parameters
    ----------
    queue
        The queue's name.
    """

    def __init__(self, queue: str) -> None:
        self._queue = queue
        self._repeats = Repeats()

    @property
    def is_verbose(self) -> bool:
        """Whether each start and each completion is said: ask once for many jobs."""
        return log.isEnabledFor(logging.DEBUG)

    def started(self, job: Job) -> None:
        """A run begins."""
        log.debug("job started %s", described(job))

    def completed(self, job: Job, seconds: float) -> None:
        """A run has done what it should."""
        log.debug("job completed %s seconds=%.3f", described(job), seconds)

    def ended(self, attempt: Attempt, ending: Ending) -> None:
        """A run has come to another end."""
        if attempt.fate is Fate.CANCELLED:
            log.info("job cancelled %s", described(attempt.delivery.job))
        elif not isinstance(ending, Stopped | Completed):
            self._ended(attempt.delivery.job, ending, attempt)

    def _ended(self, job: Job, outcome: Failed | GivenUp | Snoozed | Interrupted, attempt: Attempt) -> None:
        match outcome:
            case Failed(error=error) if attempt.fate in _STOPPED_FATES:
                log.info("job stopped %s: %s", described(job), error)
            case Failed(error=error, fingerprint=fingerprint):
                if self._repeats.is_first("failed", job.name, fingerprint):
                    log.warning("job failed %s seconds=%.3f: %s", described(job), attempt.run_seconds, error)
            case GivenUp(reason=reason, error=error):
                if self._repeats.is_first("given up", job.name):
                    why = reason if error is None else f"{reason}: {error}"
                    log.warning("job given up %s seconds=%.3f: %s", described(job), attempt.run_seconds, why)
            case Snoozed(delay_seconds=delay_seconds):
                if self._repeats.is_first("snoozed", job.name):
                    log.info("job snoozed %s, again in %.1f s", described(job), delay_seconds)
            case Interrupted(reason=reason):
                if self._repeats.is_first("interrupted", job.name):
                    log.info("job interrupted, handed back uncharged %s: %s", described(job), reason)

    def timed_out(self, job: Job, seconds: float) -> None:
        """A run has taken too long, and is told to stop."""
        if self._repeats.is_first("timed out", job.name):
            log.warning("job stopped, timed out after %g s %s", seconds, described(job))

    def unknown_name(self, job: Job, delay_seconds: float) -> None:
        """A job can't run here."""
        if self._repeats.is_first("of an unknown name", job.name):
            log.warning("unknown name, handed back uncharged, again in %.1f s %s", delay_seconds, described(job))

    def dead_lettered(self, job: Job) -> None:
        """A job is dead."""
        if self._repeats.is_first("dead-lettered", job.name):
            log.error("job dead-lettered %s", described(job))

    def refused(self, job: Job) -> None:
        """What became of a job came too late."""
        if self._repeats.is_first("refused", job.name):
            log.warning("outcome refused, the lease was lost %s", described(job))

    def say_repeated(self) -> None:
        """Say what has repeated since the last call; every `SAY_SECONDS`."""
        for what, name, times in self._repeats.due():
            level = _LEVELS.get(what, logging.WARNING)
            log.log(level, "%d more jobs %s within a second queue=%s name=%s", times, what, self._queue, name)
