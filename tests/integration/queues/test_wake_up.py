"""Idle receivers are woken by new jobs. Every wait here could last a minute; none may."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from headrace.job import NewJob
from headrace.queues.base import Delivery, Owner, QueueSettings
from headrace.queues.postgres import Place, PostgresProvisioner, PostgresQueue, receiving
from headrace.queues.postgres.statements import queries
from headrace.queues.settlement import Complete, Failure, Release, Retry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from headrace.queues.settlement import Settlement

MINUTE = 60.0
SOON = 20.0

IS_BLOCKED = """
SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
    AND application_name = 'headrace')
"""


@pytest.fixture
async def place(database_dsn: str) -> Place:
    place = Place(dsn=database_dsn)
    await PostgresProvisioner(place).ensure("orders", QueueSettings(), Owner(namespace="shop", name="orders", uid="1"))
    return place


@pytest.fixture
async def connection(database_dsn: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(database_dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def listening(queue: PostgresQueue) -> None:
    async with asyncio.timeout(SOON):
        while not queue.is_listening:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)


async def resting(queue: PostgresQueue) -> asyncio.Task[list[Delivery]]:
    """A receiver where an idle worker is after a while: announced, and not about to look by itself."""
    await listening(queue)
    await queue.receive(1, wait_seconds=0.01)  # What came before it listened, and setting its flag.
    queue._rest._seconds = MINUTE
    waiting = asyncio.create_task(queue.receive(1, wait_seconds=MINUTE))
    async with asyncio.timeout(SOON):
        while not (flagged(queue) and rests(queue)):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
    return waiting


def flagged(queue: PostgresQueue) -> bool:
    return queue._rest.ear is not None and queue._rest.ear.is_flagged


def rests(queue: PostgresQueue) -> bool:
    """Not still on its way there, with a statement."""
    return bool(queue._rest._may_have_jobs._waiters)


async def received(waiting: asyncio.Task[list[Delivery]]) -> list[str]:
    async with asyncio.timeout(SOON):
        return [delivery.job.name for delivery in await waiting]


async def test_a_resting_receiver_is_woken_by_a_producer(place: Place) -> None:
    async with PostgresQueue(place, "orders", listens=True) as worker, PostgresQueue(place, "orders") as producer:
        waiting = await resting(worker)
        await producer.enqueue([NewJob(name="news")])
        assert await received(waiting) == ["news"]


async def test_two_queues_of_a_process_are_told_each_of_its_own_jobs(place: Place) -> None:
    neighbour = Owner(namespace="shop", name="letters", uid="2")
    await PostgresProvisioner(place).ensure("letters", QueueSettings(), neighbour)
    async with (
        PostgresQueue(place, "orders", listens=True) as orders,
        PostgresQueue(place, "letters", listens=True) as letters,
        PostgresQueue(place, "orders") as producer,
    ):
        waiting, others = await resting(orders), await resting(letters)
        await producer.enqueue([NewJob(name="news")])
        assert await received(waiting) == ["news"]
        assert not others.done()
        assert not letters._rest._may_have_jobs.is_set()
        others.cancel()


async def test_whoever_goes_on_waiting_looks_once_a_wait(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "_JUST_NOW_SECONDS", MINUTE)
    async with PostgresQueue(place, "orders") as worker:
        await worker.keep_alive()
        worker._rest._seconds = MINUTE
        looks = 0
        look = worker._receiving._receive_now

        async def looking(*arguments: Any) -> list[Delivery]:
            nonlocal looks
            looks += 1
            return await look(*arguments)

        worker._receiving._receive_now = looking  # type: ignore[method-assign,assignment]
        for most in (2, 3, 4):  # At first, and at each end.
            assert await worker.receive(1, wait_seconds=0.05) == []
            assert looks == most
        assert await worker.receive(1) == []
        assert looks == 5


async def test_what_is_enqueued_here_between_two_waits_is_found_at_once(place: Place) -> None:
    async with PostgresQueue(place, "orders") as queue:
        await queue.keep_alive()
        assert await queue.receive(1, wait_seconds=0.05) == []
        queue._rest._seconds = MINUTE
        await queue.enqueue([NewJob(name="own")])
        assert await received(asyncio.create_task(queue.receive(1, wait_seconds=MINUTE))) == ["own"]


async def test_who_stops_waiting_is_told_at_once(place: Place) -> None:
    async with PostgresQueue(place, "orders", listens=True) as worker:
        await listening(worker)
        stop = asyncio.Event()
        waiting = asyncio.create_task(worker.receive(1, wait_seconds=MINUTE, stop=stop))
        await asyncio.sleep(0.05)
        stop.set()
        assert await received(waiting) == []


async def test_a_job_that_comes_between_the_last_look_and_the_flag_is_not_slept_through(place: Place) -> None:
    async with PostgresQueue(place, "orders", listens=True) as worker, PostgresQueue(place, "orders") as producer:
        await listening(worker)
        worker._rest._seconds = MINUTE
        looks = 0
        look = worker._receiving._receive_now

        async def looking(*arguments: Any) -> list[Delivery]:
            nonlocal looks
            looks += 1
            deliveries = await look(*arguments)
            if looks == 1:
                worker._rest._may_have_jobs.clear()
                await producer.enqueue([NewJob(name="between")])
                await producer._enqueuing.flushed()
                assert not flagged(worker)
            return deliveries

        worker._receiving._receive_now = looking  # type: ignore[method-assign,assignment]
        assert await received(asyncio.create_task(worker.receive(1, wait_seconds=MINUTE))) == ["between"]


async def test_nobody_is_notified_where_nobody_waits(
    place: Place, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    heard: list[object] = []
    end = asyncio.Event()

    def hear(_connection: object, _pid: int, _channel: str, payload: object) -> None:
        heard.append(payload)
        if payload == "end":
            end.set()

    channel = await connection.fetchval("SELECT headrace.channel(1)")
    await connection.add_listener(channel, hear)
    async with PostgresQueue(place, "orders") as producer:
        for _ in range(3):
            await producer.enqueue([NewJob()])
    await connection.execute("SELECT pg_notify($1, 'end')", channel)
    async with asyncio.timeout(SOON):
        await end.wait()
    assert heard == ["end"]


async def test_one_at_a_time_tells_with_its_jobs_and_the_others_do_not_wait_for_its_commit(
    place: Place, connection: asyncpg.Connection[asyncpg.Record], database_dsn: str
) -> None:
    """Commits that notify wait for each other, and each for its flush: producers must not queue up for that."""
    enqueue = queries("headrace")["enqueue"]
    arguments: tuple[Any, ...] = (1, [b"1"], ["job"], [], [], [], [], [], True)

    async def is_told(session: asyncpg.Connection[asyncpg.Record]) -> bool:
        (row,) = await session.fetch(enqueue, *arguments)
        return bool(row["is_told"])

    other = await asyncpg.connect(database_dsn)
    try:
        async with PostgresQueue(place, "orders", listens=True) as worker:
            waiting = await resting(worker)
            async with other.transaction():
                assert await is_told(other)
                assert not await is_told(connection)
            assert await received(waiting) == ["job"]
    finally:
        await other.close()


async def test_a_busy_worker_takes_its_flag_down(place: Place, connection: asyncpg.Connection[asyncpg.Record]) -> None:
    async with PostgresQueue(place, "orders", listens=True) as worker:
        waiting = await resting(worker)
        assert await connection.fetchval("SELECT count(*) FROM headrace.waiters") == 1
        await worker.enqueue([NewJob()] * 5)
        assert len(await received(waiting)) == 1
        assert await connection.fetchval("SELECT count(*) FROM headrace.waiters") == 0


async def test_a_call_that_is_cut_off_while_its_flag_comes_down_keeps_no_job(
    place: Place, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    async with PostgresQueue(place, "orders", listens=True) as queue, PostgresQueue(place, "orders") as other:
        await queue.keep_alive()
        waiting = await resting(queue)
        async with connection.transaction():
            await connection.execute("SELECT FROM headrace.waiters FOR UPDATE")
            await other.enqueue([NewJob()])
            async with asyncio.timeout(SOON):
                while not await connection.fetchval(IS_BLOCKED):  # noqa: ASYNC110 - nothing tells
                    await asyncio.sleep(0.01)
            waiting.cancel()
            await asyncio.wait([waiting])
        assert waiting.cancelled()
        await connection.execute("UPDATE headrace.claims SET claimed_at = now() - interval '1 minute'")
        await queue.keep_alive()
        assert len(await other.receive(1, wait_seconds=SOON)) == 1


async def test_a_session_that_was_killed_is_replaced_and_its_flag_cleared(
    place: Place, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    async with PostgresQueue(place, "orders", listens=True) as worker, PostgresQueue(place, "orders") as producer:
        waiting = await resting(worker)
        (pid,) = [row["pid"] for row in await connection.fetch("SELECT pid FROM headrace.waiters")]
        await connection.execute("SELECT pg_terminate_backend($1)", pid)
        async with asyncio.timeout(SOON):
            while True:
                flags = await connection.fetch("SELECT pid FROM headrace.waiters WHERE pid <> $1", pid)
                if flags:
                    break
                await asyncio.sleep(0.01)
        assert await connection.fetchval("SELECT count(*) FROM headrace.waiters") == 1
        worker._rest._seconds = MINUTE
        await producer.enqueue([NewJob(name="news")])
        assert await received(waiting) == ["news"]


async def test_a_delayed_job_is_taken_when_it_is_due_without_anybody_telling(place: Place) -> None:
    async with PostgresQueue(place, "orders", listens=True) as worker:
        await worker.enqueue([NewJob(name="late", delay_seconds=1.5)])
        await worker._enqueuing.flushed()
        assert await received(await resting(worker)) == ["late"]


async def test_a_job_that_is_due_after_the_last_look_of_a_wait_is_not_slept_through(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "_JUST_NOW_SECONDS", MINUTE)
    async with PostgresQueue(place, "orders") as worker:
        await worker.keep_alive()
        await worker.enqueue([NewJob(name="late", delay_seconds=1.5)])
        assert await worker.receive(1, wait_seconds=0.05) == []
        await asyncio.sleep(2.0)
        worker._rest._seconds = MINUTE
        assert await received(asyncio.create_task(worker.receive(1, wait_seconds=MINUTE))) == ["late"]


AT_ONCE = Failure(error="no")


class TestAJobThatIsPutBack:
    """It brings somebody to look, not the next poll."""

    async def test_for_another_attempt_at_once_is_taken_by_who_waits_here(self, place: Place) -> None:
        async with PostgresQueue(place, "orders") as worker:
            waiting, held = await self._holding(worker, NewJob(name="again"))
            await worker.settle([Retry(delivery=held, delay_seconds=0.0, failure=AT_ONCE)])
            assert await received(waiting) == ["again"]

    async def test_for_another_attempt_soon_is_taken_when_it_is_due(self, place: Place) -> None:
        async with PostgresQueue(place, "orders") as worker:
            waiting, held = await self._holding(worker, NewJob(name="soon"))
            await worker.settle([Retry(delivery=held, delay_seconds=0.5, failure=AT_ONCE)])
            assert await received(waiting) == ["soon"]

    async def test_or_the_next_of_its_group_is_taken_by_who_waits_here(self, place: Place) -> None:
        async with PostgresQueue(place, "orders") as worker:
            waiting, held = await self._holding(worker, NewJob(name="head", group="g"), NewJob(name="next", group="g"))
            await worker.settle([Complete(delivery=held)])
            assert await received(waiting) == ["next"]

    @pytest.mark.parametrize(
        "settlement",
        [
            lambda held: Release(delivery=held),
            lambda held: Retry(delivery=held, delay_seconds=0.0, failure=AT_ONCE),
        ],
        ids=["released", "retried"],
    )
    async def test_wakes_others_who_wait(self, place: Place, settlement: Callable[[Delivery], Settlement]) -> None:
        async with PostgresQueue(place, "orders") as leaving, PostgresQueue(place, "orders", listens=True) as worker:
            await leaving.enqueue([NewJob(name="left")])
            (held,) = await leaving.receive(1)
            waiting = await resting(worker)
            await leaving.settle([settlement(held)])
            assert await received(waiting) == ["left"]

    async def test_by_a_receiver_that_leaves_wakes_others_who_wait(self, place: Place) -> None:
        async with PostgresQueue(place, "orders", listens=True) as worker:
            async with PostgresQueue(place, "orders") as leaving:
                await leaving.enqueue([NewJob(name="left")])
                await leaving.receive(1)
                waiting = await resting(worker)
            assert await received(waiting) == ["left"]

    async def _holding(self, worker: PostgresQueue, *jobs: NewJob) -> tuple[asyncio.Task[list[Delivery]], Delivery]:
        """A receiver that rests, beside a job of its own."""
        await worker.keep_alive()
        await worker.enqueue(jobs)
        (held,) = await worker.receive(1)
        assert await worker.receive(1) == []
        worker._rest._seconds = MINUTE
        waiting = asyncio.create_task(worker.receive(1, wait_seconds=MINUTE))
        async with asyncio.timeout(SOON):
            while worker._rest.is_ended or not rests(worker):  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)
        return waiting, held
