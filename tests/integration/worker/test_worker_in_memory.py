"""The worker's loop on the reference queue: what is hard to bring about from outside a process."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import structs

from headrace import App, Context, new_job
from headrace.metrics import Metrics
from headrace.queues.base import Owner, QueueSettings
from headrace.queues.errors import PartlyEnqueuedError, QueueUnavailableError
from headrace.queues.inspection import Cancel
from headrace.queues.memory import MemoryBackend, MemoryInspector, MemoryQueue, counting
from headrace.retry import RetryPolicy
from headrace.runtime.handlers.python import PythonHandler
from headrace.runtime.worker import Worker
from support.verbs import complete, enqueue
from support.worker_process import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from headrace.job import NewJob
    from headrace.queues.base import Delivery, Depth, Enqueued, Queue
    from headrace.queues.settlement import Settled, Settlement


class World:
    """A backend whose clock the test moves, an app, and the workers on them."""

    def __init__(self) -> None:
        self.passed = timedelta()
        self.backend = MemoryBackend(clock=lambda: datetime.now(UTC) + self.passed)
        self.backend.register("orders", QueueSettings(), Owner(namespace="", name="orders", uid=""))
        self.app = App()
        self.metrics = Metrics()

    def queue(self) -> MemoryQueue:
        return MemoryQueue(self.backend, "orders")

    def depth(self) -> Depth:
        return counting.depth(self.backend.place("orders"), self.backend.now())

    def counted(self, name: str) -> float:
        lines = self.metrics.render().decode().splitlines()
        prefix = f'background_jobs_{name}{{namespace="shop",queue="orders"}} '
        return next(float(line.removeprefix(prefix)) for line in lines if line.startswith(prefix))

    @asynccontextmanager
    async def working(self, queue: Queue | None = None, **settings: Any) -> AsyncIterator[Worker]:
        worker = Worker(
            queue or self.queue(),
            PythonHandler(self.app, threads=settings.get("slots", 10)),
            self.metrics.of("shop", "orders"),
            **{"poll_interval_seconds": 0.05, "heartbeat_seconds": 0.05, **settings},
        )
        task = asyncio.create_task(worker.run())
        try:
            yield worker
        finally:
            worker.stop()
            worker.stop()
            await task


@pytest.fixture
def world() -> World:
    return World()


async def test_what_a_handler_is_known_to_have_enqueued_is_counted(world: World) -> None:
    class Broker(MemoryQueue):
        """Doesn't tell of keys; of several jobs it takes only the first."""

        async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
            (first,) = await super().enqueue(jobs[:1])
            if jobs[1:]:
                raise PartlyEnqueuedError({0: first}, dict.fromkeys(range(1, len(jobs)), "throttled"))
            return [structs.replace(first, is_new=None) if jobs[0].deduplication_key else first]

    told: list[bool | None] = []
    failed: list[Any] = []

    @world.app.job("parent")
    async def parent(payload: None, context: Context) -> None:
        for key in (None, "k", "k"):
            told.extend(each.is_new for each in await context.enqueue([new_job("child", deduplication_key=key)]))
        try:
            await context.enqueue([new_job("child")] * 3)
        except PartlyEnqueuedError as error:
            failed.extend(error.failed)

    @world.app.job("child")
    async def child(payload: None) -> None: ...

    async with world.queue() as producer, world.working(Broker(world.backend, "orders")):
        await producer.enqueue([new_job("parent")])
        await eventually(lambda: world.counted("completed_total") == 4, what="all completed")
    assert (told, failed) == ([True, None, None], [1, 2])
    assert world.counted("enqueued_total") == 2, "the plain one, and the first of three"


async def test_a_lost_lease_cancels_its_jobs_and_nothing_of_theirs_is_settled(world: World) -> None:
    started: list[int] = []
    cancelled: list[int] = []
    gate = asyncio.Event()

    @world.app.job("gated")
    async def gated(payload: int) -> None:
        started.append(payload)
        try:
            await gate.wait()
        except asyncio.CancelledError:
            cancelled.append(payload)
            raise

    async with world.queue() as other, world.working():
        (job_id,) = await enqueue(other, [new_job("gated", 1)])
        await eventually(lambda: started == [1], what="started")
        # Others find the lease run out before the worker's next heartbeat.
        world.passed += timedelta(hours=1)
        await other.maintain()
        (taken,) = await other.receive(1)
        assert (taken.job.id, taken.job.attempt) == (job_id, 1)
        while cancelled != [1]:  # noqa: ASYNC110 - the very next turn is what counts
            await asyncio.sleep(0)  # The next job comes while the wait for it that began under the old lease ends.
        assert (await complete(other, [taken])).accepted == 1
        assert world.counted("lease_lost_total") == 1
        gate.set()
        await other.enqueue([new_job("gated", 2)])
        await eventually(lambda: world.counted("completed_total") == 1, what="work under a new lease")
    assert world.counted("released_total") == 0


class Unreliable(MemoryQueue):
    """Refuses to take completions until told otherwise."""

    away = True

    async def settle(self, settlements: Sequence[Settlement]) -> Settled:
        if self.away:
            raise QueueUnavailableError("away")
        return await super().settle(settlements)


async def test_completions_are_reported_again_until_taken_and_no_job_is_received_meanwhile(world: World) -> None:
    ran: list[int] = []

    @world.app.job("quick")
    async def quick(payload: int) -> None:
        ran.append(payload)

    queue = Unreliable(world.backend, "orders")
    async with world.queue() as producer, world.working(queue):
        await producer.enqueue([new_job("quick", number) for number in range(5)])
        await eventually(lambda: len(ran) == 5, what="all run")
        await eventually(lambda: world.counted("busy_slots") == 0, what="all ended")
        assert (await producer.depth()).in_flight == 5
        queue.away = False
        await eventually(lambda: world.counted("completed_total") == 5, what="all reported")
    assert sorted(ran) == [0, 1, 2, 3, 4], "none ran twice"


class Counting(MemoryQueue):
    """Counts how often outcomes are reported."""

    reports = 0

    async def settle(self, settlements: Sequence[Settlement]) -> Settled:
        self.reports += 1
        return await super().settle(settlements)


async def test_outcomes_of_short_jobs_are_reported_in_batches_larger_than_there_are_slots(world: World) -> None:
    @world.app.job("short")
    async def short(payload: int) -> None:
        assert payload >= 0

    queue = Counting(world.backend, "orders")
    async with world.queue() as producer:
        await producer.enqueue([new_job("short", number) for number in range(3000)])
    async with world.working(queue, slots=10):
        await eventually(lambda: world.counted("completed_total") == 3000, what="completed")
    assert queue.reports < 3000 / 10 / 3


async def test_a_job_that_cancels_itself_or_times_out_by_itself_has_failed(world: World) -> None:
    @world.app.job("cancelling")
    async def cancelling(payload: None) -> None:
        raise asyncio.CancelledError

    @world.app.job("cancelling its task")
    async def cancelling_its_task(payload: None) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    @world.app.job("impatient")
    async def impatient(payload: None) -> None:
        raise TimeoutError("the shop did not answer")

    async with world.queue() as producer, world.working():
        await producer.enqueue([new_job("cancelling"), new_job("cancelling its task"), new_job("impatient")])
        await eventually(lambda: world.counted("retried_total") == 3, what="all retried")


class OutOfOrder(BaseException):
    """As `pytest.fail` raises, for one: no Exception."""


@pytest.mark.parametrize("error", [OutOfOrder("no luck"), KeyboardInterrupt(), GeneratorExit(), StopIteration()])
@pytest.mark.parametrize("in_thread", [False, True], ids=["coroutine", "thread"])
async def test_whatever_a_handler_raises_is_a_failed_attempt(
    world: World, error: BaseException, in_thread: bool
) -> None:
    async def job(payload: None) -> None:
        raise error

    def job_in_thread(payload: None) -> None:
        raise error

    world.app.job("job")(job_in_thread if in_thread else job)
    async with world.queue() as producer, world.working():
        await producer.enqueue([new_job("job")])
        await eventually(lambda: world.counted("retried_total") == 1, what="retried")
    (entry,) = world.backend.places["orders"].entries.values()
    assert type(error).__name__ in entry.failures[0].failure.error
    assert type(error).__name__ in (entry.failures[0].failure.traceback or "")


async def test_an_error_that_cannot_be_told_is_a_failed_attempt_too(world: World) -> None:
    class UnspeakableError(Exception):
        def __str__(self) -> str:
            raise UnspeakableError

    @world.app.job("job")
    async def job(payload: None) -> None:
        raise UnspeakableError

    async with world.queue() as producer, world.working():
        await producer.enqueue([new_job("job")])
        await eventually(lambda: world.counted("retried_total") == 1, what="retried")


async def test_what_a_handler_raises_because_it_is_stopped_is_no_failure(world: World) -> None:
    started = asyncio.Event()

    @world.app.job("job")
    async def job(payload: None) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionError("closed in the middle") from None

    async with world.queue() as producer, world.working():
        await producer.enqueue([new_job("job")])
        await started.wait()
    assert world.counted("released_total") == 1
    assert world.counted("retried_total") == 0


async def test_a_stopped_worker_hands_back_and_gives_its_lease_back(world: World) -> None:
    started = asyncio.Event()

    @world.app.job("endless")
    async def endless(payload: None) -> None:
        started.set()
        await asyncio.Event().wait()

    async with world.queue() as other:
        await other.enqueue([new_job("endless")])
        async with world.working():
            await started.wait()
        assert world.backend.places["orders"].leases == {}
        (delivery,) = await other.receive(1)
        assert delivery.job.attempt == 1


async def test_no_more_jobs_run_at_once_than_there_are_slots(world: World) -> None:
    running = 0
    most = 0

    @world.app.job("counted")
    async def counted(payload: None) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    async with world.queue() as producer, world.working(slots=3):
        await producer.enqueue([new_job("counted")] * 50)
        await eventually(lambda: world.counted("completed_total") == 50, what="all completed")
    assert most == 3


async def test_jobs_taken_ahead_go_back_when_the_slots_stay_taken(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.runtime.slots._WAIT_SECONDS", 0.1)
    gate = asyncio.Event()

    @world.app.job("quick")
    async def quick(payload: None) -> None: ...

    @world.app.job("slow")
    async def slow(payload: None) -> None:
        await gate.wait()

    async with world.queue() as producer, world.working(slots=2):
        await producer.enqueue([new_job("quick")] * 200)
        await eventually(lambda: world.counted("completed_total") == 200, what="known to be short")
        await producer.enqueue([new_job("slow")] * 50)
        await eventually(lambda: world.counted("busy_slots") == 2, what="slots taken")
        await eventually(lambda: world.counted("released_total") >= 1, what="handed back")
        async with world.queue() as other:
            deliveries = await other.receive(50)
            assert deliveries, "another worker can have them"
            assert {delivery.job.attempt for delivery in deliveries} == {1}, "uncharged"
            await complete(other, deliveries)
        gate.set()
        await eventually(lambda: world.backend.places["orders"].entries == {}, what="all done")


@pytest.mark.parametrize("raised", [asyncio.CancelledError, ConnectionError])
async def test_a_cancelled_job_is_stopped_and_gone_and_its_neighbours_go_on(
    world: World, raised: type[BaseException]
) -> None:
    stopped: list[int] = []
    gate = asyncio.Event()

    @world.app.job("gated")
    async def gated(payload: int) -> None:
        try:
            await gate.wait()
        except asyncio.CancelledError:
            stopped.append(payload)
            raise raised from None

    async with world.queue() as producer, world.working():
        ids = await enqueue(producer, [new_job("gated", number) for number in range(3)])
        await eventually(lambda: world.counted("busy_slots") == 3, what="started")
        assert await MemoryInspector(world.backend).cancel("orders", Cancel(job_id=ids[1])) == "requested"
        await eventually(lambda: world.counted("cancelled_total") == 1, what="cancelled")
        assert stopped == [1]
        gate.set()
        await eventually(lambda: world.counted("completed_total") == 2, what="the others completed")
    assert world.counted("failed_total") == world.counted("retried_total") == world.counted("released_total") == 0
    assert world.backend.places["orders"].entries == {}


async def test_a_job_that_runs_too_long_fails_alone_and_says_so(world: World) -> None:
    @world.app.job("endless")
    async def endless(payload: None) -> None:
        await asyncio.Event().wait()

    @world.app.job("short")
    async def short(payload: None) -> None:
        await asyncio.sleep(0.01)

    once = RetryPolicy(initial_delay_seconds=3600)
    async with world.queue() as producer, world.working(job_timeout_seconds=0.3, retry=once):
        await producer.enqueue([new_job("endless"), *[new_job("short")] * 20])
        await eventually(lambda: world.counted("completed_total") == 20, what="the others completed")
        await eventually(lambda: world.counted("retried_total") == 1, what="timed out")
    (entry,) = world.backend.places["orders"].entries.values()
    assert [failed.failure.error for failed in entry.failures] == ["timed out after 0.3 s"]


async def test_a_dead_letter_tells_where_its_job_failed(world: World) -> None:
    await world.backend.ensure("orders", QueueSettings(max_retries=0), Owner(namespace="", name="orders", uid=""))

    @world.app.job("broken")
    async def broken(payload: None) -> None:
        raise ZeroDivisionError("by design")

    async with world.queue() as producer, world.working():
        await producer.enqueue([new_job("broken")])
        await eventually(lambda: world.counted("failed_total") == 1, what="dead")
    (dead,) = world.backend.places["orders"].dead.values()
    assert dead.reason == "RetriesExhausted"
    assert dead.failures[-1].failure.error.startswith("ZeroDivisionError: by design")
    assert 'raise ZeroDivisionError("by design")' in (dead.failures[-1].failure.traceback or "")


HOUR_SECONDS = 3600.0


class Asked(MemoryQueue):
    """Notes what is asked of it."""

    def __init__(self, world: World) -> None:
        super().__init__(world.backend, "orders")
        self.asked: list[tuple[int, frozenset[str]]] = []
        self.is_waiting = False

    async def receive(self, limit: int, **how: Any) -> list[Delivery]:
        self.asked.append((limit, how["without"]))
        self.is_waiting = True
        try:
            return await super().receive(limit, **how)
        finally:
            self.is_waiting = False


class TestWaitingForJobs:
    async def test_a_job_starts_when_it_is_enqueued_however_seldom_the_worker_looks(self, world: World) -> None:
        ran = asyncio.Event()

        @world.app.job("job")
        async def job(payload: None) -> None:
            ran.set()

        queue = Asked(world)
        async with world.queue() as producer, world.working(queue, poll_interval_seconds=HOUR_SECONDS):
            await eventually(lambda: queue.is_waiting, what="idle")
            await producer.enqueue([new_job("job")])
            await ran.wait()

    async def test_a_stopping_worker_waits_no_longer(self, world: World) -> None:
        queue = Asked(world)
        async with world.working(queue, poll_interval_seconds=HOUR_SECONDS):
            await eventually(lambda: queue.is_waiting, what="idle")
        assert not queue.is_waiting

    async def test_what_arrives_when_it_has_stopped_goes_back(self, world: World) -> None:
        gate = asyncio.Event()

        class Late(Asked):
            async def receive(self, limit: int, **how: Any) -> list[Delivery]:
                deliveries = await super().receive(limit, **how)
                if deliveries:
                    await gate.wait()
                return deliveries

        @world.app.job("job")
        async def job(payload: None) -> None: ...

        queue = Late(world)
        async with world.queue() as producer, world.working(queue) as worker:
            await producer.enqueue([new_job("job")])
            await eventually(lambda: world.depth().in_flight == 1, what="on its way")
            worker.stop()
            gate.set()
            await eventually(lambda: world.counted("released_total") == 1, what="handed back")
            assert world.depth().ready == 1

    async def test_a_wait_for_few_jobs_ends_when_there_is_room_for_many(self, world: World) -> None:
        gate = asyncio.Event()

        @world.app.job("slow")
        async def slow(payload: None) -> None:
            await gate.wait()

        queue = Asked(world)
        async with world.queue() as producer, world.working(queue, slots=8, poll_interval_seconds=HOUR_SECONDS):
            await producer.enqueue([new_job("slow")] * 7)
            await eventually(lambda: queue.is_waiting and queue.asked[-1][0] == 1, what="waiting for one")
            gate.set()
            await eventually(lambda: queue.is_waiting and queue.asked[-1][0] >= 8, what="waiting for many")

    async def test_a_wait_without_a_full_name_ends_when_the_name_has_room(self, world: World) -> None:
        gate = asyncio.Event()
        started: list[int] = []

        @world.app.job("scarce", max_concurrent=1)
        async def scarce(payload: int) -> None:
            started.append(payload)
            if payload == 1:
                await gate.wait()

        queue = Asked(world)
        async with world.queue() as producer, world.working(queue, slots=8, poll_interval_seconds=HOUR_SECONDS):
            await producer.enqueue([new_job("scarce", 1), new_job("scarce", 2)])
            await eventually(lambda: queue.is_waiting and queue.asked[-1][1] == {"scarce"}, what="waiting for others")
            gate.set()
            await eventually(lambda: started == [1, 2], what="the second")
