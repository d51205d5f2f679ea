"""What an application says of its jobs, and what the worker makes of it; on the reference queue."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pydantic
import pytest

from headrace import App, Context, Retry, RetryPolicy, Snooze, new_job
from headrace.job import BYTES_CONTENT_TYPE
from headrace.queues.base import Owner, Progress, QueueSettings
from headrace.queues.inspection import Cancel, JobFilter
from headrace.queues.memory import MemoryInspector, MemoryQueue
from headrace.runtime.handlers import HandlerError
from headrace.runtime.handlers.python import PythonHandler
from integration.worker.test_worker_in_memory import World
from support import process_jobs
from support.verbs import enqueue, release
from support.worker_process import eventually

if TYPE_CHECKING:
    from headrace.queues.base import Delivery
    from headrace.queues.capabilities import Capabilities
    from headrace.queues.memory.entries import Entry

OWNER = Owner(namespace="", name="orders", uid="")


@pytest.fixture
def world() -> World:
    return World()


@dataclass
class Size:
    width: int
    height: int = 10


class Order(pydantic.BaseModel):
    number: int
    placed_at: datetime


ORDER = Order(number=7, placed_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))


class Point(msgspec.Struct):
    x: float


SEEN: list[Any] = []


async def take_size(payload: Size) -> None:
    SEEN.append(payload)


async def take_order(payload: Order) -> None:
    SEEN.append(payload)


async def take_point(payload: Point) -> None:
    SEEN.append(payload)


async def take_numbers(payload: list[int]) -> None:
    SEEN.append(payload)


async def take_orders(payload: list[Order]) -> None:
    SEEN.append(payload)


async def take_order_or_nothing(payload: Order | None) -> None:
    SEEN.append(payload)


@dataclass
class Parcel:
    order: Order
    size: Size


@process_jobs.decorated
async def take_parcel(payload: Parcel) -> None:
    SEEN.append(payload)


async def take_bytes(payload: bytes) -> None:
    SEEN.append(payload)


async def take_anything(payload) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001 - as users write it
    SEEN.append(payload)


class TestPayloads:
    @pytest.mark.parametrize(
        ("function", "payload", "expected"),
        [
            (take_size, {"width": 3}, Size(3)),
            (
                take_order,
                {"number": "7", "placed_at": "2026-01-02T03:04:05Z"},
                ORDER,
            ),
            (take_point, {"x": 1}, Point(1.0)),
            (take_numbers, [1, 2], [1, 2]),
            (take_orders, [{"number": 7, "placed_at": "2026-01-02T03:04:05Z"}], [ORDER]),
            (take_order_or_nothing, {"number": 7, "placed_at": "2026-01-02T03:04:05Z"}, ORDER),
            (take_order_or_nothing, None, None),
            (
                take_parcel,
                {"order": {"number": 7, "placed_at": "2026-01-02T03:04:05Z"}, "size": {"width": 3}},
                Parcel(ORDER, Size(3)),
            ),
            (take_bytes, {"a": 1}, b'{"a":1}'),
            (take_bytes, b"\x00\xff", b"\x00\xff"),
            (take_anything, {"a": [None]}, {"a": [None]}),
            (take_anything, b"\x00\xff", b"\x00\xff"),
        ],
        ids=lambda value: getattr(value, "__name__", None),
    )
    async def test_a_payload_comes_as_its_handler_wants_it(
        self, world: World, function: Any, payload: Any, expected: Any
    ) -> None:
        SEEN.clear()
        world.app.job("job")(function)
        async with world.queue() as producer, world.working():
            await producer.enqueue([new_job("job", payload)])
            await eventually(lambda: world.counted("completed_total") == 1, what="completed")
        assert [expected] == SEEN
        assert type(SEEN[0]) is type(expected)

    @pytest.mark.parametrize(
        ("function", "payload", "said"),
        [
            (take_size, {"width": "broad"}, "$.width"),
            (take_size, {}, "width"),
            (take_order, {"number": 1}, "placed_at"),
            (take_orders, [{"number": 1}], "placed_at"),
            (take_orders, [{"number": 1}], "$[0]"),
            (take_numbers, [1, "two"], "$[1]"),
            (take_size, b"\x00", BYTES_CONTENT_TYPE),
        ],
        ids=lambda value: getattr(value, "__name__", None),
    )
    async def test_what_is_nothing_of_the_kind_is_dead_lettered_before_the_handler_runs(
        self, world: World, function: Any, payload: Any, said: str
    ) -> None:
        SEEN.clear()
        world.app.job("job")(function)
        async with world.queue() as producer, world.working():
            await producer.enqueue([new_job("job", payload)])
            await eventually(lambda: world.counted("failed_total") == 1, what="dead")
        (dead,) = world.backend.places["orders"].dead.values()
        assert dead.reason == "InvalidPayload"
        assert said in (dead.error or "")
        assert SEEN == []

    def test_a_type_that_is_defined_out_of_sight_is_refused_at_the_start(self) -> None:
        class Local: ...

        app = App()

        @app.job("job")
        async def job(payload: Local) -> None: ...

        with pytest.raises(HandlerError, match=r"job 'job'.*'Local' can't be looked up"):
            PythonHandler(app, threads=1)

    @pytest.mark.parametrize("wanted", [dict[Size, Point] | list[int] | set[int], Path, World, complex], ids=str)
    def test_a_type_that_nothing_can_be_validated_as_is_refused_at_the_start(self, wanted: Any) -> None:
        app = App()

        async def job(payload: Any) -> None: ...

        job.__annotations__["payload"] = wanted
        app.job("job")(job)
        with pytest.raises(HandlerError, match="Annotate it with a dataclass"):
            PythonHandler(app, threads=1)


class TestSayingHowAJobGoesOn:
    async def test_retry_asks_for_another_attempt_at_a_time_of_its_own(self, world: World) -> None:
        @world.app.job("job")
        async def job(payload: None) -> None:
            raise Retry("the shop is busy", after=timedelta(minutes=2))

        async with world.queue() as producer, world.working():
            await producer.enqueue([new_job("job")])
            await eventually(lambda: world.counted("retried_total") == 1, what="retried")
        entry = the_only(world)
        assert entry.failures[0].failure.error == "the shop is busy"
        assert waits_seconds(world, entry) == pytest.approx(120, abs=5)

    async def test_snooze_runs_it_again_later_and_charges_nothing(self, world: World) -> None:
        attempts: list[int] = []

        @world.app.job("job")
        async def job(payload: None, context: Context) -> None:
            attempts.append(context.attempt)
            if len(attempts) < 3:
                raise Snooze(3600)

        async with world.queue() as producer, world.working():
            await producer.enqueue([new_job("job")])
            for number in (1, 2, 3):
                await eventually(partial(lambda wanted: len(attempts) == wanted, number), what=f"run {number}")
                await eventually(lambda: world.counted("busy_slots") == 0, what="settled")
                world.passed += timedelta(hours=2)
            await eventually(lambda: world.counted("completed_total") == 1, what="completed")
        assert attempts == [1, 1, 1]
        assert world.counted("retried_total") == 0

    # A delay that no backend can store would be reported in vain again and again, and stop its worker.
    @pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), 1e18, timedelta.max])
    def test_a_delay_that_makes_no_sense_is_refused_where_it_is_raised(self, seconds: float | timedelta) -> None:
        with pytest.raises(ValueError, match="0 or more"):
            Snooze(seconds)
        with pytest.raises(ValueError, match="0 or more"):
            Retry(after=seconds)


class TestPolicies:
    async def test_a_job_has_a_retry_policy_of_its_own(self, world: World) -> None:
        @world.app.job("job", retry=RetryPolicy(initial_delay_seconds=500, jitter=0))
        async def job(payload: None) -> None:
            raise ValueError

        async with world.queue() as producer, world.working(retry=RetryPolicy(initial_delay_seconds=1)):
            await producer.enqueue([new_job("job")])
            await eventually(lambda: world.counted("retried_total") == 1, what="retried")
        assert waits_seconds(world, the_only(world)) == pytest.approx(500, abs=5)

    async def test_a_policy_may_allow_fewer_attempts_than_the_queue(self, world: World) -> None:
        attempts: list[int] = []

        @world.app.job("job", retry=RetryPolicy(initial_delay_seconds=0, max_retries=1))
        async def job(payload: None, context: Context) -> None:
            attempts.append(context.attempt)
            raise ValueError("no luck")

        async with world.queue() as producer, world.working():
            await producer.enqueue([new_job("job")])
            await eventually(lambda: world.counted("failed_total") == 1, what="dead")
        assert attempts == [1, 2]
        (dead,) = world.backend.places["orders"].dead.values()
        assert dead.reason == "RetriesExhausted"
        assert [failure.attempt for failure in dead.failures] == [1, 2]

    async def test_of_a_limited_name_no_more_run_at_once_and_others_pass(self, world: World) -> None:
        running = most = 0
        gate = asyncio.Event()

        @world.app.job("scarce", max_concurrent=2)
        async def scarce(payload: int) -> None:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await gate.wait()
            running -= 1

        @world.app.job("common")
        async def common(payload: int) -> None: ...

        async with world.queue() as producer, world.working(slots=8):
            await producer.enqueue([new_job("scarce", number) for number in range(6)])
            await producer.enqueue([new_job("common", number) for number in range(30)])
            await eventually(lambda: world.counted("completed_total") == 30, what="the others done")
            assert running == 2
            gate.set()
            await eventually(lambda: world.counted("completed_total") == 36, what="all done")
        assert most == 2

    async def test_jobs_beyond_a_names_limit_keep_nobody_from_a_slot_or_from_another_worker(self, world: World) -> None:
        running: Counter[str] = Counter()
        gate = asyncio.Event()

        @world.app.job("x", max_concurrent=1)
        async def scarce(payload: None) -> None:
            running["x"] += 1
            await gate.wait()

        @world.app.job("y")
        async def common(payload: None) -> None:
            running["y"] += 1
            await gate.wait()

        async with world.queue() as producer, world.working(slots=11):
            await producer.enqueue([new_job("x")] * 200)
            await producer.enqueue([new_job("y")] * 10)
            await eventually(lambda: running == {"x": 1, "y": 10}, what="all of y, and one of x")
            await eventually(lambda: world.depth().in_flight == 11, what="no more are held than run")
            async with world.queue() as other:
                deliveries = await other.receive(500)
                assert len(deliveries) == 199
                await release(other, deliveries)
            gate.set()
            await eventually(lambda: world.counted("completed_total") == 210, what="all done")
        assert world.counted("retried_total") == 0

    async def test_they_pass_others_by_where_the_backend_knows_no_names(self, world: World) -> None:
        running: Counter[str] = Counter()
        gate = asyncio.Event()

        class WithoutNames(MemoryQueue):
            """As brokers are."""

            @property
            def capabilities(self) -> Capabilities:
                return replace(super().capabilities, skips_names=False)

            async def receive(self, limit: int, **how: Any) -> list[Delivery]:
                return await super().receive(limit, **{**how, "without": frozenset()})

        @world.app.job("x", max_concurrent=1)
        async def scarce(payload: None) -> None:
            running["x"] += 1
            await gate.wait()

        @world.app.job("y")
        async def common(payload: None) -> None:
            running["y"] += 1
            await gate.wait()

        async with world.queue() as producer, world.working(WithoutNames(world.backend, "orders"), slots=11):
            await producer.enqueue([new_job("x")] * 200)
            await producer.enqueue([new_job("y")] * 10)
            await eventually(lambda: running == {"x": 1, "y": 10}, what="all of y, and one of x")
            assert world.depth().delayed == 199
        assert world.counted("retried_total") == 0

    async def test_while_one_takes_unexpectedly_long_no_others_come_and_go(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("headrace.runtime.slots._WAIT_SECONDS", 0.1)
        monkeypatch.setattr("headrace.runtime.limited_names.KEPT_SECONDS", 0.05)
        gate = asyncio.Event()

        @world.app.job("brief", max_concurrent=1)
        async def brief(payload: str | None) -> None:
            if payload is not None:
                await gate.wait()

        async with world.queue() as producer, world.working(slots=4):
            await enqueue(producer, [new_job("brief")] * 50)
            await eventually(lambda: world.counted("completed_total") == 50, what="known to be brief")
            await enqueue(producer, [new_job("brief", "long")] * 50)
            await eventually(lambda: world.counted("prefetched") > 0, what="some wait")
            await eventually(lambda: world.depth().in_flight == 1, what="they went back")
            released = world.counted("released_total")
            await asyncio.sleep(0.5)
            assert world.counted("released_total") == released
            gate.set()
            await eventually(lambda: world.counted("completed_total") == 100, what="all done")

    async def test_a_cancelled_job_that_waits_for_its_names_turn_is_gone(self, world: World) -> None:
        gate = asyncio.Event()

        @world.app.job("brief", max_concurrent=1)
        async def brief(payload: str | None) -> None:
            if payload is not None:
                await gate.wait()

        async with world.queue() as producer, world.working(slots=4):
            await enqueue(producer, [new_job("brief")] * 50)
            await eventually(lambda: world.counted("completed_total") == 50, what="known to be brief")
            ids = await enqueue(producer, [new_job("brief", "long")] * 2)
            await eventually(lambda: world.counted("prefetched") == 1, what="one waits")
            assert await MemoryInspector(world.backend).cancel("orders", Cancel(job_id=ids[1])) == "requested"
            await eventually(lambda: world.counted("cancelled_total") == 1, what="cancelled")
            gate.set()
            await eventually(lambda: world.counted("completed_total") == 51, what="the other done")
        assert world.backend.places["orders"].entries == {}


class TestTimeLimits:
    async def test_a_job_has_a_time_limit_of_its_own(self, world: World) -> None:
        @world.app.job("hasty", timeout=0.1)
        async def hasty(payload: None) -> None:
            await asyncio.Event().wait()

        async with world.queue() as producer, world.working():
            await producer.enqueue([new_job("hasty")])
            await eventually(lambda: world.counted("retried_total") == 1, what="timed out")
        assert the_only(world).failures[0].failure.error == "timed out after 0.1 s"

    async def test_a_handler_may_take_more_time(self, world: World) -> None:
        @world.app.job("job", timeout=0.2)
        async def job(payload: None, context: Context) -> None:
            context.extend(timedelta(seconds=30))
            await asyncio.sleep(0.5)

        async with world.queue() as producer, world.working():
            await producer.enqueue([new_job("job")])
            await eventually(lambda: world.counted("completed_total") == 1, what="completed")
        assert world.counted("retried_total") == 0

    async def test_a_handler_in_a_thread_may_take_more_time_of_the_workers_limit(self, world: World) -> None:
        gate = threading.Event()

        @world.app.job("job")
        def job(payload: None, context: Context) -> None:
            context.extend(30)
            gate.wait(1.5)

        # Long enough for a thread to start on a busy machine.
        async with world.queue() as producer, world.working(job_timeout_seconds=1):
            await producer.enqueue([new_job("job")])
            await eventually(lambda: world.counted("completed_total") == 1, what="completed")
        assert world.counted("retried_total") == 0

    async def test_a_handler_in_a_thread_can_see_that_it_has_been_stopped(self, world: World) -> None:
        seen = threading.Event()

        @world.app.job("job")
        def job(payload: None, context: Context) -> None:
            while not context.is_cancelled:
                threading.Event().wait(0.01)
            seen.set()

        async with world.queue() as producer, world.working(job_timeout_seconds=0.2):
            await producer.enqueue([new_job("job")])
            await eventually(seen.is_set, what="seen")
            await eventually(lambda: world.counted("retried_total") == 1, what="timed out")


class TestProgress:
    @pytest.mark.parametrize("in_thread", [False, True], ids=["coroutine", "thread"])
    async def test_people_can_see_how_far_a_job_is(
        self,
        world: World,
        monkeypatch: pytest.MonkeyPatch,
        in_thread: bool,
    ) -> None:
        monkeypatch.setattr("headrace.runtime.chores._PROGRESS_SECONDS", 0.05)
        gate = threading.Event()

        async def job(payload: None, context: Context) -> None:
            context.progress(0.4, "page 2 of 5")
            await asyncio.to_thread(gate.wait)

        def job_in_thread(payload: None, context: Context) -> None:
            context.progress(0.4, "page 2 of 5")
            gate.wait()

        world.app.job("job")(job_in_thread if in_thread else job)
        async with world.queue() as producer, world.working():
            await producer.enqueue([new_job("job")])

            async def is_seen() -> bool:
                (record,) = await MemoryInspector(world.backend).jobs("orders", JobFilter())
                return record.progress == Progress(fraction=0.4, message="page 2 of 5")

            await eventually(is_seen, what="progress")
            gate.set()
            await eventually(lambda: world.counted("completed_total") == 1, what="completed")

    @pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
    def test_a_part_of_the_whole_is_from_0_to_1(self, fraction: float) -> None:
        with pytest.raises(ValueError, match="from 0 to 1"):
            Context(job=None).progress(fraction)  # type: ignore[arg-type]  # as a handler's own test might


class TestProcesses:
    async def test_a_function_runs_in_a_process_that_is_used_again(self, world: World, tmp_path: Path) -> None:
        world.app.job("job", process=True)(process_jobs.note_process)
        async with world.queue() as producer, world.working(slots=1):
            ids = await enqueue(producer, [new_job("job", {"path": str(tmp_path / name)}) for name in "ab"])
            await eventually(lambda: world.counted("completed_total") == 2, what="completed")
        first, second = ((tmp_path / name).read_text().split() for name in "ab")
        assert first[0] == second[0] != str(os.getpid())
        assert [first[1], second[1]] == ids

    async def test_a_function_with_a_time_limit_is_killed_when_it_is_over(self, world: World, tmp_path: Path) -> None:
        # However long a process takes to start on a busy machine: it is tried until one has.
        await world.backend.ensure("orders", QueueSettings(max_retries=1000), OWNER)
        world.app.job("job", timeout=1.5, retry=RetryPolicy(initial_delay_seconds=0))(process_jobs.spin)
        noted = tmp_path / "pid"
        async with world.queue() as producer, world.working():
            await producer.enqueue([new_job("job", str(noted))])
            await eventually(lambda: noted.exists() and bool(noted.read_text()), what="started")
            pid = int(noted.read_text())
            await eventually(lambda: not Path(f"/proc/{pid}").exists(), what="the process gone")
            await eventually(lambda: world.counted("retried_total") >= 1, what="timed out")
        assert the_only(world).failures[0].failure.error == "timed out after 1.5 s"

    async def test_a_stopping_worker_hands_back_what_runs_in_a_process_and_ends_it(
        self, world: World, tmp_path: Path
    ) -> None:
        world.app.job("job", process=True)(process_jobs.spin)
        async with world.queue() as producer, world.working():
            await producer.enqueue([new_job("job", str(tmp_path / "pid"))])
            await eventually((tmp_path / "pid").exists, what="started")
            await eventually(lambda: bool((tmp_path / "pid").read_text()), what="noted")
        pid = int((tmp_path / "pid").read_text())
        await eventually(lambda: not Path(f"/proc/{pid}").exists(), what="the process gone")
        assert world.counted("released_total") == 1

    async def test_a_process_that_dies_while_it_waits_fails_no_job(self, world: World, tmp_path: Path) -> None:
        world.app.job("job", process=True)(process_jobs.note_process)
        async with world.queue() as producer, world.working(slots=1):
            await producer.enqueue([new_job("job", {"path": str(tmp_path / "first")})])
            await eventually(lambda: world.counted("completed_total") == 1, what="the first completed")
            pid = int((tmp_path / "first").read_text().split()[0])
            os.kill(pid, signal.SIGKILL)
            await eventually(lambda: not Path(f"/proc/{pid}").exists(), what="the process gone")
            await producer.enqueue([new_job("job", {"path": str(tmp_path / "second")})])
            await eventually(lambda: world.counted("completed_total") == 2, what="the second completed")
        assert world.counted("retried_total") == 0

    async def test_a_process_that_dies_fails_its_own_job_and_no_other(self, world: World, tmp_path: Path) -> None:
        world.app.job("dying", retry=RetryPolicy(initial_delay_seconds=3600), process=True)(process_jobs.die)
        world.app.job("noting", process=True)(process_jobs.note_process)
        async with world.queue() as producer, world.working(slots=2):
            await producer.enqueue([new_job("dying"), new_job("noting", {"path": str(tmp_path / "note")})])
            await eventually(lambda: world.counted("retried_total") == 1, what="failed")
            await eventually(lambda: world.counted("completed_total") == 1, what="completed")
        assert "died" in the_only(world).failures[0].failure.error

    @pytest.mark.parametrize(
        ("function", "payload", "counter"),
        [
            (process_jobs.give_up, None, "failed_total"),
            (process_jobs.again, 60, "retried_total"),
            (process_jobs.later, 60, "released_total"),
            (process_jobs.fail, None, "retried_total"),
            (process_jobs.enqueue_from_afar, None, "retried_total"),
        ],
        ids=lambda value: getattr(value, "__name__", None),
    )
    async def test_it_says_how_its_job_goes_on_as_anywhere(
        self, world: World, function: Any, payload: Any, counter: str
    ) -> None:
        world.app.job("job", process=True)(function)
        async with world.queue() as producer, world.working():
            await producer.enqueue([new_job("job", payload)])
            await eventually(lambda: world.counted(counter) == 1, what=counter)

    async def test_its_traceback_is_kept(self, world: World) -> None:
        await world.backend.ensure("orders", QueueSettings(max_retries=0), OWNER)
        world.app.job("job", process=True)(process_jobs.fail)
        async with world.queue() as producer, world.working():
            await producer.enqueue([new_job("job")])
            await eventually(lambda: world.counted("failed_total") == 1, what="dead")
        (dead,) = world.backend.places["orders"].dead.values()
        assert 'raise ZeroDivisionError("by design")' in (dead.failures[-1].failure.traceback or "")

    async def test_a_coroutine_may_run_there_too(self, world: World, tmp_path: Path) -> None:
        world.app.job("job", process=True)(process_jobs.in_coroutine)
        async with world.queue() as producer, world.working():
            await producer.enqueue([new_job("job", {"path": str(tmp_path / "pid")})])
            await eventually(lambda: world.counted("completed_total") == 1, what="completed")
        assert (tmp_path / "pid").read_text() != str(os.getpid())


def the_only(world: World) -> Entry:
    (entry,) = world.backend.places["orders"].entries.values()
    return entry


def waits_seconds(world: World, entry: Entry) -> float:
    moment: datetime = entry.job.run_at
    return (moment - datetime.now(UTC) - world.passed).total_seconds()
