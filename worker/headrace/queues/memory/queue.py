"""Queues in this process's memory: the reference for every backend, and a real queue for tests of handlers.

Nothing survives the process, and nothing is shared beyond it. All calls belong to one event loop.
"""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from msgspec import structs

from headrace import trace_context
from headrace.job import Job
from headrace.queues.base import (
    LEASE_SECONDS,
    Capabilities,
    Delivery,
    Depth,
    Failure,
    JobFilter,
    JobRecord,
    LeaseLostError,
    Maintained,
    Owner,
    PlaceTakenError,
    Progress,
    Provisioned,
    QueueNotFoundError,
    QueueRecord,
    QueueSettings,
    Settled,
    UnsupportedCapabilityError,
    refuse_unsupported,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from headrace.job import NewJob
    from headrace.queues.base import JobState

CAPABILITIES = Capabilities(
    priorities=True, delays=True, groups=True, deduplication=True, uncharged_abandon=True, transactions=False
)

_POISONOUS_DEATHS = 3
_KEPT_FAILURES = 20


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True, eq=False, kw_only=True)
class _Lease:
    """What one worker holds, and until when."""

    holder: str
    ends_at: datetime
    has_heartbeats: bool
    held: set[int] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class _Entry:
    """A job that is not finished; its `Job.attempt` counts the failed ones."""

    job: Job
    lease: _Lease | None = None
    claim: int = 0
    """Stands in the delivery. Never used again, it fences late completions."""
    claimed_at: datetime | None = None
    is_suspect: bool = False
    deaths: int = 0
    is_cancelled: bool = False
    failures: tuple[Failure, ...] = ()
    progress: Progress | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedJob:
    """A dead letter, or a job in the history of finished ones."""

    job: Job
    """`Job.attempt` counts the failed attempts."""
    outcome: Literal["dead", "completed", "cancelled"]
    ended_at: datetime
    failures: tuple[Failure, ...] = ()
    reason: str | None = None
    """Why it is dead."""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class _Key:
    number: int
    kept_until: datetime | None


@dataclass(slots=True, eq=False)
class _Place:
    """One queue. Jobs go by number, in the order in which they were enqueued."""

    name: str
    settings: QueueSettings
    owner: Owner
    paused_by_hand: bool = False
    entries: dict[int, _Entry] = field(default_factory=dict)
    leases: dict[int, _Lease] = field(default_factory=dict)
    keys: dict[str, _Key] = field(default_factory=dict)
    """Deduplication keys: taken while their job is unfinished, and until `_Key.kept_until`."""
    heads: dict[str, int] = field(default_factory=dict)
    """The job of each group that others wait for. Who is the head stays it until it is gone."""
    dead: dict[int, EndedJob] = field(default_factory=dict)
    finished: dict[int, EndedJob] = field(default_factory=dict)

    @property
    def is_paused(self) -> bool:
        return self.settings.paused or self.paused_by_hand

    def add(self, number: int, job: NewJob, now: datetime) -> int:
        """Enqueue; the number of the job that has the deduplication key, where it is taken."""
        if job.deduplication_key is not None:
            key = self.keys.get(job.deduplication_key)
            if key is not None and self.is_taken(key, now):
                return key.number
            window = job.deduplication_window_seconds
            self.keys[job.deduplication_key] = _Key(number, None if window is None else now + timedelta(seconds=window))
        run_at = job.run_at or now + timedelta(seconds=job.delay_seconds)
        expires_at = job.expires_at
        if expires_at is None and self.settings.message_retention_seconds is not None:
            expires_at = run_at + timedelta(seconds=self.settings.message_retention_seconds)
        self.entries[number] = _Entry(
            Job(
                id=str(number),
                queue=self.name,
                name=job.name,
                payload=job.payload,
                content_type=job.content_type,
                headers=dict(job.headers),
                priority=job.priority,
                group=job.group,
                deduplication_key=job.deduplication_key,
                attempt=0,
                enqueued_at=now,
                run_at=run_at,
                expires_at=expires_at,
            )
        )
        return number

    def is_taken(self, key: _Key | None, now: datetime) -> bool:
        """Whether a deduplication key is some job's."""
        return key is not None and (key.number in self.entries or _is_future(key.kept_until, now))

    def is_head(self, number: int, job: Job) -> bool:
        """Whether no other job of its group comes first."""
        if job.group is None:
            return True
        head = self.heads.get(job.group)
        if head is None:
            head = min(other for other, entry in self.entries.items() if entry.job.group == job.group)
            self.heads[job.group] = head
        return head == number

    def startable(self, now: datetime) -> list[int]:
        """The jobs that nobody holds and that could start now, in the order in which they shall."""
        ready = [
            (-entry.job.priority, number)
            for number, entry in self.entries.items()
            if entry.lease is None
            and entry.job.run_at <= now
            and not _is_expired(entry.job, now)
            and self.is_head(number, entry.job)
        ]
        return [number for _, number in sorted(ready)]

    def suspects(self, now: datetime) -> list[int]:
        return [number for number in self.startable(now) if self.entries[number].is_suspect]

    def hold(self, number: int, lease: _Lease, claim: int, now: datetime) -> Delivery:
        entry = self.entries[number]
        entry.lease, entry.claim, entry.claimed_at = lease, claim, now
        lease.held.add(number)
        job = structs.replace(entry.job, attempt=entry.job.attempt + 1)
        return Delivery(job=job, lease=str(claim), is_suspect=entry.is_suspect)

    def let_go(self, delivery: Delivery) -> tuple[int, _Entry] | None:
        """A job that is still held as it was delivered, and no longer so; None where it isn't."""
        number = int(delivery.job.id)
        entry = self.entries.get(number)
        if entry is None or entry.lease is None or str(entry.claim) != delivery.lease:
            return None
        self.put_back(number, entry)
        return number, entry

    def put_back(self, number: int, entry: _Entry) -> None:
        if entry.lease is not None:
            entry.lease.held.discard(number)
        entry.lease = entry.claimed_at = entry.progress = None

    def end(self, number: int, now: datetime, outcome: Literal["completed", "cancelled"]) -> None:
        """The job is gone; the history remembers it, where there is one."""
        entry = self._remove(number, now)
        if self.settings.completed_retention_seconds > 0:
            self.finished[number] = EndedJob(job=entry.job, outcome=outcome, ended_at=now, failures=entry.failures)

    def bury(self, number: int, now: datetime, reason: str, error: str | None = None) -> None:
        entry = self._remove(number, now)
        if error is None and entry.failures:
            error = entry.failures[-1].error
        if self.settings.dead_letter_enabled:
            self.dead[number] = EndedJob(
                job=entry.job, outcome="dead", ended_at=now, failures=entry.failures, reason=reason, error=error
            )

    def _remove(self, number: int, now: datetime) -> _Entry:
        entry = self.entries.pop(number)
        self.put_back(number, entry)
        group, name = entry.job.group, entry.job.deduplication_key
        if group is not None and self.heads.get(group) == number:
            del self.heads[group]
        key = self.keys.get(name) if name is not None else None
        if name is not None and key is not None and key.number == number and not _is_future(key.kept_until, now):
            del self.keys[name]
        return entry

    def end_lease(self, lease: _Lease, *, are_suspects: bool) -> list[int]:
        """Put all that is held under it back; gives the numbers."""
        numbers = sorted(lease.held)
        for number in numbers:
            entry = self.entries[number]
            self.put_back(number, entry)
            entry.is_suspect = entry.is_suspect or are_suspects
        return numbers

    def redrive(self, number: int, now: datetime) -> bool:
        """Put a dead job back, with all attempts before it; not where another has its deduplication key by now."""
        dead = self.dead[number]
        if (name := dead.job.deduplication_key) is not None:
            key = self.keys.get(name)
            if self.is_taken(key, now) and key is not None and key.number != number:
                return False
            self.keys[name] = _Key(number, key.kept_until if key is not None else None)
        del self.dead[number]
        retention = self.settings.message_retention_seconds
        expires_at = None if retention is None else now + timedelta(seconds=retention)
        job = structs.replace(dead.job, attempt=0, run_at=now, expires_at=expires_at)
        self.entries[number] = _Entry(job, failures=dead.failures)
        return True

    def judge(self, lease: _Lease, now: datetime) -> int:
        """The worker is lost: its jobs go back as suspects. Gives how many turned out to be poisonous."""
        was_alone = len(lease.held) == 1
        poisoned = 0
        for number in self.end_lease(lease, are_suspects=True):
            entry = self.entries[number]
            entry.deaths += was_alone
            if entry.deaths >= _POISONOUS_DEATHS:
                self.bury(number, now, "WorkerLost", "three workers died while they ran this job and no other")
                poisoned += 1
        return poisoned

    def expire(self, now: datetime) -> int:
        late = [number for number, entry in self.entries.items() if entry.lease is None and _is_expired(entry.job, now)]
        for number in late:
            self.bury(number, now, "Expired")
        return len(late)

    def prune(self, now: datetime) -> int:
        """Forget what is older than the queue keeps it."""
        self.keys = {name: key for name, key in self.keys.items() if self.is_taken(key, now)}
        pruned = 0
        for ended, keep in (
            (self.dead, timedelta(days=self.settings.dead_letter_retention_days)),
            (self.finished, timedelta(seconds=self.settings.completed_retention_seconds)),
        ):
            old = [number for number, job in ended.items() if job.ended_at <= now - keep]
            for number in old:
                del ended[number]
            pruned += len(old)
        return pruned

    def depth(self, now: datetime) -> Depth:
        in_flight = delayed = 0
        ready: list[Job] = []
        for number, entry in self.entries.items():
            if entry.lease is not None and entry.lease.ends_at > now:
                in_flight += 1
            elif entry.job.run_at > now or not self.is_head(number, entry.job):
                delayed += 1
            elif not _is_expired(entry.job, now):
                ready.append(entry.job)
        return Depth(
            ready=len(ready),
            delayed=delayed,
            in_flight=in_flight,
            dead_lettered=len(self.dead),
            oldest_ready_age_seconds=max(((now - job.run_at).total_seconds() for job in ready), default=0.0),
        )


class MemoryBackend:
    """Where memory queues live: a `Provisioner` and a `Backlog` of its own.

    Parameters
    ----------
    clock
        The time, timezone-aware. Defaults to the wall clock.
    """

    def __init__(self, *, clock: Callable[[], datetime] = _utc_now) -> None:
        self._clock = clock
        self._passed = timedelta()
        self._waiters: set[asyncio.Event] = set()
        self.places: dict[str, _Place] = {}
        self.numbers = itertools.count(1)
        self.changes = 0
        """Grows with whatever may have made a job startable."""

    def now(self) -> datetime:
        """The time here."""
        return self._clock() + self._passed

    def pass_time(self, seconds: float) -> None:
        """Let it be so much later: for tests of delays, retries and expiry that need not wait."""
        self._passed += timedelta(seconds=seconds)
        self.changed()

    def changed(self) -> None:
        """Wake who waits for jobs."""
        self.changes += 1
        for waiter in self._waiters:
            waiter.set()

    async def wait_for_change(self, seconds: float) -> None:
        """Return with the next change, and after these seconds in any case."""
        waiter = asyncio.Event()
        self._waiters.add(waiter)
        try:
            async with asyncio.timeout(seconds):
                await waiter.wait()
        except TimeoutError:
            pass
        finally:
            self._waiters.discard(waiter)

    def place(self, queue: str) -> _Place:
        """The queue of this name."""
        try:
            return self.places[queue]
        except KeyError:
            raise QueueNotFoundError(f"queue {queue!r} does not exist: `ensure` it first") from None

    async def ensure(self, queue: str, settings: QueueSettings, owner: Owner) -> Provisioned:
        """See `headrace.queues.base.Provisioner`."""
        place = self.places.get(queue)
        if place is None:
            self.register(queue, settings, owner)
            return Provisioned(changed=True, schema_version=1, details=f"queue {queue} made")
        if (place.owner.namespace, place.owner.name) != (owner.namespace, owner.name):
            raise PlaceTakenError(f"queue {queue!r} belongs to {place.owner.namespace}/{place.owner.name}")
        has_changed = (place.settings, place.owner) != (settings, owner)
        place.settings, place.owner = settings, owner
        self.changed()
        return Provisioned(
            changed=has_changed,
            schema_version=1,
            details=f"settings of queue {queue} changed" if has_changed else f"queue {queue} is as wanted",
        )

    def register(self, queue: str, settings: QueueSettings, owner: Owner) -> None:
        """Make a queue that does not exist."""
        self.places[queue] = _Place(name=queue, settings=settings, owner=owner)

    async def remove(self, queue: str, owner: Owner) -> bool:
        """See `headrace.queues.base.Provisioner`."""
        place = self.places.get(queue)
        if place is None or place.owner != owner:
            return False
        del self.places[queue]
        return True

    async def depths(self, queues: Sequence[str]) -> dict[str, Depth]:
        """See `headrace.queues.base.Backlog`."""
        return {name: self.places[name].depth(self.now()) for name in queues if name in self.places}


class MemoryQueue:
    """A `Queue` in memory. Several may be opened on one backend, as several workers would.

    Parameters
    ----------
    backend
        Where the queue lives.
    name
        The queue's name.
    holder
        What an `Inspector` says of who runs our jobs. Defaults to ``this process``.
    lease_seconds
        How long a heartbeat lease lasts. Defaults to `LEASE_SECONDS`.
    """

    def __init__(
        self,
        backend: MemoryBackend,
        name: str,
        *,
        holder: str | None = None,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self._backend = backend
        self._name = name
        self._holder = holder or "this process"
        self._lease_seconds = lease_seconds
        self._heartbeat_lease: int | None = None
        self._heartbeats = False
        self._leases: set[int] = set()
        self._makes_room = False
        self._changes_seen = 0

    @property
    def name(self) -> str:
        """See `headrace.queues.base.Queue`."""
        return self._name

    @property
    def capabilities(self) -> Capabilities:
        """See `headrace.queues.base.Queue`."""
        return CAPABILITIES

    @property
    def is_listening(self) -> bool:
        """See `headrace.queues.base.Queue`. Always, within one process."""
        return True

    @property
    def settings(self) -> QueueSettings:
        """See `headrace.queues.base.Queue`."""
        return replace(self._place.settings, paused=self._place.is_paused)

    @property
    def dead_jobs(self) -> tuple[EndedJob, ...]:
        """The dead-letter queue, oldest first."""
        return tuple(self._place.dead.values())

    @property
    def finished_jobs(self) -> tuple[EndedJob, ...]:
        """The history of completed and cancelled jobs, oldest first, where the queue keeps one."""
        return tuple(self._place.finished.values())

    @property
    def _place(self) -> _Place:
        return self._backend.place(self._name)

    async def __aenter__(self) -> Self:
        _ = self._place
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if (place := self._backend.places.get(self._name)) is not None:
            for lease in self._own_leases(place):
                place.end_lease(lease, are_suspects=False)
            place.leases = {number: lease for number, lease in place.leases.items() if number not in self._leases}
        self._leases.clear()
        self._heartbeat_lease = None
        self._backend.changed()

    # Enqueue

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[str]:
        """See `headrace.queues.base.Queue`."""
        refuse_unsupported(jobs, CAPABILITIES)
        place, now = self._place, self._backend.now()
        jobs = trace_context.carried(jobs)
        ids = [str(place.add(next(self._backend.numbers), job, now)) for job in jobs]
        self._backend.changed()
        return ids

    async def enqueue_in(self, connection: Any, jobs: Sequence[NewJob]) -> list[str]:  # noqa: ARG002
        """See `headrace.queues.base.Queue`. Always refused."""
        raise UnsupportedCapabilityError("transactions: a queue in memory has none; use `enqueue`")

    # Receive

    async def receive(self, limit: int, *, wait_seconds: float = 0.0) -> list[Delivery]:
        """See `headrace.queues.base.Queue`."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + wait_seconds
        while not (deliveries := self._claim(limit)) and (remaining := deadline - clock()) > 0:
            await self.wait(remaining)
        return deliveries

    async def wait(self, seconds: float) -> None:
        """See `headrace.queues.base.Queue`."""
        if self._changes_seen != self._backend.changes:
            self._changes_seen = self._backend.changes
            return
        place, now = self._backend.places.get(self._name), self._backend.now()
        # A delayed job comes due without anybody saying so.
        due = [entry.job.run_at for entry in place.entries.values() if entry.job.run_at > now] if place else []
        await self._backend.wait_for_change(min([seconds, *((run_at - now).total_seconds() for run_at in due)]))

    def _claim(self, limit: int) -> list[Delivery]:
        place, now = self._place, self._backend.now()
        self._changes_seen = self._backend.changes
        if place.is_paused or (self._heartbeats and self._heartbeat_lease not in place.leases):
            return []
        held = [place.entries[number] for lease in self._own_leases(place) for number in lease.held]
        if held and (self._makes_room or any(entry.is_suspect for entry in held)):
            return []
        startable = place.startable(now)
        suspects = [number for number in startable if place.entries[number].is_suspect]
        if suspects and not held:
            chosen = suspects[:1]
        else:
            chosen = [number for number in startable if number not in suspects][:limit]
        if not chosen:
            return []
        lease = place.leases[self._heartbeat_lease] if self._heartbeat_lease else self._new_lease(place, now)
        claim = next(self._backend.numbers)
        return [place.hold(number, lease, claim, now) for number in chosen]

    def _own_leases(self, place: _Place) -> list[_Lease]:
        return [place.leases[number] for number in self._leases if number in place.leases]

    def _new_lease(self, place: _Place, now: datetime) -> _Lease:
        """For heartbeats, once there are any, else for as long as a receiver without them holds a job."""
        number = next(self._backend.numbers)
        seconds = self._lease_seconds if self._heartbeats else place.settings.visibility_timeout_seconds
        lease = _Lease(holder=self._holder, ends_at=now + timedelta(seconds=seconds), has_heartbeats=self._heartbeats)
        place.leases[number] = lease
        self._leases.add(number)
        if self._heartbeats:
            self._heartbeat_lease = number
        return lease

    # Settle

    async def complete(self, deliveries: Sequence[Delivery]) -> Settled:
        """See `headrace.queues.base.Queue`."""
        held, settled = self._let_go(deliveries)
        for place, number, _ in held:
            place.end(number, self._backend.now(), "completed")
        return settled

    async def complete_in(self, connection: Any, delivery: Delivery) -> None:  # noqa: ARG002
        """See `headrace.queues.base.Queue`. Always refused."""
        raise UnsupportedCapabilityError("transactions: a queue in memory has none; use `complete`")

    def complete_in_sync(self, connection: Any, delivery: Delivery) -> None:  # noqa: ARG002
        """See `headrace.queues.base.Queue`. Always refused."""
        raise UnsupportedCapabilityError("transactions: a queue in memory has none; use `complete`")

    async def retry(
        self, delivery: Delivery, *, delay_seconds: float, error: str, traceback: str | None = None
    ) -> Settled:
        """See `headrace.queues.base.Queue`."""
        now = self._backend.now()
        held, settled = self._let_go([delivery])
        for place, number, entry in held:
            _charge(entry, now, error, traceback)
            if entry.job.attempt > place.settings.max_retries:
                place.bury(number, now, "RetriesExhausted", error)
                return replace(settled, dead_lettered=1)
            entry.job = structs.replace(entry.job, run_at=now + timedelta(seconds=delay_seconds))
            entry.is_suspect, entry.deaths = False, 0
        return settled

    async def release(self, deliveries: Sequence[Delivery], *, delay_seconds: float = 0.0) -> Settled:
        """See `headrace.queues.base.Queue`."""
        held, settled = self._let_go(deliveries)
        for _, _, entry in held:
            if delay_seconds > 0:
                entry.job = structs.replace(entry.job, run_at=self._backend.now() + timedelta(seconds=delay_seconds))
        return settled

    async def dead_letter(
        self, delivery: Delivery, *, reason: str, error: str | None = None, traceback: str | None = None
    ) -> Settled:
        """See `headrace.queues.base.Queue`."""
        now = self._backend.now()
        held, settled = self._let_go([delivery])
        for place, number, entry in held:
            _charge(entry, now, error, traceback)
            place.bury(number, now, reason, error)
        return replace(settled, dead_lettered=settled.accepted)

    async def discard(self, delivery: Delivery) -> Settled:
        """See `headrace.queues.base.Queue`."""
        held, settled = self._let_go([delivery])
        for place, number, _ in held:
            place.end(number, self._backend.now(), "cancelled")
        return settled

    def _let_go(self, deliveries: Sequence[Delivery]) -> tuple[list[tuple[_Place, int, _Entry]], Settled]:
        """The jobs that were still held as they were delivered; nobody holds them now."""
        place = self._backend.places.get(self._name)
        if place is None:
            return [], Settled(accepted=0, refused=tuple(deliveries))
        outcomes = [(delivery, place.let_go(delivery)) for delivery in deliveries]
        held = [(place, *outcome) for _, outcome in outcomes if outcome is not None]
        # Without heartbeats each receive has a lease of its own, which ends with the last of its jobs.
        place.leases = {number: lease for number, lease in place.leases.items() if lease.has_heartbeats or lease.held}
        self._leases &= place.leases.keys()
        self._backend.changed()
        refused = tuple(delivery for delivery, outcome in outcomes if outcome is None)
        return held, Settled(accepted=len(held), refused=refused)

    # Keep house

    async def keep_alive(self) -> frozenset[str]:
        """See `headrace.queues.base.Queue`."""
        place, now = self._backend.places.get(self._name), self._backend.now()
        self._heartbeats = True
        if self._heartbeat_lease is None:
            self._new_lease(self._place, now)
            return frozenset()
        lease = None if place is None else place.leases.get(self._heartbeat_lease)
        if place is None or lease is None:
            self._leases.discard(self._heartbeat_lease)
            self._heartbeat_lease = None
            raise LeaseLostError(f"the lease on jobs of queue {self._name!r} ran out: others have them now")
        lease.ends_at = now + timedelta(seconds=self._lease_seconds)
        return frozenset(
            str(number)
            for lease in self._own_leases(place)
            for number in lease.held
            if place.entries[number].is_cancelled
        )

    async def report_progress(self, reports: Sequence[tuple[Delivery, Progress]]) -> None:
        """See `headrace.queues.base.Queue`."""
        for delivery, progress in reports:
            entry = self._place.entries.get(_number(delivery.job.id))
            if entry is not None and entry.lease is not None and str(entry.claim) == delivery.lease:
                entry.progress = progress

    async def maintain(self) -> Maintained:
        """See `headrace.queues.base.Queue`."""
        place, now = self._place, self._backend.now()
        lost = [number for number, lease in place.leases.items() if lease.ends_at <= now]
        rescued = poisoned = 0
        for number in lost:
            lease = place.leases.pop(number)
            rescued += len(lease.held)
            poisoned += place.judge(lease, now)
        cancelled = [number for number, entry in place.entries.items() if entry.is_cancelled and entry.lease is None]
        for number in cancelled:
            place.end(number, now, "cancelled")
        expired = place.expire(now)
        # One worker at a time makes room for a suspect; others take one when they happen to hold nothing.
        oldest = next(iter(place.leases), None)
        self._makes_room = oldest is not None and oldest == self._heartbeat_lease and bool(place.suspects(now))
        if lost or cancelled or expired:
            self._backend.changed()
        # Nothing to promote: being due is all that makes a job here ready.
        return Maintained(
            rescued=rescued - poisoned,
            poisoned=poisoned,
            expired=expired,
            cancelled=len(cancelled),
            pruned=place.prune(now),
        )

    async def depth(self, *, max_age_seconds: float = 0.0) -> Depth:  # noqa: ARG002 - counting costs nothing here
        """See `headrace.queues.base.Queue`."""
        return self._place.depth(self._backend.now())


class MemoryInspector:
    """The `Inspector` of a backend in memory."""

    def __init__(self, backend: MemoryBackend) -> None:
        self._backend = backend

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    async def queues(self) -> list[QueueRecord]:
        """See `headrace.queues.base.Inspector`."""
        return [
            QueueRecord(
                name=name,
                settings=place.settings,
                depth=place.depth(self._backend.now()),
                paused_by_hand=place.paused_by_hand,
                owner=place.owner,
            )
            for name, place in sorted(self._backend.places.items())
        ]

    async def pause(self, queue: str, *, paused: bool) -> None:
        """See `headrace.queues.base.Inspector`."""
        self._backend.place(queue).paused_by_hand = paused
        self._backend.changed()

    async def job(self, queue: str, job_id: str) -> JobRecord | None:
        """See `headrace.queues.base.Inspector`."""
        records = self._records(queue, JobFilter(ids=(job_id,)))
        return next(records, None)

    async def jobs(self, queue: str, which: JobFilter, *, limit: int = 100) -> list[JobRecord]:
        """See `headrace.queues.base.Inspector`."""
        shown = (record for record in self._records(queue, which) if record.state != "dead" or which.state == "dead")
        return list(itertools.islice(shown, limit))

    def _records(self, queue: str, which: JobFilter) -> Iterator[JobRecord]:
        """Those that can be claimed or are, in claiming order, those that wait, then the ended, newest first.

        Delayed jobs come by their time, blocked ones group by group.
        """
        place, now = self._backend.place(queue), self._backend.now()
        live = sorted((_live_record(place, number, now) for number in place.entries), key=_order)
        ended = sorted([*place.dead.values(), *place.finished.values()], key=lambda job: job.ended_at, reverse=True)
        for record in itertools.chain(live, map(_ended_record, ended)):
            if _is_meant(record, which, now):
                yield record

    async def cancel(self, queue: str, job_id: str) -> Literal["cancelled", "requested"] | None:
        """See `headrace.queues.base.Inspector`."""
        place = self._backend.place(queue)
        number = _number(job_id)
        entry = place.entries.get(number)
        if entry is None:
            return None
        if entry.lease is not None:
            entry.is_cancelled = True
            return "requested"
        place.end(number, self._backend.now(), "cancelled")
        self._backend.changed()
        return "cancelled"

    async def retry_now(self, queue: str, job_id: str) -> bool:
        """See `headrace.queues.base.Inspector`."""
        place, now = self._backend.place(queue), self._backend.now()
        entry = place.entries.get(_number(job_id))
        if entry is None:
            return await self.redrive(queue, JobFilter(ids=(job_id,))) == 1
        if entry.lease is not None or entry.job.run_at <= now:
            return False
        entry.job = structs.replace(entry.job, run_at=now)
        self._backend.changed()
        return True

    async def redrive(self, queue: str, which: JobFilter) -> int:
        """See `headrace.queues.base.Inspector`."""
        place, now = self._backend.place(queue), self._backend.now()
        put_back = [number for number in self._dead(queue, which) if place.redrive(number, now)]
        self._backend.changed()
        return len(put_back)

    async def purge(self, queue: str, which: JobFilter) -> int:
        """See `headrace.queues.base.Inspector`."""
        meant = self._dead(queue, which)
        for number in meant:
            del self._backend.place(queue).dead[number]
        return len(meant)

    def _dead(self, queue: str, which: JobFilter) -> list[int]:
        """The dead jobs that are meant."""
        return [int(record.job.id) for record in self._records(queue, which) if record.state == "dead"]

    async def recover_stuck(self, queue: str, *, older_than_seconds: float) -> list[str]:
        """See `headrace.queues.base.Inspector`."""
        place, now = self._backend.place(queue), self._backend.now()
        since = now - timedelta(seconds=older_than_seconds)
        recovered: list[int] = []
        for lease_number, lease in list(place.leases.items()):
            claimed_at = [place.entries[number].claimed_at for number in lease.held]
            if lease.ends_at <= now and any(moment is not None and moment <= since for moment in claimed_at):
                # A lease is judged whole, and nobody is charged.
                del place.leases[lease_number]
                recovered += place.end_lease(lease, are_suspects=True)
        self._backend.changed()
        return [str(number) for number in recovered]


def _is_future(moment: datetime | None, now: datetime) -> bool:
    return moment is not None and moment > now


def _is_expired(job: Job, now: datetime) -> bool:
    """Only a job with no failed attempt expires."""
    return job.attempt == 0 and job.expires_at is not None and job.expires_at <= now


def _charge(entry: _Entry, now: datetime, error: str | None, traceback: str | None) -> None:
    """One more failed attempt; the newest alone keeps its traceback."""
    entry.job = structs.replace(entry.job, attempt=entry.job.attempt + 1)
    if error is not None:
        older = tuple(replace(failure, traceback=None) for failure in entry.failures[1 - _KEPT_FAILURES :])
        failure = Failure(attempt=entry.job.attempt, at=now, error=error, traceback=traceback)
        entry.failures = (*older, failure)


def _number(job_id: str) -> int:
    """What is no number is the number of no job."""
    return int(job_id) if job_id.isascii() and job_id.isdigit() else 0


def _live_record(place: _Place, number: int, now: datetime) -> JobRecord:
    entry = place.entries[number]
    if entry.lease is not None:
        job = structs.replace(entry.job, attempt=entry.job.attempt + 1)
        return JobRecord(
            job=job, state="running", holder=entry.lease.holder, failures=entry.failures, progress=entry.progress
        )
    state: JobState = "suspect" if entry.is_suspect else "ready"
    if not place.is_head(number, entry.job):
        state = "blocked"
    elif entry.job.run_at > now:
        state = "delayed"
    return JobRecord(job=entry.job, state=state, failures=entry.failures)


def _order(record: JobRecord) -> tuple[Any, ...]:
    number = int(record.job.id)
    if record.state == "delayed":
        return (1, record.job.run_at, number)
    if record.state == "blocked":
        return (2, record.job.group, number)
    return (0, -record.job.priority, number)


def _ended_record(ended: EndedJob) -> JobRecord:
    return JobRecord(
        job=ended.job, state=ended.outcome, failures=ended.failures, ended_at=ended.ended_at, reason=ended.reason
    )


def _is_meant(record: JobRecord, which: JobFilter, now: datetime) -> bool:
    age_seconds = (now - (record.ended_at or record.job.enqueued_at)).total_seconds()
    return (
        (which.ids is None or record.job.id in which.ids)
        and which.state in (None, record.state)
        and which.name in (None, record.job.name)
        and which.reason in (None, record.reason)
        and (which.older_than_seconds is None or age_seconds >= which.older_than_seconds)
    )
