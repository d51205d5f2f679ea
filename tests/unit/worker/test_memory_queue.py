"""What queues in memory are beside a backend like others: a tool for tests of handlers, that keeps nobody waiting."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from headrace.job import NewJob
from headrace.queues.base import Owner, QueueSettings
from headrace.queues.memory import MemoryBackend, MemoryInspector, MemoryQueue

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

HOUR = 3600.0
SOON = 20.0


@pytest.fixture
def backend() -> MemoryBackend:
    backend = MemoryBackend()
    backend.register("orders", QueueSettings(max_retries=0), Owner(namespace="", name="orders", uid=""))
    return backend


async def release(backend: MemoryBackend, queue: MemoryQueue) -> None:
    await queue.release(await queue.receive(1))


async def fall_due(backend: MemoryBackend, queue: MemoryQueue) -> None:
    backend.pass_time(HOUR)


async def complete_a_head(backend: MemoryBackend, queue: MemoryQueue) -> None:
    await queue.complete(await queue.receive(1))


async def resume(backend: MemoryBackend, queue: MemoryQueue) -> None:
    await MemoryInspector(backend).pause("orders", paused=False)


async def close(backend: MemoryBackend, queue: MemoryQueue) -> None:
    async with MemoryQueue(backend, "orders") as closing:
        await closing.keep_alive()
        await closing.receive(1)


async def enqueue(backend: MemoryBackend, queue: MemoryQueue) -> None:
    await queue.enqueue([NewJob()])


@pytest.mark.parametrize("act", [enqueue, release, fall_due, complete_a_head, resume, close])
async def test_whatever_may_have_made_a_job_startable_wakes_who_waits(
    backend: MemoryBackend, act: Callable[[MemoryBackend, MemoryQueue], Awaitable[None]]
) -> None:
    async with MemoryQueue(backend, "orders") as other, MemoryQueue(backend, "orders") as worker:
        await other.enqueue([NewJob(group="g"), NewJob(group="g"), NewJob(delay_seconds=HOUR)])
        await worker.receive(0)
        waiting = asyncio.create_task(worker.wait(HOUR))
        await asyncio.sleep(0)
        await act(backend, other)
        async with asyncio.timeout(SOON):
            await waiting


async def test_what_comes_between_the_last_look_and_the_wait_is_not_slept_through(backend: MemoryBackend) -> None:
    async with MemoryQueue(backend, "orders") as worker, MemoryQueue(backend, "orders") as producer:
        assert await worker.receive(1) == []
        await producer.enqueue([NewJob()])
        async with asyncio.timeout(SOON):
            await worker.wait(HOUR)
        assert len(await worker.receive(1)) == 1


async def test_a_job_that_comes_due_is_received_without_anybody_telling(backend: MemoryBackend) -> None:
    async with MemoryQueue(backend, "orders") as queue:
        await queue.enqueue([NewJob(delay_seconds=0.05), NewJob(delay_seconds=HOUR)])
        async with asyncio.timeout(SOON):
            assert len(await queue.receive(10, wait_seconds=HOUR)) == 1


async def test_an_idle_receiver_does_not_look_again_and_again(backend: MemoryBackend) -> None:
    async with MemoryQueue(backend, "orders") as queue:
        await queue.enqueue([NewJob()])
        await MemoryInspector(backend).pause("orders", paused=True)
        assert await queue.receive(1) == []
        waiting = asyncio.create_task(queue.wait(HOUR))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not waiting.done(), "a paused queue's due job is nothing to wake up for"
        waiting.cancel()


async def test_dead_and_finished_jobs_can_be_looked_at(backend: MemoryBackend) -> None:
    await backend.ensure(
        "orders",
        QueueSettings(max_retries=0, completed_retention_seconds=60),
        Owner(namespace="", name="orders", uid=""),
    )
    async with MemoryQueue(backend, "orders") as queue:
        await queue.enqueue([NewJob(name="bad"), NewJob(name="good")])
        bad, good = await queue.receive(2)
        await queue.retry(bad, delay_seconds=0, error="boom", traceback="at line 1")
        await queue.complete([good])
        (dead,) = queue.dead_jobs
        assert (dead.job.name, dead.reason, dead.error) == ("bad", "RetriesExhausted", "boom")
        assert [failure.traceback for failure in dead.failures] == ["at line 1"]
        assert [job.job.name for job in queue.finished_jobs] == ["good"]
