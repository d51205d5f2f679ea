"""How a delivered job ends, or goes on: one value for each way. The runtime, the port and every backend use these.

A settlement says what a worker wants. Whether it came about, `Settled` says. A delay that is longer than the backend
can wait becomes as long as it can: the job comes back early rather than not at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from msgspec import Struct

if TYPE_CHECKING:
    from headrace.queues.base import Delivery


class Failure(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What went wrong in an attempt, for people to read."""

    error: str
    error_type: str | None = None
    """Such as ``ValueError``: where there is an exception, its class."""
    fingerprint: str | None = None
    """The same for failures of one cause: a short hash of the error's type and of where it was raised."""
    traceback: str | None = None


class Complete(Struct, frozen=True, kw_only=True, gc=False):
    """The job is done and gone."""

    delivery: Delivery
    run_seconds: float | None = None
    """How long the attempt ran. None: it did not run (it was done already)."""


class Retry(Struct, frozen=True, kw_only=True, gc=False):
    """The attempt failed: again after the delay, or dead where no attempt is left.

    Whether attempts are left is the queue's to say (`QueueSettings.max_retries`).
    """

    delivery: Delivery
    delay_seconds: float
    failure: Failure
    run_seconds: float | None = None


class Release(Struct, frozen=True, kw_only=True, gc=False):
    """The job goes back with no attempt charged (a drain, a snooze, an unknown name)."""

    delivery: Delivery
    delay_seconds: float = 0.0


class DeadLetter(Struct, frozen=True, kw_only=True, gc=False):
    """The job is given up: kept in the dead-letter queue with the reason (dropped where that is disabled)."""

    delivery: Delivery
    reason: str
    """A word that people filter by, such as ``RetriesExhausted``, or a short text."""
    failure: Failure | None = None
    run_seconds: float | None = None


class Discard(Struct, frozen=True, kw_only=True, gc=False):
    """The job was cancelled and has stopped: it is gone."""

    delivery: Delivery


Settlement: TypeAlias = "Complete | Retry | Release | DeadLetter | Discard"


class Settled(Struct, frozen=True, kw_only=True):
    """What became of a call's settlements. Those in no list came about as they say."""

    accepted: int
    """How many came about."""
    refused: tuple[Settlement, ...] = ()
    """Their lease was lost before: nothing has changed, somebody else has the job, or will."""
    dead_lettered: tuple[Settlement, ...] = ()
    """Of the accepted, the jobs that are dead now (or dropped, where there is no dead-letter queue)."""
    unsettled: tuple[Settlement, ...] = ()
    """The backend could not take these now, while it took others: they are still held. Settle them again."""
    error: str = ""
    """Why some are unsettled."""
