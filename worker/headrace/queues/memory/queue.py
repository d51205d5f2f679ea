"""A queue in memory, as one worker or producer has it open."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from headrace import trace_context
from headrace.queues.base import LEASE_SECONDS, KeptAlive, Maintained
from headrace.queues.capabilities import refuse_unsupported
from headrace.queues.errors import LeaseLostError
from headrace.queues.memory import counting
from headrace.queues.memory.capabilities import CAPABILITIES
from headrace.queues.memory.entries import Lease
from headrace.queues.memory.housekeeping import keep_house
from headrace.queues.settlement import Settled

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet
    from datetime import datetime
    from types import TracebackType
    from typing import Self

    from headrace.job import NewJob
    from headrace.queues.base import Delivery, DeliveryKey, Depth, Enqueued, Progress, QueueSettings
    from headrace.queues.capabilities import Capabilities
    from headrace.queues.memory.backend import MemoryBackend
    from headrace.queues.memory.entries import EndedJob
    from headrace.queues.memory.place import Place
    from headrace.queues.settlement import Settlement


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
        self._has_heartbeats = False
        self._heartbeat_lease: Lease | None = None
        self._held: set[DeliveryKey] = set()
        """What was received here, and neither settled nor known to be lost."""
        self._makes_room_until: datetime | None = None

    @property
    def name(self) -> str:
        """See `headrace.queues.base.Queue`."""
        return self._name

    @property
    def capabilities(self) -> Capabilities:
        """See `headrace.queues.base.Queue`."""
        return CAPABILITIES

    @property
    def lease_seconds(self) -> float:
        """See `headrace.queues.base.Queue`."""
        return self._lease_seconds

    @property
    def is_listening(self) -> bool:
        """See `headrace.queues.base.Listens`. Always, within one process."""
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
    def _place(self) -> Place:
        return self._backend.place(self._name)

    async def __aenter__(self) -> Self:
        _ = self._place
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if (place := self._backend.places.get(self._name)) is not None:
            now = self._backend.now()
            leases = {lease.number: lease for lease in self._leases_held(place)}
            if self._heartbeat_lease is not None:
                leases[self._heartbeat_lease.number] = self._heartbeat_lease
            for lease in leases.values():
                place.end_lease(lease, now)
        self._held.clear()
        self._heartbeat_lease = None
        self._backend.changed()

    # Enqueue

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        """See `headrace.queues.base.Queue`."""
        place, now = self._place, self._backend.now()
        refuse_unsupported(jobs, CAPABILITIES, now=now)
        enqueued = [place.add(next(self._backend.numbers), job, now) for job in trace_context.carried(jobs)]
        self._backend.changed()
        return enqueued

    # Receive

    async def receive(
        self,
        limit: int,
        *,
        wait_seconds: float = 0.0,
        stop: asyncio.Event | None = None,
        without: AbstractSet[str] = frozenset(),
    ) -> list[Delivery]:
        """See `headrace.queues.base.Queue`. A cancelled call leaves nothing leased."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + wait_seconds
        while (
            not (deliveries := self._claim(limit, without))
            and (remaining := deadline - clock()) > 0
            and not (stop is not None and stop.is_set())
        ):
            await self._backend.wait_for_change(min(remaining, self._seconds_to_news()), stop=stop)
        return deliveries

    def _claim(self, limit: int, without: AbstractSet[str]) -> list[Delivery]:
        place, now = self._place, self._backend.now()
        if place.is_paused or (self._has_heartbeats and not self._is_leased(place)):
            return []
        # A suspect is held alone: the first that is held tells.
        held = next((entry for key in self._held if (entry := place.held(*key)) is not None), None)
        if held is not None and (held.is_suspect or self._makes_room(now)):
            return []
        chosen = place.take_suspect(now, without) if limit > 0 and held is None else []
        if not chosen:
            chosen = place.take(limit, now, without)
        if not chosen:
            return []
        lease, claim = self._lease(place, now), next(self._backend.numbers)
        deliveries = [place.hold(entry, lease, claim, now) for entry in chosen]
        self._held.update(delivery.key for delivery in deliveries)
        return deliveries

    def _seconds_to_news(self) -> float:
        """A delayed job falls due, and a worker's turn to make room ends, without anybody saying so."""
        order, now = self._place.order, self._backend.now()
        order.advance(now)
        moments = [order.next_due_at(), self._makes_room_until]
        return min(((at - now).total_seconds() for at in moments if at is not None and at > now), default=float("inf"))

    def _makes_room(self, now: datetime) -> bool:
        return self._makes_room_until is not None and now < self._makes_room_until

    def _is_leased(self, place: Place) -> bool:
        return self._heartbeat_lease is not None and self._heartbeat_lease.number in place.leases

    def _leases_held(self, place: Place) -> list[Lease]:
        entries = [place.held(*key) for key in self._held]
        return [entry.lease for entry in entries if entry is not None and entry.lease is not None]

    def _lease(self, place: Place, now: datetime) -> Lease:
        """That of heartbeats, once there are any, else one for as long as a receiver without them holds a job."""
        if self._heartbeat_lease is not None:
            return self._heartbeat_lease
        seconds = self._lease_seconds if self._has_heartbeats else place.settings.visibility_timeout_seconds
        lease = Lease(
            number=next(self._backend.numbers),
            holder=self._holder,
            ends_at=now + timedelta(seconds=seconds),
            has_heartbeats=self._has_heartbeats,
        )
        place.leases[lease.number] = lease
        if self._has_heartbeats:
            self._heartbeat_lease = lease
        return lease

    # Settle

    async def settle(self, settlements: Sequence[Settlement]) -> Settled:
        """See `headrace.queues.base.Queue`."""
        place, now = self._backend.places.get(self._name), self._backend.now()
        self._held.difference_update(settlement.delivery.key for settlement in settlements)
        if place is None:
            return Settled(accepted=0, refused=tuple(settlements))
        outcomes = [(settlement, place.settle(settlement, now)) for settlement in settlements]
        self._backend.changed()
        refused = tuple(settlement for settlement, outcome in outcomes if outcome == "refused")
        return Settled(
            accepted=len(outcomes) - len(refused),
            refused=refused,
            dead_lettered=tuple(settlement for settlement, outcome in outcomes if outcome == "dead"),
        )

    # Keep house

    async def keep_alive(self) -> KeptAlive:
        """See `headrace.queues.base.Queue`."""
        place, now = self._place, self._backend.now()
        self._has_heartbeats = True
        if not self._is_leased(place):
            self._heartbeat_lease = None
        self._lease(place, now).ends_at = now + timedelta(seconds=self._lease_seconds)
        held = {key: place.held(*key) for key in self._held}
        lost = frozenset(key for key, entry in held.items() if entry is None)
        self._held -= lost
        return KeptAlive(
            lost=lost,
            cancelled=frozenset(key for key, entry in held.items() if entry is not None and entry.is_cancelled),
        )

    async def keep_alive_aside(self) -> None:
        """See `headrace.queues.base.KeepsAliveAside`. Nothing but a moment is written, so any thread may."""
        lease = self._heartbeat_lease
        if lease is None:
            return
        if not self._is_leased(self._place):
            raise LeaseLostError("the lease was lost before this heartbeat from beside the event loop")
        lease.ends_at = self._backend.now() + timedelta(seconds=self._lease_seconds)

    async def report_progress(self, reports: Sequence[tuple[Delivery, Progress]]) -> None:
        """See `headrace.queues.base.ShowsProgress`."""
        for delivery, progress in reports:
            if (entry := self._place.held(*delivery.key)) is not None:
                entry.progress = progress

    async def maintain(self) -> Maintained:
        """See `headrace.queues.base.KeepsHouse`."""
        place, now = self._place, self._backend.now()
        done = keep_house(place, now)
        own = self._heartbeat_lease
        self._makes_room_until = (
            place.room.until(own, place.leases.values(), now) if own is not None and place.has_suspects(now) else None
        )
        if done != Maintained(pruned=done.pruned):
            self._backend.changed()
        return done

    async def depth(self, *, max_age_seconds: float = 0.0) -> Depth:  # noqa: ARG002 - counting costs nothing here
        """See `headrace.queues.base.Counts`."""
        return counting.depth(self._place, self._backend.now())

    async def has_ready(self) -> bool:
        """See `headrace.queues.base.Counts`."""
        return counting.has_ready(self._place, self._backend.now())
