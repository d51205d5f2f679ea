"""When all goes wrong at once: what a worker holds, what it says, and what it takes on its way out."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest

from headrace import DeadLetter, Snooze, new_job
from headrace.queues.base import Owner, QueueSettings
from headrace.queues.errors import QueueUnavailableError
from headrace.queues.memory import MemoryQueue
from headrace.queues.postgres import Place, PostgresProvisioner, PostgresQueue
from headrace.queues.settlement import Settled
from headrace.retry import RetryPolicy
from headrace.runtime.prefetch import MAX_PREFETCH
from headrace.runtime.receiver import MAX_WAITING_BYTES, Receiver
from headrace.runtime.settler import FULL_BATCH
from integration.worker.test_worker_in_memory import World
from support.worker_process import eventually

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headrace.queues.base import Delivery, DeliveryKey
    from headrace.queues.settlement import Settlement

    # Whatever a mixin stands before.
    Base = MemoryQueue
else:
    Base = object

SLOTS = 10
JOBS = 20_000


class Counting(Base):
    """Notes the most that its worker ever held, and how many batches it settled."""

    def __init__(self, *place: Any, **more: Any) -> None:
        super().__init__(*place, **more)
        self.held: dict[DeliveryKey, int] = {}
        self.most_held = self.most_bytes = self.batches = 0

    async def receive(self, limit: int, **how: Any) -> list[Delivery]:
        deliveries = await super().receive(limit, **how)
        self.held.update((delivery.key, len(delivery.job.payload)) for delivery in deliveries)
        self.most_held = max(self.most_held, len(self.held))
        self.most_bytes = max(self.most_bytes, sum(self.held.values()))
        return deliveries

    async def settle(self, settlements: Sequence[Settlement]) -> Settled:
        settled = await super().settle(settlements)
        self.batches += 1
        for settlement in settlements:
            self.held.pop(settlement.delivery.key, None)
        return settled


class Slow(Counting, MemoryQueue):
    """Takes a while for each batch, as a database does."""

    async def settle(self, settlements: Sequence[Settlement]) -> Settled:
        await asyncio.sleep(0.02)
        return await super().settle(settlements)


class CountingPostgres(Counting, PostgresQueue):  # type: ignore[misc]  # it is no memory queue, but for mypy
    pass


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("name", ["raises", "gives-up", "snoozes", "unknown"])
async def test_whatever_becomes_of_its_jobs_a_worker_holds_no_more_than_slots_prefetch_and_a_batch(
    world: World, name: str
) -> None:
    await world.backend.ensure("orders", QueueSettings(max_retries=0), Owner(namespace="", name="orders", uid=""))
    declare_failing(world)
    queue = Slow(world.backend, "orders")
    counter = {"raises": "failed", "gives-up": "failed"}.get(name, "released")
    async with world.queue() as producer, world.working(queue, slots=SLOTS):
        await producer.enqueue([new_job(name)] * JOBS)
        await eventually(lambda: world.counted(f"{counter}_total") >= JOBS, what="all settled")
    assert queue.most_held <= SLOTS + MAX_PREFETCH + FULL_BATCH
    assert queue.batches < JOBS / 20, "they travel together"


@pytest.mark.parametrize("name", ["raises", "unknown"])
async def test_nor_does_it_hold_more_of_a_database_and_there_they_travel_together(
    world: World, database_dsn: str, name: str
) -> None:
    place = Place(dsn=database_dsn)
    owner = Owner(namespace="", name="orders", uid="1")
    await PostgresProvisioner(place).ensure("orders", QueueSettings(max_retries=0), owner)
    declare_failing(world)
    queue = CountingPostgres(place, "orders")
    counter = {"raises": "failed"}.get(name, "released")
    jobs = 5_000
    async with PostgresQueue(place, "orders") as producer:
        await producer.enqueue([new_job(name)] * jobs)
        async with world.working(queue, slots=SLOTS, heartbeat_seconds=5.0):
            await eventually(lambda: world.counted(f"{counter}_total") >= jobs, what="all settled")
    assert queue.most_held <= SLOTS + MAX_PREFETCH + FULL_BATCH
    # Of an unknown name, no more are taken at a time than slots are free.
    assert queue.batches < jobs / (20 if name == "raises" else SLOTS / 2)


async def test_large_jobs_fill_no_memory_however_short_they_are(world: World) -> None:
    @world.app.job("brief")
    async def brief(payload: bytes) -> None: ...

    queue = Slow(world.backend, "orders")
    async with world.queue() as producer, world.working(queue, slots=1):
        await producer.enqueue([new_job("brief", b"")] * 2000)
        await eventually(lambda: world.counted("completed_total") == 2000, what="known to be brief")
        await producer.enqueue([new_job("brief", b"x" * 2**17)] * 1000)
        await eventually(lambda: world.counted("completed_total") == 3000, what="all done")
    # A batch that was asked for before the first large one was seen brings its all.
    assert queue.most_bytes <= MAX_WAITING_BYTES // 2 + 500 * 2**17 + 2**17


async def test_what_repeats_is_said_once_a_second_for_each_name(world: World, caplog: pytest.LogCaptureFixture) -> None:
    await world.backend.ensure("orders", QueueSettings(max_retries=0), Owner(namespace="", name="orders", uid=""))
    declare_failing(world)
    with caplog.at_level(logging.INFO):
        async with world.queue() as producer, world.working(slots=SLOTS):
            await producer.enqueue([new_job("raises")] * 500)
            await eventually(lambda: world.counted("failed_total") == 500, what="all dead")
            await producer.enqueue([new_job("unknown")] * 500)
            await eventually(lambda: world.counted("unknown_name_total") >= 500, what="all handed back")
    lines = [record.getMessage() for record in caplog.records]
    first = [line for line in lines if line.startswith("job failed")]
    assert len(first) == 1
    assert "ConnectionError: refused" in first[0], "the first in full"
    assert len([line for line in lines if line.startswith("job dead-lettered")]) == 1
    for what in ("failed", "dead-lettered", "of an unknown name"):
        said = [int(line.split()[0]) for line in lines if f"more jobs {what} within a second" in line]
        assert sum(said) >= 499, f"{what}: each is counted"
        assert len(said) < 50


async def test_a_stopping_worker_reports_all_that_has_failed(world: World) -> None:
    declare_failing(world)
    queue = Slow(world.backend, "orders")
    async with world.queue() as producer:
        await producer.enqueue([new_job("raises")] * 3000)
        async with world.working(queue, slots=SLOTS, retry=RetryPolicy(initial_delay_seconds=3600)):
            await eventually(lambda: world.counted("retried_total") > 0, what="some reported")
        place = world.backend.places["orders"]
        charged = [entry for entry in place.entries.values() if entry.failures]
        assert len(charged) == world.counted("retried_total") == world.counted("duration_count")
        assert world.depth().in_flight == 0


async def test_what_the_backend_could_not_take_is_settled_again(world: World) -> None:
    class Partial(MemoryQueue):
        """As a broker: takes one of a batch at a time."""

        async def settle(self, settlements: Sequence[Settlement]) -> Settled:
            settled = await super().settle(settlements[:1])
            self._held.update(settlement.delivery.key for settlement in settlements[1:])
            return Settled(
                accepted=settled.accepted,
                refused=settled.refused,
                dead_lettered=settled.dead_lettered,
                unsettled=tuple(settlements[1:]),
                error="throttled",
            )

    @world.app.job("brief")
    async def brief(payload: None) -> None: ...

    async with world.queue() as producer, world.working(Partial(world.backend, "orders"), slots=3):
        await producer.enqueue([new_job("brief")] * 3)
        await eventually(lambda: world.counted("completed_total") == 3, what="all completed")
    assert world.counted("refused_completions_total") == 0


async def test_after_one_failed_receive_the_worker_asks_again_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = asyncio.Event()
    rests: list[float] = []

    async def rest(receiver: Receiver, seconds: float) -> None:
        rests.append(seconds)

    monkeypatch.setattr(Receiver, "_rest", rest)

    class FailsOnce(MemoryQueue):
        has_failed = False

        async def receive(self, limit: int, **how: Any) -> list[Delivery]:
            if not self.has_failed:
                self.has_failed = True
                raise QueueUnavailableError("the session ended")
            return await super().receive(limit, **how)

    @world.app.job("brief")
    async def brief(payload: None) -> None:
        ran.set()

    async with world.queue() as producer:
        await producer.enqueue([new_job("brief")])
        async with world.working(FailsOnce(world.backend, "orders")):
            await ran.wait()
    assert rests[0] <= 0.05


def declare_failing(world: World) -> None:
    @world.app.job("raises")
    async def raises(payload: None) -> None:
        raise ConnectionError("refused")

    @world.app.job("gives-up")
    async def gives_up(payload: None) -> None:
        raise DeadLetter("no such order")

    @world.app.job("snoozes")
    async def snoozes(payload: None) -> None:
        raise Snooze(3600)
