"""The queue port: what every backend promises, in small Protocols.

`Queue` is what producers and workers need of every backend. What only some backends can do is a role of its own,
which a queue has or lacks: `Transactional`, `KeepsHouse`, `KeepsAliveAside`, `ShowsProgress`, `Counts`, `Witnesses`,
`Polls`, `Listens`, `SettlesApart`. What people ask of queues is in `inspection`; `Backlog` is the operator's read-only
view; `Provisioner` makes and removes what a queue lives in. One contract suite (``tests/contract``) runs over every
backend.

Delivery is at least once. A delivered job is held under a lease; whoever lets its lease run out loses the job, and
where the backend is `Capabilities.fenced` its late settlement is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from msgspec import Struct

from headrace.job import Job

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet
    from datetime import datetime
    from types import TracebackType
    from typing import Self

    from headrace.job import NewJob
    from headrace.queues.capabilities import Capabilities
    from headrace.queues.settlement import Settled, Settlement


HEARTBEAT_SECONDS = 5.0
"""How often a worker extends its lease and looks after others'."""

LEASE_SECONDS = 20.0
"""How long a heartbeat lease lasts, where a backend needs no other time: with the look every 5 s, a dead worker's jobs
start again within 30 s."""

SERVICE_BUCKETS_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
"""Upper bounds of `Totals.service_histogram`; one bucket more holds what is longer."""


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
class Totals:
    """What has happened in a queue since it was made. They never fall; two of them give a rate.

    What workers did is added with their heartbeats, so it is some seconds old; a killed worker takes its last seconds
    along.
    """

    arrived: int = 0
    """Jobs enqueued, by whatever way: those that have ended and those that are there. In shared counts it never falls;
    a count of one's own may miss what workers did since their last heartbeats."""
    completed: int = 0
    failed: int = 0
    """Attempts that failed."""
    dead_lettered: int = 0
    service_seconds: float = 0.0
    """How long completed and failed attempts ran, in all."""
    service_histogram: tuple[int, ...] = (0,) * (len(SERVICE_BUCKETS_SECONDS) + 1)
    """How many attempts ran for at most so long, by `SERVICE_BUCKETS_SECONDS`; each attempt is in one bucket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """How much a queue holds. The one definition that workers publish and the operator scales on."""

    ready: int = 0
    """Jobs that could start now: due, unexpired, held by nobody whose lease still runs, first in their group."""
    delayed: int = 0
    """Jobs whose time has not come: delays, and retries that wait."""
    blocked: int = 0
    """Jobs behind the head of their group."""
    in_flight: int = 0
    """Jobs held under a lease."""
    in_flight_seconds: float = 0.0
    """For how long all of these have been held, added up."""
    dead_lettered: int = 0
    oldest_ready_age_seconds: float = 0.0
    """How long the oldest ready job has been due; 0 with none."""
    next_due_seconds: float | None = None
    """When the next delayed job is due, from `counted_at`; None without one, or where the backend can't tell."""
    paused: bool = False
    """Nothing is received: what is ready can't start."""
    is_lower_bound: bool = False
    """The queue is so long that counting stopped: there are at least so many."""
    is_approximate: bool = False
    """There may be somewhat more or fewer, by the backend's own account: a count of nothing is no proof of nothing."""
    counted_at: datetime | None = None
    """When this was counted, by the backend's clock. None: just now."""
    age_seconds: float = 0.0
    """How long ago that was when it was given, whatever the clock here says."""
    totals: Totals | None = None
    """None where the backend keeps none."""


DeliveryKey: TypeAlias = tuple[str, str]
"""Which delivery: its receipt and its job's id."""


class Delivery(Struct, frozen=True, kw_only=True, gc=False):
    """A leased job. Settle it once."""

    job: Job
    receipt: str
    """Opaque; with the job's id it fences late settlements."""
    is_suspect: bool = False
    """Workers died while they held this job: it is held alone, and while it is, `Queue.receive` gives nothing else."""

    @property
    def key(self) -> DeliveryKey:
        """What tells this delivery from every other."""
        return self.receipt, self.job.id


class Enqueued(Struct, frozen=True, gc=False):
    """What became of a job that was to be enqueued."""

    id: str
    """The job's, or that of the job which has its deduplication key. Empty where the backend doesn't tell."""
    is_new: bool | None = True
    """False: the deduplication key is taken, and nothing was enqueued. None: there is one job of that key, and whether
    this call made it is unknown: the backend doesn't tell, or its first answer was lost."""


class KeptAlive(Struct, frozen=True, kw_only=True):
    """What a heartbeat found out about held jobs."""

    lost: frozenset[DeliveryKey] = frozenset()
    """Held no more: others have them, or will. Stop them; nothing that is said of them counts."""
    cancelled: frozenset[DeliveryKey] = frozenset()
    """Somebody has cancelled these: stop them, and `Discard` them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a running job is, by its handler's own account."""

    fraction: float | None = None
    """0 to 1."""
    message: str = ""


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
    malformed: int = 0
    """Messages that nobody can understand, dead-lettered."""
    cancelled: int = 0
    """Jobs cancelled while they ran, and since handed back: gone now."""
    pruned: int = 0
    """Dead letters and finished jobs older than the queue keeps them."""


class Queue(Protocol):
    """A queue, opened. Use it as an async context manager: leaving it releases the connections.

    Once `keep_alive` has been called for the first time, all that is received is held for as long as heartbeats go on;
    without them, every job is leased for the queue's visibility timeout.

    All calls belong to one event loop, and may be made at once: several of `receive`, too, and `settle` while a
    heartbeat is under way.
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
    def lease_seconds(self) -> float:
        """How long a heartbeat holds what is held: whoever got none through for so long may have lost it to others."""
        ...

    async def __aenter__(self) -> Self:
        """Connect; raises `QueueError` where that fails."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the connections. Jobs still held go back when their lease ends."""
        ...

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        """Enqueue jobs; returns what became of each, in order, once they are durable.

        All or none, where `Capabilities.atomic_batches`. Calls that are made at once may travel together; each still
        succeeds or fails alone.

        Raises
        ------
        InvalidJobError
            When these are no jobs, or no list of them. Nothing was enqueued.
        UnsupportedCapabilityError
            When a job asks for what the backend lacks. Nothing was enqueued.
        PartlyEnqueuedError
            When some jobs were enqueued and others not.
        QueueUnavailableError
            When no answer came. The jobs may be there all the same: the connection may have been lost after they were
            durable. Whoever tries again and minds a second run gives the job a deduplication key, with a window.
        """
        ...

    async def receive(
        self,
        limit: int,
        *,
        wait_seconds: float = 0.0,
        stop: asyncio.Event | None = None,
        without: AbstractSet[str] = frozenset(),
    ) -> list[Delivery]:
        """Lease up to `limit` jobs, highest priority first, then oldest; of each group only the head.

        The one way to wait for jobs. A backend may give fewer than there are, such as where payloads are large.

        Parameters
        ----------
        limit
            How many at the most.
        wait_seconds
            How long to wait for the first one. Defaults to no longer than a look takes.
        stop
            Once set, waiting ends as soon as nothing can be lost by it: at once where waiting is ours, with the poll
            that is under way where it is the backend's (SQS: within 20 s). What has arrived by then is still returned:
            the caller releases it.
        without
            Names of which no job is wanted now. Without `Capabilities.skips_names` they may be given all the same.

        Returns
        -------
        list[Delivery]
            Empty where nothing came in time, the queue is paused, or its lease is lost until the next heartbeat.

        A cancelled call may leave jobs leased that nobody knows of: tell it to `stop` instead where the backend is
        someone else's. In any case they can be received again, within seconds where there are heartbeats.
        """
        ...

    async def settle(self, settlements: Sequence[Settlement]) -> Settled:
        """Say what becomes of deliveries, of any mix of kinds; each delivery once.

        What this object holds no more, since it was settled or told as lost, is refused; nothing changes by it.

        Raises
        ------
        QueueUnavailableError
            When nothing got an answer: settle all of it again. What came about unheard is not refused then, unless the
            lease went with its connection.
        """
        ...

    async def keep_alive(self) -> KeptAlive:
        """Extend the lease on all that this object holds; call it every `HEARTBEAT_SECONDS`.

        A lease that ran out but was judged by nobody is as good as new. One that was judged is lost, with all that
        was held under it, and this call begins another. Where each job has a lease of its own, some may be extended
        and others not: those are tried again with the next call, and told as lost before they run out.

        Raises
        ------
        QueueUnavailableError
            When nothing could be extended. Whatever is lost is told by the next call that gets an answer.
        """
        ...


@runtime_checkable
class Transactional(Protocol):
    """A queue that lives in a database, whose transactions can be the caller's own."""

    async def enqueue_in(self, connection: Any, jobs: Sequence[NewJob], *, notify: bool = True) -> list[Enqueued]:
        """As `Queue.enqueue`, within the transaction that is open on the caller's connection: both happen, or neither.

        Parameters
        ----------
        connection
            What the backend's documentation names; Postgres takes those of asyncpg, psycopg and SQLAlchemy (async).
            Synchronous code uses `headrace.sync.enqueue_in`.
        jobs
            What to enqueue.
        notify
            Whether workers that wait are told at the commit. False where the transaction will be prepared (two-phase
            commit), which PostgreSQL refuses after a notification: workers find the jobs by looking. Defaults to True.

        Raises
        ------
        UnsupportedCapabilityError
            When the backend does not know such a connection.
        QueueError
            When no transaction is open there. What the driver raises is passed on as it is.
        """
        ...

    async def complete_in(self, connection: Any, delivery: Delivery) -> None:
        """Complete a job within the transaction that is open on the caller's own connection: both happen, or neither.

        The delivery must be settled as `Complete` all the same, once the transaction has ended either way: after a
        commit that frees what is kept for the delivery, after a rollback it completes the job. Any other settlement
        will do, too: after a commit it is accepted and changes nothing, after a rollback it does what it says.

        Raises
        ------
        LeaseLostError
            When somebody else has the job: roll back (nothing can be committed any more).
        UnsupportedCapabilityError
            When the backend does not know such a connection.
        QueueError
            When no transaction is open there. What the driver raises is passed on as it is.
        """
        ...

    def complete_in_sync(self, connection: Any, delivery: Delivery) -> None:
        """As `complete_in`, on a synchronous connection, and from any thread."""
        ...


@runtime_checkable
class KeepsHouse(Protocol):
    """A queue whose workers look after it; a broker does that by itself."""

    async def maintain(self) -> Maintained:
        """One round of the queue's housekeeping; cheap, safe to call from every worker, every few seconds.

        Delayed jobs that are due become ready, jobs of dead workers go back, expired jobs and old dead letters go.
        """
        ...


@runtime_checkable
class KeepsAliveAside(Protocol):
    """A queue whose lease can be extended while its own event loop is stuck."""

    async def keep_alive_aside(self) -> None:
        """Extend the lease from another thread's event loop, on a connection opened for this call.

        Only for as long as the queue's own loop does not turn: the caller sees to it that it makes no calls meanwhile.
        What is lost or cancelled, the next `keep_alive` says.

        Raises
        ------
        LeaseLostError
            When it was judged: nothing was extended.
        QueueUnavailableError
            When no answer came.
        """
        ...


@runtime_checkable
class ShowsProgress(Protocol):
    """A queue in which people can see how far held jobs are (`JobRecord.progress`)."""

    async def report_progress(self, reports: Sequence[tuple[Delivery, Progress]]) -> None:
        """The newest word of each holds."""
        ...


@runtime_checkable
class Counts(Protocol):
    """A queue that can be counted by whoever works on it."""

    async def depth(self, *, max_age_seconds: float = 0.0) -> Depth:
        """Count the queue, or give a count that any worker took at most `max_age_seconds` ago.

        Where counting takes long, an older one may be given: `Depth.counted_at` says.
        """
        ...

    async def has_ready(self) -> bool:
        """Whether anything could start now: one look, however long the queue is."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Witnessed:
    """What one worker has seen of a queue whose counts are somebody else's, or approximate.

    That counts are behind doesn't matter to it: a job that is there comes with the next poll of any idle worker.
    """

    held: int
    """How many jobs it holds, those among them that wait here to be received."""
    empty_for_seconds: float | None
    """For how long all its polls have come back empty. None: the newest brought something, or none has ended lately,
    or failed: then it has seen nothing."""
    oldest_age_seconds: float
    """The greatest age of a job that came in the last `WITNESS_SECONDS`, when it came; 0 with none."""


WITNESS_SECONDS = 30.0
"""For how long it counts what a worker has seen: longer than the longest poll."""


@runtime_checkable
class Witnesses(Protocol):
    """A queue that can tell what its worker has seen of it, without asking the backend."""

    def witnessed(self) -> Witnessed:
        """What it has seen until now. Costs nothing, and may be called from any thread."""
        ...


@runtime_checkable
class Polls(Protocol):
    """A queue whose polls are the backend's, and outlast the call of `Queue.receive` for which they were begun."""

    async def end_polls(self) -> None:
        """Begin no poll any more, wait for those under way, and put back at once what they bring.

        Called when the worker takes nothing new, while what it holds may run on for hours: nothing may be kept for a
        call of `Queue.receive` that never comes. Heartbeats and `Queue.settle` go on meanwhile. Leaving the queue's
        block does the same. What the backend answers badly is left to its leases: nothing is raised.
        """
        ...


@runtime_checkable
class SettlesApart(Protocol):
    """A queue whose `Queue.settle` makes a call of the backend for each few jobs, and each call comes about by itself.

    So whole calls cost least, and several calls of `Queue.settle` at once are no slower than one.
    """

    @property
    def settled_together(self) -> int:
        """How many jobs one call of the backend settles."""
        ...


@runtime_checkable
class Listens(Protocol):
    """A queue that can be told of new jobs while it waits in `Queue.receive`."""

    @property
    def is_listening(self) -> bool:
        """Whether it is told just now."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Whom a provisioned place belongs to: one JobQueue object."""

    namespace: str
    name: str
    uid: str
    cluster: str = ""
    """What tells its Kubernetes cluster from others; empty where there is none."""


class Backlog(Protocol):
    """The operator's read-only view: needs no right beyond reading."""

    async def depths(self, queues: Sequence[str]) -> dict[str, Depth]:
        """The depths of these queues, in one round trip; a queue that does not exist is left out."""
        ...

    async def have_ready(self, queues: Sequence[str]) -> dict[str, bool]:
        """Whether anything could start in each of these queues now: one look a queue, however long it is."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Provisioned:
    """What a provisioner found and did."""

    changed: bool
    """Whether this call changed anything."""
    details: str
    """One sentence for an event or a log line."""
    facts: Mapping[str, Any]
    """What there is to know of the place, by names of the backend's own (its module lists them)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """What went with a queue."""

    jobs: int
    """How many were waiting, running or dead-lettered."""


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

    async def remove(self, queue: str, owner: Owner) -> Removed | None:
        """Remove the queue and every job in it; None when there was none, or it belongs to another owner."""
        ...
