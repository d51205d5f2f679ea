"""What a queue in memory keeps: jobs, the leases they are held under, and what ended."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from msgspec import structs

from headrace.job import Job
from headrace.queues.inspection import FailedAttempt

if TYPE_CHECKING:
    from datetime import datetime

    from headrace.job import NewJob
    from headrace.queues.base import Progress
    from headrace.queues.settlement import Failure

KEPT_FAILURES = 20

LOSSES_OF_A_SUSPECT = 2
"""A job lost for the first time is as likely as not a neighbour of the one that killed its worker."""

Standing: TypeAlias = Literal["ready", "suspect", "delayed", "blocked", "overdue", "running"]
"""Where an unfinished job stands; overdue could start, had it not expired: it waits to be given up."""


@dataclass(slots=True, eq=False, kw_only=True)
class Lease:
    """What one worker holds, and until when."""

    number: int
    holder: str
    ends_at: datetime
    has_heartbeats: bool
    held: dict[int, Entry] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Entry:
    """A job that is not finished; its `Job.attempt` counts the failed ones."""

    number: int
    job: Job
    standing: Standing | None = None
    """None: not put into its place yet, or gone."""
    lease: Lease | None = None
    claim: int = 0
    """Stands in the delivery. Never used again, it fences late settlements."""
    claimed_at: datetime | None = None
    losses: int = 0
    """How many workers were lost that held it; see `LOSSES_OF_A_SUSPECT`."""
    deaths: int = 0
    """How many of them held it alone."""
    lost_at: datetime | None = None
    is_cancelled: bool = False
    failures: tuple[FailedAttempt, ...] = ()
    progress: Progress | None = None

    @property
    def is_suspect(self) -> bool:
        """Whether it is held alone."""
        return self.losses >= LOSSES_OF_A_SUSPECT

    def is_expired(self, now: datetime) -> bool:
        """Whether its time to start is over. Only a job with no failed attempt expires."""
        return self.job.attempt == 0 and self.job.expires_at is not None and self.job.expires_at <= now

    def charge(self, failure: Failure | None, now: datetime) -> None:
        """One more failed attempt; the newest alone keeps its traceback."""
        self.job = structs.replace(self.job, attempt=self.job.attempt + 1)
        self.forgive()
        if failure is not None:
            older = tuple(
                replace(failed, failure=structs.replace(failed.failure, traceback=None))
                for failed in self.failures[1 - KEPT_FAILURES :]
            )
            self.failures = (*older, FailedAttempt(attempt=self.job.attempt, at=now, failure=failure))

    def forgive(self) -> None:
        """It has shown that it does not kill who runs it."""
        self.losses, self.deaths, self.lost_at = 0, 0, None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedJob:
    """A dead letter, or a job in the history of finished ones."""

    job: Job
    """`Job.attempt` counts the failed attempts."""
    outcome: Literal["dead", "completed", "cancelled"]
    ended_at: datetime
    failures: tuple[FailedAttempt, ...] = ()
    reason: str | None = None
    """Why it is dead."""
    error: str | None = None
    """What went wrong last."""


def new_entry(
    number: int, new: NewJob, *, queue: str, enqueued_at: datetime, run_at: datetime, expires_at: datetime | None
) -> Entry:
    """A job that has just been enqueued."""
    return Entry(
        number,
        Job(
            id=str(number),
            queue=queue,
            name=new.name,
            payload=new.payload,
            content_type=new.content_type,
            headers=dict(new.headers),
            priority=new.priority,
            group=new.group,
            deduplication_key=new.deduplication_key,
            attempt=0,
            enqueued_at=enqueued_at,
            run_at=run_at,
            expires_at=expires_at,
            extra=dict(new.extra),
        ),
    )
