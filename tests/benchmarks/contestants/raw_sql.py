"""The limit: the queue's SQL by hand over asyncpg, with no library, no metrics, no retries, no leases, no groups.

Settings: ``batch``, how many jobs are claimed at a time. Where jobs fail, failures are noted and the row is free again.
"""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from benchmarks.contestants.contestant import Counter, Finish, MissingError, Producer, Startable, Taker
from benchmarks.contestants.failure import fail
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
_KEYS = "ALTER TABLE jobs ADD COLUMN key text UNIQUE"
_FAILURES = "ALTER TABLE jobs ADD COLUMN error text, ADD COLUMN traceback text"
_HISTORY = "CREATE TABLE finished (LIKE jobs, finished_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (id))"

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

_FINISH_AND_KEEP = f"WITH gone AS ({_FINISH} RETURNING *) INSERT INTO finished SELECT * FROM gone"

_FAIL = """
UPDATE jobs SET locked_by = NULL, error = failed.error, traceback = failed.traceback
FROM unnest($1::bigint[], $2::text[], $3::text[]) AS failed (id, error, traceback)
WHERE jobs.id = failed.id
"""

_INSERT = "INSERT INTO jobs (payload, priority) SELECT * FROM unnest($1::bytea[], $2::smallint[])"

_INSERT_AND_WAKE = f"WITH new AS ({_INSERT}) SELECT pg_notify('jobs', '')"

_Rows = list[tuple[bytes | int | str, ...]]
# Of a request by itself.
_TAKEN = 15


class _Producer:
    """Many in a call are copied; single ones that are asked for at once travel together."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record], workload: Workload, *, wakes: bool) -> None:
        self._connection = connection
        self._workload = workload
        self._insert = _INSERT_AND_WAKE if wakes else _INSERT
        self._waiting: list[tuple[Any, ...]] = []
        self._sender: asyncio.Task[None] | None = None

    def prepare(self, numbers: Sequence[int]) -> _Rows:
        workload = self._workload
        rows: _Rows = []
        for number in numbers:
            key = [f"order-{number}"] if workload.keyed else []
            rows.append((json.dumps(workload.payload(number)).encode(), workload.priority(number), *key))
        return rows

    async def enqueue(self, prepared: _Rows) -> None:
        if len(prepared) > 1:
            columns = ["payload", "priority", "key"][: len(prepared[0])]
            await self._connection.copy_records_to_table("jobs", records=prepared, columns=columns)
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


class _Taker:
    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._connection = connection

    async def hold(self, jobs: int) -> None:
        await self._connection.fetch(_CLAIM, jobs)

    async def take(self) -> Finish:
        rows = await self._connection.fetch(_CLAIM, _TAKEN)

        async def finish() -> None:
            await self._connection.execute(_FINISH, [row[0] for row in rows])

        return finish


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
            if self._order.workload.keyed:
                await connection.execute(_KEYS)
            if self._order.workload.failing:
                await connection.execute(_FAILURES)
            if self._order.workload.history:
                await connection.execute(_HISTORY)

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
            workload = self._order.workload

            async def noop(job: int, attempt: int) -> tuple[int, str, str] | None:
                if attempt == 1 and workload.fails(job):
                    try:
                        fail(job)
                    except RuntimeError as error:
                        return job, str(error), "".join(traceback.format_exception(error))
                ledger.handled(job)
                if ledger.alarm is not None:
                    await ledger.alarm.wait()
                if workload.seconds:
                    await asyncio.sleep(workload.seconds)
                return None

            async def work() -> None:
                ledger.receiving_at = clock()
                while not stopping.is_set():
                    woken.clear()
                    rows = await claim.fetch(self._batch)
                    if rows:
                        ends = await asyncio.gather(*[noop(job, attempt) for job, _, attempt in rows])
                        if failures := [failure for failure in ends if failure is not None]:
                            await connection.execute(_FAIL, *map(list, zip(*failures, strict=True)))
                        if done := [row[0] for row, failure in zip(rows, ends, strict=True) if failure is None]:
                            await connection.execute(_FINISH_AND_KEEP if workload.history else _FINISH, done)
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

    @asynccontextmanager
    async def taking(self) -> AsyncIterator[Taker]:
        async with self._connected() as connection:
            yield _Taker(connection)

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
