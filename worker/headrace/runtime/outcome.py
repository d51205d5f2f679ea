"""What became of a job's run. Pure values."""

from __future__ import annotations

from dataclasses import dataclass

MAX_ERROR_LENGTH = 4000
"""Errors are for people to read: their end says most."""


@dataclass(frozen=True, slots=True)
class Completed:
    """The job is done."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt failed; another may succeed."""

    error: str
    traceback: str | None = None


@dataclass(frozen=True, slots=True)
class GivenUp:
    """The job can never succeed."""

    reason: str
    error: str | None = None
    """What led to it, where the reason is a word."""
    traceback: str | None = None


Outcome = Completed | Failed | GivenUp

COMPLETED = Completed()


def clipped(error: str) -> str:
    """The error's last part, if it is long."""
    return error if len(error) <= MAX_ERROR_LENGTH else "…" + error[-MAX_ERROR_LENGTH:]
