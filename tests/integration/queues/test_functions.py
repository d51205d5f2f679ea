"""What the schema's functions promise to many workers, seen one call at a time."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from headrace.queues.base import Owner, QueueSettings
from headrace.queues.postgres import Place, PostgresProvisioner
from headrace.queues.postgres.frontier import Frontier
from headrace.queues.postgres.statements import JOB_COLUMNS, functions_checksum, migrations, queries
from support.schema_snapshot import SNAPSHOT, of_a_fresh_database
from support.worker_process import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

OWNER = Owner(namespace="shop", name="orders", uid="1")
QUEUE = 1
LEASE_SECONDS = 20.0
START = [0] * 22
WATCHED = "UPDATE headrace.watches SET since = now() - interval '1 minute', seen_at = now()"


class Session:
    """A session that speaks in named queries, as workers do."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self.connection = connection
        self._queries = queries("headrace")

    async def rows(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        return await self.connection.fetch(self._queries[query], *arguments)

    async def value(self, query: str, *arguments: object) -> Any:
        rows = await self.rows(query, *arguments)
        return rows[0][0] if rows else None

    async def execute(self, statement: str) -> None:
        await self.connection.execute(statement)

    async def one(self, statement: str) -> Any:
        return await self.connection.fetchval(statement)

    async def enqueue(self, count: int = 1, *, payload: bytes = b"1", expires_at: object = None) -> list[int]:
        expiries = [] if expires_at is None else [expires_at] * count
        return [
            row["id"]
            for row in await self.rows("enqueue", QUEUE, [payload] * count, ["job"], [], [], [], expiries, [], True)
        ]

    async def put(
        self, groups: list[str | None], *, keys: list[str | None] | None = None, delays: list[float] | None = None
    ) -> list[int]:
        count = len(groups)
        columns: tuple[object, ...] = (
            [b"1"] * count,
            ["job"],
            [],
            [],
            [],
            [],
            [None] * count,
            delays or [0] * count,
            groups,
        )
        return [row["id"] for row in await self.rows("put", QUEUE, *columns, keys or [], [None] * count, [])]

    async def lease(self, holder: str = "worker") -> int:
        lease: int = await self.value("start_lease", QUEUE, LEASE_SECONDS, holder)
        return lease

    async def claim(self, lease: int, limit: int = 100) -> list[asyncpg.Record]:
        rows = await self.rows("claim", QUEUE, lease, limit, START, None, None)
        return [row for row in rows if row["claim_id"] is not None]

    async def claimed(self, count: int = 1) -> tuple[int, list[int], list[int]]:
        """Enqueue and claim so many; their lease, claims and ids."""
        await self.enqueue(count)
        lease = await self.lease()
        rows = await self.claim(lease, count)
        return lease, list({row["claim_id"] for row in rows}), [row["id"] for row in rows]

    async def die(self, lease: int) -> None:
        """The lease's worker is gone, and the queue was watched for long enough to know."""
        await self.execute(f"UPDATE headrace.leases SET expires_at = now() - interval '1 second' WHERE id = {lease}")
        await self.execute(WATCHED)

    async def rescue(self) -> tuple[int, int, int]:
        """What went back, how much of that as suspects, and what is dead."""
        found = [0, 0, 0]
        while True:
            (row,) = await self.rows("rescue", QUEUE, LEASE_SECONDS, 1000)
            found = [found[0] + row["rescued"], found[1] + row["suspects"], found[2] + row["poisoned"]]
            if not row["is_more"]:
                return found[0], found[1], found[2]


@pytest.fixture
async def place(database_dsn: str) -> Place:
    place = Place(dsn=database_dsn)
    await PostgresProvisioner(place).ensure("orders", QueueSettings(), OWNER)
    return place


@pytest.fixture
async def one(place: Place) -> AsyncIterator[Session]:
    connection = await asyncpg.connect(place.dsn)
    yield Session(connection)
    await connection.close()


@pytest.fixture
async def other(place: Place) -> AsyncIterator[Session]:
    connection = await asyncpg.connect(place.dsn)
    yield Session(connection)
    await connection.close()


class TestTheSchema:
    def test_changed_functions_belong_to_a_migration(self) -> None:
        """A schema is brought up to date by its number: without a new one, nobody would get the new functions."""
        assert migrations()[-1].functions == functions_checksum(), (
            "functions/ have changed: write a further migration, or, where the newest is not released yet, "
            f"put '-- functions: {functions_checksum()}' into it"
        )

    async def test_the_snapshot_is_of_the_newest_schema(self, database_dsn: str) -> None:
        assert SNAPSHOT.read_text() == await of_a_fresh_database(database_dsn), (
            "python -m support.schema_snapshot writes it anew"
        )

    async def test_all_tables_of_jobs_have_the_same_columns_in_order(self, one: Session) -> None:
        tables = await one.connection.fetch(
            """
            SELECT relname,
                array_agg(attname::text || ' ' || format_type(atttypid, atttypmod) ORDER BY attnum) AS columns
            FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped
            WHERE relnamespace = 'headrace'::regnamespace AND relkind = 'r' AND relname LIKE '%jobs'
            GROUP BY relname
            """
        )
        columns = {table["relname"]: table["columns"][: len(JOB_COLUMNS)] for table in tables}
        assert sorted(columns) == ["dead_jobs", "finished_jobs", "jobs", "parked_jobs"]
        assert [column.split()[0] for column in columns["jobs"]] == list(JOB_COLUMNS)
        assert all(columns[table] == columns["jobs"] for table in columns)

    async def test_no_insert_locks_the_queues_row(self, one: Session) -> None:
        """A hundred workers and producers share it."""
        keys = "SELECT count(*) FROM pg_constraint WHERE connamespace = 'headrace'::regnamespace AND contype = 'f'"
        assert await one.one(keys) == 0

    async def test_leases_have_ids_that_no_restore_gives_again(self, one: Session) -> None:
        leases = {await one.lease() for _ in range(20)}
        assert len(leases) == 20
        assert all(0 <= lease < 2**60 for lease in leases)
        assert max(leases) - min(leases) > 2**50, "by chance"


class TestRemoving:
    async def test_what_is_enqueued_while_a_queue_is_removed_leaves_nothing_behind(
        self, one: Session, other: Session
    ) -> None:
        async with one.connection.transaction():
            await one.rows("lock_jobs")
            enqueuing = asyncio.create_task(other.put([None], keys=["k"]))
            await eventually(lambda: waits(one, "relation"), what="waiting for the removal")
            await one.rows("remove_queue", QUEUE)
        with pytest.raises(asyncpg.UndefinedObjectError):
            await enqueuing
        assert await one.enqueue() == []
        for table in ("jobs", "deduplication_keys"):
            assert await one.one(f"SELECT count(*) FROM headrace.{table}") == 0


class TestLosses:
    async def test_a_first_loss_costs_nothing_and_a_second_makes_a_suspect(self, one: Session) -> None:
        await one.enqueue(20)
        for suspects in (0, 20):
            lease = await one.lease()
            assert len(await one.claim(lease)) == 20
            await one.die(lease)
            assert await one.rescue() == (20, suspects, 0)
        assert await one.claim(await one.lease()) == []
        assert len(await one.rows("claim_suspect", QUEUE, await one.lease())) == 1

    async def test_deaths_and_losses_are_forgotten_a_day_after_the_last(self, one: Session) -> None:
        await one.enqueue()
        for _ in range(5):
            lease = await one.lease()
            assert len(await one.claim(lease)) == 1, "never a suspect, nor dead"
            await one.die(lease)
            assert await one.rescue() == (1, 0, 0)
            await one.execute("UPDATE headrace.jobs SET lost_at = lost_at - interval '1 day'")

    async def test_a_finished_attempt_forgets_them(self, one: Session) -> None:
        lease, _, _ = await one.claimed()
        await one.die(lease)
        await one.rescue()
        lease = await one.lease()
        (row,) = await one.claim(lease)
        failure = json.dumps({"error": "boom"})
        await one.rows("retry", lease, [row["claim_id"]], [row["id"]], [0.0], [failure])
        assert await one.one("SELECT losses + deaths FROM headrace.jobs") == 0

    async def test_a_large_lease_is_put_back_batch_by_batch_and_is_lost_from_the_first_on(self, one: Session) -> None:
        await one.enqueue(250)
        lease = await one.lease()
        rows = [row for _ in range(5) for row in await one.claim(lease, 50)]
        await one.die(lease)
        (first,) = await one.rows("rescue", QUEUE, LEASE_SECONDS, 100)
        assert (first["rescued"], first["is_more"]) == (100, True)
        assert await one.rows("heartbeat", lease, LEASE_SECONDS, [], [], 0, 0, 0, 0.0, []) == []
        assert await one.rows("complete", lease, [row["claim_id"] for row in rows], [row["id"] for row in rows]) == []
        assert await one.rescue() == (150, 0, 0)
        assert await one.one("SELECT max(deaths) FROM headrace.jobs") == 0, (
            "it died with more than one, whatever was left"
        )

    @pytest.mark.parametrize("end", ["its death", "its orderly end"])
    async def test_a_group_whose_head_a_worker_completed_without_a_word_goes_on_with_its_end(
        self, one: Session, end: str
    ) -> None:
        _, second = await one.put(["g", "g"])
        lease = await one.lease()
        (head,) = await one.claim(lease)
        await one.connection.execute(
            "SELECT headrace.complete_in_transaction($1, $2, $3)", lease, head["claim_id"], head["id"]
        )
        if end == "its death":
            await one.die(lease)
            await one.rescue()
        else:
            await one.rows("end_leases", [lease])
        assert [row["id"] for row in await one.claim(await one.lease())] == [second]
        assert await one.one("SELECT count(*) FROM headrace.completed_heads") == 0

    async def test_a_job_that_stays_locked_is_looked_at_now_and_then(self, one: Session, other: Session) -> None:
        """By one worker, not by each with each round of its housekeeping."""
        lease, _, _ = await one.claimed()
        async with other.connection.transaction():
            await other.execute("SELECT FROM headrace.jobs FOR UPDATE")
            await one.die(lease)
            assert await one.rescue() == (0, 0, 0)
            (chores,) = await one.rows("housekeeping", "orders")
            assert not chores["rescue"]
        await one.die(lease)
        assert await one.rescue() == (1, 0, 0)


class TestRecoveringByHand:
    """Of a queue that no worker looks after: who lives must have had the time to report."""

    LEASE_SECONDS = 0.01

    async def judged(self, session: Session) -> Any:
        """How many seconds ago leases must have ended, to be judged now."""
        until = await session.value("inspect_judged_until", QUEUE, self.LEASE_SECONDS, 3600.0)
        return until and await session.connection.fetchval("SELECT extract(epoch FROM now() - $1)::integer", until)

    @pytest.fixture
    async def silent(self, one: Session) -> None:
        """Two hours ago the last worker was lost, with a job."""
        await one.claimed()
        await one.execute("UPDATE headrace.leases SET expires_at = now() - interval '2 hours'")
        await one.execute(
            "UPDATE headrace.watches SET since = now() - interval '1 day', seen_at = now() - interval '2 hours'"
        )

    @pytest.mark.usefixtures("silent")
    async def test_what_was_silent_for_long_is_judged_at_once(self, one: Session) -> None:
        assert await self.judged(one) == 3600

    @pytest.mark.usefixtures("silent")
    async def test_where_somebody_was_there_until_lately_all_may_report_first(self, one: Session) -> None:
        lease = await one.lease()
        await one.execute(f"UPDATE headrace.leases SET expires_at = now() - interval '1 second' WHERE id = {lease}")
        assert await self.judged(one) is None

    @pytest.mark.usefixtures("silent")
    async def test_after_a_crash_or_a_failover_all_may_report_first(self, one: Session) -> None:
        """Then the watch, which is unlogged, is empty; to ask makes one, which proves nothing."""
        await one.execute("DELETE FROM headrace.watches")
        assert await self.judged(one) is None
        await one.execute("UPDATE headrace.watches SET judging_from = NULL")
        assert await self.judged(one) is None


class TestMakingRoom:
    async def test_the_one_that_holds_the_fewest_makes_room_for_half_a_minute_then_another(self, one: Session) -> None:
        busy, idle, receiver = (
            await one.lease(),
            await one.lease(),
            await one.value("start_lease", QUEUE, None, "script"),
        )
        await one.enqueue(3)
        await one.claim(busy, 2)
        await one.claim(idle, 1)
        for turn in (idle, busy):
            for _ in range(2):
                leases = (busy, idle, receiver)
                asked = {lease: await one.value("make_room", QUEUE, lease) for lease in leases}
                assert asked == {lease: lease == turn for lease in leases}
            await one.execute("UPDATE headrace.leases SET made_room_at = made_room_at - interval '31 seconds'")


class TestExpiry:
    async def test_what_runs_is_never_too_late_and_hides_nothing_that_is(self, one: Session) -> None:
        lease, _, _ = await one.claimed(30)
        late = await one.enqueue(5)
        await one.execute("UPDATE headrace.jobs SET expires_at = now() - interval '1 hour' - id * interval '-1 second'")
        assert await one.value("expire", QUEUE, 10) == 5
        assert await one.one("SELECT array_agg(id ORDER BY id) FROM headrace.dead_jobs") == late
        assert await one.value("expire", QUEUE, 10) == 0
        assert len(await one.rows("complete", lease, [1], list(range(1, 31)))) == 30

    async def test_one_worker_at_a_time_looks_for_it(self, one: Session, other: Session) -> None:
        await one.enqueue(2)
        await one.execute("UPDATE headrace.jobs SET expires_at = now()")
        async with other.connection.transaction():
            assert await other.value("expire", QUEUE, 1) == 1
            assert await one.value("expire", QUEUE, 1) == 0


class TestCounting:
    async def test_who_comes_while_somebody_counts_is_given_the_old_figure_at_once(
        self, one: Session, other: Session
    ) -> None:
        await one.enqueue(1)
        assert (await one.rows("count_and_share", QUEUE, 0.0))[0]["ready"] == 1
        await one.execute("UPDATE headrace.queue_stats SET counted_at = now() - interval '1 hour'")
        await one.enqueue(1)
        async with other.connection.transaction():
            assert (await other.rows("count_and_share", QUEUE, 0.0))[0]["ready"] == 2
            assert (await one.rows("count_and_share", QUEUE, 0.0))[0]["ready"] == 1

    async def test_before_the_first_count_is_done_there_is_none(self, one: Session, other: Session) -> None:
        async with other.connection.transaction():
            await other.rows("count_and_share", QUEUE, 0.0)
            assert await one.rows("count_and_share", QUEUE, 0.0) == []

    async def test_a_count_that_took_long_is_good_for_ten_times_as_long(self, one: Session) -> None:
        await one.rows("count_and_share", QUEUE, 0.0)
        await one.enqueue(1)
        await one.execute(
            "UPDATE headrace.queue_stats SET took_seconds = 3, counted_at = now() - interval '29 seconds'"
        )
        assert (await one.rows("count_and_share", QUEUE, 2.0))[0]["ready"] == 0
        await one.execute("UPDATE headrace.queue_stats SET counted_at = now() - interval '34 seconds'")
        assert (await one.rows("count_and_share", QUEUE, 2.0))[0]["ready"] == 1

    async def test_a_count_from_before_the_clock_stepped_back_is_none(self, one: Session) -> None:
        await one.execute("UPDATE headrace.queue_stats SET counted_at = now() + interval '1 hour'")
        await one.enqueue(1)
        assert (await one.rows("count_and_share", QUEUE, 2.0))[0]["ready"] == 1

    async def test_a_very_long_queue_is_counted_no_further(self, one: Session) -> None:
        await one.execute("INSERT INTO headrace.jobs (queue_id) SELECT 1 FROM generate_series(1, 100500)")
        (row,) = await one.rows("depths", ["orders"])
        assert (row["ready"], row["is_lower_bound"]) == (100_000, True)
        assert row["arrived"] >= 100_000

    async def test_what_arrived_never_falls_though_a_killed_worker_takes_its_last_word_along(
        self, one: Session
    ) -> None:
        lease, claims, ids = await one.claimed(10)
        assert (await one.rows("count_and_share", QUEUE, 0.0))[0]["arrived"] == 10
        await one.rows("complete", lease, claims, ids)
        assert (await one.rows("depths", ["orders"]))[0]["arrived"] == 10
        await one.rows("heartbeat", lease, LEASE_SECONDS, [], [], 8, 1, 0, 4.5, [9, *[0] * 11])
        await one.rows("end_leases", [lease])
        await one.enqueue(5)
        (row,) = await one.rows("depths", ["orders"])
        assert (row["arrived"], row["completed"], row["failed"], row["service_seconds"]) == (13, 8, 1, 4.5)
        assert row["service_histogram"] == [9, *[0] * 11]

    async def test_whether_anything_is_ready_is_told_past_what_is_held(self, one: Session) -> None:
        assert not await one.value("has_ready", QUEUE)
        lease, claims, ids = await one.claimed(5)
        assert not await one.value("has_ready", QUEUE)
        await one.put(["g"], delays=[60.0])
        assert not await one.value("has_ready", QUEUE)
        await one.rows("release", lease, claims, ids[:1], [0.0])
        assert await one.value("has_ready", QUEUE)

    async def test_of_more_arrivals_than_are_looked_at_some_may_be_ready(self, one: Session) -> None:
        """Each would be asked for the head of its group: a worker that is woken looks at them."""
        await one.put(["g"], delays=[60.0])
        await one.value("promote", QUEUE, 1)
        arrive = "INSERT INTO headrace.parked_jobs (id, queue_id, group_key, state) "
        await one.execute(f"{arrive} SELECT 10 + number, 1, 'g', 'arrived' FROM generate_series(1, 20000) AS number")
        assert not await one.value("has_ready", QUEUE)
        await one.execute(f"{arrive} VALUES (50000, 1, 'g', 'arrived')")
        assert await one.value("has_ready", QUEUE)
        await one.value("promote", QUEUE, 30000)
        assert not await one.value("has_ready", QUEUE)


class TestClaiming:
    async def test_a_batch_has_no_more_than_sixteen_megabytes(self, one: Session) -> None:
        await one.enqueue(40, payload=bytes(1024 * 1024))
        lease = await one.lease()
        assert [len(await one.claim(lease)) for _ in range(3)] == [16, 16, 8]

    async def test_delayed_jobs_become_ready_a_few_megabytes_at_a_time(self, one: Session) -> None:
        await one.enqueue(9, payload=bytes(1024 * 1024))
        await one.execute(
            "WITH gone AS (DELETE FROM headrace.jobs RETURNING *) INSERT INTO headrace.parked_jobs"
            " (id, queue_id, payload, run_at, state) SELECT id, 1, payload, now(), 'delayed' FROM gone"
        )
        assert [await one.value("promote", QUEUE, 1000) for _ in range(4)] == [4, 4, 1, 0]

    async def test_names_that_are_not_wanted_are_passed_over(self, one: Session) -> None:
        await one.execute(
            "INSERT INTO headrace.jobs (queue_id, name) SELECT 1, CASE WHEN n % 10 = 0 THEN 'rare' ELSE 'x' END"
            " FROM generate_series(1, 20000) AS n"
        )
        lease = await one.lease()
        rows = await one.rows("claim", QUEUE, lease, 100, START, ["x"], None)
        assert [row["name"] for row in rows] == ["rare"] * 100
        claims, ids = list({row["claim_id"] for row in rows}), [row["id"] for row in rows]
        assert len(await one.rows("complete", lease, claims, ids)) == 100

    async def test_what_comes_back_is_found_behind_the_last_that_did_and_in_its_turn(self, one: Session) -> None:
        first = await one.put(["g", "g", "g"])
        lease = await one.lease()
        (head,) = await one.claim(lease)
        young = await one.enqueue(3)
        await one.claim(lease, 2)
        await one.rows("complete", lease, [head["claim_id"]], [head["id"]])
        assert [row["id"] for row in await one.claim(lease, 10)] == [first[1], young[2]]

    async def test_of_both_lanes_the_older_go_first(self, one: Session) -> None:
        old = await one.enqueue(2)
        (back,) = await one.put([None], delays=[0.001])
        young = await one.enqueue(2)
        lease = await one.lease()
        assert sorted(row["id"] for row in await one.claim(lease, 3)) == [*old, back]
        assert sorted(row["id"] for row in await one.claim(lease, 3)) == young


class TestWhereToLook:
    """A claim passes neither what others hold nor what is gone."""

    @pytest.fixture
    async def held(self, one: Session) -> None:
        """Somebody holds 10,000 jobs of 10,100."""
        await one.execute("INSERT INTO headrace.jobs (queue_id) SELECT 1 FROM generate_series(1, 10100)")
        lease = await one.lease("busy")
        for _ in range(20):
            await one.claim(lease, 500)

    @pytest.mark.usefixtures("held")
    async def test_a_claim_reads_as_many_rows_as_it_takes_whatever_others_hold(self, one: Session) -> None:
        await one.execute("UPDATE headrace.watches SET look_at = now() + interval '1 minute'")
        lease = await one.lease()
        read = "SELECT idx_tup_fetch FROM pg_stat_xact_all_tables WHERE relid = 'headrace.jobs'::regclass"
        async with one.connection.transaction():
            before = await one.one(read)
            rows = await one.claim(lease, 10)
            assert len(rows) == 10
            assert await one.one(read) - before < 100

    @pytest.mark.usefixtures("held")
    async def test_of_all_workers_one_looks_from_the_start_now_and_then(self, one: Session) -> None:
        await one.execute("UPDATE headrace.watches SET look_at = now()")
        lease = await one.lease()
        looks = []
        for _ in range(3):
            await one.claim(lease, 10)
            looks.append(await one.one("SELECT look FROM headrace.watches"))
        assert looks[0] == looks[1] == looks[2] > 0

    async def test_what_is_committed_late_is_found_in_its_order(self, one: Session, other: Session) -> None:
        lease = await one.lease()
        async with other.connection.transaction():
            late = await other.enqueue(100)
            young = await one.enqueue(100)
            assert [row["id"] for row in await one.claim(lease, 10)] == young[:10]
        await one.execute("UPDATE headrace.watches SET look_at = now()")
        claimed = [row["id"] for _ in range(12) for row in await one.claim(lease, 10)]
        assert claimed == [*late, *young[10:30]]

    async def test_who_finds_nothing_looks_from_the_start_at_once(self, one: Session, other: Session) -> None:
        lease = await one.lease()
        async with other.connection.transaction():
            late = await other.enqueue()
            await one.enqueue()
            assert len(await one.claim(lease)) == 1
        await one.execute("UPDATE headrace.watches SET look_at = now() + interval '1 minute'")
        assert [row["id"] for row in await one.claim(lease)] == late

    async def test_between_dear_looks_from_the_start_one_from_where_others_ended_finds_what_was_committed_late(
        self, one: Session, other: Session
    ) -> None:
        lease = await one.lease()
        async with other.connection.transaction():
            late = await other.enqueue(3)
            young = await one.enqueue(10)
            await one.claim(lease, 5)
            floors = await one.one("SELECT floors FROM headrace.watches")
            assert floors[0] == young[5]
            # As it was seconds ago, but for the first two: those, only a look from the start finds.
            await one.execute(
                "UPDATE headrace.watches SET look_at = now(), full_at = now() + interval '1 minute', "
                f"near_floors[1] = {late[2]}"
            )
        assert [row["id"] for row in await one.claim(lease, 1)] == late[2:]
        assert [row["id"] for row in await one.claim(lease, 10)] == young[5:]
        assert await one.claim(lease) == []
        await one.execute("UPDATE headrace.watches SET full_at = now()")
        assert [row["id"] for row in await one.claim(lease)] == late[:2]

    async def test_a_look_knows_where_others_ended_two_seconds_ago_and_no_longer_than_five(self, one: Session) -> None:
        lease = await one.lease()
        ended = []
        for _ in range(3):
            ids = await one.enqueue(2)
            await one.execute("UPDATE headrace.watches SET look_at = now(), kept_at = kept_at - interval '2 seconds'")
            await one.claim(lease, 2)
            ended.append(ids[-1] + 1)
            assert await one.one("SELECT kept_floors[1] FROM headrace.watches") == ended[-1]
            assert await one.one("SELECT near_floors[1] FROM headrace.watches") == (ended[-2] if len(ended) > 1 else 0)
        await one.execute("UPDATE headrace.watches SET look_at = now()")
        await one.enqueue()
        await one.claim(lease)
        assert await one.one("SELECT kept_floors[1] FROM headrace.watches") == ended[-1]

    async def test_names_left_out_are_not_behind_everybody(self, one: Session) -> None:
        await one.execute("INSERT INTO headrace.jobs (queue_id, name) SELECT 1, 'x' FROM generate_series(1, 3)")
        await one.enqueue(3)
        lease = await one.lease()
        await one.claim(lease, 1)
        rows = await one.rows("claim", QUEUE, lease, 3, START, ["x"], None)
        assert {row["name"] for row in rows} == {"job"}
        await one.execute("UPDATE headrace.watches SET look_at = now() + interval '1 minute'")
        assert {row["name"] for row in await one.claim(lease)} == {"x"}

    async def test_who_leaves_names_out_does_not_look_for_fresh_ones_among_all_that_came_back(
        self, one: Session
    ) -> None:
        await one.execute(
            "INSERT INTO headrace.jobs (queue_id, name, came_back) "
            "SELECT 1, 'x', nextval('headrace.returns') FROM generate_series(1, 20000)"
        )
        lease = await one.lease()
        for is_first in (True, False, False):
            explained = await one.one(
                "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "
                f"SELECT * FROM headrace.claim(1, {lease}, 10, array_fill(0::bigint, ARRAY [22]), '{{y}}', NULL)"
            )
            plan = json.loads(explained)[0]["Plan"]
            assert plan["Actual Rows"] == 10
            pages = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
            assert is_first or pages < 200, "the first is a look from the start, and makes the plans"
            await one.execute("UPDATE headrace.watches SET look_at = now() + interval '1 minute'")

    async def test_who_leaves_names_out_passes_so_many_of_them_and_goes_on_from_there(self, one: Session) -> None:
        """However long their backlog is: no look takes long, and what stands behind it is found."""
        await one.execute(
            "INSERT INTO headrace.jobs (queue_id, name) SELECT 1, 'full' FROM generate_series(1, 150000);"
            "INSERT INTO headrace.jobs (queue_id, name, came_back) "
            "SELECT 1, 'full', nextval('headrace.returns') FROM generate_series(1, 50000);"
            "INSERT INTO headrace.jobs (queue_id, name) SELECT 1, 'free' FROM generate_series(1, 10)"
        )
        lease = await one.lease()
        frontier = Frontier()
        without = frozenset({"full"})
        read = "SELECT idx_tup_fetch FROM pg_stat_xact_all_tables WHERE relid = 'headrace.jobs'::regclass"
        passed = []
        free: list[str] = []
        is_under_way = True
        while is_under_way:
            floors, look = frontier.of(without, 0.0)
            async with one.connection.transaction():
                before = await one.one(read)
                rows = await one.rows("claim", QUEUE, lease, 10, floors, list(without), look)
                passed.append(await one.one(read) - before)
            free += [row["name"] for row in rows if row["claim_id"]]
            marks = [(row["priority"], row["id"], row["came_back"], row["look"]) for row in rows if not row["claim_id"]]
            is_under_way = frontier.passed(without, marks, 0.0)
        assert free == ["free"] * 10
        assert sorted(passed)[-2] < 60_000, "once, those that came back are passed to find the first that did not"
        assert len(passed) <= 22

    @pytest.mark.usefixtures("held")
    async def test_without_a_watch_jobs_are_found_all_the_same(self, one: Session) -> None:
        await one.execute("DELETE FROM headrace.watches")
        assert len(await one.claim(await one.lease(), 1000)) == 100


DEAD_ROWS = """
INSERT INTO headrace.jobs (queue_id, came_back)
SELECT 1, nextval('headrace.returns') FROM generate_series(1, 20000);
INSERT INTO headrace.parked_jobs (id, queue_id, run_at, state)
SELECT 1000000 + n, 1, now() - interval '1 hour', 'delayed' FROM generate_series(1, 20000) AS n;
INSERT INTO headrace.parked_jobs (id, queue_id, enqueued_at, group_key, state)
SELECT 2000000 + n, 1, now() - interval '1 hour', 'old', 'arrived' FROM generate_series(1, 20000) AS n;
DELETE FROM headrace.jobs;
DELETE FROM headrace.parked_jobs;
"""


class TestUnderAnOldTransaction:
    """It keeps every dead row since, in the tables and their indexes."""

    async def test_no_claim_passes_the_dead_rows_of_what_waited_or_came_back(
        self, one: Session, other: Session
    ) -> None:
        async with other.connection.transaction(isolation="repeatable_read"):
            await other.execute("SELECT 1")
            await one.execute(DEAD_ROWS)
            lease = await one.lease()
            assert await one.claim(lease) == [], "a look from the start, and none within the next minute"
            await one.execute(
                "UPDATE headrace.watches"
                " SET look_at = now() + interval '1 minute', hungry_at = now() + interval '1 minute'"
            )

            async def claimed() -> tuple[int, list[int]]:
                """How many pages a claim from the frontier touches, and what it finds."""
                before = await one.one("SELECT coalesce(max(id), 0) FROM headrace.claims")
                explained = await one.connection.fetchval(
                    "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM headrace.claim(1, $1, 10, $2, NULL, NULL)",
                    *(lease, START),
                )
                plan = json.loads(explained)[0]["Plan"]
                found = await one.connection.fetch("SELECT job_ids FROM headrace.claims WHERE id > $1", before)
                return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"], [
                    n for row in found for n in row["job_ids"]
                ]

            async def claim_of() -> int:
                claim: int = await one.one("SELECT max(id) FROM headrace.claims")
                return claim

            most_pages = 100_000  # The first round makes the plans.
            for _ in range(3):
                delayed, head, behind = await one.put([None, "g", "g"], delays=[60.0, 0, 0])
                assert await one.value("inspect_make_due", QUEUE, delayed)
                pages, found = await claimed()
                assert (found, pages < most_pages) == ([delayed, head], True), pages
                await one.rows("complete", lease, [await claim_of()], [head])
                pages, found = await claimed()
                assert (found, pages < most_pages) == ([behind], True), pages
                await one.rows("retry", lease, [await claim_of()], [behind], [0.0], [json.dumps({"error": "boom"})])
                pages, found = await claimed()
                assert (found, pages < most_pages) == ([behind], True), pages
                await one.rows("complete", lease, [await claim_of()], [behind])
                most_pages = 300


class TestTheClock:
    """It steps back: a machine that was restored, a failover to one that is late."""

    async def test_a_lease_far_in_the_future_is_none(self, one: Session) -> None:
        await one.claimed()
        await one.execute("UPDATE headrace.leases SET expires_at = now() + interval '1 hour'")
        await one.execute(WATCHED)
        assert await one.rescue() == (1, 0, 0)

    async def test_the_watch_begins_anew(self, one: Session) -> None:
        await one.execute(
            "UPDATE headrace.watches SET since = now() + interval '59 min', seen_at = now() + interval '1 hour'"
        )
        await one.rows("housekeeping", "orders")
        assert await one.one("SELECT since = seen_at AND seen_at <= now() FROM headrace.watches")


class TestGroups:
    async def test_queues_of_two_schemas_share_no_lock(self, one: Session, place: Place) -> None:
        await PostgresProvisioner(Place(dsn=place.dsn, schema="second")).migrate()
        assert await one.one("SELECT headrace.group_lock(1, 7) <> second.group_lock(1, 7)")

    async def test_all_groups_are_looked_at_once_a_minute_whoever_asks(self, one: Session) -> None:
        await one.put(["g", "g"])
        await one.value("promote", QUEUE, 10)
        (chores,) = await one.rows("housekeeping", "orders")
        assert chores["groups"]
        await one.rows("sweep_groups", QUEUE)
        (chores,) = await one.rows("housekeeping", "orders")
        assert not chores["groups"]

    async def test_a_head_completed_in_a_transaction_is_remembered_for_as_long_as_it_is_held(
        self, one: Session, other: Session
    ) -> None:
        await one.put(["g"])
        lease = await one.lease()
        (head,) = await one.claim(lease)
        await one.execute(f"SELECT headrace.complete_in_transaction({lease}, {head['claim_id']}, {head['id']})")
        await one.rows("sweep_groups", QUEUE)
        assert await one.one("SELECT count(*) FROM headrace.completed_heads") == 1
        async with other.connection.transaction():
            await other.execute("SELECT headrace.lock_groups(1, ARRAY ['g'])")
            await one.rows("end_leases", [lease])
        await one.execute("UPDATE headrace.watches SET swept_at = now() - interval '2 minutes'")
        (chores,) = await one.rows("housekeeping", "orders")
        assert chores["groups"], "though no job waits"
        await one.rows("sweep_groups", QUEUE)
        assert await one.one("SELECT count(*) FROM headrace.completed_heads") == 0

    async def test_what_is_committed_late_is_the_next_of_its_group(self, one: Session, other: Session) -> None:
        async with other.connection.transaction():
            (late,) = await other.put(["g"])
            first, *others = await one.put(["g"] * 3)
            lease = await one.lease()
            (head,) = await one.claim(lease)
            assert head["id"] == first
        await one.value("promote", QUEUE, 10)
        order = []
        for _ in range(3):
            await one.rows("complete", lease, [head["claim_id"]], [head["id"]])
            (head,) = await one.claim(lease)
            order.append(head["id"])
        assert order == [late, *others]

    async def test_one_that_has_nothing_left_is_forgotten_within_a_minute(self, one: Session) -> None:
        await one.put(["done", "running", "waiting", "waiting"], delays=[0.0, 0.0, 600.0, 0.0])
        lease = await one.lease()
        for job in await one.claim(lease):
            if job["group_key"] == "done":
                await one.rows("complete", lease, [job["claim_id"]], [job["id"]])
        await one.rows("sweep_groups", QUEUE)
        left = await one.connection.fetch("SELECT group_key FROM headrace.groups ORDER BY group_key")
        assert [row["group_key"] for row in left] == ["running", "waiting"]

    async def test_of_very_many_so_many_are_looked_at_and_the_next_in_a_moment(self, one: Session) -> None:
        """A statement about all of them would take longer than it may, and be tried again for ever."""
        await one.execute(
            "INSERT INTO headrace.groups (queue_id, head_id, next_id, head_priority, group_key) "
            "SELECT 1, 0, 1, 0, 'g' || number FROM generate_series(1, 10100) AS number"
        )
        await one.execute(
            "INSERT INTO headrace.parked_jobs (id, queue_id, group_key, state) VALUES (5, 1, 'h', 'behind')"
        )
        await one.rows("sweep_groups", QUEUE)
        assert await one.one("SELECT count(*) FROM headrace.groups") == 100
        (chores,) = await one.rows("housekeeping", "orders")
        assert not chores["groups"]
        await one.execute("UPDATE headrace.watches SET swept_at = now() - interval '3 seconds'")
        (chores,) = await one.rows("housekeeping", "orders")
        assert chores["groups"]
        assert await one.value("sweep_groups", QUEUE) == 1
        left = await one.connection.fetch("SELECT group_key FROM headrace.groups")
        assert [row["group_key"] for row in left] == ["h"]
        await one.execute("UPDATE headrace.watches SET swept_at = now() - interval '3 seconds'")
        (chores,) = await one.rows("housekeeping", "orders")
        assert not chores["groups"], "all were looked at, within this minute"

    async def test_who_makes_a_head_due_waits_for_who_lets_its_group_go_on(self, one: Session, other: Session) -> None:
        await one.put(["g", "g"], delays=[0.0, 600.0])
        lease = await one.lease()
        (head,) = await one.claim(lease)
        (second,) = [row["id"] for row in await one.connection.fetch("SELECT id FROM headrace.parked_jobs")]
        async with one.connection.transaction():
            await one.rows("complete", lease, [head["claim_id"]], [head["id"]])
            asked = asyncio.create_task(other.value("inspect_make_due", QUEUE, second))
            await eventually(lambda: waits(one, "advisory"), what="waiting for the group")
        assert await asked
        assert [row["id"] for row in await one.claim(lease)] == [second]


async def waits(session: Session, kind: str) -> bool:
    """Whether anybody waits for a lock of this kind, in this database."""
    question = "SELECT count(*) > 0 FROM pg_locks JOIN pg_database ON oid = database AND datname = current_database()"
    return bool(await session.one(f"{question} WHERE NOT granted AND locktype = '{kind}'"))


class TestTelling:
    async def test_each_queue_has_a_channel_of_its_own(self, one: Session) -> None:
        assert await one.value("channel", 1) != await one.value("channel", 2)

    async def test_no_commit_fails_of_a_notification(self, one: Session, other: Session) -> None:
        """Somebody listens and never reads: where the server's queue of notifications is full, commits fail."""
        heard: list[str] = []
        channel = await one.value("channel", QUEUE)
        await other.connection.add_listener(channel, lambda *_: heard.append("of jobs"))
        await other.connection.add_listener("end", lambda *_: heard.append("the end"))
        await other.rows("wait", QUEUE)
        await one.execute(
            "CREATE FUNCTION public.pg_notification_queue_usage() RETURNS float8 LANGUAGE sql AS 'SELECT 0.6'"
        )
        for path in ("pg_catalog, public", "public, pg_catalog"):
            await one.execute(f"SET search_path = {path}")
            await one.execute("DISCARD PLANS; SELECT headrace.enqueue('orders', 'job'); NOTIFY \"end\"")

        await eventually(lambda: ends(heard, 2), what="all heard")
        assert heard == ["of jobs", "the end", "the end"]

    async def test_who_prepares_a_transaction_does_without(self, one: Session, other: Session) -> None:
        heard: list[str] = []
        await other.connection.add_listener(await one.value("channel", QUEUE), lambda *_: heard.append("of jobs"))
        await other.connection.add_listener("end", lambda *_: heard.append("the end"))
        await other.rows("wait", QUEUE)
        await one.execute("SELECT headrace.enqueue('orders', 'job', notify => false); NOTIFY \"end\"")
        await eventually(lambda: ends(heard), what="all heard")
        assert heard == ["the end"]


async def ends(heard: list[str], times: int = 1) -> bool:
    return heard.count("the end") == times
