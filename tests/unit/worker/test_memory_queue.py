"""What queues in memory are beside a backend like others: a tool for tests of handlers, that keeps nobody waiting."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from headrace.job import NewJob
from headrace.queues.base import Owner, QueueSettings
from headrace.queues.inspection import Pause
from headrace.queues.memory import MemoryBackend, MemoryInspector, MemoryQueue
from headrace.queues.memory.entries import Entry, Lease
from headrace.queues.memory.room import ROOM, Room
from support.jobs import job
from support.verbs import complete, enqueue, release, retry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

HOUR = 3600.0
SOON = 20.0
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def backend() -> MemoryBackend:
    backend = MemoryBackend()
    backend.register("orders", QueueSettings(max_retries=0), Owner(namespace="", name="orders", uid=""))
    return backend


async def enqueue_one(backend: MemoryBackend, queue: MemoryQueue) -> AsyncIterator[None]:
    yield
    await queue.enqueue([NewJob()])


async def hand_back(backend: MemoryBackend, queue: MemoryQueue) -> AsyncIterator[None]:
    await queue.enqueue([NewJob()])
    held = await queue.receive(1)
    yield
    await release(queue, held)


async def fall_due(backend: MemoryBackend, queue: MemoryQueue) -> AsyncIterator[None]:
    await queue.enqueue([NewJob(delay_seconds=HOUR)])
    yield
    backend.pass_time(HOUR)


async def complete_a_head(backend: MemoryBackend, queue: MemoryQueue) -> AsyncIterator[None]:
    await queue.enqueue([NewJob(group="g"), NewJob(group="g")])
    held = await queue.receive(10)
    yield
    await complete(queue, held)


async def close(backend: MemoryBackend, queue: MemoryQueue) -> AsyncIterator[None]:
    await queue.enqueue([NewJob()])
    async with MemoryQueue(backend, "orders") as closing:
        await closing.keep_alive()
        await closing.receive(1)
        yield


@pytest.mark.parametrize("acts", [enqueue_one, hand_back, fall_due, complete_a_head, close])
async def test_whatever_may_have_made_a_job_startable_wakes_who_waits(
    backend: MemoryBackend, acts: Callable[[MemoryBackend, MemoryQueue], AsyncIterator[None]]
) -> None:
    async with MemoryQueue(backend, "orders") as other, MemoryQueue(backend, "orders") as worker:
        act = acts(backend, other)
        await anext(act)
        waiting = asyncio.create_task(worker.receive(1, wait_seconds=HOUR))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not waiting.done()
        await anext(act, None)
        async with asyncio.timeout(SOON):
            assert len(await waiting) == 1


async def test_a_queue_that_goes_on_wakes_who_waits(backend: MemoryBackend) -> None:
    async with MemoryQueue(backend, "orders") as worker:
        await worker.enqueue([NewJob()])
        await MemoryInspector(backend).pause("orders", Pause(paused=True))
        waiting = asyncio.create_task(worker.receive(1, wait_seconds=HOUR))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not waiting.done(), "a paused queue's due job is nothing to wake up for"
        await MemoryInspector(backend).pause("orders", Pause(paused=False))
        async with asyncio.timeout(SOON):
            assert len(await waiting) == 1


async def test_a_job_that_comes_due_is_received_without_anybody_telling(backend: MemoryBackend) -> None:
    async with MemoryQueue(backend, "orders") as queue:
        await queue.enqueue([NewJob(delay_seconds=0.05), NewJob(delay_seconds=HOUR)])
        async with asyncio.timeout(SOON):
            assert len(await queue.receive(10, wait_seconds=HOUR)) == 1


async def test_dead_and_finished_jobs_can_be_looked_at(backend: MemoryBackend) -> None:
    await backend.ensure(
        "orders",
        QueueSettings(max_retries=0, completed_retention_seconds=60),
        Owner(namespace="", name="orders", uid=""),
    )
    async with MemoryQueue(backend, "orders") as queue:
        await queue.enqueue([NewJob(name="bad"), NewJob(name="good")])
        bad, good = await queue.receive(2)
        await retry(queue, bad, error="boom", traceback="at line 1")
        await complete(queue, [good])
        (dead,) = queue.dead_jobs
        assert (dead.job.name, dead.reason, dead.error) == ("bad", "RetriesExhausted", "boom")
        assert [failed.failure.traceback for failed in dead.failures] == ["at line 1"]
        assert [job.job.name for job in queue.finished_jobs] == ["good"]


async def test_ten_thousand_jobs_of_one_name_are_passed_over_once_and_keep_their_order(backend: MemoryBackend) -> None:
    async with MemoryQueue(backend, "orders") as queue:
        many = await enqueue(queue, [NewJob(name="many", priority=5) for _ in range(10_000)])
        await queue.enqueue([NewJob(name="few") for _ in range(1000)])
        looked_at = 0
        order = backend.places["orders"].order
        stands = order._ready._is_current

        def counting(entry: object, key: int) -> bool:
            nonlocal looked_at
            looked_at += 1
            return stands(entry, key)  # type: ignore[arg-type]

        order._ready._is_current = counting
        for _ in range(1000):
            assert [delivery.job.name for delivery in await queue.receive(1, without={"many"})] == ["few"]
        assert looked_at < 50_000, "not ten thousand a claim"
        assert [delivery.job.id for delivery in await queue.receive(10_000)] == many


async def test_what_has_moved_on_is_swept_out(backend: MemoryBackend) -> None:
    async with MemoryQueue(backend, "orders") as queue:
        await queue.enqueue([NewJob(delay_seconds=HOUR)])
        for _ in range(1000):
            await queue.enqueue([NewJob(expires_at=datetime.now(UTC) + timedelta(days=1))])
            await complete(queue, await queue.receive(1))
        order = backend.places["orders"].order
        for heap in (order._ready, order._startable, order._expiring):
            assert len(heap._items) < 100


def lease(number: int, held: int, now: datetime = NOW) -> Lease:
    lease = Lease(number=number, holder="", ends_at=now + timedelta(days=1), has_heartbeats=True)
    lease.held = {place: Entry(place, job()) for place in range(held)}
    return lease


def test_the_worker_that_holds_the_fewest_jobs_makes_room_first_then_the_others_and_then_nobody_for_a_while() -> None:
    room, leases = Room(), [lease(1, 5), lease(2, 3), lease(3, 9)]

    def turn(now: datetime) -> list[int]:
        return [each.number for each in leases if room.until(each, leases, now) is not None]

    assert turn(NOW) == [2]
    assert turn(NOW + ROOM / 2) == [2], "for all of its time"
    assert turn(NOW + ROOM) == [1]
    assert turn(NOW + ROOM * 2) == [3]
    assert turn(NOW + ROOM * 3) == [], "no worker stands still for ever"
    assert turn(NOW + timedelta(seconds=330)) == [2]


def test_a_worker_that_is_gone_has_no_turn() -> None:
    room, leases = Room(), [lease(1, 0), lease(2, 3)]
    assert room.until(leases[0], leases, NOW) == NOW + ROOM
    assert room.until(leases[1], leases[1:], NOW) == NOW + ROOM
    silent, receiver = lease(3, 0, NOW - timedelta(days=2)), lease(4, 0)
    receiver.has_heartbeats = False
    leases += [silent, receiver]
    assert room.until(silent, leases, NOW + ROOM) is None
    assert room.until(receiver, leases, NOW + ROOM) is None
