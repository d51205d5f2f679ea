"""Idle receivers are woken by new jobs. Every wait here could last a minute; none may."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg
import pytest

from headrace.job import NewJob
from headrace.queues.base import Owner, QueueSettings
from headrace.queues.postgres import Place, PostgresProvisioner, PostgresQueue
from headrace.queues.postgres.listener import CHANNEL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MINUTE = 60.0
SOON = 20.0


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


async def resting(queue: PostgresQueue) -> None:
    """Bring a receiver to where an idle worker is after a while: announced, and not about to look by itself."""
    await listening(queue)
    for _ in range(2):  # Once for what came before it listened, once to set its flag.
        assert await queue.receive(1) == []
        await queue.wait(0.001)
    queue._pause_seconds = MINUTE


async def test_a_resting_receiver_is_woken_by_a_producer(place: Place) -> None:
    async with PostgresQueue(place, "orders", listens=True) as worker, PostgresQueue(place, "orders") as producer:
        await resting(worker)
        waiting = asyncio.create_task(worker.wait(MINUTE))
        await asyncio.sleep(0)
        await producer.enqueue([NewJob(name="news")])
        async with asyncio.timeout(SOON):
            await waiting
        assert [delivery.job.name for delivery in await worker.receive(1)] == ["news"]


async def test_a_job_that_comes_between_the_last_look_and_the_flag_is_not_slept_through(place: Place) -> None:
    async with PostgresQueue(place, "orders", listens=True) as worker, PostgresQueue(place, "orders") as producer:
        await listening(worker)
        await worker.wait(0.001)  # What came before it listened.
        await worker._listener.want_no_more()  # type: ignore[union-attr]
        worker._may_have_jobs.clear()
        worker._pause_seconds = MINUTE
        assert await worker.receive(1) == []
        worker._pause_seconds = MINUTE
        await producer.enqueue([NewJob(name="between")])
        await producer._coalescer.flushed()
        async with asyncio.timeout(SOON):
            await worker.wait(MINUTE)
        assert len(await worker.receive(1)) == 1


async def test_nobody_is_notified_where_nobody_waits(
    place: Place, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    heard: list[object] = []
    end = asyncio.Event()

    def hear(_connection: object, _pid: int, _channel: str, payload: object) -> None:
        heard.append(payload)
        if payload == "end":
            end.set()

    await connection.add_listener(CHANNEL, hear)
    async with PostgresQueue(place, "orders") as producer:
        for _ in range(3):
            await producer.enqueue([NewJob()])
    await connection.execute("SELECT pg_notify($1, 'end')", CHANNEL)
    async with asyncio.timeout(SOON):
        await end.wait()
    assert heard == ["end"]


async def test_a_busy_worker_takes_its_flag_down(place: Place, connection: asyncpg.Connection[asyncpg.Record]) -> None:
    async with PostgresQueue(place, "orders", listens=True) as worker:
        await resting(worker)
        assert await connection.fetchval("SELECT count(*) FROM headrace.waiters") == 1
        await worker.enqueue([NewJob()] * 5)
        assert len(await worker.receive(2)) == 2
        assert await connection.fetchval("SELECT count(*) FROM headrace.waiters") == 0


async def test_a_session_that_was_killed_is_replaced_and_its_flag_cleared(
    place: Place, connection: asyncpg.Connection[asyncpg.Record]
) -> None:
    async with PostgresQueue(place, "orders", listens=True) as worker, PostgresQueue(place, "orders") as producer:
        await resting(worker)
        (pid,) = [row["pid"] for row in await connection.fetch("SELECT pid FROM headrace.waiters")]
        await connection.execute("SELECT pg_terminate_backend($1)", pid)
        async with asyncio.timeout(SOON):
            while worker.is_listening:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)
        await resting(worker)
        flags = await connection.fetch("SELECT pid FROM headrace.waiters")
        assert len(flags) == 1
        assert flags[0]["pid"] != pid
        waiting = asyncio.create_task(worker.wait(MINUTE))
        await asyncio.sleep(0)
        await producer.enqueue([NewJob()])
        async with asyncio.timeout(SOON):
            await waiting
        assert len(await worker.receive(1)) == 1


async def test_a_delayed_job_is_taken_when_it_is_due_without_anybody_telling(place: Place) -> None:
    async with PostgresQueue(place, "orders", listens=True) as worker:
        await worker.enqueue([NewJob(delay_seconds=1.5)])
        await resting(worker)
        async with asyncio.timeout(SOON):
            while not await worker.receive(1):
                await worker.wait(MINUTE)
