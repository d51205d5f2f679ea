"""The limit: the queue's SQL by hand over asyncpg, with no library, no metrics, no retries, no leases, no groups.

Settings: ``batch``, how many jobs are claimed at a time.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg

from benchmarks.contestants.contestant import Counter, MissingError, Producer, Startable
from benchmarks.contestants.ledger import Ledger, clock
from benchmarks.contestants.order import Order, Workload

_DEFAULT_BATCH = 500
_MAX_COALESCED = 1000
_POLL_SECONDS = 5.0

_TABLE = """
CREATE TABLE jobs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    priority smallint NOT NULL DEFAULT 0,
    run_at timestamptz NOT NULL DEFAULT now(),
    attempts smallint NOT NULL DEFAULT 0,
    locked_by integer,
    payload bytea NOT NULL
);
CREATE INDEX ON jobs (priority DESC, id) WHERE locked_by IS NULL;
"""

# As an array of ids: a join makes the planner read the whole table.
_CLAIM = """
UPDATE jobs SET locked_by = 1, attempts = attempts + 1
WHERE id = ANY (ARRAY (
    SELECT id FROM jobs
    WHERE locked_by IS NULL AND run_at <= now()
    ORDER BY priority DESC, id
    LIMIT $1
    FOR UPDATE SKIP LOCKED))
RETURNING id, payload, attempts
"""

_FINISH = "DELETE FROM jobs WHERE id = ANY ($1::bigint[])"

_INSERT = "INSERT INTO jobs (payload, priority) SELECT * FROM unnest($1::bytea[], $2::smallint[])"

_INSERT_AND_WAKE = f"WITH new AS ({_INSERT}) SELECT pg_notify('jobs', '')"

_Rows = list[tuple[bytes, int]]


class _Producer:
    """Many in a call are copied; single ones that are asked for at once travel together."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record], workload: Workload, *, wakes: bool) -> None:
        self._connection = connection
        self._workload = workload
        self._insert = _INSERT_AND_WAKE if wakes else _INSERT
        self._waiting: list[tuple[bytes, int, asyncio.Future[None]]] = []
        self._sender: asyncio.Task[None] | None = None

    def prepare(self, numbers: Sequence[int]) -> _Rows:
        workload = self._workload
        return [(json.dumps(workload.payload(number)).encode(), workload.priority(number)) for number in numbers]

    async def enqueue(self, prepared: _Rows) -> None:
        if len(prepared) > 1:
            await self._connection.copy_records_to_table("jobs", records=prepared, columns=["payload", "priority"])
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((*prepared[0], future))
        if self._sender is None:
            self._sender = asyncio.create_task(self._send())
        await future

    async def _send(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:_MAX_COALESCED], self._waiting[_MAX_COALESCED:]
            payloads, priorities, futures = zip(*batch, strict=True)
            await self._connection.execute(self._insert, payloads, priorities)
            for future in futures:
                future.set_result(None)
        self._sender = None


class RawSql:
    """See `benchmarks.contestants.contestant.Contestant`."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._batch = int(order.settings.get("batch", _DEFAULT_BATCH))

    async def install(self) -> None:
        if self._order.workload.groups:
            raise MissingError("message groups")
        async with self._connected() as connection:
            await connection.execute(_TABLE)

    @asynccontextmanager
    async def producing(self) -> AsyncIterator[Producer]:
        async with self._connected() as connection:
            yield _Producer(connection, self._order.workload, wakes=self._order.verb == "wake")

    @asynccontextmanager
    async def counting(self) -> AsyncIterator[Counter]:
        async with self._connected() as connection:

            async def remaining() -> int:
                count: int = await connection.fetchval("SELECT count(*) FROM jobs")
                return count

            yield remaining

    @asynccontextmanager
    async def working(self, ledger: Ledger, *, waits: bool) -> AsyncIterator[asyncio.Task[None]]:
        async with self._connected() as connection:
            woken = asyncio.Event()
            stopping = asyncio.Event()
            if waits:
                await connection.add_listener("jobs", lambda *_: woken.set())
            claim = await connection.prepare(_CLAIM)

            async def noop(job: int) -> None:
                ledger.handled(job)
                if ledger.alarm is not None:
                    await ledger.alarm.wait()

            async def work() -> None:
                ledger.receiving_at = clock()
                while not stopping.is_set():
                    woken.clear()
                    rows = await claim.fetch(self._batch)
                    if rows:
                        ids = [row[0] for row in rows]
                        await asyncio.gather(*[noop(job) for job in ids])
                        await connection.execute(_FINISH, ids)
                    elif waits:
                        await _first(woken, stopping)
                    else:
                        return

            running = asyncio.create_task(work())
            try:
                yield running
            finally:
                stopping.set()
                await running

    def command(self) -> list[str]:
        return [sys.executable, "-m", "benchmarks.contestants.apps.raw_sql"]

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        connection = await asyncpg.connect(self._order.dsn)
        try:
            yield connection
        finally:
            await connection.close()


async def _first(*events: asyncio.Event) -> None:
    tasks = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(tasks, timeout=_POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


def create(order: Order) -> Startable:
    """The contestant of this module."""
    return RawSql(order)
