"""One relation of all jobs to query, and a function that puts back what is stuck."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import asyncpg
import pytest

from headrace.job import NewJob, new_job
from headrace.queues.base import Owner, QueueSettings
from headrace.queues.postgres import Place, PostgresProvisioner, PostgresQueue
from support.shell import headrace
from support.verbs import dead_letter, enqueue
from support.worker_process import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

OWNER = Owner(namespace="shop", name="orders", uid="1")

WATCHED_FOR_A_LEASE = "UPDATE headrace.watches SET since = now() - interval '20 seconds', seen_at = now()"


@pytest.fixture
async def admin(database_dsn: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(database_dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def queue(database_dsn: str) -> AsyncIterator[PostgresQueue]:
    place = Place(dsn=database_dsn)
    await PostgresProvisioner(place).ensure("orders", QueueSettings(max_retries=2), OWNER)
    async with PostgresQueue(place, "orders", holder="worker-1") as opened:
        yield opened


class TestBackgroundJobs:
    async def test_it_has_every_job_wherever_it_stands(
        self, queue: PostgresQueue, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        await queue.enqueue([new_job("dead")])
        (delivery,) = await queue.receive(1)
        await dead_letter(queue, delivery, reason="Broken", error="disk on fire")
        await queue.enqueue([new_job("running", {"a": 1}, priority=9, headers={"trace": "00"})])
        await queue.receive(1)
        await queue.enqueue(
            [
                new_job("ready"),
                new_job("delayed", delay_seconds=60, deduplication_key="k"),
                new_job("head", group="g"),
                new_job("behind", group="g"),
            ]
        )
        rows = {row["name"]: row for row in await admin.fetch("SELECT * FROM headrace.background_jobs")}
        assert {name: row["status"] for name, row in rows.items()} == {
            "dead": "dead",
            "running": "running",
            "ready": "ready",
            "delayed": "delayed",
            "head": "ready",
            "behind": "blocked",
        }
        running = rows["running"]
        assert (running["queue"], running["worker"], running["attempt"], running["max_retries"]) == (
            "orders",
            "worker-1",
            1,
            2,
        )
        assert (json.loads(running["payload"]), running["payload_bytes"]) == ({"a": 1}, b'{"a":1}')
        assert json.loads(running["headers"]) == {"trace": "00"}
        assert running["leased_at"] < running["lease_expires_at"]
        assert (rows["dead"]["last_error"], rows["dead"]["reason"]) == ("disk on fire", "Broken")
        assert (rows["delayed"]["deduplication_key"], rows["behind"]["message_group"]) == ("k", "g")
        assert rows["ready"]["run_at"] == rows["ready"]["enqueued_at"]

    @pytest.mark.parametrize(
        "payload", [b"\xff\x00", b"{no json", b'"\\u0000"', b"[" * 20_000, b"1e1000000"], ids=range(5)
    )
    async def test_a_payload_that_jsonb_can_not_hold_is_null_and_its_bytes_are_there(
        self, queue: PostgresQueue, admin: asyncpg.Connection[asyncpg.Record], payload: bytes
    ) -> None:
        await queue.enqueue([NewJob(payload=payload)])
        row = await admin.fetchrow("SELECT payload, payload_bytes FROM headrace.background_jobs")
        assert row is not None
        assert (row["payload"], row["payload_bytes"]) == (None, payload)

    async def test_it_can_be_asked_as_its_users_do(
        self, queue: PostgresQueue, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        await queue.enqueue([NewJob()] * 3 + [NewJob(delay_seconds=60)])
        counts = await admin.fetch(
            "SELECT status, count(*) FROM headrace.background_jobs WHERE queue = 'orders' GROUP BY 1 ORDER BY 1"
        )
        assert [tuple(row) for row in counts] == [("delayed", 1), ("ready", 3)]

    async def test_a_job_is_found_by_queue_priority_and_id_without_reading_the_queue(
        self, queue: PostgresQueue, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        await queue.enqueue([NewJob()] * 5000)
        await admin.execute("VACUUM ANALYZE headrace.jobs")
        plan = "\n".join(
            row[0]
            for row in await admin.fetch(
                "EXPLAIN SELECT * FROM headrace.background_jobs WHERE queue = 'orders' AND priority = 0 AND id = 7"
            )
        )
        assert "Index Cond: ((queue_id = " in plan
        assert "Seq Scan on jobs" not in plan


class TestRecoverStuck:
    async def test_it_gives_what_it_puts_back_and_leaves_what_is_kept_alive(
        self, queue: PostgresQueue, admin: asyncpg.Connection[asyncpg.Record], database_dsn: str
    ) -> None:
        await PostgresProvisioner(Place(dsn=database_dsn)).ensure("mails", QueueSettings(), OWNER)
        await admin.execute(WATCHED_FOR_A_LEASE)
        await queue.enqueue([new_job("kept")])
        await queue.receive(1)
        async with PostgresQueue(Place(dsn=database_dsn), "mails", holder="lost") as lost:
            (job_id,) = await enqueue(lost, [new_job("lost")])
            await lost.receive(1)
            await admin.execute("UPDATE headrace.claims SET claimed_at = now() - interval '61 minutes'")
            assert await admin.fetch("SELECT * FROM headrace.recover_stuck_background_jobs(60)") == []
            await admin.execute("UPDATE headrace.leases SET expires_at = now() WHERE holder = 'lost'")
            assert await admin.fetch("SELECT * FROM headrace.recover_stuck_background_jobs(62)") == []
            (row,) = await admin.fetch("SELECT * FROM headrace.recover_stuck_background_jobs(60)")
            assert (row["id"], row["queue"], row["name"], row["status"]) == (int(job_id), "mails", "lost", "ready")
        async with PostgresQueue(Place(dsn=database_dsn), "mails") as other:
            (again,) = await other.receive(1)
            assert (again.job.id, again.job.attempt) == (job_id, 1), "uncharged"

    async def test_where_no_worker_runs_it_lets_who_lives_report_first(
        self, queue: PostgresQueue, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        was_up = "SELECT pg_postmaster_start_time() < now() - interval '30 seconds'"
        await eventually(lambda: asked(admin, was_up), what="a server that was there all the time")
        await queue.enqueue([new_job("lost")])
        await queue.receive(1)
        await admin.execute("UPDATE headrace.leases SET expires_at = now()")
        await admin.execute("DELETE FROM headrace.watches")
        told: list[str] = []
        admin.add_log_listener(lambda _, message: told.append(message.message))
        assert await admin.fetch("SELECT * FROM headrace.recover_stuck_background_jobs(0)") == []
        assert ["ask again in 20 s" in line for line in told] == [True]
        await admin.execute("UPDATE headrace.watches SET judging_from = now() - interval '20 seconds'")
        await admin.execute("UPDATE headrace.leases SET expires_at = expires_at - interval '20 seconds'")
        (row,) = await admin.fetch("SELECT * FROM headrace.recover_stuck_background_jobs(0)")
        assert row["name"] == "lost"

    @pytest.mark.usefixtures("queue")
    @pytest.mark.parametrize("minutes", ["-1", "NULL"])
    async def test_a_time_that_is_none_is_refused(
        self, admin: asyncpg.Connection[asyncpg.Record], minutes: str
    ) -> None:
        with pytest.raises(asyncpg.InvalidParameterValueError, match="0 or more"):
            await admin.execute(f"SELECT * FROM headrace.recover_stuck_background_jobs({minutes})")


async def asked(admin: asyncpg.Connection[asyncpg.Record], question: str) -> bool:
    return bool(await admin.fetchval(question))


ORIGINAL = "CREATE TABLE public.background_jobs (id bigint, theirs text)"
ORIGINAL_FUNCTION = (
    "CREATE FUNCTION public.recover_stuck_background_jobs(m integer) RETURNS integer LANGUAGE sql AS 'SELECT 1'"
)


class TestTheOriginalsTable:
    async def test_wrappers_in_public_are_made_on_request(
        self, queue: PostgresQueue, admin: asyncpg.Connection[asyncpg.Record], database_dsn: str
    ) -> None:
        await queue.enqueue([NewJob()])
        first = await headrace("migrate", "--public-wrappers", dsn=database_dsn)
        assert (first.returncode, "wrappers in schema public: made" in first.stdout) == (0, True)
        assert await admin.fetchval("SELECT count(*) FROM background_jobs") == 1
        assert await admin.fetch("SELECT * FROM recover_stuck_background_jobs(60)") == []
        again = await headrace("migrate", "--public-wrappers", dsn=database_dsn)
        assert "there already" in again.stdout

    @pytest.mark.usefixtures("queue")
    @pytest.mark.parametrize(
        ("theirs", "kind"),
        [
            (ORIGINAL, "public.background_jobs is a table of somebody else's"),
            (ORIGINAL_FUNCTION, "public.recover_stuck_background_jobs is a function of somebody else's"),
        ],
    )
    async def test_what_is_somebody_elses_there_is_not_touched(
        self, admin: asyncpg.Connection[asyncpg.Record], database_dsn: str, theirs: str, kind: str
    ) -> None:
        await admin.execute(theirs)
        done = await headrace("migrate", "--public-wrappers", dsn=database_dsn)
        assert done.returncode == 1
        assert kind in done.stderr
        assert "query headrace." in done.stderr
        assert await admin.fetchval("SELECT to_regclass('public.background_jobs') IS NOT NULL") is (theirs == ORIGINAL)

    @pytest.mark.usefixtures("queue")
    async def test_a_second_schemas_wrappers_do_not_replace_the_firsts(self, database_dsn: str) -> None:
        await headrace("migrate", "--public-wrappers", dsn=database_dsn)
        done = await headrace("migrate", "--schema", "second", "--public-wrappers", dsn=database_dsn)
        assert done.returncode == 1
        assert "belongs to the queues of schema 'headrace'" in done.stderr

    @pytest.mark.usefixtures("queue")
    async def test_who_grants_is_told_that_theirs_is_found_first(
        self, admin: asyncpg.Connection[asyncpg.Record], database_dsn: str
    ) -> None:
        await admin.execute(ORIGINAL)
        us = await admin.fetchval("SELECT current_user")
        done = await headrace("migrate", "--grant-worker", us, dsn=database_dsn)
        assert "is found first: write headrace.background_jobs" in done.stdout

    @pytest.mark.parametrize(
        "theirs",
        [
            ORIGINAL,
            "CREATE FUNCTION recover_stuck_background_jobs(m integer) RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        ],
    )
    async def test_our_own_schema_can_not_be_theirs(
        self, admin: asyncpg.Connection[asyncpg.Record], database_dsn: str, theirs: str
    ) -> None:
        await admin.execute(theirs)
        done = await headrace("migrate", "--schema", "public", dsn=database_dsn)
        assert done.returncode == 1
        assert "choose another schema" in done.stderr
        assert await admin.fetchval("SELECT to_regclass('public.jobs') IS NULL"), "all or nothing"
