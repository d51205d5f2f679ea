"""The queue itself: one face for the rooms of this folder."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from typing import TYPE_CHECKING, Any

from headrace.queues.base import LEASE_SECONDS
from headrace.queues.capabilities import refuse_unsupported
from headrace.queues.errors import QueueError
from headrace.queues.postgres import transactions
from headrace.queues.postgres.capabilities import CAPABILITIES
from headrace.queues.postgres.connection import CLOSE_TIMEOUT_SECONDS
from headrace.queues.postgres.counting import Counting
from headrace.queues.postgres.database import Database
from headrace.queues.postgres.enqueuing import Enqueuing
from headrace.queues.postgres.frontier import Frontier
from headrace.queues.postgres.holdings import Holdings
from headrace.queues.postgres.housekeeping import Housekeeping
from headrace.queues.postgres.lease import HeartbeatLease
from headrace.queues.postgres.patience import Patience
from headrace.queues.postgres.queue_row import QueueRow
from headrace.queues.postgres.receiving import Receiving
from headrace.queues.postgres.rows import storable
from headrace.queues.postgres.settling import Settling, may_bring_jobs
from headrace.queues.postgres.wake_up import Rest
from headrace.queues.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet
    from types import TracebackType
    from typing import Self

    from headrace.job import NewJob
    from headrace.queues.base import Delivery, Depth, Enqueued, KeptAlive, Maintained, Progress, QueueSettings
    from headrace.queues.capabilities import Capabilities
    from headrace.queues.postgres.connection import Place
    from headrace.queues.settlement import Settled, Settlement


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
    listens
        Whether waiting is cut short by new jobs (LISTEN). Defaults to looking now and then alone.
    patience
        How long `enqueue` waits for a database that is away. Defaults to not at all.
    """

    def __init__(
        self,
        place: Place,
        name: str,
        *,
        holder: str | None = None,
        lease_seconds: float = LEASE_SECONDS,
        listens: bool = False,
        patience: Patience | None = None,
    ) -> None:
        self._database = database = Database(place)
        self._row = row = QueueRow(database, name)
        self._listens = listens
        self._holdings = holdings = Holdings()
        self._lease_seconds = lease_seconds
        frontier, tally = Frontier(), Tally()
        self._rest = Rest(database, row)
        self._enqueuing = Enqueuing(database, row, patience or Patience())
        self._receiving = Receiving(
            *(database, row, holdings, frontier, self._rest), holder=holder or f"{socket.gethostname()}:{os.getpid()}"
        )
        self._settling = Settling(database, row, holdings, tally)
        self._lease = HeartbeatLease(*(database, row, holdings, tally, self._receiving), lease_seconds=lease_seconds)
        self._housekeeping = Housekeeping(database, row, holdings, lease_seconds=lease_seconds)
        self._counting = Counting(database, row)

    @property
    def name(self) -> str:
        """See `headrace.queues.base.Queue`."""
        return self._row.name

    @property
    def capabilities(self) -> Capabilities:
        """See `headrace.queues.base.Queue`."""
        return CAPABILITIES

    @property
    def settings(self) -> QueueSettings:
        """See `headrace.queues.base.Queue`."""
        return self._row.settings

    @property
    def lease_seconds(self) -> float:
        """See `headrace.queues.base.Queue`."""
        return self._lease_seconds

    @property
    def is_listening(self) -> bool:
        """See `headrace.queues.base.Listens`."""
        return self._rest.ear is not None and self._rest.ear.is_up

    async def __aenter__(self) -> Self:
        try:
            await self._database.open()
            await self._row.look_up()
        except BaseException:
            await self._database.close()
            raise
        if self._listens:
            self._rest.ear = self._database.lanes.listener.join(self._database.place.schema, self._rest.end)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        leases = list(self._holdings.leases)
        try:
            # Where that fails, others wait as long as the lease lasts.
            with contextlib.suppress(QueueError, TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                    await self._enqueuing.flushed()
                    await self._receiving.flushed()
                    await self._lease.report()
                    if leases:
                        await self._database.fetch("end_leases", leases)
        finally:
            self._holdings.forget()
            self._enqueuing.close()
            self._receiving.close()
            ear, self._rest.ear = self._rest.ear, None
            if ear is not None:
                await ear.close()
            await self._database.close()

    # Jobs in, jobs out

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        """See `headrace.queues.base.Queue`."""
        enqueued = await self._enqueuing.enqueue(jobs)
        self._rest.end()
        return enqueued

    async def receive(
        self,
        limit: int,
        *,
        wait_seconds: float = 0.0,
        stop: asyncio.Event | None = None,
        without: AbstractSet[str] = frozenset(),
    ) -> list[Delivery]:
        """See `headrace.queues.base.Queue`."""
        return await self._receiving.receive(max(limit, 0), wait_seconds=wait_seconds, stop=stop, without=without)

    async def settle(self, settlements: Sequence[Settlement]) -> Settled:
        """See `headrace.queues.base.Queue`."""
        settled = await self._settling.settle(settlements)
        if may_bring_jobs(settlements):
            self._rest.end()
        return settled

    async def report_progress(self, reports: Sequence[tuple[Delivery, Progress]]) -> None:
        """See `headrace.queues.base.ShowsProgress`."""
        by_claim: dict[tuple[int, int], dict[str, dict[str, float | str | None]]] = {}
        for delivery, progress in reports:
            lease = self._holdings.lease_of(delivery)
            if lease is not None:
                told = {"fraction": progress.fraction, "message": storable(progress.message)}
                by_claim.setdefault((lease, int(delivery.receipt)), {})[delivery.job.id] = told
        if by_claim:
            leases, claims = zip(*sorted(by_claim), strict=True)
            told_by_claim = [json.dumps(by_claim[key]) for key in sorted(by_claim)]
            await self._database.fetch("report_progress", list(leases), list(claims), told_by_claim)

    # Within transactions of the caller's own

    async def enqueue_in(self, connection: Any, jobs: Sequence[NewJob], *, notify: bool = True) -> list[Enqueued]:
        """See `headrace.queues.base.Transactional`. Needs no connection of this queue's own: it may be closed."""
        refuse_unsupported(jobs, CAPABILITIES)
        return await transactions.enqueue(connection, self._database.place.schema, self.name, jobs, notify=notify)

    async def complete_in(self, connection: Any, delivery: Delivery) -> None:
        """See `headrace.queues.base.Transactional`."""
        fence = self._holdings.fence(delivery)
        await transactions.complete(connection, self._database.place.schema, *fence)

    def complete_in_sync(self, connection: Any, delivery: Delivery) -> None:
        """See `headrace.queues.base.Transactional`."""
        fence = self._holdings.fence(delivery)
        transactions.complete_sync(connection, self._database.place.schema, *fence)

    # Lease and house

    async def keep_alive(self) -> KeptAlive:
        """See `headrace.queues.base.Queue`."""
        return await self._lease.keep_alive()

    async def keep_alive_aside(self) -> None:
        """See `headrace.queues.base.KeepsAliveAside`."""
        await self._lease.keep_alive_aside()

    async def maintain(self) -> Maintained:
        """See `headrace.queues.base.KeepsHouse`."""
        return await self._housekeeping.maintain()

    async def depth(self, *, max_age_seconds: float = 0.0) -> Depth:
        """See `headrace.queues.base.Counts`."""
        return await self._counting.depth(max_age_seconds)

    async def has_ready(self) -> bool:
        """See `headrace.queues.base.Counts`."""
        return await self._counting.has_ready()
