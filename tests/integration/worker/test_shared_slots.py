"""Queues that share a process's slots: as many jobs in all as there are slots, and the urgent queue's first."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from headrace import App, new_job
from headrace.metrics import Metrics
from headrace.queues.base import Owner, QueueSettings
from headrace.queues.errors import QueueUnavailableError
from headrace.queues.memory import MemoryBackend, MemoryQueue
from headrace.runtime.handlers.python import PythonHandler
from headrace.runtime.sharing import SharedSlots
from headrace.runtime.worker import Worker
from support.verbs import enqueue
from support.worker_process import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from headrace.queues.base import Delivery, Queue


class Office:
    """Two queues of one backend, `urgent` and `bulk`, and what runs of them."""

    def __init__(self) -> None:
        self.backend = MemoryBackend(clock=lambda: datetime.now(UTC))
        self.app = App()
        self.started: list[str] = []
        self.running = 0
        self.most_running = 0
        self.gate = asyncio.Event()
        self.gate.set()
        for name in ("urgent", "bulk"):
            self.backend.register(name, QueueSettings(), Owner(namespace="", name=name, uid=""))

        @self.app.job("task")
        async def task(payload: str) -> None:
            self.started.append(payload)
            self.running += 1
            self.most_running = max(self.most_running, self.running)
            await self.gate.wait()
            await asyncio.sleep(0.001)
            self.running -= 1

    def queue(self, name: str) -> MemoryQueue:
        return MemoryQueue(self.backend, name)

    async def enqueue(self, name: str, jobs: int) -> None:
        async with self.queue(name) as queue:
            await enqueue(queue, [new_job("task", name) for _ in range(jobs)])

    @asynccontextmanager
    async def working(
        self, slots: int, *, urgent: Queue | None = None, urgent_at_most: int | None = None, **settings: Any
    ) -> AsyncIterator[None]:
        shared = SharedSlots(slots)
        queues: list[Queue] = [urgent or self.queue("urgent"), self.queue("bulk")]
        at_most = {"urgent": urgent_at_most}
        workers = [
            Worker(
                queue,
                PythonHandler(self.app, threads=slots),
                Metrics().of("shop", queue.name),
                **{"slots": shared.share(at_most.get(queue.name)), "heartbeat_seconds": 0.05, **settings},
            )
            for queue in queues
        ]
        tasks = [asyncio.create_task(worker.run()) for worker in workers]
        try:
            yield
        finally:
            for worker in workers:
                worker.stop()
                worker.stop()
            await asyncio.gather(*tasks)


@pytest.fixture
def office() -> Office:
    return Office()


async def test_no_more_jobs_run_at_once_than_there_are_slots_in_all(office: Office) -> None:
    await office.enqueue("urgent", 20)
    await office.enqueue("bulk", 20)
    async with office.working(3):
        await eventually(lambda: len(office.started) == 40, what="all have started")
    assert office.most_running == 3


async def test_a_job_of_the_second_queue_begins_once_the_first_has_none(office: Office) -> None:
    await office.enqueue("bulk", 30)
    await office.enqueue("urgent", 30)
    async with office.working(3):
        await eventually(lambda: len(office.started) == 60, what="all have started")
    assert office.started == ["urgent"] * 30 + ["bulk"] * 30


async def test_the_next_slot_that_becomes_free_is_the_first_queues(office: Office) -> None:
    office.gate.clear()
    await office.enqueue("bulk", 30)
    async with office.working(2):
        await eventually(lambda: office.started == ["bulk"] * 2, what="the slots are taken")
        await office.enqueue("urgent", 4)
        office.gate.set()
        await eventually(lambda: office.started.count("urgent") == 4, what="the urgent have started")
    assert office.started.index("urgent") <= 4, "a job that was on its way for each slot, at the most"


async def test_the_second_queue_is_taken_from_at_once_when_the_first_is_empty(office: Office) -> None:
    await office.enqueue("urgent", 5)
    await office.enqueue("bulk", 5)
    async with office.working(2, poll_interval_seconds=3600.0):
        await eventually(lambda: office.started.count("bulk") == 5, what="the others have started")


async def test_slots_that_a_first_queue_may_not_take_are_the_others(office: Office) -> None:
    await office.enqueue("urgent", 200)
    await office.enqueue("bulk", 5)
    async with office.working(3, urgent_at_most=1):
        await eventually(lambda: len(office.started) == 205, what="all have started")
    assert office.started[:100].count("bulk") == 5


async def test_a_first_queue_that_can_not_be_reached_stands_in_nobodys_way(office: Office) -> None:
    class Away(MemoryQueue):
        async def receive(self, *_: Any, **__: Any) -> list[Delivery]:
            raise QueueUnavailableError("away")

    await office.enqueue("urgent", 5)
    await office.enqueue("bulk", 5)
    async with office.working(2, urgent=Away(office.backend, "urgent")):
        await eventually(lambda: office.started == ["bulk"] * 5, what="the others have started")


async def test_a_first_queue_that_is_paused_stands_in_nobodys_way(office: Office) -> None:
    await office.enqueue("urgent", 5)
    await office.enqueue("bulk", 5)
    office.backend.register("urgent", QueueSettings(paused=True), Owner(namespace="", name="urgent", uid=""))
    async with office.working(2):
        await eventually(lambda: office.started == ["bulk"] * 5, what="the others have started")
