"""The queue itself: enqueue, receive, settle, keep house."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import defaultdict
from typing import TYPE_CHECKING

from headrace.queues.base import (
    LEASE_SECONDS,
    Capabilities,
    LeaseLostError,
    Maintained,
    QueueError,
    QueueNotFoundError,
    QueueSettings,
    QueueUnavailableError,
    Settled,
    refuse_unsupported,
)
from headrace.queues.postgres.connection import CLOSE_TIMEOUT_SECONDS, Database, Place
from headrace.queues.postgres.rows import delivery_from, depth_from, enqueue_columns, settings_from, storable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from asyncpg import Record

    from headrace.job import NewJob
    from headrace.queues.base import Delivery, Depth

CAPABILITIES = Capabilities(priorities=True, delays=True, groups=False, deduplication=False, uncharged_abandon=True)

# Receiving, settling, keeping alive and counting each may want one at the same time.
_MAX_CONNECTIONS = 4

# A round of housekeeping touches at most so many rows of each kind at a time, so that no lock is held for long …
_HOUSEKEEPING_BATCH = 1000
# … and at most so many times: the next round comes in seconds, from any worker.
_HOUSEKEEPING_BATCHES = 10

# How often `receive` looks again while it waits; doubles up to the second.
_FIRST_LOOK_SECONDS = 0.05
_LAST_LOOK_SECONDS = 1.0


class PostgresQueue:
    """A `Queue` in PostgreSQL. Use it as an async context manager.

    Parameters
    ----------
    place
        The database and the schema.
    name
        The queue's name.
    holder
        What stands beside our leases, for people to read. Defaults to host name and process id.
    lease_seconds
        How long a heartbeat lease lasts. Defaults to `LEASE_SECONDS`; every worker of a queue must agree.
    """

    def __init__(
        self, place: Place, name: str, *, holder: str | None = None, lease_seconds: float = LEASE_SECONDS
    ) -> None:
        self._database = Database(place, max_connections=_MAX_CONNECTIONS)
        self._name = name
        self._holder = holder or f"{socket.gethostname()}:{os.getpid()}"
        self._lease_seconds = lease_seconds
        self._queue_id = 0
        self._settings = QueueSettings()
        self._heartbeat_lease: int | None = None
        self._heartbeats = False
        # Jobs still held of each lease that a receive without heartbeats made; at zero the lease goes.
        self._held: dict[int, int] = {}

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
        return self._settings

    async def __aenter__(self) -> Self:
        try:
            await self._database.open()
            await self._look_up()
        except BaseException:
            await self._database.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lease, self._heartbeat_lease = self._heartbeat_lease, None
        try:
            if lease is not None:
                # Where that fails, others wait as long as the lease lasts.
                with contextlib.suppress(QueueError, TimeoutError):
                    async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                        await self._database.fetch("end_leases", [lease])
        finally:
            await self._database.close()

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[str]:
        """See `headrace.queues.base.Queue`."""
        if not jobs:
            return []
        refuse_unsupported(jobs, CAPABILITIES)
        columns = enqueue_columns(jobs)
        rows = await self._database.fetch("enqueue", self._queue_id, *columns)
        if not rows:
            # The queue may have been removed and made again, under another id.
            await self._look_up()
            rows = await self._database.fetch("enqueue", self._queue_id, *columns)
        return [str(row[0]) for row in rows]

    async def receive(self, limit: int, *, wait_seconds: float = 0.0) -> list[Delivery]:
        """See `headrace.queues.base.Queue`."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + wait_seconds
        pause = _FIRST_LOOK_SECONDS
        while True:
            deliveries = await self._claim(limit)
            # A short batch says that the backlog is small: a moment to look at the delayed, too.
            if len(deliveries) < limit and await self._database.fetch_value(
                "promote", self._queue_id, _HOUSEKEEPING_BATCH
            ):
                deliveries += await self._claim(limit - len(deliveries))
            remaining = deadline - clock()
            if deliveries or remaining <= 0:
                return deliveries
            await asyncio.sleep(min(pause, remaining))
            pause = min(pause * 2, _LAST_LOOK_SECONDS)

    async def _claim(self, limit: int) -> list[Delivery]:
        if not self._heartbeats:
            rows = await self._database.fetch("claim_with_new_lease", self._queue_id, limit, self._holder)
            if rows:
                self._held[rows[0]["lease_id"]] = len(rows)
        elif self._heartbeat_lease is None:
            return []  # Lost: the next heartbeat starts another.
        else:
            rows = await self._database.fetch("claim", self._queue_id, limit, self._heartbeat_lease)
        # UPDATE returns rows as it meets them.
        rows.sort(key=lambda row: (-row["priority"], row["id"]))
        return [delivery_from(self._name, row) for row in rows]

    async def complete(self, deliveries: Sequence[Delivery]) -> Settled:
        """See `headrace.queues.base.Queue`."""
        return await self._settle_all("complete", deliveries)

    async def release(self, deliveries: Sequence[Delivery], *, delay_seconds: float = 0.0) -> Settled:
        """See `headrace.queues.base.Queue`."""
        return await self._settle_all("release", deliveries, delay_seconds)

    async def _settle_all(self, query: str, deliveries: Sequence[Delivery], *arguments: object) -> Settled:
        """Settle by (lease, attempt): nearly always the same for a whole batch, which is then one lookup by key."""
        groups: defaultdict[tuple[str, int], list[Delivery]] = defaultdict(list)
        for delivery in deliveries:
            groups[delivery.lease, delivery.job.attempt].append(delivery)
        accepted = 0
        refused: list[Delivery] = []
        for (lease, attempt), group in groups.items():
            ids = [int(delivery.job.id) for delivery in group]
            rows = await self._database.fetch(query, ids, int(lease), attempt, *arguments)
            accepted += len(rows)
            if len(rows) < len(group):
                settled = {str(row[0]) for row in rows}
                refused += [delivery for delivery in group if delivery.job.id not in settled]
        await self._let_go(deliveries)
        return Settled(accepted=accepted, refused=tuple(refused))

    async def retry(self, delivery: Delivery, *, delay_seconds: float, error: str) -> Settled:
        """See `headrace.queues.base.Queue`."""
        (row,) = await self._database.fetch("retry", self._queue_id, *_fence(delivery), delay_seconds, storable(error))
        await self._let_go([delivery])
        if row["again"] or row["dead"]:
            return Settled(accepted=1, dead_lettered=row["dead"])
        return Settled(accepted=0, refused=(delivery,))

    async def dead_letter(self, delivery: Delivery, *, reason: str) -> Settled:
        """See `headrace.queues.base.Queue`."""
        dead = await self._database.fetch_value("dead_letter", self._queue_id, *_fence(delivery), storable(reason))
        await self._let_go([delivery])
        return Settled(accepted=1, dead_lettered=1) if dead else Settled(accepted=0, refused=(delivery,))

    async def _let_go(self, deliveries: Sequence[Delivery]) -> None:
        """Drop the leases that a receive without heartbeats made, once nothing is held under them."""
        if not self._held:
            return
        for delivery in deliveries:
            lease = int(delivery.lease)
            if lease in self._held:
                self._held[lease] -= 1
        done = [lease for lease, held in self._held.items() if held <= 0]
        for lease in done:
            del self._held[lease]
        if done:
            with contextlib.suppress(QueueError):  # The jobs are settled, and the lease runs out by itself.
                await self._database.fetch("end_leases", done)

    async def keep_alive(self) -> None:
        """See `headrace.queues.base.Queue`."""
        self._heartbeats = True
        if self._heartbeat_lease is None:
            await self._look_up()
            self._heartbeat_lease = await self._database.fetch_value(
                "start_lease", self._queue_id, self._lease_seconds, self._holder
            )
        elif not await self._database.fetch("extend_lease", self._heartbeat_lease, self._lease_seconds):
            self._heartbeat_lease = None
            raise LeaseLostError(f"the lease on jobs of queue {self._name!r} ran out: others have them now")

    async def maintain(self) -> Maintained:
        """See `headrace.queues.base.Queue`."""
        await self._look_up()
        return Maintained(
            rescued=await self._rescue(),
            promoted=await self._in_batches("promote"),
            expired=await self._in_batches("expire"),
            pruned=await self._in_batches("prune"),
        )

    async def _rescue(self) -> int:
        # After an outage the others must get their word in before anybody is judged: a full lease's time.
        may_judge = self._database.seconds_since_reconnect() >= self._lease_seconds
        async with self._database.transaction() as transaction:
            key = f"headrace.dev/rescue/{self._database.place.schema}"
            if not await transaction.fetch_value("lock_rescue", self._queue_id, key):
                return 0
            if may_judge:
                await transaction.fetch("judge_leases", self._queue_id, self._lease_seconds, _HOUSEKEEPING_BATCH)
            rescued: int = await transaction.fetch_value("rescue", self._queue_id, _HOUSEKEEPING_BATCH)
            return rescued

    async def _in_batches(self, query: str) -> int:
        total = 0
        for _ in range(_HOUSEKEEPING_BATCHES):
            count: int = await self._database.fetch_value(query, self._queue_id, _HOUSEKEEPING_BATCH)
            total += count
            if count < _HOUSEKEEPING_BATCH:
                break
        return total

    async def depth(self, *, max_age_seconds: float = 0.0) -> Depth:
        """See `headrace.queues.base.Queue`."""
        if max_age_seconds <= 0:
            return self._one(await self._database.fetch("depths", [self._name]))
        shared = await self._database.fetch("shared_depth", self._queue_id, max_age_seconds)
        if shared:
            return depth_from(shared[0])
        async with self._database.transaction() as transaction:
            if await transaction.fetch("take_turn_to_count", self._queue_id, max_age_seconds):
                depth = self._one(await transaction.fetch("depths", [self._name]))
                await transaction.fetch(
                    "share_depth",
                    self._queue_id,
                    depth.ready,
                    depth.delayed,
                    depth.in_flight,
                    depth.dead_lettered,
                    depth.oldest_ready_age_seconds,
                )
                return depth
        # Another worker counted while this one waited for its turn.
        shared = await self._database.fetch("shared_depth", self._queue_id, max_age_seconds)
        if not shared:
            raise QueueUnavailableError(f"no worker could count queue {self._name!r} in time")
        return depth_from(shared[0])

    def _one(self, rows: Sequence[Record]) -> Depth:
        if not rows:
            raise self._not_found()
        return depth_from(rows[0])

    async def _look_up(self) -> None:
        """Read the queue's row again: settings change, and a queue made anew has another id."""
        rows = await self._database.fetch("find_queue", self._name)
        if not rows:
            raise self._not_found()
        self._queue_id = rows[0]["id"]
        self._settings = settings_from(rows[0])

    def _not_found(self) -> QueueNotFoundError:
        return QueueNotFoundError(
            f"queue {self._name!r} does not exist in schema {self._database.place.schema!r}: "
            f"apply its JobQueue, or run `headrace migrate --queue {self._name}`"
        )


def _fence(delivery: Delivery) -> tuple[int, int, int]:
    return int(delivery.job.id), int(delivery.lease), delivery.job.attempt
