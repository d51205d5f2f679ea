"""One job's life within a worker, from its delivery to the settlement that ends it."""

from __future__ import annotations

import asyncio
from enum import Enum, auto
from typing import TYPE_CHECKING, TypeAlias

from headrace.queues.settlement import Complete, DeadLetter, Discard, Failure, Release, Retry
from headrace.runtime.outcome import COMPLETED, Completed, Failed, GivenUp, Interrupted, Outcome, Snoozed

if TYPE_CHECKING:
    from headrace.queues.base import Delivery
    from headrace.queues.settlement import Settlement
    from headrace.retry import RetryPolicy
    from headrace.runtime.handlers import Terms


class Fate(Enum):
    """How it stands with a job, and once it is to stop, why."""

    WAITING = auto()
    """Delivered; it waits for a slot."""
    KEPT = auto()
    """It waits for its name's turn, while others pass."""
    RUNNING = auto()
    HANDED_BACK = auto()
    """To stop: the worker leaves, or what the job holds can't be relied on any more."""
    TIMED_OUT = auto()
    """To stop: it has run for too long."""
    CANCELLED = auto()
    """To stop: somebody has cancelled it."""
    LOST = auto()
    """To stop: others have it."""
    ENDED = auto()


_UNSTOPPED = frozenset({Fate.WAITING, Fate.KEPT, Fate.RUNNING})


class Stopped:
    """It was told to stop, and stopped; or it never began."""


STOPPED = Stopped()

Ending: TypeAlias = Outcome | Stopped
"""How a run came to its end."""


def settlement_of(
    delivery: Delivery,
    fate: Fate,
    ending: Ending,
    *,
    policy: RetryPolicy,
    chance: float,
    limit_seconds: float = 0.0,
    run_seconds: float | None = None,
) -> Settlement | None:
    """What becomes of a delivery; None where that is nobody's business here. Pure.

    A run that came to an end of its own in spite of being told to stop has the last word where it says more than that
    it was interrupted: what was done is done. But for a cancelled job, of which only its completion counts.

    Parameters
    ----------
    delivery
        The job's.
    fate
        How it stood with the job when its run ended.
    ending
        How the run ended.
    policy
        How long a failed attempt waits, and how many there are.
    chance
        Uniform in [0, 1).
    limit_seconds
        How long the run was allowed to take.
    run_seconds
        How long it took.
    """
    match fate, ending:
        case ((Fate.LOST | Fate.ENDED), _):
            return None
        case _, Completed():
            return Complete(delivery=delivery, run_seconds=run_seconds)
        case Fate.CANCELLED, _:
            return Discard(delivery=delivery)
        case Fate.HANDED_BACK, (Failed() | Interrupted() | Stopped()):
            # What a handler makes of being stopped is no failure of its own.
            return Release(delivery=delivery)
        case Fate.TIMED_OUT, (Interrupted() | Stopped()):
            timed_out = Failed(
                f"timed out after {limit_seconds:g} s", error_type="JobTimeout", fingerprint="job-timeout"
            )
            return _after_failure(delivery, timed_out, policy, chance, run_seconds)
        case _, Failed() as failed:
            return _after_failure(delivery, failed, policy, chance, run_seconds)
        case _, GivenUp(reason=reason, error=error, traceback=traceback):
            failure = None if error is None else Failure(error=error, traceback=traceback)
            return DeadLetter(delivery=delivery, reason=reason, failure=failure, run_seconds=run_seconds)
        case _, Snoozed(delay_seconds=delay_seconds):
            return Release(delivery=delivery, delay_seconds=delay_seconds)
        case _:
            return Release(delivery=delivery)


def _after_failure(
    delivery: Delivery, failed: Failed, policy: RetryPolicy, chance: float, run_seconds: float | None
) -> Retry | DeadLetter:
    failure = Failure(
        error=failed.error,
        error_type=failed.error_type,
        fingerprint=failed.fingerprint,
        traceback=failed.traceback,
    )
    number = delivery.job.attempt
    if policy.is_last(number):
        return DeadLetter(delivery=delivery, reason="RetriesExhausted", failure=failure, run_seconds=run_seconds)
    delay_seconds = failed.delay_seconds
    if delay_seconds is None:
        delay_seconds = policy.delay_seconds(number, chance)
    return Retry(delivery=delivery, delay_seconds=delay_seconds, failure=failure, run_seconds=run_seconds)


class Attempt:
    """One delivered job: how it stands with it, how long it may run, and the task that runs it.

    Parameters
    ----------
    delivery
        The job's.
    terms
        On what terms it runs.
    taken_at
        When it was taken, by the loop's clock.
    """

    __slots__ = ("delivery", "ends_at", "fate", "limit_seconds", "run_seconds", "taken_at", "task", "terms", "timer")

    def __init__(self, delivery: Delivery, terms: Terms, taken_at: float) -> None:
        self.delivery = delivery
        self.terms = terms
        self.taken_at = taken_at
        self.fate = Fate.WAITING
        self.limit_seconds = 0.0
        self.ends_at = 0.0
        self.run_seconds = 0.0
        self.task: asyncio.Task[Outcome] | None = None
        self.timer: asyncio.TimerHandle | None = None

    @property
    def is_stopped(self) -> bool:
        """Whether it was told to stop: what becomes of it is decided, but for what it still says itself."""
        return self.fate not in _UNSTOPPED

    def yields_to(self, fate: Fate) -> bool:
        """Whether it is news: what was said first holds, but a cancellation outdoes it, and a loss outdoes all."""
        if self.fate in {fate, Fate.ENDED}:
            return False
        return self.fate in _UNSTOPPED or fate is Fate.LOST or (fate is Fate.CANCELLED and self.fate is not Fate.LOST)

    def stop(self, fate: Fate) -> None:
        """Tell it to stop."""
        if self.yields_to(fate):
            self.fate = fate
        if self.task is not None:
            self.task.cancel()

    def end(self, ending: Ending, policy: RetryPolicy, chance: float) -> Settlement | None:
        """Its end, and what becomes of it; nothing does a second time."""
        if self.timer is not None:
            self.timer.cancel()
        if ending is COMPLETED and self.fate is Fate.RUNNING:
            # As the table says, in a tenth of its time: so do most of all jobs end.
            self.fate = Fate.ENDED
            return Complete(delivery=self.delivery, run_seconds=self.run_seconds)
        settlement = settlement_of(
            self.delivery,
            self.fate,
            ending,
            policy=self.terms.retry or policy,
            chance=chance,
            limit_seconds=self.limit_seconds,
            run_seconds=self.run_seconds,
        )
        self.fate = Fate.ENDED
        return settlement
