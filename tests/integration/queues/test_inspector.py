"""What people ask of queues in Postgres, and do to them by hand."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeAlias

import asyncpg
import pytest

from headrace.job import NewJob, new_job
from headrace.queues import inspector_from_url
from headrace.queues.base import Owner, QueueSettings
from headrace.queues.errors import QueueError, QueueNotFoundError
from headrace.queues.inspection import Cancel, JobFilter, Pause, Purge, Queues, RecoverStuck, Redrive, RetryNow, require
from headrace.queues.postgres import Place, PostgresInspector, PostgresProvisioner, PostgresQueue
from support.verbs import complete, dead_letter, enqueue
from support.worker_process import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from headrace.queues.base import Delivery
    from headrace.queues.inspection import JobRecord

Admin: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

OWNER = Owner(namespace="shop", name="orders", uid="1")
# A queue that was made a moment ago has not been watched for longer.
LEASE_SECONDS = 0.001


@pytest.fixture
async def admin(database_dsn: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(database_dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def place(database_dsn: str) -> Place:
    place = Place(dsn=database_dsn)
    await PostgresProvisioner(place).ensure("orders", QueueSettings(max_retries=0), OWNER)
    return place


@pytest.fixture
async def queue(place: Place) -> AsyncIterator[PostgresQueue]:
    async with PostgresQueue(place, "orders", holder="worker-1") as opened:
        yield opened


@pytest.fixture
async def inspector(place: Place) -> AsyncIterator[PostgresInspector]:
    async with PostgresInspector(place, lease_seconds=LEASE_SECONDS) as opened:
        yield opened


async def kill(queue: PostgresQueue, *jobs: NewJob, reason: str = "Broken") -> list[str]:
    """Enqueue these jobs, and let them die."""
    ids = await enqueue(queue, jobs)
    while deliveries := await queue.receive(100):
        for delivery in deliveries:
            await dead_letter(queue, delivery, reason=reason, error="disk on fire", traceback="Traceback: …")
    return ids


async def receive_one(queue: PostgresQueue) -> Delivery:
    (delivery,) = await queue.receive(1, wait_seconds=2)
    return delivery


def names(records: list[JobRecord]) -> list[str]:
    return [record.job.name for record in records]


class TestQueues:
    async def test_all_queues_are_listed_with_settings_owner_and_depth(
        self, place: Place, queue: PostgresQueue, inspector: PostgresInspector
    ) -> None:
        await PostgresProvisioner(place).ensure("a-second", QueueSettings(paused=True), OWNER)
        await enqueue(queue, [NewJob(), NewJob(delay_seconds=60)])
        second, first = await inspector.queues()
        assert (second.name, second.settings.paused, second.depth.ready) == ("a-second", True, 0)
        assert (first.name, first.owner, first.settings) == ("orders", OWNER, QueueSettings(max_retries=0))
        assert (first.depth.ready, first.depth.delayed) == (1, 1)

    async def test_one_queue_is_looked_at_alone(
        self, place: Place, queue: PostgresQueue, inspector: PostgresInspector
    ) -> None:
        await PostgresProvisioner(place).ensure("a-second", QueueSettings(), OWNER)
        await queue.enqueue([NewJob()])
        record = await inspector.queue("orders")
        assert (record.name, record.depth.ready, record.owner) == ("orders", 1, OWNER)

    async def test_who_asks_for_a_change_and_why_is_logged(
        self, queue: PostgresQueue, inspector: PostgresInspector, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", logger="headrace.queues.postgres.inspector")
        (job_id,) = await enqueue(queue, [NewJob(delay_seconds=60)])
        await inspector.pause("orders", Pause(paused=True, by="ada", why="the bank is down"))
        await inspector.cancel("orders", Cancel(job_id=job_id))
        assert caplog.messages == [
            "queue orders: paused, by ada: the bank is down",
            f"queue orders: cancel job {job_id}: cancelled, by somebody: no reason given",
        ]

    async def test_a_pause_by_hand_stands_beside_that_of_the_owner(
        self, queue: PostgresQueue, inspector: PostgresInspector
    ) -> None:
        await enqueue(queue, [NewJob()])
        await inspector.pause("orders", Pause(paused=True))
        (record,) = await inspector.queues()
        assert (record.paused_by_hand, record.settings.paused) == (True, False)
        assert await queue.receive(1) == []
        await inspector.pause("orders", Pause(paused=False))
        assert len(await queue.receive(1)) == 1

    async def test_a_queue_that_does_not_exist_is_said(self, inspector: PostgresInspector) -> None:
        for call in (
            inspector.queue("nowhere"),
            inspector.pause("nowhere", Pause(paused=True)),
            inspector.job("nowhere", "1"),
            inspector.jobs("nowhere", JobFilter()),
            inspector.cancel("nowhere", Cancel(job_id="1")),
            inspector.redrive("nowhere", Redrive()),
            inspector.recover_stuck("nowhere", RecoverStuck(older_than_seconds=0)),
        ):
            with pytest.raises(QueueNotFoundError, match="nowhere"):
                await call

    async def test_an_inspector_comes_from_a_url(self, place: Place) -> None:
        async with inspector_from_url(place.dsn) as inspector:
            assert [record.name for record in await require(inspector, Queues).queues()] == ["orders"]
        with pytest.raises(QueueError, match="no queue backend for mysql"):
            inspector_from_url("mysql://db/x")


class TestJobs:
    async def test_a_job_is_found_wherever_it_stands(self, queue: PostgresQueue, inspector: PostgresInspector) -> None:
        (dead,) = await kill(queue, new_job("dead", {"a": 1}))
        (running,) = await enqueue(queue, [new_job("running", priority=9, headers={"trace": "00"})])
        await receive_one(queue)
        ready, delayed, head, behind = await enqueue(
            queue,
            [
                new_job("ready"),
                new_job("delayed", delay_seconds=60),
                new_job("head", group="customer-7"),
                new_job("behind", group="customer-7", deduplication_key="k"),
            ],
        )
        found = {
            job_id: await inspector.job("orders", job_id) for job_id in (dead, running, ready, delayed, head, behind)
        }
        assert {record.job.name: record.state for record in found.values() if record} == {
            "dead": "dead",
            "running": "running",
            "ready": "ready",
            "delayed": "delayed",
            "head": "ready",
            "behind": "blocked",
        }
        record = found[running]
        assert record is not None
        assert (record.holder, record.job.attempt, record.job.priority) == ("worker-1", 1, 9)
        assert record.job.headers == {"trace": "00"}
        record = found[dead]
        assert record is not None
        assert (record.reason, record.job.attempt, record.job.payload) == ("Broken", 1, b'{"a":1}')
        (failure,) = record.failures
        assert (failure.attempt, failure.failure.error, failure.failure.traceback) == (
            1,
            "disk on fire",
            "Traceback: …",
        )
        assert record.ended_at is not None
        assert abs(record.ended_at - failure.at).total_seconds() < 60

    @pytest.mark.parametrize("job_id", ["17", "", "-1", "x", "1" * 30, "¹"])
    async def test_there_is_no_job_of_such_an_id(self, inspector: PostgresInspector, job_id: str) -> None:
        assert await inspector.job("orders", job_id) is None
        assert await inspector.cancel("orders", Cancel(job_id=job_id)) is None
        assert not await inspector.retry_now("orders", RetryNow(job_id=job_id))

    async def test_a_finished_job_is_known_only_where_the_queue_keeps_a_history(
        self, place: Place, queue: PostgresQueue, inspector: PostgresInspector
    ) -> None:
        (gone,) = await enqueue(queue, [NewJob()])
        await complete(queue, [await receive_one(queue)])
        assert await inspector.job("orders", gone) is None
        await PostgresProvisioner(place).ensure("orders", QueueSettings(completed_retention_seconds=60), OWNER)
        completed, cancelled = await enqueue(queue, [new_job("completed"), new_job("cancelled")])
        await complete(queue, [await receive_one(queue)])
        await inspector.cancel("orders", Cancel(job_id=cancelled))
        record = await inspector.job("orders", completed)
        assert record is not None
        assert record.state == "completed"
        assert record.ended_at is not None
        assert names(await inspector.jobs("orders", JobFilter())) == ["cancelled", "completed"], "newest first"
        assert names(await inspector.jobs("orders", JobFilter(state="completed"))) == ["completed"]

    async def test_jobs_are_listed_as_they_would_be_claimed_then_those_that_wait(
        self, queue: PostgresQueue, inspector: PostgresInspector
    ) -> None:
        await kill(queue, new_job("dead"))
        await enqueue(
            queue,
            [
                new_job("later", delay_seconds=120),
                new_job("soon", delay_seconds=60),
                new_job("second"),
                new_job("first", priority=5),
                new_job("third", group="g"),
                new_job("behind", group="g"),
                new_job("delayed-head", group="h", delay_seconds=90),
                new_job("behind-delayed", group="h"),
            ],
        )
        # Before anybody has looked at the groups, and after.
        for _ in range(2):
            listed = await inspector.jobs("orders", JobFilter())
            assert names(listed) == [
                *("first", "second", "third"),
                *("soon", "delayed-head", "later"),
                *("behind", "behind-delayed"),
            ]
            assert [record.state for record in listed] == ["ready"] * 3 + ["delayed"] * 3 + ["blocked"] * 2
            assert names(await inspector.jobs("orders", JobFilter(), limit=4)) == ["first", "second", "third", "soon"]
            await queue.maintain()
        await queue.receive(1)
        assert [record.state for record in await inspector.jobs("orders", JobFilter(), limit=2)] == ["running", "ready"]
        assert names(await inspector.jobs("orders", JobFilter(state="dead"))) == ["dead"]

    async def test_filters_must_all_hold(
        self, queue: PostgresQueue, inspector: PostgresInspector, admin: Admin
    ) -> None:
        old, new, other, delayed = await enqueue(
            queue, [new_job("a"), new_job("a"), new_job("b"), new_job("a", delay_seconds=60)]
        )
        await admin.execute(
            "UPDATE headrace.jobs SET enqueued_at = now() - interval '1 day' WHERE id = ANY ($1::bigint[])",
            [int(old), int(other)],
        )

        async def ids(which: JobFilter) -> list[str]:
            return [record.job.id for record in await inspector.jobs("orders", which)]

        assert await ids(JobFilter(name="a")) == [old, new, delayed]
        assert await ids(JobFilter(name="a", older_than_seconds=3600)) == [old]
        assert await ids(JobFilter(state="delayed")) == [delayed]
        assert await ids(JobFilter(ids=(delayed, new, "no number"))) == [new, delayed]
        assert await ids(JobFilter(ids=(delayed, new), state="ready")) == [new]
        assert await ids(JobFilter(reason="Broken")) == []

    async def test_a_cancelled_job_is_gone_and_a_running_one_is_asked_to_stop(
        self, queue: PostgresQueue, inspector: PostgresInspector
    ) -> None:
        running, waiting = await enqueue(queue, [NewJob(), NewJob(delay_seconds=60)])
        await receive_one(queue)
        assert await inspector.cancel("orders", Cancel(job_id=waiting)) == "cancelled"
        assert await inspector.cancel("orders", Cancel(job_id=running)) == "requested"
        assert await inspector.job("orders", waiting) is None
        await queue.keep_alive()
        kept = await queue.keep_alive()
        assert {job_id for _, job_id in kept.cancelled} == {running}

    async def test_a_delayed_job_is_made_due_and_a_dead_one_put_back(
        self, queue: PostgresQueue, inspector: PostgresInspector
    ) -> None:
        (dead,) = await kill(queue, new_job("dead"))
        delayed, ready = await enqueue(queue, [new_job("delayed", delay_seconds=60), new_job("ready")])
        assert await inspector.retry_now("orders", RetryNow(job_id=delayed))
        assert await inspector.retry_now("orders", RetryNow(job_id=dead))
        assert not await inspector.retry_now("orders", RetryNow(job_id=ready))
        assert sorted(delivery.job.name for delivery in await queue.receive(10)) == ["dead", "delayed", "ready"]


class TestDeadJobs:
    async def test_redriven_jobs_keep_their_ids_and_have_all_attempts_before_them(
        self, queue: PostgresQueue, inspector: PostgresInspector
    ) -> None:
        ids = await kill(queue, new_job("a", priority=3), new_job("b"))
        assert await inspector.redrive("orders", Redrive()) == 2
        deliveries = await queue.receive(10)
        assert [(delivery.job.id, delivery.job.attempt, delivery.job.priority) for delivery in deliveries] == [
            (ids[0], 1, 3),
            (ids[1], 1, 0),
        ]
        await dead_letter(queue, deliveries[0], reason="Again", error="still burning")
        record = await inspector.job("orders", ids[0])
        assert record is not None
        assert [failure.failure.error for failure in record.failures] == ["disk on fire", "still burning"]

    async def test_only_what_is_meant_is_redriven(
        self, queue: PostgresQueue, inspector: PostgresInspector, admin: Admin
    ) -> None:
        (by_id,) = await kill(queue, new_job("x"))
        await kill(queue, new_job("by-name"), new_job("old"))
        await kill(queue, new_job("by-reason"), reason="Expired")
        await admin.execute("UPDATE headrace.dead_jobs SET dead_at = now() - interval '4 days' WHERE name = 'old'")
        assert await inspector.redrive("orders", Redrive(which=JobFilter(name="by-name", reason="Expired"))) == 0
        assert await inspector.redrive("orders", Redrive(which=JobFilter(state="ready"))) == 0
        for which, name in (
            (JobFilter(ids=(by_id, "999", "nonsense")), "x"),
            (JobFilter(name="by-name"), "by-name"),
            (JobFilter(reason="Expired"), "by-reason"),
            (JobFilter(older_than_seconds=3 * 86400), "old"),
        ):
            assert await inspector.redrive("orders", Redrive(which=which)) == 1
            assert (await receive_one(queue)).job.name == name
        assert await inspector.redrive("orders", Redrive()) == 0

    async def test_a_job_of_a_group_goes_behind_its_head_and_before_those_enqueued_later(
        self, queue: PostgresQueue, inspector: PostgresInspector
    ) -> None:
        await enqueue(queue, [new_job("first", group="g"), new_job("second", group="g")])
        first = await receive_one(queue)
        await dead_letter(queue, first, reason="Broken")
        second = await receive_one(queue)
        await enqueue(queue, [new_job("third", group="g")])
        assert await inspector.redrive("orders", Redrive()) == 1
        assert await queue.receive(10) == [], "one at a time"
        await complete(queue, [second])
        for name in ("first", "third"):
            delivery = await receive_one(queue)
            assert delivery.job.name == name
            await complete(queue, [delivery])

    async def test_a_deduplication_key_is_taken_again_where_it_is_free(
        self, queue: PostgresQueue, inspector: PostgresInspector
    ) -> None:
        (kept,) = await kill(queue, new_job("kept", deduplication_key="kept", deduplication_window_seconds=60))
        (free,) = await kill(queue, new_job("free", deduplication_key="free"))
        (lost,) = await kill(queue, new_job("lost", deduplication_key="lost"))
        await enqueue(queue, [new_job("other", deduplication_key="lost")])
        assert await inspector.redrive("orders", Redrive()) == 2
        assert await enqueue(queue, [new_job("x", deduplication_key=key) for key in ("kept", "free")]) == [kept, free]
        record = await inspector.job("orders", lost)
        assert record is not None
        assert record.state == "dead", "another has its key"
        assert not await inspector.retry_now("orders", RetryNow(job_id=lost))

    async def test_a_redriven_job_has_as_long_to_start_as_a_new_one(
        self,
        place: Place,
        queue: PostgresQueue,
        inspector: PostgresInspector,
        admin: asyncpg.Connection[asyncpg.Record],
    ) -> None:
        await PostgresProvisioner(place).ensure("orders", QueueSettings(message_retention_seconds=60), OWNER)
        (job_id,) = await enqueue(queue, [NewJob()])
        await admin.execute("UPDATE headrace.jobs SET expires_at = now() - interval '1 second'")
        assert (await queue.maintain()).expired == 1
        assert await inspector.redrive("orders", Redrive(which=JobFilter(reason="Expired"))) == 1
        assert (await receive_one(queue)).job.id == job_id

    async def test_what_dies_while_others_are_redriven_is_left_alone(
        self, queue: PostgresQueue, inspector: PostgresInspector
    ) -> None:
        await kill(queue, *[new_job("sick")] * 2500)

        async def die_again() -> None:
            while True:
                for delivery in await queue.receive(100):
                    await dead_letter(queue, delivery, reason="Broken")
                await asyncio.sleep(0)

        dying = asyncio.create_task(die_again())
        async with asyncio.timeout(60):
            assert await inspector.redrive("orders", Redrive()) == 2500
        dying.cancel()

    async def test_purged_jobs_are_gone(self, queue: PostgresQueue, inspector: PostgresInspector) -> None:
        await kill(queue, *[new_job("a")] * 2100, new_job("b"))
        assert await inspector.purge("orders", Purge(which=JobFilter(name="a"))) == 2100
        assert names(await inspector.jobs("orders", JobFilter(state="dead"))) == ["b"]
        assert await inspector.purge("orders", Purge()) == 1


class TestStuckJobs:
    async def test_only_what_nobody_keeps_alive_goes_back(
        self,
        place: Place,
        queue: PostgresQueue,
        inspector: PostgresInspector,
        admin: asyncpg.Connection[asyncpg.Record],
    ) -> None:
        await queue.keep_alive()
        lost, kept = await enqueue(queue, [new_job("lost"), new_job("kept")])
        async with PostgresQueue(place, "orders", holder="worker-2") as dead:
            await dead.keep_alive()
            await dead.receive(1)
            await queue.receive(1)
            await admin.execute("UPDATE headrace.claims SET claimed_at = now() - interval '2 hours'")
            assert await inspector.recover_stuck("orders", RecoverStuck(older_than_seconds=3600)) == []
            await admin.execute("UPDATE headrace.leases SET expires_at = now() WHERE holder = 'worker-2'")
            assert await inspector.recover_stuck("orders", RecoverStuck(older_than_seconds=3 * 3600)) == []
            assert await inspector.recover_stuck("orders", RecoverStuck(older_than_seconds=3600)) == [lost]
        states = {record.job.id: record.state for record in await inspector.jobs("orders", JobFilter())}
        assert states == {kept: "running", lost: "ready"}, "no suspect yet: it was lost once"

    async def test_a_late_completion_is_refused_and_the_worker_is_told(
        self, queue: PostgresQueue, inspector: PostgresInspector, admin: Admin
    ) -> None:
        (job_id,) = await enqueue(queue, [NewJob()])
        delivery = await receive_one(queue)
        await admin.execute("UPDATE headrace.leases SET expires_at = now()")
        assert await inspector.recover_stuck("orders", RecoverStuck(older_than_seconds=0)) == [job_id]
        assert [refused.delivery for refused in (await complete(queue, [delivery])).refused] == [delivery]
        (again,) = await queue.receive(1)
        assert (again.job.id, again.job.attempt) == (job_id, 1), "uncharged"

    async def test_where_nobody_has_watched_it_waits_for_workers_to_report_first(
        self, place: Place, queue: PostgresQueue, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        lost, kept = await enqueue(queue, [new_job("lost"), new_job("kept")])
        async with PostgresQueue(place, "orders", holder="worker-2") as dead:
            await dead.keep_alive()
            await dead.receive(1)
            await queue.keep_alive()
            (delivery,) = await queue.receive(1)
            await admin.execute("UPDATE headrace.leases SET expires_at = now()")
            await admin.execute("DELETE FROM headrace.watches")
            async with PostgresInspector(place, lease_seconds=2) as inspector:
                asked = asyncio.create_task(inspector.recover_stuck("orders", RecoverStuck(older_than_seconds=0)))

                async def waits() -> bool:
                    return bool(await admin.fetchval("SELECT count(judging_from) > 0 FROM headrace.watches"))

                await eventually(waits, what="waiting, though not within the server")
                await queue.keep_alive()
                assert await asked == [lost]
            assert (delivery.job.id, (await complete(queue, [delivery])).accepted) == (kept, 1)

    async def test_what_somebody_has_locked_goes_back_the_next_time(
        self, queue: PostgresQueue, inspector: PostgresInspector, admin: Admin
    ) -> None:
        locked, free = await enqueue(queue, [new_job("locked"), new_job("free")])
        await queue.receive(2)
        await admin.execute("UPDATE headrace.leases SET expires_at = now()")
        async with admin.transaction():
            await admin.execute("SELECT FROM headrace.jobs WHERE name = 'locked' FOR UPDATE")
            assert await inspector.recover_stuck("orders", RecoverStuck(older_than_seconds=0)) == [free]
            record = await inspector.job("orders", locked)
            assert record is not None
            assert (record.state, record.holder) == ("running", "worker-1")
        assert await inspector.recover_stuck("orders", RecoverStuck(older_than_seconds=0)) == [locked]
        record = await inspector.job("orders", locked)
        assert record is not None
        assert (record.state, record.holder) == ("ready", None)
