"""Functions in threads can't be stopped: what they hold is held until they have returned."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, defaultdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from headrace import Context, RetryPolicy, new_job
from headrace.idempotency.base import Hold
from headrace.idempotency.memory import MemoryIdempotencyStore
from headrace.queues.base import Owner, QueueSettings
from headrace.queues.inspection import Cancel
from headrace.queues.memory import MemoryInspector
from headrace.runtime.idempotency_guard import Idempotency
from integration.worker.test_worker_in_memory import World
from support.verbs import enqueue
from support.worker_process import eventually

if TYPE_CHECKING:
    from collections.abc import Callable


class Runs:
    """Threads that wait for their gates, and how many of what run at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.started: Counter[str] = Counter()
        self.gates: defaultdict[str, threading.Event] = defaultdict(threading.Event)

    def run(self, what: str) -> None:
        with self._lock:
            self.started[what] += 1
            gate = self.gates[f"{what} {self.started[what]}"]
            self.now[what] += 1
            self.most[what] = max(self.most[what], self.now[what])
        gate.wait(60)
        with self._lock:
            self.now[what] -= 1

    def open(self, gate: str) -> None:
        with self._lock:
            self.gates[gate].set()


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def runs() -> Runs:
    return Runs()


async def test_one_that_times_out_holds_its_group_until_it_has_returned_and_has_failed_then(
    world: World, runs: Runs
) -> None:
    @world.app.job("work", retry=RetryPolicy(initial_delay_seconds=0))
    def work(payload: str) -> None:
        runs.run(payload)

    async with world.queue() as producer, world.working(job_timeout_seconds=0.2), world.working():
        await producer.enqueue([new_job("work", "g", group="g"), new_job("work", "g", group="g")])
        await eventually(lambda: runs.started["g"] == 1, what="started")
        await eventually(lambda: world.counted("busy_slots") >= 0, what="running")
        await asyncio.sleep(0.5)  # It has timed out by now: nothing may be seen of it.
        assert world.counted("retried_total") == 0
        assert runs.started["g"] == 1
        runs.open("g 1")
        await eventually(lambda: world.counted("retried_total") == 1, what="failed, now that it has returned")
        for number in range(2, 20):
            runs.open(f"g {number}")
        await eventually(lambda: not world.backend.places["orders"].entries, what="all done")
    assert runs.most["g"] == 1


@pytest.mark.parametrize("how", ["times out", "is cancelled", "is handed back"])
async def test_of_one_key_one_runs_at_a_time_whatever_becomes_of_the_first(world: World, runs: Runs, how: str) -> None:
    await world.backend.ensure("orders", QueueSettings(max_retries=0), Owner(namespace="", name="orders", uid=""))
    records: dict[str, object] = {}

    def once() -> Idempotency:
        loop_time = asyncio.get_running_loop().time
        clock: Callable[[], float] = lambda: loop_time() + world.passed.total_seconds()  # noqa: E731
        return Idempotency(store=MemoryIdempotencyStore(records=records, clock=clock))  # type: ignore[arg-type]

    @world.app.job("work", retry=RetryPolicy(initial_delay_seconds=0))
    def work(payload: None) -> None:
        runs.run("key")

    timeout_seconds = 0.2 if how == "times out" else 60.0
    async with world.queue() as producer, world.working(idempotency=once()) as other:
        other.stop()  # Its turn comes later.
        async with world.working(
            idempotency=once(), job_timeout_seconds=timeout_seconds, drain_timeout_seconds=0.1
        ) as first:
            ids = await enqueue(producer, [new_job("work", idempotency_key="order 7")])
            await eventually(lambda: runs.started["key"] == 1, what="started")
            await enqueue(producer, [new_job("work", idempotency_key="order 7")])
            if how == "is cancelled":
                assert await MemoryInspector(world.backend).cancel("orders", Cancel(job_id=ids[0])) == "requested"
            elif how == "is handed back":
                first.stop()
            await eventually(
                lambda: world.counted("idempotency_in_progress_total") >= (how != "is handed back"),
                what="the second waits",
            )
            await asyncio.sleep(0.5)
            assert runs.started["key"] == 1
            assert {"failed": world.counted("failed_total"), "cancelled": world.counted("cancelled_total")} == {
                "failed": 0,
                "cancelled": 0,
            }
            for number in range(1, 20):
                runs.open(f"key {number}")
            if how == "times out":
                await eventually(lambda: world.counted("failed_total") >= 1, what="failed, as it timed out")
            elif how == "is cancelled":
                await eventually(lambda: world.counted("cancelled_total") == 1, what="cancelled")
            first.stop()
        world.passed += timedelta(minutes=1)
        async with world.working(idempotency=once()):
            await eventually(lambda: not world.backend.places["orders"].entries, what="all done")
    assert runs.most["key"] == 1


async def test_one_whose_lease_was_lost_keeps_its_key_until_it_has_returned(world: World, runs: Runs) -> None:
    loop_time = asyncio.get_running_loop().time
    clock: Callable[[], float] = lambda: loop_time() + world.passed.total_seconds()  # noqa: E731

    @world.app.job("work")
    def work(payload: None) -> None:
        runs.run("key")

    async with (
        world.queue() as producer,
        world.working(idempotency=Idempotency(store=MemoryIdempotencyStore(clock=clock))),
    ):
        await enqueue(producer, [new_job("work", idempotency_key="order 7")])
        await eventually(lambda: runs.started["key"] == 1, what="started")
        place = world.backend.place("orders")
        for lease in list(place.leases.values()):
            place.lose(lease, world.backend.now(), charges=False)
        await eventually(lambda: world.counted("lease_lost_total") == 1, what="lost")
        for _ in range(10):
            before = world.counted("lease_extensions_total")
            world.passed += timedelta(seconds=5)
            world.backend.changed()
            await eventually(lambda before=before: world.counted("lease_extensions_total") > before + 2, what="kept")  # type: ignore[misc]
        assert runs.started["key"] == 1
        for number in range(1, 20):
            runs.open(f"key {number}")
        world.passed += timedelta(seconds=5)
        world.backend.changed()
        await eventually(lambda: not place.entries, what="done by the next run")
    assert (runs.most["key"], runs.started["key"]) == (1, 2)


async def test_one_that_was_told_to_stop_is_not_told_again_with_every_heartbeat(
    world: World, runs: Runs, caplog: pytest.LogCaptureFixture
) -> None:
    records: dict[str, Any] = {}
    store = MemoryIdempotencyStore(records=records)

    @world.app.job("work", retry=RetryPolicy(initial_delay_seconds=3600))
    def work(payload: None) -> None:
        runs.run("key")

    async with (
        world.queue() as producer,
        world.working(idempotency=Idempotency(store=store), job_timeout_seconds=0.1),
    ):
        await enqueue(producer, [new_job("work", idempotency_key="order 7")])
        await eventually(lambda: "timed out" in caplog.text, what="told to stop")
        records.clear()
        await store.claim([Hold("order 7", "somebody else")], lease_seconds=3600)
        before = world.counted("lease_extensions_total")
        await eventually(lambda: world.counted("lease_extensions_total") > before + 5, what="some heartbeats")
        runs.open("key 1")
        await eventually(lambda: world.counted("retried_total") == 1, what="settled as timed out")
    assert "keys belong to others" not in caplog.text


async def test_a_slot_is_taken_until_the_thread_has_returned(world: World, runs: Runs) -> None:
    @world.app.job("work", retry=RetryPolicy(initial_delay_seconds=3600))
    def work(payload: str) -> None:
        runs.run("any")

    async with world.queue() as producer, world.working(slots=2, job_timeout_seconds=0.1):
        await producer.enqueue([new_job("work", "x")] * 4)
        await eventually(lambda: runs.started["any"] == 2, what="as many as there are slots")
        await asyncio.sleep(0.4)
        assert runs.started["any"] == 2
        for number in range(1, 5):
            runs.open(f"any {number}")
        await eventually(lambda: runs.started["any"] == 4, what="the others")
    assert runs.most["any"] == 2


async def test_a_thread_that_has_not_begun_is_not_waited_for(world: World, runs: Runs) -> None:
    seen: list[bool] = []

    @world.app.job("work")
    def work(payload: None, context: Context) -> None:
        while not context.is_cancelled:
            threading.Event().wait(0.01)
        seen.append(context.is_cancelled)

    async with world.queue() as producer, world.working(drain_timeout_seconds=0.1) as worker:
        await producer.enqueue([new_job("work")])
        await eventually(lambda: world.counted("busy_slots") == 1, what="started")
        worker.stop()
        await eventually(lambda: world.counted("released_total") == 1, what="handed back when it has returned")
    assert seen == [True]
