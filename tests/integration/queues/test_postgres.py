"""What only queues in Postgres have: errors with a fix, migrations, races, TLS, and outages."""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from msgspec import structs

from headrace.job import MAX_PAYLOAD_BYTES, NewJob
from headrace.queues.base import Enqueued, Owner, Progress, QueueSettings
from headrace.queues.errors import (
    PlaceTakenError,
    QueueAccessError,
    QueueError,
    QueueNotFoundError,
    QueueUnavailableError,
    SchemaVersionError,
)
from headrace.queues.postgres import (
    CONNECTIONS_PER_WORKER,
    Place,
    PostgresBacklog,
    PostgresProvisioner,
    PostgresQueue,
)
from headrace.queues.postgres.connection import ARRAYS, Connector, array_of
from headrace.queues.postgres.statements import migrations, queries
from headrace.queues.settlement import Complete
from support.certificates import Authority
from support.verbs import complete, enqueue, release, retry

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
async def bystander(database_dsn: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
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


async def default_isolation(connection: asyncpg.Connection[asyncpg.Record], isolation: str) -> None:
    database = await connection.fetchval("SELECT quote_ident(current_database())")
    await connection.execute(f"ALTER DATABASE {database} SET default_transaction_isolation = '{isolation}'")


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
            ("postgresql://me:hidden@127.0.0.1:99999/x", QueueAccessError, "postgresql://USER"),
            ("postgresql://me:hidden@no-such-host.invalid/x", QueueUnavailableError, "resolved"),
            ("postgresql://me:hidden@127.0.0.1:1/x", QueueUnavailableError, "can't be reached"),
        ],
    )
    async def test_a_dsn_that_leads_nowhere(self, dsn: str, kind: type[QueueError], fix: str) -> None:
        error = await opening(Place(dsn=dsn))
        assert isinstance(error, kind)
        assert fix in str(error)

    async def test_a_dsn_that_wants_a_certificate_verified_and_gives_no_authority(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        error = await opening(Place(dsn="postgresql://me:hidden@db/x?sslmode=verify-full"))
        assert isinstance(error, QueueAccessError)
        assert "sslrootcert" in str(error)

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

    @pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
    async def test_transactions_that_do_not_see_the_newest(
        self, place: Place, admin: asyncpg.Connection[asyncpg.Record], isolation: str
    ) -> None:
        await default_isolation(admin, isolation)
        error = await opening(place)
        assert f"are {isolation} by default" in str(error)
        assert "ALTER ROLE" in str(error)
        await default_isolation(admin, "read uncommitted")
        async with PostgresQueue(place, "orders") as queue:
            await queue.enqueue([NewJob()])

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

    @pytest.mark.parametrize("schema", ["", "x" * 64, "a\x00b", "half \ud800"])
    def test_a_schema_name_that_postgres_would_cut_off(self, schema: str) -> None:
        with pytest.raises(QueueError, match="schema"):
            PostgresQueue(Place(dsn="postgresql://db/x", schema=schema), "orders")

    async def test_more_than_one_statement_takes_is_all_there_or_none(
        self, place: Place, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        await admin.execute("ALTER TABLE headrace.jobs ADD CHECK (name <> 'refused')")
        large = [NewJob(payload=b" " * MAX_PAYLOAD_BYTES, priority=number % 2) for number in range(18)]
        delayed = NewJob(name="delayed", delay_seconds=60)
        async with PostgresQueue(place, "orders") as queue:
            with pytest.raises(QueueError, match="refused"):
                await queue.enqueue([*large, delayed, NewJob(name="refused")])
            assert (await queue.depth()).ready == 0
            ids = await enqueue(queue, [*large, delayed, NewJob(name="last")])
            assert ids == sorted(set(ids), key=int)
            rows = await admin.fetch("SELECT id::text, name FROM headrace.background_jobs ORDER BY id")
        assert [row["id"] for row in rows] == ids
        assert [row["name"] for row in rows[18:]] == ["delayed", "last"]

    async def test_errors_of_any_text_can_be_kept(
        self, place: Place, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        async with PostgresQueue(place, "orders") as queue:
            await queue.enqueue([NewJob()])
            (delivery,) = await queue.receive(1)
            await queue.report_progress([(delivery, Progress(message="\x00zero \ud800lone"))])
            assert await admin.fetchval("SELECT progress FROM headrace.background_jobs") is not None
            assert (await retry(queue, delivery, error="\x00zero \ud800lone")).accepted == 1
        stored = await admin.fetchval("SELECT failures -> 0 ->> 'error' FROM headrace.jobs")
        assert stored == "zero ?lone"


class TestMigrations:
    def test_they_are_numbered_without_gaps(self) -> None:
        assert [migration.version for migration in migrations()] == list(range(1, len(migrations()) + 1))

    def test_every_query_has_a_name_and_a_description_and_is_used(self) -> None:
        package = resources.files("headrace.queues.postgres")
        text = "".join(file.read_text() for file in package.joinpath("queries").iterdir())
        code = "".join(file.read_text() for file in package.iterdir() if file.name.endswith(".py"))
        assert len(queries("headrace")) == len(re.findall(r"^-- name:", text, re.MULTILINE))
        # Those that empty a table are asked for by its name.
        assert [name for name in queries("headrace") if f'"{name.removeprefix("remove_")}"' not in code] == []
        assert not any(re.search(r"\{\w", sql) for sql in queries("headrace").values())

    @pytest.mark.parametrize("isolation", ["read committed", "serializable"])
    async def test_migrators_at_once_make_one_schema(
        self, database_dsn: str, bystander: asyncpg.Connection[asyncpg.Record], isolation: str
    ) -> None:
        await default_isolation(bystander, isolation)
        place = Place(dsn=database_dsn)
        made = await asyncio.gather(
            *(PostgresProvisioner(place).ensure("orders", QueueSettings(), OWNER) for _ in range(5))
        )
        assert sorted(provisioned.changed for provisioned in made) == [False] * 4 + [True]

    @pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
    async def test_a_database_that_can_not_hold_every_text_is_refused(
        self, own_postgres: PostgresServer, encoding: str
    ) -> None:
        connection = await asyncpg.connect(own_postgres.dsn)
        await connection.execute(f"CREATE DATABASE old ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
        await connection.close()
        provisioner = PostgresProvisioner(Place(dsn=f"{own_postgres.dsn.rpartition('/')[0]}/old"))
        with pytest.raises(QueueError, match=f"{encoding}.*CREATE DATABASE … ENCODING 'UTF8'"):
            await provisioner.ensure("orders", QueueSettings(), OWNER)

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

    async def test_a_schema_that_outgrows_a_worker_stops_it_and_takes_nothing_from_it(
        self, place: Place, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        newest = migrations()[-1].version
        async with PostgresQueue(place, "orders") as queue:
            await queue.keep_alive()
            await queue.enqueue([NewJob(), NewJob()])
            (held,) = await queue.receive(1)
            await admin.execute(f"INSERT INTO headrace.migrations VALUES ({newest + 1}, 'later', {newest + 1})")
            await admin.execute("UPDATE headrace.leases SET expires_at = now()")
            for call in (queue.keep_alive(), queue.receive(1), queue.enqueue([NewJob()]), queue.maintain()):
                with pytest.raises(SchemaVersionError, match="upgrade this program"):
                    await call
            assert await admin.fetchval("SELECT expires_at > now() + interval '10 seconds' FROM headrace.leases")
            assert (await release(queue, [held])).accepted == 1, "it hands back what it holds"
            await admin.execute("DELETE FROM headrace.migrations WHERE name = 'later'")
            await queue.keep_alive()
            assert len(await queue.receive(2)) == 2, "the change was undone"

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


class TestRaces:
    """What the contract can't bring about, since it takes a look, or a hand, at the tables."""

    @pytest.fixture
    async def queue(self, place: Place) -> AsyncIterator[PostgresQueue]:
        async with PostgresQueue(place, "orders") as queue:
            yield queue

    @pytest.fixture
    async def other(self, place: Place) -> AsyncIterator[PostgresQueue]:
        async with PostgresQueue(place, "orders") as queue:
            yield queue

    async def test_a_claim_whose_answer_was_lost_is_dropped_by_a_later_heartbeat(
        self, queue: PostgresQueue, other: PostgresQueue, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        await queue.keep_alive()
        await queue.enqueue([NewJob(name="held"), NewJob(name="lost")])
        (held,) = await queue.receive(1)
        await claim_and_lose_the_answer(queue)
        await queue.keep_alive()
        assert await other.receive(1) == [], "an answer may be on its way"
        await admin.execute("UPDATE headrace.claims SET claimed_at = claimed_at - interval '11 seconds'")
        await queue.keep_alive()
        (taken,) = await other.receive(10)
        assert (taken.job.name, taken.job.attempt, taken.is_suspect) == ("lost", 1, False)
        assert (await complete(queue, [held])).accepted == 1

    async def test_who_waits_for_a_deduplication_key_holds_up_no_other_caller(
        self, queue: PostgresQueue, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        async with admin.transaction():
            (first,) = await queue.enqueue_in(admin, [NewJob(name="first", deduplication_key="k")])
            waiting = asyncio.create_task(queue.enqueue([NewJob(name="second", deduplication_key="k")]))
            await asyncio.sleep(0.1)
            others = [[NewJob(deduplication_key=f"k{number}")] for number in range(20)]
            await asyncio.gather(queue.enqueue([NewJob(name="plain")]), *map(queue.enqueue, others))
            assert not waiting.done()
            assert first.is_new
        assert await waiting == [Enqueued(id=first.id, is_new=False)]

    async def test_a_suspect_whose_claim_was_lost_stays_a_suspect(
        self, queue: PostgresQueue, other: PostgresQueue, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        await queue.keep_alive()
        await queue.enqueue([NewJob(name="suspect")])
        await admin.execute(
            "WITH gone AS (DELETE FROM headrace.jobs RETURNING *) "
            "INSERT INTO headrace.parked_jobs (id, queue_id, name, suspect, state) "
            "SELECT id, queue_id, name, true, 'suspect' FROM gone"
        )
        await claim_and_lose_the_answer(queue, "claim_suspect")
        await queue.enqueue([NewJob(name="innocent")])
        await admin.execute("UPDATE headrace.claims SET claimed_at = claimed_at - interval '11 seconds'")
        await queue.keep_alive()
        await other.maintain()
        (suspect,) = await other.receive(10)
        assert (suspect.job.name, suspect.is_suspect) == ("suspect", True)

    async def test_a_suspect_is_given_to_nobody_who_holds_a_job_without_knowing_it(
        self, queue: PostgresQueue, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        await queue.keep_alive()
        await queue.enqueue([NewJob()])
        await claim_and_lose_the_answer(queue)
        await admin.execute(SUSPECT)
        await queue.maintain()
        assert await queue.receive(10) == []

    async def test_a_receive_that_is_cut_off_while_it_leases_loses_nothing(
        self, queue: PostgresQueue, other: PostgresQueue, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        await queue.enqueue([NewJob(name="kept")])
        async with admin.transaction():
            await admin.execute("LOCK TABLE headrace.claims IN SHARE ROW EXCLUSIVE MODE")
            receiving = asyncio.create_task(queue.receive(1))
            await waiting_for_locks(admin, 1)
            receiving.cancel()
            await asyncio.wait([receiving])
        assert [delivery.job.name for delivery in await other.receive(1, wait_seconds=20)] == ["kept"]

    async def test_one_call_finds_what_stands_behind_a_long_backlog_of_names_left_out(
        self, place: Place, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        await admin.execute(
            "INSERT INTO headrace.jobs (queue_id, name) SELECT 1, 'full' FROM generate_series(1, 45000);"
            "INSERT INTO headrace.jobs (queue_id, name) VALUES (1, 'free')"
        )
        async with PostgresQueue(place, "orders") as queue:
            (delivery,) = await queue.receive(10, without={"full"})
            assert delivery.job.name == "free"
            assert await queue.receive(10, without={"full"}) == []
            assert len(await queue.receive(10)) == 10

    async def test_a_lease_without_heartbeats_ends_with_the_call_that_was_cut_off(
        self, queue: PostgresQueue, other: PostgresQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await queue.enqueue([NewJob(name="kept")])

        def cut_off(*_: object) -> None:
            raise asyncio.CancelledError

        with monkeypatch.context() as patched, suppress(asyncio.CancelledError):
            patched.setattr(queue._holdings, "take", cut_off)  # It is claimed, and its answer never comes.
            await queue.receive(1)
        assert [delivery.job.name for delivery in await other.receive(1, wait_seconds=20)] == ["kept"]

    async def test_a_dead_workers_job_that_somebody_has_locked_is_put_back_later(
        self, queue: PostgresQueue, other: PostgresQueue, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        await queue.keep_alive()
        await queue.enqueue([NewJob(name="deadly")])
        (held,) = await queue.receive(1)
        await admin.execute(DEAD)
        async with admin.transaction():
            await admin.execute("SELECT FROM headrace.jobs FOR UPDATE")
            assert (await other.maintain()).rescued == 0
            assert (await complete(queue, [held])).refused == (Complete(delivery=held),), "its lease is gone"
            depth = await other.depth()
            assert (depth.ready, depth.in_flight) == (1, 0), "nobody who is known to live has it"
            left = await admin.fetch("SELECT xmin FROM headrace.claims")
            assert (await other.maintain()).rescued == 0
            assert await admin.fetch("SELECT xmin FROM headrace.claims") == left, "nothing is written in vain"
        assert await other.receive(1) == [], "held until the next round"
        await admin.execute(DEAD)
        assert (await other.maintain()).rescued == 1
        (again,) = await other.receive(1)
        assert (again.job.id, again.job.attempt) == (held.job.id, 1)
        lost = await admin.fetchrow("SELECT losses, deaths FROM headrace.jobs")
        assert tuple(lost or ()) == (1, 1), "its worker held nothing else"
        assert (await complete(other, [again])).accepted == 1
        assert await admin.fetchval("SELECT count(*) FROM headrace.leases") == 0, "nothing is left behind"

    async def test_who_died_with_more_than_the_locked_job_is_not_charged_to_it(
        self, queue: PostgresQueue, other: PostgresQueue, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        await queue.enqueue([NewJob(name="locked"), NewJob(name="free"), NewJob(name="other", priority=5)])
        await queue.receive(3)
        await admin.execute(DEAD)
        async with admin.transaction():
            await admin.execute("SELECT FROM headrace.jobs WHERE name = 'locked' FOR UPDATE")
            assert (await other.maintain()).rescued == 2
        await admin.execute(DEAD)
        assert (await other.maintain()).rescued == 1
        rows = await admin.fetch("SELECT name, losses, deaths FROM headrace.jobs ORDER BY id")
        assert [tuple(row) for row in rows] == [("locked", 1, 0), ("free", 1, 0), ("other", 1, 0)]

    async def test_a_suspect_that_is_locked_when_its_worker_closes_is_still_claimed_alone(
        self, queue: PostgresQueue, place: Place, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        await admin.execute(SUSPECT)
        await queue.enqueue([NewJob(name="innocent")])
        async with admin.transaction(), PostgresQueue(place, "orders") as closing:
            await closing.keep_alive()
            await closing.maintain()
            (suspect,) = await closing.receive(10)
            assert suspect.is_suspect
            await admin.execute("SELECT FROM headrace.jobs WHERE suspect FOR UPDATE")
        await queue.maintain()
        await queue.maintain()
        (again,) = await queue.receive(10)
        assert (again.job.id, again.is_suspect) == ("9", True)
        assert await admin.fetchval("SELECT deaths FROM headrace.jobs WHERE suspect") == 0

    async def test_claims_and_housekeeping_wait_for_nobody(
        self,
        queue: PostgresQueue,
        other: PostgresQueue,
        admin: asyncpg.Connection[asyncpg.Record],
        bystander: asyncpg.Connection[asyncpg.Record],
    ) -> None:
        past = datetime(2000, 1, 1, tzinfo=UTC)
        await queue.enqueue([NewJob(name="locked"), NewJob(name="free"), NewJob(expires_at=past)])
        await queue.enqueue([NewJob(name="due", delay_seconds=60), NewJob(name="head", group="g")])
        await queue.enqueue([NewJob(group="g", expires_at=past)])
        await admin.execute("UPDATE headrace.parked_jobs SET run_at = now() WHERE name = 'due'")
        (cancelled,) = await enqueue(queue, [NewJob(name="cancelled", run_at=datetime(2100, 1, 1, tzinfo=UTC))])
        async with admin.transaction():
            await admin.execute("SELECT headrace.lock_groups(1, ARRAY ['g'])")
            await admin.execute("SELECT FROM headrace.jobs WHERE name = 'locked' OR expires_at < now() FOR UPDATE")
            await admin.execute("SELECT FROM headrace.parked_jobs WHERE name IN ('due', 'cancelled') FOR UPDATE")
            assert [delivery.job.name for delivery in await other.receive(10)] == ["free"]
            assert await bystander.fetchval("SELECT headrace.cancel(1, $1)", int(cancelled)) == "requested"
            done = await other.maintain()
            assert (done.expired, done.cancelled, done.promoted) == (0, 0, 0)
        done = await other.maintain()
        assert (done.expired, done.cancelled) == (2, 1)
        received: set[str] = set()
        while len(received) < 3:  # What was locked stands below what was found before: another look may be needed.
            received.update(delivery.job.name for delivery in await other.receive(10, wait_seconds=1))
        assert received == {"due", "head", "locked"}

    async def test_ending_a_job_frees_no_key_that_another_job_has_by_now(
        self, queue: PostgresQueue, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        await queue.enqueue([NewJob(deduplication_key="k")])
        await admin.execute("UPDATE headrace.deduplication_keys SET job_id = 987")
        await complete(queue, await queue.receive(1))
        assert await queue.enqueue([NewJob(deduplication_key="k")]) == [Enqueued(id="987", is_new=False)]

    async def test_what_is_due_already_is_nothing_to_wait_for(
        self, queue: PostgresQueue, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        await queue.enqueue([NewJob(delay_seconds=60), NewJob(delay_seconds=90)])
        ((due_seconds,),) = await queue._database.fetch_promptly("next_due", 1, 0.0)
        assert 50 < due_seconds <= 60
        await admin.execute("UPDATE headrace.parked_jobs SET run_at = run_at - interval '70 seconds'")
        ((due_seconds,),) = await queue._database.fetch_promptly("next_due", 1, 0.0)
        assert due_seconds > 10, "else a paused queue's receivers would look again and again"

    async def test_nobody_pays_for_anothers_faulty_call(self, queue: PostgresQueue) -> None:
        faulty = NewJob(name="faulty")
        structs.force_setattr(faulty, "payload", "no bytes")
        calls = [[NewJob(name=f"{number}")] for number in range(10)]
        calls[5].append(faulty)
        answers = await asyncio.gather(*(queue.enqueue(jobs) for jobs in calls), return_exceptions=True)
        assert [isinstance(answer, QueueError) for answer in answers] == [number == 5 for number in range(10)]
        assert (await queue.depth()).ready == 9

    async def test_an_applications_open_transaction_holds_nobody_up(
        self, place: Place, queue: PostgresQueue, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        neighbour = Owner(namespace="shop", name="neighbour", uid="2")
        await PostgresProvisioner(place).ensure("neighbour", QueueSettings(), neighbour)
        async with admin.transaction():
            await admin.execute(
                queries("headrace")["put"],
                1,
                [b"null"],
                [],
                [],
                [],
                [],
                [],
                [None],
                [0],
                ["g"],
                ["k"],
                [60],
                [],
            )
            await queue.enqueue([NewJob(name="first", group="g"), NewJob(deduplication_key="other")])
            changed = await PostgresProvisioner(place).ensure("orders", QueueSettings(max_retries=9), OWNER)
            assert changed.changed
            removing = asyncio.create_task(PostgresProvisioner(place).remove("neighbour", neighbour))
            await waiting_for_locks(admin, 1)
            deliveries = await queue.receive(10)
            assert len(deliveries) == 2, "the open transaction's own job is not seen, and holds no group"
            assert (await complete(queue, deliveries)).accepted == 2
            await queue.maintain()
            assert not removing.done()
        assert await removing
        assert len(await queue.receive(10)) == 1


SUSPECT = """
INSERT INTO headrace.parked_jobs (id, queue_id, losses, suspect, state) VALUES (9, 1, 2, true, 'suspect')
"""

DEAD = """
UPDATE headrace.leases SET expires_at = now() - interval '1 second';
UPDATE headrace.watches SET since = now() - interval '1 minute', seen_at = now();
"""


async def claim_and_lose_the_answer(queue: PostgresQueue, query: str = "claim") -> None:
    arguments = [10, [0] * 22, None, None] if query == "claim" else []
    assert await queue._database.fetch(query, queue._row.id, queue._holdings.heartbeat_lease, *arguments)


async def waiting_for_locks(admin: asyncpg.Connection[asyncpg.Record], count: int) -> None:
    """Return once so many sessions of this database wait for a lock."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with asyncio.timeout(20):
        while True:
            # The view is a snapshot for the length of a transaction.
            await admin.execute("SELECT pg_stat_clear_snapshot()")
            if await admin.fetchval(waiting) >= count:
                return
            await asyncio.sleep(0.01)


class TestSessions:
    """All queues of a process share two sessions; who only enqueues has one."""

    @pytest.fixture
    async def names(self, place: Place) -> list[str]:
        names = [f"queue-{number}" for number in range(5)]
        for name in names:
            await PostgresProvisioner(place).ensure(name, QueueSettings(), Owner(namespace="shop", name=name, uid="2"))
        return names

    async def test_of_workers(self, place: Place, names: list[str], admin: asyncpg.Connection[asyncpg.Record]) -> None:
        async with AsyncExitStack() as stack:
            queues = [await stack.enter_async_context(PostgresQueue(place, name, listens=True)) for name in names]
            for queue in queues:
                await queue.keep_alive()
                await queue.enqueue([NewJob()])
            for deliveries, queue in zip(
                await asyncio.gather(*(queue.receive(1) for queue in queues)), queues, strict=True
            ):
                assert (await complete(queue, deliveries)).accepted == 1
            await asyncio.gather(*(queue.maintain() for queue in queues), *(queue.depth() for queue in queues))
            await asyncio.gather(*(queue.receive(1, wait_seconds=0.2) for queue in queues))
            assert all(queue.is_listening for queue in queues)
            assert await sessions(admin) == CONNECTIONS_PER_WORKER
        assert await sessions(admin) == 0

    async def test_of_producers(
        self, place: Place, names: list[str], admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        async with AsyncExitStack() as stack:
            queues = [await stack.enter_async_context(PostgresQueue(place, name)) for name in names]
            await asyncio.gather(*(queue.enqueue([NewJob()]) for queue in queues for _ in range(10)))
            assert await sessions(admin) == 1

    async def test_what_hinders_a_queue_is_said_once(
        self, place: Place, admin: asyncpg.Connection[asyncpg.Record], caplog: pytest.LogCaptureFixture
    ) -> None:
        name = urlsplit(place.dsn).path[1:]
        await admin.execute(f"ALTER DATABASE {name} SET lock_timeout = '1234ms'")
        for _ in range(2):
            async with PostgresQueue(place, "orders") as queue:
                await queue.enqueue([NewJob()])
        (said,) = [record.message for record in caplog.records if "1234 ms" in record.message]
        assert "ALTER ROLE … SET lock_timeout" in said


async def sessions(admin: asyncpg.Connection[asyncpg.Record]) -> int:
    """How many of ours there are; those that are about to go are waited for."""
    counts = []
    for _ in range(20):
        counts.append(
            await admin.fetchval(
                "SELECT count(*) FROM pg_stat_activity "
                "WHERE application_name = 'headrace' AND datname = current_database()"
            )
        )
        await asyncio.sleep(0.01)
    return int(min(counts))


class TestArrays:
    async def test_no_server_is_asked_what_they_are(self, database_dsn: str) -> None:
        session: Any = await Connector(Place(dsn=database_dsn), application_name="headrace").connect(10)
        try:
            by_asyncpg: Any = asyncpg.Connection
            asked, _ = await by_asyncpg._introspect_types(session, list(ARRAYS), 10)
            assert {row["oid"]: dict(row) | {"depth": 0} for row in asked if row["oid"] in ARRAYS} == {
                oid: array_of(oid) | {"depth": 0} for oid in ARRAYS
            }
            session._intro_query = "SELECT 1 / 0"
            arrays = [array_of(oid) for oid in ARRAYS]
            parts = [f"${place}::{array['elemtype_name']}[]" for place, array in enumerate(arrays, 1)]
            given = [[True], [b"\0"], [1], [2], [3], [4.5], [datetime(2000, 1, 1, tzinfo=UTC)], ['{"a": 1}']]
            assert list(await session.fetchrow(f"SELECT {', '.join(parts)}", *given)) == given
        finally:
            await session.close()


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
