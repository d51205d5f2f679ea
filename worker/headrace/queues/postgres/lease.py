"""The lease that heartbeats extend: kept alive, lost, begun anew."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from headrace.queues.base import KeptAlive
from headrace.queues.errors import LeaseLostError, QueueUnavailableError
from headrace.queues.postgres.connection import Connector
from headrace.queues.postgres.errors import our_errors
from headrace.queues.postgres.lanes import PROMPT_TIMEOUT_SECONDS
from headrace.queues.postgres.statements import queries
from headrace.queues.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asyncpg import Record

    from headrace.queues.base import DeliveryKey
    from headrace.queues.postgres.database import Database
    from headrace.queues.postgres.holdings import Holdings
    from headrace.queues.postgres.queue_row import QueueRow
    from headrace.queues.postgres.receiving import Receiving


class HeartbeatLease:
    """Extends the lease of one queue object, and finds out what has become of what is held under it."""

    def __init__(
        self,
        database: Database,
        row: QueueRow,
        holdings: Holdings,
        tally: Tally,
        receiving: Receiving,
        *,
        lease_seconds: float,
    ) -> None:
        self._database = database
        self._row = row
        self._holdings = holdings
        self._tally = tally
        self._receiving = receiving
        self._lease_seconds = lease_seconds

    async def keep_alive(self) -> KeptAlive:
        """See `headrace.queues.base.Queue`.

        Raises
        ------
        SchemaVersionError
            When the schema has outgrown this code. The lease was extended: hand back what it holds.
        """
        holdings = self._holdings
        holdings.has_heartbeats = True
        lease = holdings.heartbeat_lease
        if lease is None:
            await self._begin()
            return KeptAlive()
        rows = await self._beat(lease)
        if not rows:
            return await self._lost(lease)
        # An answer may have arrived while this call was under way; one that comes later finds its claim gone.
        if strays := holdings.strays(rows[0]["strays"]):
            await self._database.fetch_promptly("drop_strays", lease, strays, urgent=True)
        self._row.see(rows[0])
        return KeptAlive(lost=await self._lost_early(), cancelled=holdings.keys_of(rows[0]["cancelled"]))

    async def keep_alive_aside(self) -> None:
        """See `headrace.queues.base.KeepsAliveAside`."""
        lease = self._holdings.heartbeat_lease
        if lease is None:
            return
        place = self._database.place
        sql = queries(place.schema)["extend_lease"]
        with our_errors(place.schema):
            async with asyncio.timeout(PROMPT_TIMEOUT_SECONDS):
                connection = await Connector(place, application_name="headrace-aside").connect(
                    PROMPT_TIMEOUT_SECONDS, prepares=False
                )
                try:
                    # In a transaction: behind a pooler, what is parsed in one session must not be run in another.
                    async with connection.transaction():
                        is_extended = await connection.fetchval(sql, lease, self._lease_seconds)
                finally:
                    connection.terminate()
        if not is_extended:
            raise LeaseLostError("the lease was lost before this heartbeat from beside the event loop")

    async def report(self) -> None:
        """Write the totals of what was done since the last heartbeat."""
        if self._holdings.heartbeat_lease is not None:
            await self._beat(self._holdings.heartbeat_lease)

    async def _begin(self) -> None:
        await self._row.look_up(promptly=True)
        self._holdings.heartbeat_lease = await self._receiving.start_lease(self._lease_seconds, urgent=True)

    async def _beat(self, lease: int) -> list[Record]:
        holdings = self._holdings
        taken = self._tally.take()
        try:
            rows = await self._database.fetch_promptly(
                "heartbeat",
                lease,
                self._lease_seconds,
                holdings.job_ids,
                holdings.claims,
                *taken,
                urgent=True,
            )
        except BaseException:
            # They may have been written; a little too much is counted rather than an outage's worth too little.
            self._tally.put_back(taken)
            raise
        if not rows:
            self._tally.put_back(taken)
        return rows

    async def _lost_early(self) -> frozenset[DeliveryKey]:
        """What was received before the first heartbeat, under leases of its own, may be lost by itself."""
        early = self._holdings.leases - {self._holdings.heartbeat_lease}
        if not early:
            return frozenset()
        rows = await self._database.fetch_promptly("lost_leases", list(early), urgent=True)
        return self._given_up(row[0] for row in rows)

    def _given_up(self, leases: Iterable[int]) -> frozenset[DeliveryKey]:
        return frozenset().union(*map(self._holdings.lost, leases))

    async def _lost(self, lease: int) -> KeptAlive:
        """Others have what was held under it, or will; go on under another."""
        lost = self._given_up([lease])
        with suppress(QueueUnavailableError):  # What is lost must be told in any case; the next one tries again.
            await self._begin()
        return KeptAlive(lost=lost)
