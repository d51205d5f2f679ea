"""Effects in the queue's own database that commit together with their job: exactly once, whatever dies when."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg
import pytest

from headrace import App, Context, new_job
from headrace.metrics import Metrics
from headrace.queues.base import Owner, QueueSettings
from headrace.queues.errors import UnsupportedCapabilityError
from headrace.queues.postgres import Place, PostgresProvisioner, PostgresQueue
from headrace.retry import RetryPolicy
from headrace.runtime.handlers.python import PythonHandler
from headrace.runtime.worker import Worker
from support.verbs import enqueue
from support.worker_process import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

HEARTBEAT_SECONDS = 0.4
LEASE_SECONDS = 3.0
KILLED_JOBS = 300
SEED = 4


class World:
    """A database with a queue and a ledger; workers of one app on it. The app stands for many: it opens pools anew."""

    def __init__(self, dsn: str, admin: asyncpg.Connection[asyncpg.Record]) -> None:
        self.dsn = dsn
        self.admin = admin
        self.place = Place(dsn=dsn)
        self.app = App()

    async def ledger(self) -> list[str]:
        rows = await self.admin.fetch("SELECT job_id FROM ledger ORDER BY job_id::bigint")
        return [row["job_id"] for row in rows]

    async def left(self) -> int:
        count: int = await self.admin.fetchval(
            "SELECT (SELECT count(*) FROM headrace.jobs) + (SELECT count(*) FROM headrace.parked_jobs) "
            "+ (SELECT count(*) FROM headrace.dead_jobs) + (SELECT count(*) FROM headrace.claims)"
        )
        return count

    async def is_done(self) -> bool:
        return await self.left() == 0

    @asynccontextmanager
    async def working(self, *, slots: int = 4) -> AsyncIterator[Metrics]:
        metrics = Metrics()
        worker = Worker(
            PostgresQueue(self.place, "orders", lease_seconds=LEASE_SECONDS),
            PythonHandler(self.app, threads=slots),
            metrics.of("shop", "orders"),
            slots=slots,
            poll_interval_seconds=0.1,
            drain_timeout_seconds=5,
            retry=RetryPolicy(initial_delay_seconds=0.01, max_delay_seconds=0.2),
            heartbeat_seconds=HEARTBEAT_SECONDS,
        )
        task = asyncio.create_task(worker.run())
        try:
            yield metrics
        finally:
            worker.stop()
            await task


@pytest.fixture
async def world(database_dsn: str) -> AsyncIterator[World]:
    admin = await asyncpg.connect(database_dsn)
    await admin.execute("CREATE TABLE ledger (job_id text NOT NULL)")  # Not unique: what happens twice shall show.
    await PostgresProvisioner(Place(dsn=database_dsn)).ensure(
        "orders", QueueSettings(max_retries=10_000), Owner(namespace="shop", name="orders", uid="1")
    )
    yield World(database_dsn, admin)
    await admin.close()


def counted(metrics: Metrics, name: str) -> float:
    prefix = f'background_jobs_{name}{{namespace="shop",queue="orders"}} '
    lines = metrics.render().decode().splitlines()
    return next(float(line.removeprefix(prefix)) for line in lines if line.startswith(prefix))


def declare_async(world: World) -> None:
    @world.app.job("note")
    async def note(payload: Any, context: Context) -> None:
        connection = await asyncpg.connect(world.dsn)
        try:
            async with connection.transaction():
                await connection.execute("INSERT INTO ledger VALUES ($1)", context.job.id)
                await context.complete(connection)
        finally:
            await connection.close()


def declare_sync(world: World) -> None:
    @world.app.job("note")
    def note(payload: Any, context: Context) -> None:
        with psycopg.connect(world.dsn) as connection:
            connection.execute("INSERT INTO ledger VALUES (%s)", (context.job.id,))
            context.complete_sync(connection)


@pytest.mark.parametrize("declare", [declare_async, declare_sync])
async def test_a_handler_commits_its_work_with_its_job(world: World, declare: Callable[[World], None]) -> None:
    declare(world)
    async with PostgresQueue(world.place, "orders") as queue:
        jobs = [new_job("note", group=f"g{number % 3}" if number % 2 else None) for number in range(30)]
        ids = await enqueue(queue, jobs)
    async with world.working() as metrics:
        await eventually(world.is_done, what="all done")
        await eventually(lambda: counted(metrics, "completed_total") == len(ids), what="all counted")
        assert counted(metrics, "refused_completions_total") == 0
        assert counted(metrics, "retried_total") == 0
    assert await world.ledger() == sorted(ids, key=int)


async def test_a_handler_that_fails_before_its_commit_is_tried_again_without_an_effect(world: World) -> None:
    @world.app.job("note")
    async def note(payload: Any, context: Context) -> None:
        connection = await asyncpg.connect(world.dsn)
        try:
            async with connection.transaction():
                await connection.execute("INSERT INTO ledger VALUES ($1)", context.job.id)
                await context.complete(connection)
                if context.attempt < 3:
                    raise ValueError("not yet")
        finally:
            await connection.close()

    async with PostgresQueue(world.place, "orders") as queue:
        ids = await enqueue(queue, [new_job("note")])
    async with world.working() as metrics:
        await eventually(world.is_done, what="done")
        assert counted(metrics, "retried_total") == 2
    assert await world.ledger() == ids


async def test_a_context_made_without_a_queue_says_that_it_completes_nothing() -> None:
    context = Context(job=None)  # type: ignore[arg-type]  # as a handler's own test might
    with pytest.raises(UnsupportedCapabilityError):
        await context.complete("a connection")
    with pytest.raises(UnsupportedCapabilityError):
        context.complete_sync("a connection")


def declare_mortal_async(world: World) -> None:
    chance = random.Random(SEED)

    @world.app.job("note")
    async def note(payload: Any, context: Context) -> None:
        connection = await asyncpg.connect(world.dsn)
        try:
            async with connection.transaction():
                await connection.execute("INSERT INTO ledger VALUES ($1)", context.job.id)
                await asyncio.sleep(chance.uniform(0, 0.02))
                await context.complete(connection)
                await asyncio.sleep(chance.uniform(0, 0.02))
            if chance.random() < 0.3:
                raise RuntimeError("dead, after the commit")
        finally:
            connection.terminate()


def declare_mortal_sync(world: World) -> None:
    chance = random.Random(SEED)

    @world.app.job("note")
    def note(payload: Any, context: Context) -> None:
        with psycopg.connect(world.dsn) as connection:
            connection.execute("INSERT INTO ledger VALUES (%s)", (context.job.id,))
            time.sleep(chance.uniform(0, 0.02))
            context.complete_sync(connection)
            time.sleep(chance.uniform(0, 0.02))
        if chance.random() < 0.3:
            raise RuntimeError("dead, after the commit")


@pytest.mark.parametrize("declare", [declare_mortal_async, declare_mortal_sync])
async def test_sessions_killed_leases_lost_and_handlers_dead_at_any_moment_neither_repeat_nor_lose_an_effect(
    world: World, declare: Callable[[World], None]
) -> None:
    chance = random.Random(SEED)
    declare(world)
    async with PostgresQueue(world.place, "orders") as queue:
        ids = await enqueue(
            queue,
            [new_job("note", group=f"g{number % 5}" if number % 3 == 0 else None) for number in range(KILLED_JOBS)],
        )
    killed = rescues = 0
    admins = [world.admin.get_server_pid()]

    async def kill() -> None:
        """Handlers' sessions, workers' own, whichever: one at a time, in mid-statement or between two."""
        nonlocal killed, rescues
        connection = await asyncpg.connect(world.dsn)
        admins.append(connection.get_server_pid())
        try:
            for number in itertools.count(1):
                # A worker has two sessions, and one is to live for a call.
                await asyncio.sleep(chance.uniform(0, 0.1))
                pids = await connection.fetch(
                    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> ALL ($1) "
                    "AND backend_type = 'client backend' ORDER BY pid",
                    admins,
                )
                if pids:
                    await connection.execute("SELECT pg_terminate_backend($1)", chance.choice(pids)[0])
                    killed += 1
                if number % 10 == 0 and rescues < 2:
                    # As if the workers had been away for long: their handlers run on, and others have the jobs.
                    # (Not three times: that would be a poisonous job.)
                    await connection.execute("UPDATE headrace.leases SET expires_at = now() - interval '1 minute'")
                    rescues += await connection.fetchval(
                        "SELECT (rescued > 0)::integer FROM headrace.queues, headrace.rescue(id, 0, 9)"
                    )
        finally:
            await connection.close()

    async with world.working(), world.working():
        killer = asyncio.create_task(kill())
        try:
            await eventually(lambda: seen(world, KILLED_JOBS * 9 // 10), what="nearly all done")
        finally:
            killer.cancel()
            with suppress(asyncio.CancelledError):
                await killer
        await eventually(world.is_done, what="all done")
    assert killed > 10
    assert rescues > 0
    assert await world.ledger() == sorted(ids, key=int)


async def seen(world: World, count: int) -> bool:
    return len(await world.ledger()) >= count
