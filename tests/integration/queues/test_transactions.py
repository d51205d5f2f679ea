"""Jobs within transactions of an application's own: enqueued, and completed, if and only if it commits."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine

from headrace import new_job, sync
from headrace.queues.base import Enqueued, Owner, QueueSettings
from headrace.queues.errors import (
    LeaseLostError,
    QueueAccessError,
    QueueError,
    QueueNotFoundError,
    SchemaVersionError,
    UnsupportedCapabilityError,
)
from headrace.queues.postgres import Place, PostgresProvisioner, PostgresQueue
from headrace.queues.settlement import Complete
from support import transactions
from support.transactions import ASYNC_KINDS, SYNC_KINDS
from support.verbs import complete, dead_letter, discard, enqueue, release, retry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from headrace.queues.base import Delivery

# Whatever a schema may be called, no driver mistakes it for a placeholder.
SCHEMA = 'he%s "ra:ce{}'
QUOTED = '"he%s ""ra:ce{}"'

OWNER = Owner(namespace="shop", name="orders", uid="1")
LEASE_SECONDS = 20.0
SOON_SECONDS = 20.0
PATIENCE_SECONDS = 30.0

async_kinds = pytest.mark.parametrize("kind", ASYNC_KINDS, ids=lambda kind: kind.__name__)
sync_kinds = pytest.mark.parametrize("kind", SYNC_KINDS, ids=lambda kind: kind.__name__)


class ApplicationError(Exception):
    """Something else failed, within the same transaction."""


class World:
    """A queue, and the application's own table in the same database."""

    def __init__(self, dsn: str, admin: asyncpg.Connection[asyncpg.Record]) -> None:
        self.dsn = dsn
        self.place = Place(dsn=dsn, schema=SCHEMA)
        self.admin = admin

    def queue(self, name: str = "orders") -> PostgresQueue:
        return PostgresQueue(self.place, name, lease_seconds=LEASE_SECONDS)

    async def set_up(self, settings: QueueSettings | None = None) -> None:
        await PostgresProvisioner(self.place).ensure("orders", settings or QueueSettings(), OWNER)

    async def effects(self) -> int:
        count: int = await self.admin.fetchval("SELECT count(*) FROM effects")
        return count

    async def jobs(self) -> int:
        count: int = await self.admin.fetchval(
            f"SELECT (SELECT count(*) FROM {QUOTED}.jobs) + (SELECT count(*) FROM {QUOTED}.parked_jobs)"
        )
        return count

    async def claims(self) -> int:
        count: int = await self.admin.fetchval(f"SELECT count(*) FROM {QUOTED}.claims")
        return count

    async def let_leases_run_out(self) -> None:
        await self.admin.execute(f"UPDATE {QUOTED}.leases SET expires_at = now() - interval '1 minute'")
        await self.admin.execute(f"UPDATE {QUOTED}.watches SET since = now() - interval '1 minute', seen_at = now()")

    async def lose_leases(self) -> None:
        """Let every lease run out, and somebody notice."""
        await self.let_leases_run_out()
        async with self.queue() as other:
            await other.maintain()


@pytest.fixture
async def world(database_dsn: str) -> AsyncIterator[World]:
    admin = await asyncpg.connect(database_dsn)
    await admin.execute("CREATE TABLE effects (job_id text NOT NULL, what text)")
    world = World(database_dsn, admin)
    await world.set_up()
    yield world
    await admin.close()


async def take_one(queue: PostgresQueue) -> Delivery:
    (delivery,) = await queue.receive(1, wait_seconds=PATIENCE_SECONDS)
    return delivery


INSERT = "INSERT INTO effects VALUES ('1', 'mine')"


class TestEnqueue:
    @async_kinds
    async def test_a_commit_enqueues(self, world: World, kind: Any) -> None:
        later = datetime.now(UTC) + timedelta(hours=1)
        async with kind(world.dsn) as opened:
            await opened.execute(INSERT)
            enqueued = await world.queue().enqueue_in(
                opened.connection,
                [
                    new_job(
                        "résumé: 100 % {}",
                        {"text": "a%s :b \\ 'c' \x00"},
                        priority=7,
                        expires_at=later,
                        headers={"trace": "00-1"},
                        deduplication_key="k",
                        deduplication_window_seconds=60,
                    ),
                    new_job("raw", b"\x00\xff", group="g"),
                    new_job("late", run_at=later),
                    new_job("later", delay_seconds=3600),
                    new_job("twice", deduplication_key="k"),
                ],
            )
            assert await world.jobs() == 0, "nobody sees it before the commit"
        assert await world.effects() == 1
        ids = [each.id for each in enqueued]
        assert ids[4] == ids[0]
        assert len(set(ids)) == 4
        assert [each.is_new for each in enqueued] == [True] * 4 + [False]
        async with world.queue() as queue:
            first, second = await queue.receive(10)
            assert (await queue.depth()).delayed == 2
        assert first.job.id == ids[0]
        assert first.job.name == "résumé: 100 % {}"
        assert first.job.payload == b'{"text":"a%s :b \\\\ \'c\' \\u0000"}'
        assert first.job.content_type == "application/json"
        assert (first.job.priority, first.job.expires_at, first.job.headers) == (7, later, {"trace": "00-1"})
        assert first.job.deduplication_key == "k"
        assert (second.job.payload, second.job.content_type) == (b"\x00\xff", "application/octet-stream")
        assert second.job.group == "g"

    @async_kinds
    async def test_a_rollback_enqueues_nothing(self, world: World, kind: Any) -> None:
        with suppress(ApplicationError):
            async with kind(world.dsn) as opened:
                await opened.execute(INSERT)
                await world.queue().enqueue_in(opened.connection, [new_job("a"), new_job("b", group="g")])
                raise ApplicationError
        assert (await world.jobs(), await world.effects()) == (0, 0)

    @async_kinds
    async def test_what_the_queue_refuses_cannot_be_committed_past(self, world: World, kind: Any) -> None:
        with suppress(Exception):
            async with kind(world.dsn) as opened:
                await opened.execute(INSERT)
                with pytest.raises(QueueNotFoundError, match="headrace migrate --queue nowhere"):
                    await world.queue("nowhere").enqueue_in(opened.connection, [new_job("a")])
                await opened.execute(INSERT)
                pytest.fail("the transaction goes on")
        assert (await world.jobs(), await world.effects()) == (0, 0)

    @async_kinds
    async def test_many_jobs_go_in_order_and_no_statement_grows_without_bounds(self, world: World, kind: Any) -> None:
        jobs = [new_job(str(number), bytes(1_000_000)) for number in range(6)]
        jobs += [new_job(str(number)) for number in range(6, 1500)]
        async with kind(world.dsn) as opened:
            ids = [each.id for each in await world.queue().enqueue_in(opened.connection, jobs)]
            assert await world.queue().enqueue_in(opened.connection, []) == []
        names = await world.admin.fetch(f"SELECT name FROM {QUOTED}.jobs ORDER BY id")
        assert [row["name"] for row in names] == [job.name for job in jobs]
        assert ids == sorted(ids, key=int)

    @sync_kinds
    def test_synchronous_code_enqueues_with_its_commit(self, database_dsn: str, kind: Any) -> None:
        asyncio.run(
            PostgresProvisioner(Place(dsn=database_dsn, schema=SCHEMA)).ensure("orders", QueueSettings(), OWNER)
        )
        with suppress(ApplicationError), kind(database_dsn) as opened:
            sync.enqueue_in(opened.connection, "orders", [new_job("never")], schema=SCHEMA)
            raise ApplicationError
        with kind(database_dsn) as opened:
            first, second = sync.enqueue_in(
                opened.connection, "orders", [new_job("a", "100 % :b"), new_job("b", b"\x00")], schema=SCHEMA
            )
        with psycopg.connect(database_dsn) as connection:
            rows = connection.execute(f"SELECT id, name, payload FROM {QUOTED}.jobs ORDER BY id").fetchall()
        assert rows == [(int(first.id), "a", b'"100 % :b"'), (int(second.id), "b", b"\x00")]

    @sync_kinds
    def test_synchronous_code_is_told_what_the_queue_refuses(self, database_dsn: str, kind: Any) -> None:
        asyncio.run(
            PostgresProvisioner(Place(dsn=database_dsn, schema=SCHEMA)).ensure("orders", QueueSettings(), OWNER)
        )
        with pytest.raises(QueueNotFoundError, match="nowhere"), kind(database_dsn) as opened:
            sync.enqueue_in(opened.connection, "nowhere", [new_job("a")], schema=SCHEMA)


class TestConnections:
    async def test_a_connection_without_a_transaction_is_refused_since_nothing_would_hold_the_two_together(
        self, world: World
    ) -> None:
        queue = world.queue()
        with pytest.raises(QueueError, match=r"no transaction is open.*connection.transaction\(\)"):
            await queue.enqueue_in(world.admin, [new_job("a")])
        async with await psycopg.AsyncConnection.connect(world.dsn, autocommit=True) as connection:
            with pytest.raises(QueueError, match="no transaction is open"):
                await queue.enqueue_in(connection, [new_job("a")])
        engine = create_async_engine(
            world.dsn.replace("postgresql", "postgresql+asyncpg", 1), isolation_level="AUTOCOMMIT"
        )
        async with engine.connect() as alchemy:
            with pytest.raises(QueueError, match=r"no transaction is open.*AUTOCOMMIT"):
                await queue.enqueue_in(alchemy, [new_job("a")])
        await engine.dispose()
        assert await world.jobs() == 0

    def test_nor_is_one_in_synchronous_code(self, database_dsn: str) -> None:
        with (
            psycopg.connect(database_dsn, autocommit=True) as connection,
            pytest.raises(QueueError, match="no transaction is open"),
        ):
            sync.enqueue_in(connection, "orders", [new_job("a")])
        with transactions._django(database_dsn) as handler, pytest.raises(QueueError, match=r"transaction\.atomic"):
            sync.enqueue_in(handler["default"], "orders", [new_job("a")])

    async def test_an_object_that_is_no_known_connection_is_refused_and_the_known_ones_are_named(
        self, world: World
    ) -> None:
        with pytest.raises(UnsupportedCapabilityError, match=r"builtins\.str.*asyncpg.*psycopg.*SQLAlchemy"):
            await world.queue().enqueue_in("postgresql://…", [new_job("a")])
        with pytest.raises(UnsupportedCapabilityError, match=r"psycopg.*SQLAlchemy.*Django"):
            sync.enqueue_in(world.admin, "orders", [new_job("a")])

    async def test_a_synchronous_connection_does_not_block_the_event_loop(self, world: World) -> None:
        with (
            psycopg.connect(world.dsn) as connection,
            pytest.raises(UnsupportedCapabilityError, match=r"headrace\.sync"),
        ):
            await world.queue().enqueue_in(connection, [new_job("a")])

    def test_a_database_that_is_no_postgresql_is_refused(self) -> None:
        engine = sqlalchemy.create_engine("sqlite://")
        with engine.begin() as connection, pytest.raises(UnsupportedCapabilityError, match="sqlite"):
            sync.enqueue_in(connection, "orders", [new_job("a")])
        engine.dispose()

    async def test_a_schema_that_holds_no_queues_or_old_ones_and_rights_that_lack(self, world: World) -> None:
        async def enqueue(place: Place) -> None:
            async with transactions.asyncpg_connection(world.dsn) as opened:
                await PostgresQueue(place, "orders").enqueue_in(opened.connection, [new_job("a")])

        with pytest.raises(QueueNotFoundError, match="'elsewhere' holds no queues"):
            await enqueue(Place(dsn=world.dsn, schema="elsewhere"))
        await world.admin.execute(f"ALTER FUNCTION {QUOTED}.enqueue_many RENAME TO not_there_yet")
        with pytest.raises(SchemaVersionError, match="headrace migrate"):
            await enqueue(world.place)
        await world.admin.execute(f"ALTER FUNCTION {QUOTED}.not_there_yet RENAME TO enqueue_many")
        await world.admin.execute("CREATE ROLE headrace_test_stranger")
        try:
            async with transactions.asyncpg_connection(world.dsn) as opened:
                await opened.execute("SET ROLE headrace_test_stranger")
                with pytest.raises(QueueAccessError, match="grant"):
                    await world.queue().enqueue_in(opened.connection, [new_job("a")])
        finally:
            await world.admin.execute("DROP ROLE headrace_test_stranger")

    async def test_errors_of_the_drivers_own_are_passed_on_for_frameworks_to_act_on(self, world: World) -> None:
        job = new_job("a", deduplication_key="k")
        async with transactions.asyncpg_connection(world.dsn) as opened:
            await opened.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            await opened.execute("SELECT 1")
            async with world.queue() as queue:
                await queue.enqueue([job])
            with pytest.raises(asyncpg.SerializationError):
                await world.queue().enqueue_in(opened.connection, [job])


class TestComplete:
    @async_kinds
    async def test_a_commit_completes_together_with_the_handlers_own_work(self, world: World, kind: Any) -> None:
        async with world.queue() as queue:
            await queue.keep_alive()
            await queue.enqueue([new_job("a", deduplication_key="k")])
            delivery = await take_one(queue)
            async with kind(world.dsn) as opened:
                await opened.execute(INSERT)
                await queue.complete_in(opened.connection, delivery)
            assert (await world.jobs(), await world.effects()) == (0, 1)
            assert (await queue.depth()).ready == 0
            settled = await complete(queue, [delivery])
            assert (settled.accepted, settled.refused) == (1, ())
            assert await world.claims() == 0
            assert await enqueue(queue, [new_job("b", deduplication_key="k")]) != [delivery.job.id], "the key is free"

    @async_kinds
    async def test_after_a_rollback_the_job_is_as_it_was(self, world: World, kind: Any) -> None:
        async with world.queue() as queue:
            await queue.keep_alive()
            await queue.enqueue([new_job("a")])
            delivery = await take_one(queue)
            with suppress(ApplicationError):
                async with kind(world.dsn) as opened:
                    await opened.execute(INSERT)
                    await queue.complete_in(opened.connection, delivery)
                    raise ApplicationError
            assert (await world.jobs(), await world.effects(), await world.claims()) == (1, 0, 1)
            assert (await retry(queue, delivery, error="rolled back")).accepted == 1
            again = await take_one(queue)
            assert (again.job.id, again.job.attempt) == (delivery.job.id, 2)
            assert (await complete(queue, [again])).accepted == 1
        assert await world.jobs() == 0

    @async_kinds
    async def test_a_lost_lease_is_refused_and_takes_the_handlers_work_with_it(self, world: World, kind: Any) -> None:
        async with world.queue() as queue, world.queue() as other:
            await queue.keep_alive()
            await queue.enqueue([new_job("a")])
            delivery = await take_one(queue)
            await world.lose_leases()
            taken = await take_one(other)
            assert taken.job.id == delivery.job.id
            with suppress(Exception):  # Some drivers say at the commit that there is nothing to commit.
                async with kind(world.dsn) as opened:
                    await opened.execute(INSERT)
                    with pytest.raises(LeaseLostError, match="lost"):
                        await queue.complete_in(opened.connection, delivery)
                    # Who looks away and commits all the same commits nothing.
            assert await world.effects() == 0
            assert (await complete(queue, [delivery])).refused == (Complete(delivery=delivery),)
            assert (await complete(other, [taken])).accepted == 1

    @sync_kinds
    def test_handlers_in_threads_complete_on_synchronous_connections(self, database_dsn: str, kind: Any) -> None:
        place = Place(dsn=database_dsn, schema=SCHEMA)

        async def story() -> None:
            await PostgresProvisioner(place).ensure("orders", QueueSettings(), OWNER)
            async with PostgresQueue(place, "orders") as queue:
                await queue.keep_alive()
                await queue.enqueue([new_job("a"), new_job("b")])
                first, second = await queue.receive(2)
                await asyncio.to_thread(run, queue, first, False)
                with suppress(ApplicationError):
                    await asyncio.to_thread(run, queue, second, True)
                settled = await complete(queue, [first])
                assert settled.accepted == 1
                assert (await queue.depth()).in_flight == 1
                assert (await retry(queue, second, error="rolled back")).accepted == 1
                assert (await queue.depth()).ready == 1

        def run(queue: PostgresQueue, delivery: Delivery, fails: bool) -> None:
            with kind(database_dsn) as opened:
                queue.complete_in_sync(opened.connection, delivery)
                if fails:
                    raise ApplicationError

        asyncio.run(story())

    async def test_a_handler_that_fails_after_its_commit_changes_nothing(self, world: World) -> None:
        async with world.queue() as queue:
            await queue.keep_alive()
            await queue.enqueue([new_job(name) for name in ("retry", "dead", "release", "discard")])
            retried, dead, released, discarded = deliveries = await queue.receive(4)
            for delivery in deliveries:
                async with transactions.asyncpg_connection(world.dsn) as opened:
                    await queue.complete_in(opened.connection, delivery)
            for settled in (
                await retry(queue, retried, error="too late"),
                await dead_letter(queue, dead, reason="too late"),
                await release(queue, [released]),
                await discard(queue, discarded),
            ):
                assert (settled.accepted, settled.dead_lettered, settled.refused) == (1, (), ())
            assert (await world.jobs(), await world.claims()) == (0, 0)
            assert (await queue.depth()).dead_lettered == 0

    async def test_history_is_kept_where_the_queue_keeps_one(self, world: World) -> None:
        await world.set_up(QueueSettings(completed_retention_seconds=3600))
        async with world.queue() as queue:
            await queue.keep_alive()
            await queue.enqueue([new_job("a", {"n": 1})])
            delivery = await take_one(queue)
            with suppress(ApplicationError):
                async with transactions.asyncpg_connection(world.dsn) as opened:
                    await queue.complete_in(opened.connection, delivery)
                    raise ApplicationError
            assert await world.admin.fetch(f"SELECT FROM {QUOTED}.finished_jobs") == []
            async with transactions.asyncpg_connection(world.dsn) as opened:
                await queue.complete_in(opened.connection, delivery)
        row = await world.admin.fetchrow(f"SELECT id, payload, outcome FROM {QUOTED}.finished_jobs")
        assert row is not None
        assert tuple(row) == (int(delivery.job.id), b'{"n":1}', "completed")

    async def test_the_next_of_its_group_runs_once_it_is_complete_and_not_before(self, world: World) -> None:
        async with world.queue() as queue:
            await queue.keep_alive()
            await queue.enqueue([new_job(str(number), group="g") for number in range(3)])
            delivery = await take_one(queue)
            assert await queue.receive(1) == []
            async with transactions.asyncpg_connection(world.dsn) as opened:
                await queue.complete_in(opened.connection, delivery)
                assert await queue.receive(1) == []
            assert (await complete(queue, [delivery])).accepted == 1
            assert (await take_one(queue)).job.name == "1"

    async def test_a_job_and_its_successor_of_the_same_key_change_places_at_once(self, world: World) -> None:
        async with world.queue() as queue:
            await queue.keep_alive()
            await queue.enqueue([new_job("hourly", deduplication_key="hourly")])
            delivery = await take_one(queue)
            async with transactions.asyncpg_connection(world.dsn) as opened:
                await queue.complete_in(opened.connection, delivery)
                (successor,) = await queue.enqueue_in(
                    opened.connection, [new_job("hourly", deduplication_key="hourly", delay_seconds=3600)]
                )
            assert successor.is_new
            assert (await complete(queue, [delivery])).accepted == 1
            again = await queue.enqueue([new_job("hourly", deduplication_key="hourly")])
            assert again == [Enqueued(id=successor.id, is_new=False)]

    @pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
    async def test_heartbeats_and_neighbours_do_not_disturb_strictly_isolated_transactions(
        self, world: World, isolation: str
    ) -> None:
        async with world.queue() as queue:
            await queue.keep_alive()
            await queue.enqueue([new_job("a"), new_job("b")])
            first, second = await queue.receive(2)
            async with transactions.asyncpg_connection(world.dsn) as opened:
                await opened.execute(f"SET TRANSACTION ISOLATION LEVEL {isolation}")
                await opened.execute(INSERT)
                await queue.keep_alive()
                await complete(queue, [second])
                await queue.complete_in(opened.connection, first)
            assert (await complete(queue, [first])).accepted == 1
        assert (await world.jobs(), await world.effects()) == (0, 1)


class TestWhileATransactionIsOpen:
    """An application may keep its transaction open for long; nobody waits for it."""

    async def test_everybody_else_goes_on(self, world: World) -> None:
        async with world.queue() as queue, world.queue() as other:
            await queue.keep_alive()
            await other.keep_alive()
            await queue.enqueue([new_job(str(number)) for number in range(6)] + [new_job("g", group="g")] * 2)
            deliveries = await queue.receive(10)
            completed, neighbour, released, retried, *_ = deliveries
            async with (
                transactions.asyncpg_connection(world.dsn) as opened,
                asyncio.timeout(SOON_SECONDS),
            ):
                await queue.complete_in(opened.connection, completed)
                await queue.enqueue_in(opened.connection, [new_job("new", deduplication_key="new", group="g")])
                assert (await complete(queue, [neighbour])).accepted == 1
                assert (await release(queue, [released])).accepted == 1
                assert (await retry(queue, retried, error="no luck")).accepted == 1
                await queue.keep_alive()
                assert (await other.receive(1))[0].job.id == released.job.id
                await other.maintain()
                await other.depth()
                await other.enqueue([new_job("a", deduplication_key="a", group="g")])
                await world.set_up(QueueSettings(max_retries=7))
                assert (
                    await world.admin.fetchval(
                        f"SELECT {QUOTED}.cancel(id, $1) FROM {QUOTED}.queues", int(completed.job.id)
                    )
                    == "requested"
                )
                await world.lose_leases()
                assert completed.job.id not in {delivery.job.id for delivery in await other.receive(10)}
            ids = {row["id"] for row in await world.admin.fetch(f"SELECT id FROM {QUOTED}.jobs")}
            assert int(completed.job.id) not in ids

    async def test_a_rescue_leaves_the_job_to_its_transaction(self, world: World) -> None:
        async with world.queue() as queue, world.queue() as other:
            await queue.keep_alive()
            await queue.enqueue([new_job("a"), new_job("b")])
            first, second = await queue.receive(2)
            with suppress(ApplicationError):
                async with transactions.asyncpg_connection(world.dsn) as opened:
                    await queue.complete_in(opened.connection, first)
                    await world.lose_leases()
                    (taken,) = await other.receive(10)
                    assert taken.job.id == second.job.id
                    await complete(other, [taken])
                    raise ApplicationError
            assert await other.receive(10) == [], "rolled back, and held until the next round"
            await world.let_leases_run_out()
            assert (await other.maintain()).rescued == 1
            again = await take_one(other)
            assert (again.job.id, again.job.attempt) == (first.job.id, 1)

    async def test_a_worker_closes_though_its_suspect_is_in_a_transaction(self, world: World) -> None:
        async with world.queue() as queue:
            await queue.keep_alive()
            await queue.enqueue([new_job("a")])
            await world.admin.execute(f"UPDATE {QUOTED}.jobs SET losses = 1, lost_at = now()")
            await queue.receive(1)
            await world.lose_leases()
        async with transactions.asyncpg_connection(world.dsn) as opened:
            async with asyncio.timeout(PATIENCE_SECONDS), world.queue() as other:
                await other.keep_alive()
                await other.maintain()
                suspect = await take_one(other)
                assert suspect.is_suspect
                await other.complete_in(opened.connection, suspect)
            assert (await world.jobs(), await world.claims()) == (1, 1)
        async with world.queue() as other:
            assert (await other.maintain()).rescued == 0
        assert (await world.jobs(), await world.claims()) == (0, 0)

    @pytest.mark.parametrize("commits", [True, False])
    async def test_a_handler_that_returns_with_its_transaction_open_leaves_the_job_to_it(
        self, world: World, commits: bool
    ) -> None:
        async with world.queue() as queue:
            await queue.keep_alive()
            await queue.enqueue([new_job("a"), new_job("b")])
            first, second = await queue.receive(2)
            with suppress(ApplicationError):
                async with transactions.asyncpg_connection(world.dsn) as opened:
                    await queue.complete_in(opened.connection, first)
                    async with asyncio.timeout(SOON_SECONDS):
                        assert (await complete(queue, [first, second])).accepted == 2
                    assert await queue.receive(1) == []
                    if not commits:
                        raise ApplicationError
            if commits:
                assert await queue.receive(1, wait_seconds=1) == []
            else:
                assert (await take_one(queue)).job.id == first.job.id


class TestDeath:
    async def test_a_worker_that_dies_before_the_commit_leaves_no_effect_and_the_job_runs_again(
        self, world: World
    ) -> None:
        async with world.queue() as queue, world.queue() as other:
            await queue.keep_alive()
            await queue.enqueue([new_job("a")])
            delivery = await take_one(queue)
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
                async with transactions.asyncpg_connection(world.dsn) as opened:
                    await opened.execute(INSERT)
                    await queue.complete_in(opened.connection, delivery)
                    await world.admin.execute("SELECT pg_terminate_backend($1)", opened.connection.get_server_pid())
            await world.lose_leases()
            again = await take_one(other)
            assert (again.job.id, again.job.attempt) == (delivery.job.id, 1)
            assert await world.effects() == 0

    async def test_a_worker_that_dies_after_the_commit_leaves_a_job_that_is_done_and_a_group_that_goes_on(
        self, world: World
    ) -> None:
        async with world.queue() as queue, world.queue() as other:
            await queue.keep_alive()
            await queue.enqueue([new_job(str(number), group="g") for number in range(2)])
            delivery = await take_one(queue)
            async with transactions.asyncpg_connection(world.dsn) as opened:
                await opened.execute(INSERT)
                await queue.complete_in(opened.connection, delivery)
            # Swept a moment ago: only the rescue makes it look again at once.
            await other.maintain()
            await world.let_leases_run_out()
            assert (await other.maintain()).rescued == 0
            following = await take_one(other)
            assert (following.job.name, following.is_suspect) == ("1", False)
            assert (await complete(other, [following])).accepted == 1
            assert (await complete(queue, [delivery])).accepted == 0
        assert (await world.jobs(), await world.claims(), await world.effects()) == (0, 0, 1)


BAD_CALLS = (
    ("enqueue('nowhere', 'a')", "42704", r'queue "nowhere" does not exist.*headrace migrate --queue nowhere'),
    ("enqueue(NULL, 'a')", "42704", "does not exist"),
    ("enqueue('orders', E'a\\nb')", "22023", "name: at most 255 characters"),
    ("enqueue('orders', repeat('a', 256))", "22023", "name: at most 255 characters"),
    ("enqueue('orders', 'a', priority => 11)", "22023", "priority 11: must be a whole number from 0 to 10"),
    ("enqueue('orders', 'a', priority => -1)", "22023", "priority -1"),
    ("enqueue('orders', 'a', delay_seconds => -1)", "22023", "delay_seconds -1: must be 0 or more"),
    ("enqueue('orders', 'a', delay_seconds => 'NaN')", "22023", 'delay_seconds: must be a number, not "NaN"'),
    ("enqueue('orders', 'a', delay_seconds => 1e300)", "22023", "delay_seconds 1000.*run_at"),
    (
        "enqueue('orders', 'a', delay_seconds => 1, run_at => now())",
        "22023",
        "delay_seconds and run_at: give one of them",
    ),
    ("enqueue('orders', 'a', run_at => 'infinity')", "22023", "run_at: infinity is no moment"),
    (
        "enqueue('orders', 'a', to_jsonb(repeat('x', 1048576)))",
        "54000",
        "payload of 1048578 bytes: the limit is 1048576.*enqueue its address",
    ),
    ("enqueue('orders', 'a', message_group => '')", "22023", "message_group: 1 to 128 characters"),
    ("enqueue('orders', 'a', deduplication_key => repeat('k', 129))", "22023", "deduplication_key: 1 to 128"),
    ("enqueue('orders', 'a', deduplication_window_seconds => 5)", "22023", "beside a deduplication_key"),
    (
        "enqueue('orders', 'a', deduplication_key => 'k', deduplication_window_seconds => 0)",
        "22023",
        "deduplication_window_seconds 0: must be more than 0",
    ),
    ("enqueue('orders', 'a', headers => '{\"a\": 1}')", "22023", "headers: must be an object whose values"),
    ("enqueue('orders', 'a', headers => '{\"a\": [\"b\"]}')", "22023", "headers: must be an object"),
    ("enqueue('orders', 'a', headers => '\"a\"')", "22023", "headers: must be an object"),
    ("enqueue_many('orders', NULL)", "22023", "jobs: must be an array of objects, not null"),
    ("enqueue_many('orders', '{}')", "22023", "jobs: must be an array of objects, not {}"),
    ("enqueue_many('orders', '[{}, 3]')", "22023", "job 2: must be an object, not 3"),
    ("enqueue_many('orders', '[{}, {\"nam\": 1}]')", "22023", 'job 2: unknown field "nam".*A job has'),
    ("enqueue_many('orders', '[{\"name\": 3}]')", "22023", "name: must be a text, not 3"),
    ("enqueue_many('orders', '[{\"priority\": \"3\"}]')", "22023", 'priority: must be a number, not "3"'),
    ("enqueue_many('orders', '[{\"priority\": 1.5}]')", "22023", "priority 1.5: must be a whole number"),
    ("enqueue_many('orders', '[{\"run_at\": \"2031-01-01T00:00\"}]')", "22023", "run_at: .*time zone"),
    ("enqueue_many('orders', '[{\"run_at\": \"2031-13-01T00:00Z\"}]')", "22023", "run_at: .* is no moment"),
    ("enqueue_many('orders', '[{\"payload_base64\": \"*\"}]')", "22023", "payload_base64: no base64"),
    (
        'enqueue_many(\'orders\', \'[{"payload": 1, "payload_base64": "AA=="}]\')',
        "22023",
        "payload and payload_base64: give one of them",
    ),
    (
        'enqueue_many(\'orders\', \'[{"payload": 1, "content_type": "image/png"}]\')',
        "22023",
        "content_type: is for payload_base64",
    ),
)


class TestSql:
    """Enqueuing as any language does it."""

    async def test_a_job_of_every_field(self, world: World) -> None:
        later = datetime.now(UTC) + timedelta(hours=1)
        job_id = await world.admin.fetchval(
            f"SELECT {QUOTED}.enqueue('orders', 'resize', payload => '{{\"picture\": 17}}', priority => 3, "
            "expires_at => $1, message_group => 'tenant-123', deduplication_key => 'k', "
            'deduplication_window_seconds => 60, headers => \'{"trace": "00-1"}\')',
            later,
        )
        assert await world.admin.fetchval(f"SELECT {QUOTED}.enqueue('orders', 'x', deduplication_key => 'k')") == job_id
        async with world.queue() as queue:
            job = (await take_one(queue)).job
        assert job.id == str(job_id)
        assert (job.name, job.payload, job.content_type) == ("resize", b'{"picture": 17}', "application/json")
        assert (job.priority, job.group, job.deduplication_key) == (3, "tenant-123", "k")
        assert (job.headers, job.expires_at, job.attempt) == ({"trace": "00-1"}, later, 1)

    async def test_a_name_alone_is_a_job(self, world: World) -> None:
        await world.admin.execute(f"SELECT {QUOTED}.enqueue('orders', 'tick')")
        async with world.queue() as queue:
            job = (await take_one(queue)).job
        assert (job.name, job.payload, job.priority, job.group) == ("tick", b"null", 0, None)

    async def test_a_delay_or_a_moment_holds_it_back(self, world: World) -> None:
        await world.admin.execute(f"SELECT {QUOTED}.enqueue('orders', 'a', delay_seconds => 3600)")
        await world.admin.execute(f"SELECT {QUOTED}.enqueue('orders', 'b', run_at => now() + interval '1 hour')")
        async with world.queue() as queue:
            assert ((await queue.depth()).delayed, (await queue.depth()).ready) == (2, 0)

    async def test_many_at_once_in_order(self, world: World) -> None:
        rows = await world.admin.fetch(
            f"SELECT id FROM {QUOTED}.enqueue_many('orders', $1)",
            '[{"name": "a", "payload": [1.50]}, {"payload_base64": "AP8=", "content_type": "image/png"},'
            ' {"name": "c", "run_at": "2001-02-03T04:05:06+07:00", "headers": {}, "priority": null}]',
        )
        ids = [str(row[0]) for row in rows]
        async with world.queue() as queue:
            jobs = [delivery.job for delivery in await queue.receive(10)]
        assert [job.id for job in jobs] == ids == sorted(ids, key=int)
        assert [(job.name, job.payload, job.content_type) for job in jobs] == [
            ("a", b"[1.50]", "application/json"),
            ("", b"\x00\xff", "image/png"),
            ("c", b"null", "application/json"),
        ]
        assert jobs[2].run_at == datetime(2001, 2, 2, 21, 5, 6, tzinfo=UTC)
        assert await world.admin.fetch(f"SELECT id FROM {QUOTED}.enqueue_many('orders', '[]')") == []

    async def test_bad_input_is_named_with_a_code_and_a_hint_and_nothing_is_written(self, world: World) -> None:
        for call, state, message in BAD_CALLS:
            with pytest.raises(asyncpg.PostgresError) as caught:
                await world.admin.execute(f"SELECT {QUOTED}.{call}")
            assert caught.value.sqlstate == state, call
            assert caught.value.hint, call
            assert re.search(message, str(caught.value), re.DOTALL), call
        assert await world.jobs() == 0

    async def test_who_waits_is_told_at_the_commit_and_nobody_pays_where_no_one_waits(self, world: World) -> None:
        heard: list[str] = []
        listener = await asyncpg.connect(world.dsn)
        queue_id = await world.admin.fetchval(f"SELECT id FROM {QUOTED}.queues")
        channel = await world.admin.fetchval(f"SELECT {QUOTED}.channel($1)", queue_id)
        await listener.add_listener(channel, lambda *arguments: heard.append(str(arguments[2])))
        await world.admin.execute(f"SELECT {QUOTED}.enqueue('orders', 'a')")
        await listener.execute("SELECT 1")
        assert heard == []
        await listener.execute(f"INSERT INTO {QUOTED}.waiters VALUES ($1, pg_backend_pid())", queue_id)
        async with world.admin.transaction():
            await world.admin.execute(f"SELECT {QUOTED}.enqueue('orders', 'a')")
            await world.admin.execute(f"SELECT {QUOTED}.enqueue('orders', 'a')")
            await listener.execute("SELECT 1")
            assert heard == []
        await listener.execute("SELECT 1")
        assert heard == [channel], "once a transaction"
        await listener.close()

    async def test_an_idle_worker_starts_at_once(self, world: World) -> None:
        async with PostgresQueue(world.place, "orders", listens=True) as queue:
            queue._rest._seconds = 60  # As after a while without jobs.
            waiting = asyncio.create_task(queue.receive(1, wait_seconds=60))
            async with asyncio.timeout(SOON_SECONDS):
                while not await world.admin.fetchval(f"SELECT count(*) FROM {QUOTED}.waiters"):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            await world.admin.execute(f"SELECT {QUOTED}.enqueue('orders', 'a')")
            async with asyncio.timeout(SOON_SECONDS):
                assert len(await waiting) == 1
