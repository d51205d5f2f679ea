from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
import pytest

from contract.queue.bench import LEASE_SECONDS, QUEUE, arrivals, made
from contract.queue.needs import Offer
from contract.queue.suite import QueueContract
from headrace.job import MAX_PAYLOAD_BYTES, NewJob
from headrace.queues.postgres import Place, PostgresBacklog, PostgresInspector, PostgresProvisioner, PostgresQueue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from headrace.queues.base import Depth

# A name that needs quoting, so that every statement is seen to quote it.
SCHEMA = 'head "race'

_MOMENTS = """
SELECT format('UPDATE %I.%I SET %s', table_schema, table_name,
    string_agg(format('%1$I = %1$I - $1 * interval ''1 second''', column_name), ', '))
FROM information_schema.columns
WHERE table_schema = $1 AND data_type = 'timestamp with time zone' AND table_name IN (
    SELECT table_name FROM information_schema.tables WHERE table_schema = $1 AND table_type = 'BASE TABLE')
GROUP BY table_schema, table_name
"""


class BacklogPerCall:
    """The backlog must be opened after the schema was made; tests make it when they like."""

    def __init__(self, place: Place) -> None:
        self._place = place

    async def depths(self, queues: Sequence[str]) -> dict[str, Depth]:
        async with PostgresBacklog(self._place) as backlog:
            return await backlog.depths(queues)

    async def have_ready(self, queues: Sequence[str]) -> dict[str, bool]:
        async with PostgresBacklog(self._place) as backlog:
            return await backlog.have_ready(queues)


class PostgresBench:
    def __init__(self, dsn: str, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self.place = Place(dsn=dsn, schema=SCHEMA)
        self.connection = connection
        self._inspector: PostgresInspector | None = None
        self._stack = AsyncExitStack()
        self.provisioner = PostgresProvisioner(self.place)
        self.backlog = BacklogPerCall(self.place)

    @classmethod
    def offer(cls) -> Offer:
        place = Place(dsn="postgresql://nowhere/none")
        return Offer(
            name="Postgres",
            queue=PostgresQueue(place, QUEUE),
            inspector=PostgresInspector(place),
            moves_time=True,
            takes_parts=True,
        )

    def queue(self, name: str = QUEUE, *, lease_seconds: float = LEASE_SECONDS) -> PostgresQueue:
        return PostgresQueue(self.place, name, lease_seconds=lease_seconds)

    async def pass_time(self, seconds: float) -> None:
        for (update,) in await self.connection.fetch(_MOMENTS, SCHEMA):
            await self.connection.execute(update, float(seconds))
        # However long a test takes, its queue is looked after all the while.
        await self.connection.execute('UPDATE "head ""race".watches SET seen_at = now()')

    @asynccontextmanager
    async def faulty(self) -> AsyncIterator[None]:
        await self.connection.execute('ALTER TABLE "head ""race".dead_jobs RENAME TO away')
        yield
        await self.connection.execute('ALTER TABLE "head ""race".away RENAME TO dead_jobs')

    async def inspector(self) -> PostgresInspector:
        # Opened late: the schema must be there.
        if self._inspector is None:
            inspector = PostgresInspector(self.place, lease_seconds=LEASE_SECONDS)
            self._inspector = await self._stack.enter_async_context(inspector)
        return self._inspector

    async def close(self) -> None:
        await self._stack.aclose()


class TestPostgres(QueueContract):
    offer = PostgresBench.offer

    async def test_a_batch_has_sixteen_mebibytes_of_payloads_at_most(self, bench: PostgresBench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            for priority in (1, 0):
                await queue.enqueue([NewJob(payload=b"." * MAX_PAYLOAD_BYTES, priority=priority)] * 10)
            assert [delivery.job.priority for delivery in await queue.receive(20)] == [1] * 10 + [0] * 6
            assert [delivery.job.priority for delivery in await arrivals(queue, 4)] == [0] * 4

    @pytest.fixture
    async def bench(self, database_dsn: str) -> AsyncIterator[PostgresBench]:
        connection = await asyncpg.connect(database_dsn)
        try:
            bench = PostgresBench(database_dsn, connection)
            yield bench
            await bench.close()
        finally:
            await connection.close()
