"""Handlers that block the event loop: their worker's lease is kept from beside, for a while."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from headrace import new_job
from headrace.queues.base import Owner, QueueSettings
from headrace.queues.errors import SchemaVersionError
from headrace.queues.memory import MemoryQueue
from headrace.queues.postgres import Place, PostgresProvisioner, PostgresQueue
from headrace.runtime.handlers.python import PythonHandler
from headrace.runtime.lease import LeaseKeeper
from headrace.runtime.worker import Worker
from integration.worker.test_worker_in_memory import World
from support.worker_process import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from collections.abc import Set as AbstractSet

    from headrace.queues.base import Delivery, DeliveryKey, KeptAlive

LEASE_SECONDS = 1.0
HEARTBEAT_SECONDS = 0.2


def elsewhere(world: World, place: Place) -> tuple[threading.Thread, threading.Event]:
    """Another worker on the same database, in a thread with an event loop of its own."""
    ended = threading.Event()

    async def work() -> None:
        worker = Worker(
            PostgresQueue(place, "orders", lease_seconds=LEASE_SECONDS),
            PythonHandler(world.app, threads=1),
            world.metrics.of("shop", "elsewhere"),
            heartbeat_seconds=HEARTBEAT_SECONDS,
            poll_interval_seconds=0.2,
        )
        working = asyncio.create_task(worker.run())
        await asyncio.to_thread(ended.wait)
        worker.stop()
        await working

    return threading.Thread(target=lambda: asyncio.run(work())), ended


async def test_one_that_blocks_for_longer_than_a_lease_loses_nothing_and_runs_once(database_dsn: str) -> None:
    world = World()
    place = Place(dsn=database_dsn)
    await PostgresProvisioner(place).ensure(
        "orders", QueueSettings(max_retries=0), Owner(namespace="", name="orders", uid="1")
    )
    ran: list[int] = []

    @world.app.job("blocking")
    async def blocking(payload: int) -> None:
        ran.append(payload)
        time.sleep(3.5 * LEASE_SECONDS)  # noqa: ASYNC251 - that it blocks is the point

    async with PostgresQueue(place, "orders") as producer:
        await producer.enqueue([new_job("blocking", 1)])
        queue = PostgresQueue(place, "orders", lease_seconds=LEASE_SECONDS)
        other, ended = elsewhere(world, place)
        async with world.working(queue, slots=1, heartbeat_seconds=HEARTBEAT_SECONDS):
            await eventually(lambda: world.counted("lease_extensions_total") > 0, what="a lease")
            other.start()
            await eventually(lambda: bool(ran), what="started, here or there")
            await eventually(lambda: completed(world) == 1, what="completed")
        ended.set()
        await asyncio.to_thread(other.join)
        assert (await producer.depth()).dead_lettered == 0
    assert ran == [1]
    assert world.counted("lease_lost_total") == world.counted("refused_completions_total") == 0


async def test_an_answer_that_came_while_the_loop_stood_costs_no_session(database_dsn: str) -> None:
    place = Place(dsn=database_dsn)
    await PostgresProvisioner(place).ensure("orders", QueueSettings(), Owner(namespace="", name="orders", uid="1"))
    loop = asyncio.get_running_loop()

    async def let_go_while_it_stands() -> None:
        """Hold up a heartbeat until the loop stands, and no longer."""
        holding, looking = await asyncpg.connect(database_dsn), await asyncpg.connect(database_dsn)
        transaction = holding.transaction()
        await transaction.start()
        await holding.execute("SELECT FROM headrace.leases FOR UPDATE")
        await eventually(
            lambda: looking.fetchval("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted"), what="held up"
        )
        stands = threading.Event()

        def stand_still() -> None:
            stands.set()
            # Not a wait for something: a loop that stands is the fault.
            time.sleep(5 * HEARTBEAT_SECONDS)

        loop.call_soon_threadsafe(stand_still)
        await asyncio.to_thread(stands.wait)
        await transaction.rollback()
        await asyncio.gather(holding.close(), looking.close())

    async with PostgresQueue(place, "orders", lease_seconds=20 * HEARTBEAT_SECONDS) as queue:
        await queue.keep_alive()
        async with asyncpg_session(database_dsn) as session:
            sessions = "SELECT pid FROM pg_stat_activity WHERE application_name = 'headrace' ORDER BY pid"
            before = await session.fetch(sessions)
            keeper = LeaseKeeper(queue, Unconcerned(), heartbeat_seconds=HEARTBEAT_SECONDS)
            keeping = asyncio.create_task(keeper.run())
            await asyncio.to_thread(asyncio.run, let_go_while_it_stands())
            await eventually(lambda: keeper.backend_answers, what="answered")
            assert await session.fetch(sessions) == before
            keeping.cancel()


class Unconcerned:
    """Holds nothing."""

    def lease_extended(self) -> None: ...

    def jobs_lost(self, keys: AbstractSet[DeliveryKey]) -> None: ...

    def jobs_cancelled(self, keys: AbstractSet[DeliveryKey]) -> None: ...

    def lease_out_of_reach(self) -> None: ...


@asynccontextmanager
async def asyncpg_session(dsn: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


def completed(world: World) -> float:
    lines = world.metrics.render().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("background_jobs_completed_total{"))


async def test_a_loop_that_stands_for_too_long_is_given_up() -> None:
    world = World()
    beats: list[float] = []

    class Noting(MemoryQueue):
        async def keep_alive_aside(self) -> None:
            beats.append(time.monotonic())

    @world.app.job("blocking")
    async def blocking(payload: None) -> None:
        while len(beats) < 2 or time.monotonic() < beats[-1] + 1:
            time.sleep(0.01)  # noqa: ASYNC251

    async with world.queue() as producer, world.working(Noting(world.backend, "orders"), stuck_after_seconds=0.5):
        await producer.enqueue([new_job("blocking")])
        await eventually(lambda: world.counted("completed_total") == 1, what="completed")
        assert beats, "kept for a while"


async def test_nothing_is_started_under_a_lease_that_was_judged_while_the_loop_stood() -> None:
    world = World()
    looked = threading.Event()
    started: list[int] = []

    class Judged(MemoryQueue):
        async def keep_alive_aside(self) -> None:
            place = world.backend.place("orders")
            for lease in [] if looked.is_set() else list(place.leases.values()):
                place.lose(lease, world.backend.now(), charges=False)
            try:
                await super().keep_alive_aside()
            finally:
                looked.set()

    @world.app.job("quick")
    async def quick(payload: None) -> None: ...

    @world.app.job("blocking")
    async def blocking(payload: None) -> None:
        if not looked.is_set():
            looked.wait(60)
            time.sleep(LEASE_SECONDS)  # noqa: ASYNC251 - longer than the last heartbeat may be relied on

    @world.app.job("following")
    async def following(payload: None) -> None:
        started.append(1)
        await asyncio.sleep(0.05)

    queue = Judged(world.backend, "orders", lease_seconds=LEASE_SECONDS)
    async with world.queue() as producer, world.working(queue, slots=1, heartbeat_seconds=HEARTBEAT_SECONDS):
        await producer.enqueue([new_job("quick")] * 100)
        await eventually(lambda: world.counted("completed_total") == 100, what="known to be short")
        await producer.enqueue([new_job("blocking"), new_job("following")])
        await eventually(looked.is_set, what="the lease is judged")
        await eventually(lambda: world.counted("completed_total") == 102, what="completed under another lease")
    assert started == [1]


async def test_while_the_loop_turns_nothing_is_sent_from_beside() -> None:
    world = World()
    beats: list[float] = []

    class Noting(MemoryQueue):
        async def keep_alive_aside(self) -> None:
            beats.append(time.monotonic())

    queue = Noting(world.backend, "orders")
    async with world.working(queue, heartbeat_seconds=1.0):
        await eventually(lambda: world.counted("lease_extensions_total") >= 3, what="heartbeats")
    assert beats == []


class Outgrown(MemoryQueue):
    """Of a backend that has become another."""

    is_outgrown = False

    def _check(self) -> None:
        if self.is_outgrown:
            raise SchemaVersionError("schema version 9 wants a headrace of 4 or later: this is 3")

    async def keep_alive(self) -> KeptAlive:
        self._check()
        return await super().keep_alive()

    async def receive(self, limit: int, **how: Any) -> list[Delivery]:
        self._check()
        return await super().receive(limit, **how)


@pytest.mark.parametrize("where", ["heartbeat", "receive"])
async def test_a_worker_that_its_schema_has_outgrown_hands_everything_back_and_waits(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    running: list[int] = []

    @world.app.job("endless")
    async def endless(payload: None) -> None:
        running.append(1)
        await asyncio.Event().wait()

    queue = Outgrown(world.backend, "orders")
    if where == "receive":
        queue.keep_alive = super(Outgrown, queue).keep_alive  # type: ignore[method-assign]
    async with world.queue() as producer, world.working(queue, slots=2) as worker:
        await producer.enqueue([new_job("endless")])
        await eventually(lambda: bool(running), what="started")
        queue.is_outgrown = True
        await eventually(lambda: world.counted("released_total") >= 1, what="handed back")
        if where == "heartbeat":
            await eventually(lambda: not worker.is_ready, what="not ready")
            assert len([line for line in caplog.messages if "schema version 9" in line and "handing" in line]) == 1
            assert world.depth().ready == 1, "somebody else's"
            queue.is_outgrown = False
            await eventually(lambda: len(running) == 2, what="at work again")
