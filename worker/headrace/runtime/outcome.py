"""What became of a job's run. Pure values."""

from __future__ import annotations

from dataclasses import dataclass

MAX_ERROR_LENGTH = 4000
"""Errors are for people to read: their end says most."""

REJECTED = "Rejected"
"""Why a job is given up that a server or a program refused: what it said is the error."""


@dataclass(frozen=True, slots=True)
class Completed:
    """The job is done."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt failed; another may succeed."""

    error: str
    traceback: str | None = None
    delay_seconds: float | None = None
    """How long until the next attempt; None: as the retry policy says."""
    error_type: str | None = None
    """The exception's class, where there was one."""
    fingerprint: str | None = None
    """The same for failures of one cause: see `headrace.queues.settlement.Failure`."""


@dataclass(frozen=True, slots=True)
class Snoozed:
    """The job itself asked to be run again later; no attempt is charged."""

    delay_seconds: float


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The run was cut short from outside, by a drain for instance; no attempt is charged."""

    reason: str


@dataclass(frozen=True, slots=True)
class GivenUp:
    """The job can never succeed."""

    reason: str
    error: str | None = None
    """What led to it, where the reason is a word."""
    traceback: str | None = None


Outcome = Completed | Failed | Snoozed | Interrupted | GivenUp

COMPLETED = Completed()


def clipped(error: str) -> str:
    """The error's last part, if it is long."""
    return error if len(error) <= MAX_ERROR_LENGTH else "…" + error[-MAX_ERROR_LENGTH:]
