"""The queue port: what every backend promises, in small Protocols.

`Queue` is for producers and workers, `Inspector` for people (the command line), `Backlog` is the operator's read-only
view, `Provisioner` makes and removes what a queue lives in. One contract suite (``tests/contract``) runs over every
backend.

Delivery is at least once. A delivered job is held under a lease; whoever lets its lease run out loses the job, and its
late completion is refused (`LeaseLostError` / a count of refused completions), fenced by (id, lease, attempt).

Exceptions::

    QueueError
    ├── QueueUnavailableError     the backend can't be reached or timed out: try again later
    ├── QueueNotFoundError        no such queue: apply its JobQueue, or run ``headrace migrate``
    ├── QueueAccessError          the credentials are refused or lack rights: mend them
    ├── SchemaVersionError        the schema is newer or older than this code
    ├── PlaceTakenError           the place belongs to another owner
    ├── UnsupportedCapabilityError  the backend lacks what the job asks for
    └── LeaseLostError            the lease ran out; the job is, or will be, someone else's
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from msgspec import Struct

from headrace.job import Job

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from types import TracebackType
    from typing import Self

    from headrace.job import NewJob


class QueueError(Exception):
    """Whatever goes wrong with a queue backend."""


class QueueUnavailableError(QueueError):
    """The backend can't be reached, or did not answer in time. Trying again later may help."""


class QueueNotFoundError(QueueError):
    """The queue, or the schema it should live in, does not exist."""


class QueueAccessError(QueueError):
    """The credentials are refused, or lack a right the message names."""


class SchemaVersionError(QueueError):
    """The schema's version is not one that this code can work with."""


class PlaceTakenError(QueueError):
    """The place a queue should live in belongs to another owner; the message names it."""


class UnsupportedCapabilityError(QueueError):
    """The job asks for something that this backend does not have. Nothing was enqueued."""


class LeaseLostError(QueueError):
    """The lease ran out before the job was settled; somebody else may be running it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a backend can do; what it can't is refused with `UnsupportedCapabilityError`, never ignored."""

    priorities: bool
    delays: bool
    groups: bool
    deduplication: bool
    uncharged_abandon: bool
    transactions: bool
    """Whether jobs can be enqueued and completed within a transaction of the caller's own."""


def refuse_unsupported(jobs: Iterable[NewJob], capabilities: Capabilities) -> None:
    """Raise `UnsupportedCapabilityError` where a job asks for what a backend lacks."""
    if capabilities.priorities and capabilities.delays and capabilities.groups and capabilities.deduplication:
        return
    for job in jobs:
        for field, wanted, present in (
            ("priority", job.priority != 0, capabilities.priorities),
            ("delay_seconds or run_at", bool(job.delay_seconds) or job.run_at is not None, capabilities.delays),
            ("group", job.group is not None, capabilities.groups),
            ("deduplication_key", job.deduplication_key is not None, capabilities.deduplication),
        ):
            if wanted and not present:
                raise UnsupportedCapabilityError(f"{field}: this queue's backend has no such thing; leave it out")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSettings:
    """What a queue does with its jobs, whoever produces or works on them."""

    visibility_timeout_seconds: float = 1800.0
    """How long a receiver without heartbeats holds a job."""
    max_retries: int = 3
    """3 retries are 4 attempts; then the dead-letter queue."""
    message_retention_seconds: float | None = None
    """A job never started within this time expires. None: never."""
    completed_retention_seconds: float = 0.0
    """How long finished jobs can be looked up. 0: a finished job is gone."""
    dead_letter_enabled: bool = True
    """False: a job out of attempts is dropped."""
    dead_letter_retention_days: float = 14.0
    paused: bool = False
    """True: nothing is received; producers go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """How much a queue holds. The one definition that workers publish and the operator scales on."""

    ready: int = 0
    """Jobs that could start now: due, unexpired, held by nobody whose lease still runs, first in their group."""
    delayed: int = 0
    """Jobs whose time has not come: delays, waiting retries, and what stands behind the head of its group."""
    in_flight: int = 0
    """Jobs held under a lease."""
    dead_lettered: int = 0
    oldest_ready_age_seconds: float = 0.0
    """How long the oldest ready job has been due; 0 with none."""


class Delivery(Struct, frozen=True, kw_only=True):
    """A leased job. Settle it once: complete, retry, release or dead-letter."""

    job: Job
    lease: str
    """Opaque; with the job's id it fences late completions."""
    is_suspect: bool = False
    """A worker died while it held this job: it is held alone, and while it is, `Queue.receive` gives nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a running job is, by its handler's own account."""

    fraction: float | None = None
    """0 to 1."""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What a call that settles many deliveries did."""

    accepted: int
    refused: tuple[Delivery, ...] = ()
    """Deliveries whose lease was lost before: they are not settled, somebody else has the job."""
    dead_lettered: int = 0
    """How many of the accepted ended in the dead-letter queue (or were dropped, where that is disabled)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintained:
    """What one round of housekeeping found to do."""

    rescued: int = 0
    """Jobs of dead workers that went back, uncharged."""
    poisoned: int = 0
    """Jobs dead-lettered because three workers died while they held that job and no other."""
    promoted: int = 0
    """Delayed jobs, and heads of groups, that became ready."""
    expired: int = 0
    """Jobs not started in time, dead-lettered."""
    cancelled: int = 0
    """Jobs cancelled while they ran, and since handed back: gone now."""
    pruned: int = 0
    """Dead letters and finished jobs older than the queue keeps them."""


class Queue(Protocol):
    """A queue, opened. Use it as an async context manager: leaving it releases the connections.

    A `Queue` holds one *heartbeat lease* for all that it receives, once `keep_alive` has been called for the first
    time; without heartbeats every `receive` is leased for the queue's visibility timeout.
    """

    @property
    def name(self) -> str:
        """The queue's name."""
        ...

    @property
    def capabilities(self) -> Capabilities:
        """What this backend can do."""
        ...

    @property
    def settings(self) -> QueueSettings:
        """The queue's own settings, as of the last look at them."""
        ...

    @property
    def is_listening(self) -> bool:
        """Whether new jobs cut `wait` short just now."""
        ...

    async def __aenter__(self) -> Self:
        """Connect; raises `QueueError` where that fails."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the connections. Jobs still held go back when their lease ends."""
        ...

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[str]:
        """Enqueue all of them or none; returns their ids, in order, once they are durable.

        A job whose deduplication key is taken is not enqueued; in its place stands the id of the job that has the key.
        Calls that are made at once may travel together; each still succeeds or fails alone.

        Raises
        ------
        UnsupportedCapabilityError
            When a job asks for what the backend lacks.
        QueueUnavailableError
            When no answer came. The jobs may be there all the same: the connection may have been lost after they were
            durable. Whoever tries again and minds a second run gives the job a deduplication key, with a window.
        """
        ...

    async def enqueue_in(self, connection: Any, jobs: Sequence[NewJob]) -> list[str]:
        """As `enqueue`, within the transaction that is open on the caller's own connection: both happen, or neither.

        Parameters
        ----------
        connection
            What the backend's documentation names; Postgres takes those of asyncpg, psycopg and SQLAlchemy (async).
            Synchronous code uses `headrace.sync.enqueue_in`.

        Raises
        ------
        UnsupportedCapabilityError
            When the backend has no transactions, or does not know such a connection.
        QueueError
            When no transaction is open there. What the driver raises is passed on as it is.
        """
        ...

    async def receive(self, limit: int, *, wait_seconds: float = 0.0) -> list[Delivery]:
        """Lease up to `limit` jobs, highest priority first, then oldest; waits up to `wait_seconds` for the first.

        Of each group only the head can be leased. A suspect is leased alone, by who holds nothing else.

        A cancelled call loses nothing: what it had leased can be claimed again within seconds, uncharged.
        """
        ...

    async def wait(self, seconds: float) -> None:
        """Return when there may be something to receive, and after `seconds` in any case. Can be cancelled freely.

        A hint, that may come for nothing: where the backend can, it wakes who waits within milliseconds of an enqueue.
        """
        ...

    async def complete(self, deliveries: Sequence[Delivery]) -> Settled:
        """The jobs are done and gone."""
        ...

    async def complete_in(self, connection: Any, delivery: Delivery) -> None:
        """Complete a job within the transaction that is open on the caller's own connection: both happen, or neither.

        The delivery must be passed to `complete` all the same, once the transaction has ended either way: after a
        commit that frees what is kept for the delivery, after a rollback it completes the job. Any other verb will do,
        too: after a commit it is accepted and changes nothing, after a rollback it does what it says.

        Raises
        ------
        LeaseLostError
            When somebody else has the job: roll back (nothing can be committed any more).
        UnsupportedCapabilityError
            When the backend has no transactions, or does not know such a connection.
        QueueError
            When no transaction is open there. What the driver raises is passed on as it is.
        """
        ...

    def complete_in_sync(self, connection: Any, delivery: Delivery) -> None:
        """As `complete_in`, on a synchronous connection, and from any thread."""
        ...

    async def retry(
        self, delivery: Delivery, *, delay_seconds: float, error: str, traceback: str | None = None
    ) -> Settled:
        """The attempt failed: try again after the delay, or dead-letter where no attempt is left.

        Whether attempts are left is the queue's to say (`QueueSettings.max_retries`).
        """
        ...

    async def release(self, deliveries: Sequence[Delivery], *, delay_seconds: float = 0.0) -> Settled:
        """Hand jobs back with no attempt charged (a drain, an unknown name)."""
        ...

    async def dead_letter(
        self, delivery: Delivery, *, reason: str, error: str | None = None, traceback: str | None = None
    ) -> Settled:
        """Give the job up, keeping it in the dead-letter queue with the reason (dropped where that is disabled)."""
        ...

    async def discard(self, delivery: Delivery) -> Settled:
        """The job was cancelled and has stopped: it is gone."""
        ...

    async def keep_alive(self) -> frozenset[str]:
        """Extend the lease on all that this object holds; call it every `HEARTBEAT_SECONDS`.

        Returns
        -------
        frozenset[str]
            The ids of held jobs that somebody has cancelled: stop them, and `discard` their deliveries.

        Raises
        ------
        LeaseLostError
            When the lease ran out before: whatever was held belongs to others now. The next call starts a new lease.
        """
        ...

    async def report_progress(self, reports: Sequence[tuple[Delivery, Progress]]) -> None:
        """Let people see how far held jobs are (`JobRecord.progress`); the newest word of each holds."""
        ...

    async def maintain(self) -> Maintained:
        """One round of the queue's housekeeping; cheap, safe to call from every worker, every few seconds.

        Delayed jobs that are due become ready, jobs of dead workers go back, expired jobs and old dead letters go.
        """
        ...

    async def depth(self, *, max_age_seconds: float = 0.0) -> Depth:
        """Count the queue, or give a count that any worker took at most `max_age_seconds` ago."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Whom a provisioned place belongs to: one JobQueue object."""

    namespace: str
    name: str
    uid: str


JobState = Literal["ready", "delayed", "blocked", "suspect", "running", "dead", "completed", "cancelled"]
"""Where a job stands: blocked is behind the head of its group, suspect is ready to be claimed alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One failed attempt."""

    attempt: int
    at: datetime
    error: str
    traceback: str | None = None
    """Of the newest failure only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """A job as people look at it; `Job.attempt` counts the attempt under way, else the failed ones."""

    job: Job
    state: JobState
    holder: str | None = None
    """Who runs it."""
    progress: Progress | None = None
    """How far it is, where it runs and its handler says so."""
    failures: tuple[Failure, ...] = ()
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


class Inspector(Protocol):
    """What people ask of a queue and do to it by hand. Use it as an async context manager."""

    async def __aenter__(self) -> Self:
        """Connect; raises `QueueError` where that fails."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the connections."""
        ...

    async def queues(self) -> list[QueueRecord]:
        """All queues of the place, by name."""
        ...

    async def pause(self, queue: str, *, paused: bool) -> None:
        """Let nothing be received any more, or let it again; beside the pause of the queue's JobQueue."""
        ...

    async def job(self, queue: str, job_id: str) -> JobRecord | None:
        """One job, wherever it stands; None where there is none of this id (any more)."""
        ...

    async def jobs(self, queue: str, which: JobFilter, *, limit: int = 100) -> list[JobRecord]:
        """Jobs in the order in which they would be claimed, then those waiting, then those that ended, newest first.

        Dead jobs only where `which` asks for the state ``dead``.
        """
        ...

    async def cancel(self, queue: str, job_id: str) -> Literal["cancelled", "requested"] | None:
        """Cancel a job: at once, or, where it runs, by its worker within seconds; None where there is none."""
        ...

    async def retry_now(self, queue: str, job_id: str) -> bool:
        """Make a delayed job due, or put a dead one back; False where it is neither."""
        ...

    async def redrive(self, queue: str, which: JobFilter) -> int:
        """Put dead jobs back into the queue under their ids, with all attempts before them; returns how many."""
        ...

    async def purge(self, queue: str, which: JobFilter) -> int:
        """Remove dead jobs for good; returns how many."""
        ...

    async def recover_stuck(self, queue: str, *, older_than_seconds: float) -> list[str]:
        """Put back what is held since then under leases that nobody keeps alive; returns the ids."""
        ...


class Backlog(Protocol):
    """The operator's read-only view: needs no right beyond reading."""

    async def depths(self, queues: Sequence[str]) -> dict[str, Depth]:
        """The depths of these queues, in one round trip; a queue that does not exist is left out."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Provisioned:
    """What a provisioner found and did."""

    changed: bool
    """Whether this call changed anything."""
    schema_version: int
    details: str
    """One sentence for an event or a log line."""
    max_connections: int | None = None
    """How many connections the server allows ordinary users, all of them together; None where that is no number."""


class Provisioner(Protocol):
    """Makes, adjusts and removes what a queue lives in; every call is safe to repeat."""

    async def ensure(self, queue: str, settings: QueueSettings, owner: Owner) -> Provisioned:
        """Observe, compare, apply: afterwards the queue exists with these settings and belongs to `owner`.

        A place whose owner has been deleted and which was retained is adopted by an owner of the same namespace and
        name (its uid differs).

        Raises
        ------
        PlaceTakenError
            When it belongs to an owner of another namespace or name.
        """
        ...

    async def remove(self, queue: str, owner: Owner) -> bool:
        """Remove the queue and every job in it; False when there was none, or it belongs to another owner."""
        ...


HEARTBEAT_SECONDS = 5.0
"""How often a worker extends its lease and looks after others'."""

LEASE_SECONDS = 20.0
"""How long a heartbeat lease lasts: with the look every 5 s, a dead worker's jobs start again within 30 s."""
