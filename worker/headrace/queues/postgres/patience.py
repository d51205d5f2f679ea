"""Waiting for a database that is away: how long, how much may wait, and what may be sent again. Needs no driver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace.queues.errors import QueueError, QueueUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from headrace.job import NewJob

PATIENCE_BYTES = 64 * 1024 * 1024
"""So much waits for a database at most, unless the caller says otherwise."""

# What a job takes beside its payload.
_BYTES_A_JOB = 1024

_FIRST_PAUSE_SECONDS = 0.05
_LAST_PAUSE_SECONDS = 1.0


class NothingDoneError(QueueUnavailableError):
    """Nothing was done: the statement never left, or the server says that it has undone it. Send it again at will."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long calls wait for a database that is away, and how much may wait.

    Only what was surely not done is tried again; where the answer was lost, the caller hears of that.
    """

    seconds: float = 0.0
    """From the call on. 0: it fails at once."""
    max_bytes: int = PATIENCE_BYTES
    """Of all calls that wait: their payloads, and 1 KiB a job. Beyond that, a call fails at once."""

    def __post_init__(self) -> None:
        if not self.seconds >= 0 or self.max_bytes <= 0:
            raise QueueError("patience_seconds: must be 0 or more; patience_bytes: must be more than 0")

    def check_room(self, waiting_bytes: int, more_bytes: int) -> None:
        """Raise `QueueUnavailableError` where no more can wait."""
        if waiting_bytes + more_bytes > self.max_bytes:
            raise QueueUnavailableError(
                f"the database is away, and so many jobs wait for it already that {self.max_bytes} bytes are full"
            )


def size_of(jobs: Sequence[NewJob]) -> int:
    """About how many bytes they hold."""
    return sum([len(job.payload) + _BYTES_A_JOB for job in jobs])


def pauses() -> Iterator[float]:
    """How many seconds to wait before each further try."""
    pause = _FIRST_PAUSE_SECONDS
    while True:
        yield pause
        pause = min(2 * pause, _LAST_PAUSE_SECONDS)


def as_callers_know_it(error: QueueError) -> QueueError:
    """The same error, by the name that the port has for it."""
    kind = QueueUnavailableError if isinstance(error, NothingDoneError) else type(error)
    return kind(*error.args)
