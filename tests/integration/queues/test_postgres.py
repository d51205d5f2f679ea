"""What only queues in Postgres have: errors with a fix, migrations, plans, TLS, and outages."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from importlib import resources
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from headrace.job import NewJob
from headrace.queues.base import (
    Owner,
    PlaceTakenError,
    QueueAccessError,
    QueueError,
    QueueNotFoundError,
    QueueSettings,
    QueueUnavailableError,
    SchemaVersionError,
)
from headrace.queues.postgres import Place, PostgresBacklog, PostgresProvisioner, PostgresQueue
from headrace.queues.postgres.statements import migrations, queries
from support.certificates import Authority

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support.postgres import PostgresServer

OWNER = Owner(namespace="shop", name="orders", uid="1")


@pytest.fixture
async def admin(database_dsn: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(database_dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def place(database_dsn: str) -> Place:
    place = Place(dsn=database_dsn)
    await PostgresProvisioner(place).ensure("orders", QueueSettings(), OWNER)
    return place


def with_user(dsn: str, user: str) -> str:
    parts = urlsplit(dsn)
    return urlunsplit(parts._replace(netloc=f"{user}:hidden@{parts.netloc.rpartition('@')[2]}"))


async def opening(place: Place) -> QueueError:
    with pytest.raises(QueueError) as caught:
        async with PostgresQueue(place, "orders"):
            pass
    assert "hidden" not in str(caught.value)
    assert caught.value.__cause__ is None
    return caught.value


class TestErrors:
    @pytest.mark.parametrize(
        ("dsn", "kind", "fix"),
        [
            ("nonsense hidden", QueueAccessError, "postgresql://USER"),
            ("mysql://me:hidden@db/x", QueueAccessError, "postgresql://USER"),
            ("postgresql://me:hidden@db:port/x", QueueAccessError, "postgresql://USER"),
            ("postgresql://me:hidden@db/x?sslmode=perhaps", QueueAccessError, "postgresql://USER"),
            ("postgresql://me:hidden@no-such-host.invalid/x", QueueUnavailableError, "resolved"),
            ("postgresql://me:hidden@127.0.0.1:1/x", QueueUnavailableError, "can't be reached"),
        ],
    )
    async def test_a_dsn_that_leads_nowhere(self, dsn: str, kind: type[QueueError], fix: str) -> None:
        error = await opening(Place(dsn=dsn))
        assert type(error) is kind
        assert fix in str(error)

    async def test_an_unknown_user_is_refused(self, place: Place) -> None:
        error = await opening(Place(dsn=with_user(place.dsn, "nobody_here")))
        assert isinstance(error, QueueAccessError)
        assert "mend user and password" in str(error)

    async def test_a_database_that_does_not_exist(self, place: Place) -> None:
        error = await opening(Place(dsn=place.dsn + "_not"))
        assert isinstance(error, QueueNotFoundError)

    async def test_a_schema_without_queues(self, place: Place) -> None:
        error = await opening(Place(dsn=place.dsn, schema="elsewhere"))
        assert isinstance(error, QueueNotFoundError)
        assert "headrace migrate" in str(error)

    async def test_a_user_without_rights(self, place: Place, admin: asyncpg.Connection[asyncpg.Record]) -> None:
        await admin.execute("CREATE ROLE headrace_test_guest LOGIN PASSWORD 'hidden'")
        try:
            guest = Place(dsn=with_user(place.dsn, "headrace_test_guest"))
            error = await opening(guest)
            assert isinstance(error, QueueAccessError)
            assert "grant" in str(error)
            with pytest.raises(QueueAccessError, match="grant"):
                await PostgresProvisioner(Place(dsn=guest.dsn, schema="new")).ensure("orders", QueueSettings(), OWNER)
            await admin.execute("GRANT USAGE ON SCHEMA headrace TO headrace_test_guest")
            await admin.execute("GRANT SELECT ON ALL TABLES IN SCHEMA headrace TO headrace_test_guest")
            async with PostgresBacklog(guest) as backlog:
                assert set(await backlog.depths(["orders"])) == {"orders"}, "reading is all that the operator needs"
        finally:
            await admin.execute("DROP OWNED BY headrace_test_guest; DROP ROLE headrace_test_guest")

    @pytest.mark.parametrize("schema", ["", "x" * 64, "a\x00b"])
    def test_a_schema_name_that_postgres_would_cut_off(self, schema: str) -> None:
        with pytest.raises(QueueError, match="schema"):
            PostgresQueue(Place(dsn="postgresql://db/x", schema=schema), "orders")

    async def test_errors_of_any_text_can_be_kept(
        self, place: Place, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        async with PostgresQueue(place, "orders") as queue:
            await queue.enqueue([NewJob()])
            (delivery,) = await queue.receive(1)
            assert (await queue.retry(delivery, delay_seconds=0, error="\x00zero \ud800lone")).accepted == 1
        assert await admin.fetchval("SELECT last_error FROM headrace.jobs") == "zero ?lone"


class TestMigrations:
    def test_they_are_numbered_without_gaps(self) -> None:
        assert [migration.version for migration in migrations()] == list(range(1, len(migrations()) + 1))

    def test_every_query_has_a_name_and_a_description_and_is_used(self) -> None:
        package = resources.files("headrace.queues.postgres")
        text = package.joinpath("queries.sql").read_text()
        code = "".join(file.read_text() for file in package.iterdir() if file.name.endswith(".py"))
        assert len(queries("headrace")) == len(re.findall(r"^-- name:", text, re.MULTILINE))
        assert [name for name in queries("headrace") if f'"{name}"' not in code] == []
        assert not any("{" in sql for sql in queries("headrace").values())

    async def test_migrators_at_once_make_one_schema(self, database_dsn: str) -> None:
        place = Place(dsn=database_dsn)
        made = await asyncio.gather(
            *(PostgresProvisioner(place).ensure("orders", QueueSettings(), OWNER) for _ in range(5))
        )
        assert sorted(provisioned.changed for provisioned in made) == [False] * 4 + [True]

    async def test_a_newer_schema_that_says_it_is_compatible_still_works(
        self, place: Place, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        newest = migrations()[-1].version
        await admin.execute(f"INSERT INTO headrace.migrations VALUES ({newest + 1}, 'later', {newest})")
        async with PostgresQueue(place, "orders") as queue:
            await queue.enqueue([NewJob()])
        assert not (await PostgresProvisioner(place).ensure("orders", QueueSettings(), OWNER)).changed

    async def test_a_schema_too_new_for_this_code_is_refused(
        self, place: Place, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        newest = migrations()[-1].version
        await admin.execute(f"INSERT INTO headrace.migrations VALUES ({newest + 1}, 'later', {newest + 1})")
        assert isinstance(await opening(place), SchemaVersionError)
        with pytest.raises(SchemaVersionError, match="upgrade this program"):
            await PostgresProvisioner(place).ensure("orders", QueueSettings(), OWNER)

    async def test_a_schema_too_old_for_this_code_is_refused(
        self, place: Place, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        await admin.execute("UPDATE headrace.migrations SET version = version - 1, compatible_with = 0")
        error = await opening(place)
        assert isinstance(error, SchemaVersionError)
        assert "headrace migrate" in str(error)

    async def test_somebody_elses_tables_are_left_alone(
        self, database_dsn: str, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        await admin.execute("CREATE TABLE public.jobs (theirs text)")
        with pytest.raises(PlaceTakenError, match="choose another schema"):
            await PostgresProvisioner(Place(dsn=database_dsn, schema="public")).ensure("orders", QueueSettings(), OWNER)
        assert await admin.fetchval("SELECT to_regclass('public.queues') IS NULL"), "all or nothing"


class TestPlans:
    @pytest.mark.parametrize(
        ("query", "arguments"),
        [
            ("claim", "1, 100, 1"),
            ("promote", "1, 100"),
            ("complete", "ARRAY[1, 2, 3]::bigint[], 1, 1"),
            ("release", "ARRAY[1, 2, 3]::bigint[], 1, 1, 0"),
            ("retry", "1, 1, 1, 1, 0, ''"),
            ("rescue", "1, 100"),
            ("expire", "1, 100"),
            ("depths", "ARRAY['orders']"),
        ],
    )
    async def test_no_hot_query_walks_the_whole_queue(
        self, place: Place, admin: asyncpg.Connection[asyncpg.Record], query: str, arguments: str
    ) -> None:
        for name in ("orders", *(f"neighbour-{number}" for number in range(9))):
            await PostgresProvisioner(place).ensure(name, QueueSettings(), Owner(namespace="shop", name=name, uid="1"))
            async with PostgresQueue(place, name) as queue:
                await queue.enqueue([NewJob()] * 2000)
        await admin.execute("VACUUM ANALYZE headrace.jobs")
        # The generic plan is what a prepared statement ends up with.
        await admin.execute("SET plan_cache_mode = force_generic_plan")
        await admin.execute(f"PREPARE hot AS {queries('headrace')[query]}")
        plan = "\n".join(row[0] for row in await admin.fetch(f"EXPLAIN EXECUTE hot ({arguments})"))
        assert not re.search(r"Seq Scan on jobs|using jobs_pkey[^\n]*\n(?!.*Index Cond)", plan), plan


class TestOutages:
    async def test_after_a_lost_connection_the_next_call_works(
        self, place: Place, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        async with PostgresQueue(place, "orders") as queue:
            await queue.enqueue([NewJob()])
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            with suppress(QueueUnavailableError):
                await queue.depth()
            assert (await queue.depth()).ready == 1

    async def test_nobody_is_judged_while_the_server_is_younger_than_a_lease(
        self, own_postgres: PostgresServer
    ) -> None:
        assert await rescued_after_expiry(own_postgres.dsn, lease_seconds=3600) == 0

    async def test_a_lease_that_ran_out_is_judged_once_the_server_is_older(self, own_postgres: PostgresServer) -> None:
        assert await rescued_after_expiry(own_postgres.dsn, lease_seconds=0.001) == 1

    async def test_who_was_cut_off_lets_others_report_before_judging(self, own_postgres: PostgresServer) -> None:
        place = Place(dsn=own_postgres.dsn)
        await PostgresProvisioner(place).ensure("orders", QueueSettings(), OWNER)
        async with (
            PostgresQueue(place, "orders", lease_seconds=0.001) as dead,
            PostgresQueue(place, "orders", lease_seconds=3600) as cut_off,
        ):
            await dead.keep_alive()
            await dead.enqueue([NewJob()])
            await dead.receive(1)
            own_postgres.stop()
            with pytest.raises(QueueUnavailableError):
                await cut_off.maintain()
            own_postgres.start()
            assert (await cut_off.maintain()).rescued == 0


async def rescued_after_expiry(dsn: str, *, lease_seconds: float) -> int:
    place = Place(dsn=dsn)
    await PostgresProvisioner(place).ensure("orders", QueueSettings(), OWNER)
    async with PostgresQueue(place, "orders", lease_seconds=lease_seconds) as queue:
        await queue.keep_alive()
        await queue.enqueue([NewJob()])
        await queue.receive(1)
        connection = await asyncpg.connect(dsn)
        await connection.execute("UPDATE headrace.leases SET expires_at = now() - interval '1 day'")
        await connection.close()
        return (await queue.maintain()).rescued


class TestTls:
    async def test_with_a_ca_the_certificate_and_the_name_are_verified(self, own_postgres: PostgresServer) -> None:
        authority = Authority()
        pair = authority.sign(address="127.0.0.1")
        own_postgres.stop()
        own_postgres.start(
            "ssl=on",
            f"ssl_cert_file={own_postgres.give('server.crt', pair.certificate)}",
            f"ssl_key_file={own_postgres.give('server.key', pair.key)}",
        )
        trusting = Place(dsn=own_postgres.dsn, ca_certificates=authority.certificate)
        await PostgresProvisioner(trusting).ensure("orders", QueueSettings(), OWNER)
        async with PostgresQueue(trusting, "orders") as queue:
            await queue.enqueue([NewJob()])

        for distrusting in (
            Place(dsn=own_postgres.dsn, ca_certificates=Authority().certificate),
            Place(dsn=own_postgres.dsn.replace("127.0.0.1", "localhost"), ca_certificates=authority.certificate),
            Place(dsn=own_postgres.dsn, ca_certificates="no PEM"),
        ):
            assert isinstance(await opening(distrusting), QueueAccessError)

    async def test_with_a_ca_a_server_without_tls_is_refused(self, own_postgres: PostgresServer) -> None:
        error = await opening(Place(dsn=own_postgres.dsn, ca_certificates=Authority().certificate))
        assert "TLS" in str(error) or "SSL" in str(error)
