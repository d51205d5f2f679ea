from __future__ import annotations

import json
from contextlib import AsyncExitStack
from datetime import datetime
from typing import TYPE_CHECKING

import asyncpg
import pytest

from contract.queue_contract import LEASE_SECONDS, QUEUE, DeadLetter, Finished, QueueContract
from headrace.queues.base import Failure
from headrace.queues.memory import MemoryBackend, MemoryInspector, MemoryQueue
from headrace.queues.postgres import Place, PostgresBacklog, PostgresInspector, PostgresProvisioner, PostgresQueue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from headrace.queues.base import Depth


class MemoryBench:
    def __init__(self) -> None:
        backend = MemoryBackend()
        self.backend = self.provisioner = self.backlog = backend

    def queue(self, name: str = QUEUE, *, lease_seconds: float = LEASE_SECONDS) -> MemoryQueue:
        return MemoryQueue(self.backend, name, lease_seconds=lease_seconds)

    async def pass_time(self, seconds: float) -> None:
        self.backend.pass_time(seconds)

    async def dead_letters(self) -> list[DeadLetter]:
        async with self.queue() as queue:
            return [
                DeadLetter(
                    name=dead.job.name,
                    reason=dead.reason or "",
                    error=dead.error,
                    attempt=dead.job.attempt,
                    failures=dead.failures,
                )
                for dead in queue.dead_jobs
            ]

    async def finished(self) -> list[Finished]:
        async with self.queue() as queue:
            return [
                Finished(name=job.job.name, outcome=job.outcome, attempt=job.job.attempt) for job in queue.finished_jobs
            ]

    async def inspector(self) -> MemoryInspector:
        return MemoryInspector(self.backend)


class TestMemory(QueueContract):
    @pytest.fixture
    def bench(self) -> MemoryBench:
        return MemoryBench()


class BacklogPerCall:
    """The backlog must be opened after the schema was made; tests make it when they like."""

    def __init__(self, place: Place) -> None:
        self._place = place

    async def depths(self, queues: Sequence[str]) -> dict[str, Depth]:
        async with PostgresBacklog(self._place) as backlog:
            return await backlog.depths(queues)


class PostgresBench:
    # A name that needs quoting, so that every statement is seen to quote it.
    schema = 'head "race'

    def __init__(self, dsn: str, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self.place = Place(dsn=dsn, schema=self.schema)
        self.connection = connection
        self._inspector: PostgresInspector | None = None
        self._stack = AsyncExitStack()
        self.provisioner = PostgresProvisioner(self.place)
        self.backlog = BacklogPerCall(self.place)

    def queue(self, name: str = QUEUE, *, lease_seconds: float = LEASE_SECONDS) -> PostgresQueue:
        return PostgresQueue(self.place, name, lease_seconds=lease_seconds)

    async def pass_time(self, seconds: float) -> None:
        for table, columns in {
            "jobs": ("enqueued_at", "run_at", "expires_at"),
            "parked_jobs": ("enqueued_at", "run_at", "expires_at"),
            "leases": ("expires_at",),
            "claims": ("claimed_at",),
            "dead_jobs": ("dead_at",),
            "finished_jobs": ("finished_at",),
            "deduplication_keys": ("kept_until",),
            "queue_stats": ("counted_at",),
            "watches": ("since",),
        }.items():
            aged = ", ".join(f"{column} = {column} - interval '{seconds} seconds'" for column in columns)
            await self.connection.execute(f'UPDATE "head ""race".{table} SET {aged}')
        # However long a test takes, its queue is looked after all the while.
        await self.connection.execute('UPDATE "head ""race".watches SET seen_at = now()')

    async def dead_letters(self) -> list[DeadLetter]:
        rows = await self.connection.fetch(
            'SELECT name, reason, error, attempt, failures FROM "head ""race".dead_jobs ORDER BY dead_at'
        )
        return [DeadLetter(**{**row, "failures": failures_from(row["failures"])}) for row in rows]

    async def finished(self) -> list[Finished]:
        rows = await self.connection.fetch(
            'SELECT name, outcome, attempt FROM "head ""race".finished_jobs ORDER BY finished_at'
        )
        return [Finished(**dict(row)) for row in rows]

    async def inspector(self) -> PostgresInspector:
        # Opened late: the schema must be there.
        if self._inspector is None:
            inspector = PostgresInspector(self.place, lease_seconds=LEASE_SECONDS)
            self._inspector = await self._stack.enter_async_context(inspector)
        return self._inspector

    async def close(self) -> None:
        await self._stack.aclose()


def failures_from(stored: str | None) -> tuple[Failure, ...]:
    return tuple(
        Failure(**{**failure, "at": datetime.fromisoformat(failure["at"])}) for failure in json.loads(stored or "[]")
    )


class TestPostgres(QueueContract):
    @pytest.fixture
    async def bench(self, database_dsn: str) -> AsyncIterator[PostgresBench]:
        connection = await asyncpg.connect(database_dsn)
        try:
            bench = PostgresBench(database_dsn, connection)
            yield bench
            await bench.close()
        finally:
            await connection.close()
