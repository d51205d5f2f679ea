"""Leasing jobs, and waiting for some."""

from __future__ import annotations

import asyncio
from operator import itemgetter
from typing import TYPE_CHECKING

from headrace.queues.errors import QueueError, QueueUnavailableError
from headrace.queues.postgres.rows import deliveries_from

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from headrace.queues.base import Delivery
    from headrace.queues.postgres.database import Database
    from headrace.queues.postgres.frontier import Frontier
    from headrace.queues.postgres.holdings import Holdings
    from headrace.queues.postgres.queue_row import QueueRow
    from headrace.queues.postgres.wake_up import Rest

# How soon to try again what must be done sooner or later.
_AGAIN_SECONDS = 1.0

_NO_LIMIT = 1 << 20

# How seldom a receiver without heartbeats looks.
_LONGEST_REST_SECONDS = 5.0

# For so long, a look that found nothing, and ended a wait, need not be repeated by whoever goes on waiting.
_JUST_NOW_SECONDS = 0.05

_id, _priority = itemgetter(1), itemgetter(3)
_of_frontier = itemgetter(3, 1, 15, 16)


class Receiving:
    """Claims for one queue object, one at a time: what is held is known only once a claim is answered."""

    def __init__(
        self,
        database: Database,
        row: QueueRow,
        holdings: Holdings,
        frontier: Frontier,
        rest: Rest,
        *,
        holder: str,
    ) -> None:
        self._database = database
        self._row = row
        self._holdings = holdings
        self._frontier = frontier
        self._rest = rest
        self._holder = holder
        self._claiming = asyncio.Lock()
        self._most = _NO_LIMIT
        self._in_vain: tuple[float, frozenset[str]] | None = None
        self._is_under_way = False
        self._ending: set[asyncio.Task[None]] = set()

    async def receive(
        self, limit: int, *, wait_seconds: float, stop: asyncio.Event | None, without: AbstractSet[str]
    ) -> list[Delivery]:
        """See `headrace.queues.base.Queue`."""
        names = frozenset(without)
        clock = asyncio.get_running_loop().time
        deadline = clock() + wait_seconds
        looks = wait_seconds <= 0 or not self._has_just_looked(names)
        self._in_vain = None
        while True:
            self._row.check()
            deliveries = await self._receive_now(limit, names) if looks else []
            if looks and self._is_under_way and not deliveries and (stop is None or not stop.is_set()):
                continue  # All that was passed was left out.
            remaining = deadline - clock()
            if deliveries or remaining <= 0 or (stop is not None and stop.is_set()):
                if wait_seconds <= 0:
                    self._in_vain = None
                return deliveries
            looks = True
            # A worker waits for as long as it is told to poll; who waits for long without one wants a job soon.
            longest_seconds = (
                wait_seconds if self._holdings.has_heartbeats else min(wait_seconds, _LONGEST_REST_SECONDS)
            )
            await self._rest.take(remaining, longest_seconds=longest_seconds, stop=stop)

    def _has_just_looked(self, without: frozenset[str]) -> bool:
        """Whether a wait has ended just now, with a look that found nothing, and nobody has told of jobs since."""
        if self._in_vain is None or self._rest.is_ended:
            return False
        looked_at, left_out = self._in_vain
        return left_out == without and asyncio.get_running_loop().time() < looked_at + _JUST_NOW_SECONDS

    async def start_lease(self, seconds: float | None, *, urgent: bool = False) -> int:
        """A lease for so long; None: for as long as a receiver without heartbeats holds jobs."""
        rows = await self._database.fetch_promptly("start_lease", self._row.id, seconds, self._holder, urgent=urgent)
        if not rows:
            raise self._row.not_found()
        lease: int = rows[0][0]
        return lease

    async def flushed(self) -> None:
        """Wait until leases that are to end have ended."""
        if self._ending:
            await asyncio.wait(self._ending)

    def close(self) -> None:
        """Don't wait for that."""
        for task in self._ending:
            task.cancel()

    async def _receive_now(self, limit: int, without: frozenset[str]) -> list[Delivery]:
        async with self._claiming:
            self._is_under_way = False
            self._rest.looks()
            holdings = self._holdings
            if holdings.holds_suspect:
                return []
            if holdings.has_heartbeats:
                if holdings.heartbeat_lease is None:
                    return []  # It is lost: the next heartbeat starts another.
                return await self._receive_under(holdings.heartbeat_lease, limit, without)
            lease = await self.start_lease(None)
            deliveries: list[Delivery] = []
            try:
                deliveries = await self._receive_under(lease, limit, without)
            finally:
                if not deliveries:
                    # In any case: a call that was cut off may have leased what nobody will settle.
                    self._end_soon(lease)
            return deliveries

    async def _receive_under(self, lease: int, limit: int, without: frozenset[str]) -> list[Delivery]:
        holdings = self._holdings
        deliveries: list[Delivery] = []
        # Nobody knows its name before; who holds nothing has no names that are full.
        if holdings.may_take_suspect and not without:
            deliveries = await self._claim_suspect(lease)
        if not deliveries and holdings.may_take:
            deliveries = await self._claim(lease, limit, without)
        if not deliveries and not holdings and not holdings.has_heartbeats and not without:
            deliveries = await self._claim_suspect(lease)  # Who does not keep house does not know.
        if deliveries:
            try:
                await self._rest.found(enough=len(deliveries) >= limit)
            except BaseException:
                holdings.untold(deliveries)
                raise
        return deliveries

    async def _claim(self, lease: int, limit: int, without: frozenset[str]) -> list[Delivery]:
        now = asyncio.get_running_loop().time()
        floors, look = self._frontier.of(without, now)
        limit = min(limit, self._most)
        try:
            rows = await self._database.fetch_promptly(
                "claim", self._row.id, lease, limit, floors, list(without) or None, look
            )
        except QueueUnavailableError:
            # It may have been too much for this link in this time: were it asked for again, that would never end.
            self._most = max(1, limit // 2)
            raise
        self._most = min(2 * self._most, _NO_LIMIT)
        marks = [row for row in rows if row[0] is None]
        if marks:
            rows = [row for row in rows if row[0] is not None]
        # Where names are left out, a look may end early.
        self._is_under_way = self._frontier.passed(without, map(_of_frontier, marks), now)
        self._in_vain = None if rows or self._is_under_way else (asyncio.get_running_loop().time(), without)
        rows.sort(key=_id)
        if len({row[3] for row in rows}) > 1:
            rows.sort(key=_priority, reverse=True)  # Stable: within a priority the order by id stays.
        self._frontier.found(without, map(_of_frontier, rows), now)
        if not rows and not marks and not without:
            self._frontier.nothing()
        return self._holdings.take(lease, deliveries_from(self._row.name, rows))

    async def _claim_suspect(self, lease: int) -> list[Delivery]:
        rows = await self._database.fetch_promptly("claim_suspect", self._row.id, lease)
        return self._holdings.take_suspect(lease, deliveries_from(self._row.name, rows))

    def _end_soon(self, lease: int) -> None:
        """End a lease under which nothing is held."""

        async def end() -> None:
            while True:
                try:
                    await self._database.fetch("end_leases", [lease])
                except QueueUnavailableError:
                    await asyncio.sleep(_AGAIN_SECONDS)
                except QueueError:
                    return
                else:
                    return

        task = asyncio.create_task(end())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
