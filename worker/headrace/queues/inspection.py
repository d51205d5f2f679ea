"""What people ask of queues, and do to them by hand: the command line, and consoles.

An inspector has those of the roles `Queues`, `Pauses`, `Jobs`, `DeadLetters` and `Stuck` that its backend can fill;
`require` gives one of them or says that the backend has none. What is asked for is a value each (`JobFilter`, `Change`
and the requests), so that a field more is no new signature.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar, runtime_checkable

from headrace.queues.errors import UnsupportedCapabilityError

if TYPE_CHECKING:
    from datetime import datetime
    from types import TracebackType
    from typing import Self

    from headrace.job import Job
    from headrace.queues.base import Depth, Owner, Progress, QueueSettings
    from headrace.queues.settlement import Failure

JobState = Literal["ready", "delayed", "blocked", "suspect", "running", "dead", "completed", "cancelled"]
"""Where a job stands: blocked is behind the head of its group, suspect is ready to be claimed alone."""

FilterField = Literal["ids", "state", "name", "reason", "older_than_seconds"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedAttempt:
    """One failed attempt."""

    attempt: int
    at: datetime
    failure: Failure
    """With the traceback for the newest only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """A job as people look at it; `Job.attempt` counts the attempt under way, else the failed ones."""

    job: Job
    state: JobState
    holder: str | None = None
    """Who runs it."""
    progress: Progress | None = None
    """How far it is, where it runs and its handler says so."""
    failures: tuple[FailedAttempt, ...] = ()
    """Oldest first, the last twenty."""
    ended_at: datetime | None = None
    """When it died, was completed or cancelled."""
    reason: str | None = None
    """Why it is dead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs are meant: all conditions must hold; without any, all jobs."""

    ids: tuple[str, ...] | None = None
    state: JobState | None = None
    name: str | None = None
    """The job's name, exactly."""
    reason: str | None = None
    """Why it is dead, exactly."""
    older_than_seconds: float | None = None
    """By when it ended, else by when it was enqueued."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRecord:
    """A queue as people look at it."""

    name: str
    settings: QueueSettings
    depth: Depth
    paused_by_hand: bool = False
    owner: Owner | None = None
    unknown: frozenset[str] = frozenset()
    """Names of fields of `Depth` and `QueueSettings` that the backend can't tell: what stands there says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Who asks for a change, and why; for logs, and for a history to come."""

    by: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause(Change):
    """Let nothing be received any more, or let it again; beside the pause of the queue's JobQueue."""

    paused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel(Change):
    """Cancel a job."""

    job_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryNow(Change):
    """Don't let a job wait any longer."""

    job_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Redrive(Change):
    """Put dead jobs back."""

    which: JobFilter = field(default_factory=JobFilter)
    per_second: float | None = None
    """How many at the most. None: as many as go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Purge(Change):
    """Remove dead jobs for good."""

    which: JobFilter = field(default_factory=JobFilter)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoverStuck(Change):
    """Put back what is held since then under leases that nobody keeps alive."""

    older_than_seconds: float


class Inspector(Protocol):
    """What people ask of the queues in one place, opened. Use it as an async context manager."""

    async def __aenter__(self) -> Self:
        """Connect; raises `QueueError` where that fails."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the connections."""
        ...


@runtime_checkable
class Queues(Protocol):
    """Looks at queues as a whole."""

    async def queues(self) -> list[QueueRecord]:
        """All queues of the place, by name; of a place that is one queue, that one."""
        ...

    async def queue(self, name: str) -> QueueRecord:
        """One queue; raises `QueueNotFoundError` where there is none of this name."""
        ...


@runtime_checkable
class Pauses(Protocol):
    """Pauses queues by hand."""

    async def pause(self, queue: str, change: Pause) -> None:
        """See `Pause`."""
        ...


@runtime_checkable
class Jobs(Protocol):
    """Looks at single jobs, and changes them."""

    async def job(self, queue: str, job_id: str) -> JobRecord | None:
        """One job, wherever it stands; None where there is none of this id (any more)."""
        ...

    async def jobs(self, queue: str, which: JobFilter, *, limit: int = 100) -> list[JobRecord]:
        """Jobs in the order in which they would be claimed, then those waiting, then those that ended, newest first.

        Dead jobs only where `which` asks for the state ``dead``.
        """
        ...

    async def cancel(self, queue: str, change: Cancel) -> Literal["cancelled", "requested"] | None:
        """Cancel a job: at once, or, where it runs, by its worker within seconds; None where there is none."""
        ...

    async def retry_now(self, queue: str, change: RetryNow) -> bool:
        """Make a delayed job due, or put a dead one back; False where it is neither."""
        ...


@runtime_checkable
class DeadLetters(Protocol):
    """Looks at dead jobs, puts them back, or removes them."""

    @property
    def filters(self) -> frozenset[FilterField]:
        """The conditions by which dead jobs can be chosen here; others are refused. Empty: all of them or none."""
        ...

    async def letters(self, queue: str, which: JobFilter, *, limit: int = 100) -> list[JobRecord]:
        """Dead jobs, the newest first, where the backend has an order; else the first that are found.

        They stay as they are. A backend may hide them from others for as long as it looks.
        """
        ...

    async def redrive(self, queue: str, change: Redrive) -> int:
        """Put dead jobs back into the queue under their ids, with all attempts before them; returns how many."""
        ...

    async def purge(self, queue: str, change: Purge) -> int:
        """Remove dead jobs for good; returns how many."""
        ...


@runtime_checkable
class Stuck(Protocol):
    """Recovers by hand what dead workers hold."""

    async def recover_stuck(self, queue: str, change: RecoverStuck) -> list[str]:
        """See `RecoverStuck`; returns the ids."""
        ...


Role = TypeVar("Role")


def require(inspector: object, role: type[Role]) -> Role:
    """The inspector, as one who has this role.

    Raises
    ------
    UnsupportedCapabilityError
        When its backend can't do such things.
    """
    if not isinstance(inspector, role):
        raise UnsupportedCapabilityError(f"this queue's backend has no {_WORDS[role.__name__]}")
    return inspector


_WORDS = {
    "Queues": "list of queues",
    "Pauses": "way to pause a queue; scale its workers to zero instead",
    "Jobs": "way to look at single jobs or to change them, but for dead ones (`headrace dlq`)",
    "DeadLetters": "way to look at dead jobs, to put them back or to remove them",
    "Stuck": "jobs that are stuck: it takes them back by itself",
}
