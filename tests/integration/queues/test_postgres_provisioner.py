"""What provisioning a queue in Postgres leaves alone, and what it tells of the server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from headrace.queues.base import Owner, QueueSettings
from headrace.queues.postgres import Place, PostgresProvisioner
from support.worker_process import eventually

if TYPE_CHECKING:
    from support.postgres import PostgresServer

OWNER = Owner(namespace="shop", name="orders", uid="1")


async def execute(dsn: str, *statements: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def is_paused(dsn: str) -> tuple[bool, bool]:
    """By the queue's owner, and by hand."""
    connection = await asyncpg.connect(dsn)
    try:
        row = await connection.fetchrow("SELECT paused, paused_by_hand FROM headrace.queues WHERE name = 'orders'")
        assert row is not None
        return row["paused"], row["paused_by_hand"]
    finally:
        await connection.close()


async def test_a_pause_by_hand_is_none_of_the_owners_business(database_dsn: str) -> None:
    provisioner = PostgresProvisioner(Place(dsn=database_dsn))
    await provisioner.ensure("orders", QueueSettings(), OWNER)
    await execute(database_dsn, "UPDATE headrace.queues SET paused_by_hand = true")

    assert not (await provisioner.ensure("orders", QueueSettings(), OWNER)).changed
    assert await is_paused(database_dsn) == (False, True)

    assert (await provisioner.ensure("orders", QueueSettings(paused=True), OWNER)).changed
    assert (await provisioner.ensure("orders", QueueSettings(), OWNER)).changed
    assert await is_paused(database_dsn) == (False, True)


@pytest.fixture
async def ordinary_dsn(own_postgres: PostgresServer) -> str:
    """A user who is no superuser, on a server of 200 connections of which 3 are reserved for superusers."""
    await execute(own_postgres.dsn, "CREATE ROLE shop LOGIN")
    return urlunsplit(urlsplit(own_postgres.dsn)._replace(netloc=f"shop@127.0.0.1:{own_postgres.port}"))


async def allowed(dsn: str) -> int:
    return await PostgresProvisioner(Place(dsn=dsn)).allowed_connections()


async def test_ordinary_users_may_have_what_is_not_reserved(own_postgres: PostgresServer, ordinary_dsn: str) -> None:
    assert await allowed(ordinary_dsn) == 197
    assert await allowed(own_postgres.dsn) == 197, "what is reserved for superusers is not for workers"


async def test_the_limits_of_the_user_and_of_its_database_hold(own_postgres: PostgresServer, ordinary_dsn: str) -> None:
    await execute(own_postgres.dsn, "ALTER DATABASE postgres CONNECTION LIMIT 40")
    assert await allowed(ordinary_dsn) == 40
    await execute(own_postgres.dsn, "ALTER ROLE shop CONNECTION LIMIT 12")
    assert await allowed(ordinary_dsn) == 12
    assert await allowed(own_postgres.dsn) == 197, "no limit holds a superuser"


async def test_connections_that_are_set_aside_are_not_counted(own_postgres: PostgresServer, ordinary_dsn: str) -> None:
    own_postgres.stop()
    own_postgres.start("superuser_reserved_connections=10")
    assert await allowed(ordinary_dsn) == 190


async def test_provisioning_tells_it_too(database_dsn: str) -> None:
    provisioner = PostgresProvisioner(Place(dsn=database_dsn))
    made = await provisioner.ensure("orders", QueueSettings(), OWNER)
    assert made.facts["max_connections"] == await provisioner.allowed_connections()
    assert (await provisioner.migrate()).facts == made.facts


async def test_removing_a_queue_is_not_held_up_by_the_servers_own_vacuuming(own_postgres: PostgresServer) -> None:
    provisioner = PostgresProvisioner(Place(dsn=own_postgres.dsn))
    await provisioner.ensure("orders", QueueSettings(), OWNER)
    own_postgres.stop()
    own_postgres.start("autovacuum_naptime=1")
    # A pause after each page: for minutes.
    await execute(
        own_postgres.dsn,
        "ALTER TABLE headrace.jobs SET (autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1)",
        "INSERT INTO headrace.jobs (queue_id, payload) SELECT 2, repeat('x', 999)::bytea FROM generate_series(1, 9999)",
        "DELETE FROM headrace.jobs WHERE id % 10 > 0",
    )
    await eventually(lambda: is_vacuumed(own_postgres.dsn), what="being vacuumed")
    assert await provisioner.remove("orders", OWNER)


async def test_what_a_queue_has_kept_goes_before_others_are_held_up(database_dsn: str) -> None:
    """However much that is: only the last moment needs a lock that producers of other queues wait for."""
    provisioner = PostgresProvisioner(Place(dsn=database_dsn))
    for name in ("orders", "mails"):
        await provisioner.ensure(name, QueueSettings(), OWNER)
    await execute(
        database_dsn,
        "INSERT INTO headrace.dead_jobs (id, queue_id, reason) SELECT n, 1, 'x' FROM generate_series(1, 25000) AS n",
        "INSERT INTO headrace.finished_jobs (id, queue_id, outcome)"
        " SELECT n, 1, 'completed' FROM generate_series(1, 25000) AS n",
        "INSERT INTO headrace.deduplication_keys (queue_id, key, job_id)"
        " SELECT 1, n, n FROM generate_series(1, 25000) AS n",
    )
    application = await asyncpg.connect(database_dsn)

    async def is_all_but_gone() -> bool:
        kept = "SELECT count(*) FROM headrace.{}"
        tables = ("dead_jobs", "finished_jobs", "deduplication_keys")
        return not any([await application.fetchval(kept.format(table)) for table in tables])

    try:
        async with application.transaction():
            await application.execute("SELECT headrace.enqueue('mails', 'job')")
            removing = asyncio.create_task(provisioner.remove("orders", OWNER))
            await eventually(is_all_but_gone, what="its batches removed")
            assert await application.fetchval("SELECT count(*) FROM headrace.queues") == 2
        assert await removing
        assert await application.fetchval("SELECT count(*) FROM headrace.queues") == 1
    finally:
        await application.close()


async def is_vacuumed(dsn: str) -> bool:
    connection = await asyncpg.connect(dsn)
    try:
        return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM pg_stat_progress_vacuum)"))
    finally:
        await connection.close()
