"""What provisioning a queue in Postgres leaves alone, and what it tells of the server."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from headrace.job import NewJob
from headrace.queues.base import Owner, QueueSettings, Removed
from headrace.queues.errors import PlaceTakenError, QueueUnavailableError
from headrace.queues.postgres import Place, PostgresProvisioner, PostgresQueue, ProvisioningSession
from headrace.queues.postgres.provisioner import OWNER_STALE_SECONDS
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


HERE = replace(OWNER, cluster="here")
ELSEWHERE = replace(OWNER, uid="2", cluster="elsewhere")


class TestTwoClusters:
    """The same manifests, and the same database."""

    async def test_a_living_owner_of_another_cluster_keeps_its_queue(self, database_dsn: str) -> None:
        provisioner = PostgresProvisioner(Place(dsn=database_dsn))
        await provisioner.ensure("orders", QueueSettings(), HERE)
        with pytest.raises(PlaceTakenError, match=r'JobQueue shop/orders of another cluster.* headrace.dev/adopt: "1"'):
            await provisioner.ensure("orders", QueueSettings(max_retries=7), ELSEWHERE)
        assert not (await provisioner.ensure("orders", QueueSettings(), HERE)).changed
        assert await provisioner.remove("orders", ELSEWHERE) is None

    async def test_an_object_made_anew_in_the_same_cluster_takes_its_queue_back_at_once(
        self, database_dsn: str
    ) -> None:
        provisioner = PostgresProvisioner(Place(dsn=database_dsn))
        await provisioner.ensure("orders", QueueSettings(), HERE)
        assert (await provisioner.ensure("orders", QueueSettings(), replace(HERE, uid="3"))).changed

    async def test_one_that_was_not_seen_for_long_is_gone(self, database_dsn: str) -> None:
        provisioner = PostgresProvisioner(Place(dsn=database_dsn))
        await provisioner.ensure("orders", QueueSettings(), HERE)
        unseen = f"UPDATE headrace.queues SET owner_seen_at = now() - interval '{OWNER_STALE_SECONDS - 60} s'"
        await execute(database_dsn, unseen)
        with pytest.raises(PlaceTakenError, match="179 minutes ago"):
            await provisioner.ensure("orders", QueueSettings(), ELSEWHERE)
        await execute(database_dsn, "UPDATE headrace.queues SET owner_seen_at = owner_seen_at - interval '60 s'")
        assert "adopted" in (await provisioner.ensure("orders", QueueSettings(), ELSEWHERE)).details
        with pytest.raises(PlaceTakenError):
            await provisioner.ensure("orders", QueueSettings(), HERE)

    async def test_who_ensures_is_seen(self, database_dsn: str) -> None:
        provisioner = PostgresProvisioner(Place(dsn=database_dsn))
        await provisioner.ensure("orders", QueueSettings(), HERE)
        await execute(database_dsn, "UPDATE headrace.queues SET owner_seen_at = now() - interval '1 day'")
        assert not (await provisioner.ensure("orders", QueueSettings(), HERE)).changed
        with pytest.raises(PlaceTakenError, match="0 minutes ago"):
            await provisioner.ensure("orders", QueueSettings(), ELSEWHERE)

    async def test_a_living_owners_queue_is_taken_over_when_that_is_asked_for(self, database_dsn: str) -> None:
        provisioner = PostgresProvisioner(Place(dsn=database_dsn))
        await provisioner.ensure("orders", QueueSettings(), HERE)
        assert (await provisioner.ensure("orders", QueueSettings(), ELSEWHERE, adopts_from=HERE.uid)).changed
        stranger = Owner(namespace="other", name="orders", uid="9", cluster="elsewhere")
        with pytest.raises(PlaceTakenError, match="belongs to JobQueue shop/orders:"):
            await provisioner.ensure("orders", QueueSettings(), stranger, adopts_from=ELSEWHERE.uid)

    async def test_what_asks_for_that_takes_nothing_back_where_it_is_left_standing_in_both(
        self, database_dsn: str
    ) -> None:
        provisioner = PostgresProvisioner(Place(dsn=database_dsn))
        await provisioner.ensure("orders", QueueSettings(), HERE)
        await provisioner.ensure("orders", QueueSettings(), ELSEWHERE, adopts_from=HERE.uid)
        with pytest.raises(PlaceTakenError, match=r'headrace\.dev/adopt: "2"'):
            await provisioner.ensure("orders", QueueSettings(), HERE, adopts_from=HERE.uid)
        assert not (await provisioner.ensure("orders", QueueSettings(), ELSEWHERE, adopts_from=HERE.uid)).changed


async def test_removing_tells_how_many_jobs_went(database_dsn: str) -> None:
    place = Place(dsn=database_dsn)
    provisioner = PostgresProvisioner(place)
    await provisioner.ensure("orders", QueueSettings(), OWNER)
    async with PostgresQueue(place, "orders") as queue:
        await queue.enqueue([NewJob(), NewJob(), NewJob(delay_seconds=60), NewJob(group="g"), NewJob(group="g")])
    assert await provisioner.remove("orders", OWNER) == Removed(jobs=5)


async def test_a_migration_that_waits_for_another_says_so(database_dsn: str) -> None:
    steps: list[str] = []
    provisioner = PostgresProvisioner(Place(dsn=database_dsn), progress=steps.append)
    rival = await asyncpg.connect(database_dsn)
    try:
        async with rival.transaction():
            await rival.execute("SELECT pg_advisory_xact_lock(hashtextextended('headrace.dev/migrate/headrace', 0))")
            ensuring = asyncio.create_task(provisioner.ensure("orders", QueueSettings(), OWNER))
            await eventually(lambda: bool(steps), what="a step")
        await ensuring
    finally:
        await rival.close()
    assert steps[0] == "waiting for somebody else's migration of schema headrace"
    assert steps[1].startswith("migrating schema headrace to version 1")


async def test_calls_of_a_session_share_one_connection_whatever_their_schema(own_postgres: PostgresServer) -> None:
    place = Place(dsn=own_postgres.dsn)
    observer = await asyncpg.connect(own_postgres.dsn)
    session = ProvisioningSession(place)
    try:
        pids = set()
        for schema in ("one", "two"):
            await PostgresProvisioner(replace(place, schema=schema), session=session).ensure(
                "orders", QueueSettings(), OWNER
            )
            pids |= {
                row["pid"]
                for row in await observer.fetch(
                    "SELECT pid FROM pg_stat_activity WHERE application_name = 'headrace-migrate'"
                )
            }
        assert len(pids) == 1
        await observer.execute("SELECT pg_terminate_backend($1)", pids.pop())
        provisioner = PostgresProvisioner(place, session=session)
        with contextlib.suppress(QueueUnavailableError):
            await provisioner.ensure("orders", QueueSettings(), OWNER)
        assert (await provisioner.ensure("letters", QueueSettings(), OWNER)).changed
    finally:
        await session.close()
        await observer.close()
