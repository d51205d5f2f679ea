"""Rounds of housekeeping, which any worker may do at any time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.queues.base import Maintained

if TYPE_CHECKING:
    from headrace.queues.postgres.database import Database
    from headrace.queues.postgres.holdings import Holdings
    from headrace.queues.postgres.queue_row import QueueRow

# A round touches at most so many rows of each kind at a time, so that no lock is held for long …
_BATCH = 1000
# … and at most so many times: the next round comes in seconds, from any worker.
_BATCHES = 10

# How many leases of dead workers a round ends at most.
_MAX_LEASES = 200


class Housekeeping:
    """Looks after one queue."""

    def __init__(self, database: Database, row: QueueRow, holdings: Holdings, *, lease_seconds: float) -> None:
        self._database = database
        self._row = row
        self._holdings = holdings
        self._lease_seconds = lease_seconds

    async def maintain(self) -> Maintained:
        """See `headrace.queues.base.KeepsHouse`."""
        rows = await self._database.fetch("housekeeping", self._row.name)
        if not rows:
            raise self._row.not_found()
        todo = rows[0]
        self._row.see(todo)
        rescued = suspects = poisoned = 0
        if todo["rescue"]:
            rescued, suspects, poisoned = await self._rescue()
        await self._make_room(suspects_wait=bool(todo["suspects"] or suspects))
        # Who died after a handler's own transaction had completed a job left the job's group without a head.
        if todo["groups"]:
            await self._database.fetch("sweep_groups", self._row.id)
        if todo["prune_keys"]:
            await self._in_batches("prune_keys")
        promoted = await self._in_batches("promote") if todo["promote"] else 0
        cancelled = 0
        if todo["cancellations"]:
            cancelled = await self._database.fetch_value("catch_up_cancellations", self._row.id)
        return Maintained(
            rescued=rescued,
            poisoned=poisoned,
            promoted=promoted,
            cancelled=cancelled,
            expired=await self._in_batches("expire") if todo["expire"] else 0,
            pruned=(await self._in_batches("prune_dead") if todo["prune_dead"] else 0)
            + (await self._in_batches("prune_finished") if todo["prune_finished"] else 0),
        )

    async def _rescue(self) -> tuple[int, int, int]:
        """Lease by lease, each in batches: what went back, how much of that as suspects, and what is dead."""
        rescued = suspects = poisoned = 0
        for _ in range(_MAX_LEASES):
            (row,) = await self._database.fetch("rescue", self._row.id, self._lease_seconds, _BATCH)
            rescued += row["rescued"]
            suspects += row["suspects"]
            poisoned += row["poisoned"]
            if not row["is_more"] or rescued >= _BATCH * _BATCHES:
                break
        return rescued, suspects, poisoned

    async def _make_room(self, *, suspects_wait: bool) -> None:
        """One worker at a time makes room for a suspect; others take one when they happen to hold nothing."""
        holdings = self._holdings
        holdings.suspects_wait = suspects_wait
        holdings.makes_room = bool(
            suspects_wait
            and holdings.heartbeat_lease is not None
            and await self._database.fetch_value("make_room", self._row.id, holdings.heartbeat_lease)
        )

    async def _in_batches(self, query: str) -> int:
        total = 0
        for _ in range(_BATCHES):
            count: int = await self._database.fetch_value(query, self._row.id, _BATCH)
            total += count
            if count < _BATCH:
                break
        return total
