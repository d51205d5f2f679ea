"""Queues in this process's memory: the reference for every backend, and a real queue for tests of handlers.

Nothing survives the process, and nothing is shared beyond it.
"""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from headrace.job import Job
from headrace.queues.base import (
    LEASE_SECONDS,
    Capabilities,
    Delivery,
    Depth,
    LeaseLostError,
    Maintained,
    Owner,
    PlaceTakenError,
    Provisioned,
    QueueNotFoundError,
    QueueSettings,
    Settled,
    refuse_unsupported,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self

    from headrace.job import NewJob

CAPABILITIES = Capabilities(
    priorities=True, delays=True, groups=False, deduplication=False, uncharged_abandon=True, transactions=False
)

_LOOK_SECONDS = 0.01


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class _Entry:
    """A job that is not finished. Ready or delayed without a lease (its `run_at` tells), running with one."""

    job: Job
    lease: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadJob:
    """A dead letter."""

    job: Job
    reason: str
    error: str | None
    dead_at: datetime


@dataclass(slots=True)
class _Place:
    settings: QueueSettings
    owner: Owner
    entries: dict[int, _Entry] = field(default_factory=dict)
    leases: dict[int, datetime] = field(default_factory=dict)
    """When each ends."""
    errors: dict[int, str] = field(default_factory=dict)
    """The last error of jobs that failed before."""
    dead: list[DeadJob] = field(default_factory=list)


class MemoryBackend:
    """Where memory queues live: a `Provisioner` and a `Backlog` of its own.

    Parameters
    ----------
    clock
        The time, timezone-aware. Defaults to the wall clock.
    """

    def __init__(self, *, clock: Callable[[], datetime] = _utc_now) -> None:
        self.clock = clock
        self.places: dict[str, _Place] = {}
        self.numbers = itertools.count(1)

    async def ensure(self, queue: str, settings: QueueSettings, owner: Owner) -> Provisioned:
        """See `headrace.queues.base.Provisioner`."""
        place = self.places.get(queue)
        if place is None:
            self.register(queue, settings, owner)
            return Provisioned(changed=True, schema_version=1, details=f"queue {queue} made")
        if (place.owner.namespace, place.owner.name) != (owner.namespace, owner.name):
            raise PlaceTakenError(f"queue {queue!r} belongs to {place.owner.namespace}/{place.owner.name}")
        changed = (place.settings, place.owner) != (settings, owner)
        place.settings, place.owner = settings, owner
        return Provisioned(
            changed=changed,
            schema_version=1,
            details=f"settings of queue {queue} changed" if changed else f"queue {queue} is as wanted",
        )

    def register(self, queue: str, settings: QueueSettings, owner: Owner) -> None:
        """Make a queue that does not exist."""
        self.places[queue] = _Place(settings=settings, owner=owner)

    async def remove(self, queue: str, owner: Owner) -> bool:
        """See `headrace.queues.base.Provisioner`."""
        place = self.places.get(queue)
        if place is None or place.owner != owner:
            return False
        del self.places[queue]
        return True

    async def depths(self, queues: Sequence[str]) -> dict[str, Depth]:
        """See `headrace.queues.base.Backlog`."""
        return {name: self._depth(self.places[name]) for name in queues if name in self.places}

    def _depth(self, place: _Place) -> Depth:
        now = self.clock()
        alive = {lease for lease, ends_at in place.leases.items() if ends_at > now}
        waiting = [entry.job for entry in place.entries.values() if entry.lease not in alive]
        ready = [job for job in waiting if job.run_at <= now and not _expired(job, now)]
        return Depth(
            ready=len(ready),
            delayed=sum(job.run_at > now for job in waiting),
            in_flight=len(place.entries) - len(waiting),
            dead_lettered=len(place.dead),
            oldest_ready_age_seconds=max(((now - job.run_at).total_seconds() for job in ready), default=0.0),
        )


class MemoryQueue:
    """A `Queue` in memory. Several may be opened on one backend, as several workers would.

    Parameters
    ----------
    backend
        Where the queue lives.
    name
        The queue's name.
    lease_seconds
        How long a heartbeat lease lasts. Defaults to `LEASE_SECONDS`.
    """

    def __init__(self, backend: MemoryBackend, name: str, *, lease_seconds: float = LEASE_SECONDS) -> None:
        self._backend = backend
        self._name = name
        self._lease_seconds = lease_seconds
        self._heartbeat_lease: int | None = None
        self._heartbeats = False

    @property
    def name(self) -> str:
        """See `headrace.queues.base.Queue`."""
        return self._name

    @property
    def capabilities(self) -> Capabilities:
        """See `headrace.queues.base.Queue`."""
        return CAPABILITIES

    @property
    def settings(self) -> QueueSettings:
        """See `headrace.queues.base.Queue`."""
        return self._place.settings

    @property
    def dead_jobs(self) -> tuple[DeadJob, ...]:
        """The dead-letter queue, oldest first."""
        return tuple(self._place.dead)

    @property
    def _place(self) -> _Place:
        try:
            return self._backend.places[self._name]
        except KeyError:
            raise QueueNotFoundError(f"queue {self._name!r} does not exist: `ensure` it first") from None

    async def __aenter__(self) -> Self:
        _ = self._place
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lease, self._heartbeat_lease = self._heartbeat_lease, None
        place = self._backend.places.get(self._name)
        if lease is not None and place is not None:
            place.leases.pop(lease, None)

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[str]:
        """See `headrace.queues.base.Queue`."""
        refuse_unsupported(jobs, CAPABILITIES)
        place, now = self._place, self._backend.clock()
        ids = []
        for job in jobs:
            number = next(self._backend.numbers)
            run_at = job.run_at or now + timedelta(seconds=job.delay_seconds)
            expires_at = job.expires_at
            if expires_at is None and place.settings.message_retention_seconds is not None:
                expires_at = run_at + timedelta(seconds=place.settings.message_retention_seconds)
            place.entries[number] = _Entry(
                job=Job(
                    id=str(number),
                    queue=self._name,
                    name=job.name,
                    payload=job.payload,
                    content_type=job.content_type,
                    headers=dict(job.headers),
                    priority=job.priority,
                    group=None,
                    deduplication_key=None,
                    attempt=0,
                    enqueued_at=now,
                    run_at=run_at,
                    expires_at=expires_at,
                )
            )
            ids.append(str(number))
        return ids

    async def receive(self, limit: int, *, wait_seconds: float = 0.0) -> list[Delivery]:
        """See `headrace.queues.base.Queue`."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + wait_seconds
        # Looked at again and again, because a delayed job comes due without anybody saying so.
        while not (deliveries := self._claim(limit)) and clock() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_SECONDS)
        return deliveries

    def _claim(self, limit: int) -> list[Delivery]:
        place, now = self._place, self._backend.clock()
        if place.settings.paused or (self._heartbeats and self._heartbeat_lease not in place.leases):
            return []
        ready = [
            (-entry.job.priority, number)
            for number, entry in place.entries.items()
            if entry.lease is None and entry.job.run_at <= now and not _expired(entry.job, now)
        ]
        chosen = [number for _, number in sorted(ready)[:limit]]
        if not chosen:
            return []
        lease = self._heartbeat_lease
        if lease is None:  # A receiver without heartbeats.
            lease = next(self._backend.numbers)
            place.leases[lease] = now + timedelta(seconds=place.settings.visibility_timeout_seconds)
        for number in chosen:
            entry = place.entries[number]
            entry.lease = lease
            entry.job = replace(entry.job, attempt=entry.job.attempt + 1)
        return [Delivery(job=place.entries[number].job, lease=str(lease)) for number in chosen]

    async def complete(self, deliveries: Sequence[Delivery]) -> Settled:
        """See `headrace.queues.base.Queue`."""
        place = self._place
        held, refused = self._sort(deliveries)
        for number in held:
            self._remove(place, number)
        return Settled(accepted=len(held), refused=refused)

    async def retry(self, delivery: Delivery, *, delay_seconds: float, error: str) -> Settled:
        """See `headrace.queues.base.Queue`."""
        place = self._place
        held, refused = self._sort([delivery])
        for number in held:
            place.errors[number] = error
            if delivery.job.attempt > place.settings.max_retries:
                self._bury(place, number, "RetriesExhausted")
                return Settled(accepted=1, dead_lettered=1)
            entry = place.entries[number]
            entry.lease = None
            entry.job = replace(entry.job, run_at=self._backend.clock() + timedelta(seconds=delay_seconds))
        return Settled(accepted=len(held), refused=refused)

    async def release(self, deliveries: Sequence[Delivery], *, delay_seconds: float = 0.0) -> Settled:
        """See `headrace.queues.base.Queue`."""
        place = self._place
        held, refused = self._sort(deliveries)
        for number in held:
            entry = place.entries[number]
            entry.lease = None
            entry.job = replace(entry.job, attempt=entry.job.attempt - 1)
            if delay_seconds > 0:
                entry.job = replace(entry.job, run_at=self._backend.clock() + timedelta(seconds=delay_seconds))
        return Settled(accepted=len(held), refused=refused)

    async def dead_letter(self, delivery: Delivery, *, reason: str) -> Settled:
        """See `headrace.queues.base.Queue`."""
        place = self._place
        held, refused = self._sort([delivery])
        for number in held:
            self._bury(place, number, reason)
        return Settled(accepted=len(held), refused=refused, dead_lettered=len(held))

    def _sort(self, deliveries: Sequence[Delivery]) -> tuple[list[int], tuple[Delivery, ...]]:
        """The numbers of those still held as they were delivered, and the others."""
        held, refused = [], []
        for delivery in deliveries:
            entry = self._place.entries.get(int(delivery.job.id))
            if entry and str(entry.lease) == delivery.lease and entry.job.attempt == delivery.job.attempt:
                held.append(int(delivery.job.id))
            else:
                refused.append(delivery)
        return held, tuple(refused)

    def _remove(self, place: _Place, number: int) -> _Entry:
        place.errors.pop(number, None)
        return place.entries.pop(number)

    def _bury(self, place: _Place, number: int, reason: str) -> None:
        error = place.errors.get(number)
        job = self._remove(place, number).job
        if place.settings.dead_letter_enabled:
            place.dead.append(DeadJob(job=job, reason=reason, error=error, dead_at=self._backend.clock()))

    async def keep_alive(self) -> None:
        """See `headrace.queues.base.Queue`."""
        place = self._place
        self._heartbeats = True
        if self._heartbeat_lease is None:
            self._heartbeat_lease = next(self._backend.numbers)
        elif self._heartbeat_lease not in place.leases:
            self._heartbeat_lease = None
            raise LeaseLostError(f"the lease on jobs of queue {self._name!r} ran out: others have them now")
        place.leases[self._heartbeat_lease] = self._backend.clock() + timedelta(seconds=self._lease_seconds)

    async def maintain(self) -> Maintained:
        """See `headrace.queues.base.Queue`."""
        place, now = self._place, self._backend.clock()
        place.leases = {lease: end for lease, end in place.leases.items() if end > now}
        orphans = [entry for entry in place.entries.values() if entry.lease not in place.leases and entry.lease]
        for entry in orphans:
            entry.lease = None
            entry.job = replace(entry.job, attempt=entry.job.attempt - 1)
        expired = [
            number for number, entry in place.entries.items() if entry.lease is None and _expired(entry.job, now)
        ]
        for number in expired:
            self._bury(place, number, "Expired")
        keep = timedelta(days=place.settings.dead_letter_retention_days)
        pruned = sum(dead.dead_at <= now - keep for dead in place.dead)
        place.dead = [dead for dead in place.dead if dead.dead_at > now - keep]
        # Nothing to promote: being due is all that makes a job here ready.
        return Maintained(rescued=len(orphans), expired=len(expired), pruned=pruned)

    async def depth(self, *, max_age_seconds: float = 0.0) -> Depth:  # noqa: ARG002 - counting costs nothing here
        """See `headrace.queues.base.Queue`."""
        _ = self._place
        return (await self._backend.depths([self._name]))[self._name]


def _expired(job: Job, now: datetime) -> bool:
    """Only a job that never started expires."""
    return job.attempt == 0 and job.expires_at is not None and job.expires_at <= now
