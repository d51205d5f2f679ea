"""Reports of what becomes of jobs: one after another, or beside each other where the backend settles few at a time."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from headrace.job import new_job
from headrace.metrics import Metrics
from headrace.queues.base import Owner, QueueSettings
from headrace.queues.errors import QueueUnavailableError
from headrace.queues.memory import MemoryBackend, MemoryQueue
from headrace.queues.settlement import Complete, Settled
from headrace.runtime import settler as rules
from headrace.runtime.job_log import JobLog
from headrace.runtime.nudge import Nudge
from headrace.runtime.settler import Settler
from support.worker_process import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from headrace.queues.base import Delivery
    from headrace.queues.settlement import Settlement

CALL = 10


class SlowQueue(MemoryQueue):
    """One that answers when it is told to: in the order of its calls, or with a fault."""

    def __init__(self, backend: MemoryBackend) -> None:
        super().__init__(backend, "orders")
        self.calls: list[tuple[int, asyncio.Future[None]]] = []

    async def settle(self, settlements: Sequence[Settlement]) -> Settled:
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.calls.append((len(settlements), answer))
        await answer
        return await super().settle(settlements)

    @property
    def sizes(self) -> list[int]:
        return [size for size, _ in self.calls]

    @property
    def under_way(self) -> int:
        return sum(not answer.done() for _, answer in self.calls)

    def answer(self, fault: Exception | None = None) -> None:
        waiting = next(answer for _, answer in self.calls if not answer.done())
        if fault is None:
            waiting.set_result(None)
        else:
            waiting.set_exception(fault)

    def answer_all(self) -> None:
        while self.under_way:
            self.answer()


class QueueInTens(SlowQueue):
    """The same, which settles ten with each call, as SQS does."""

    @property
    def settled_together(self) -> int:
        return CALL


class Bench:
    def __init__(self, queue: SlowQueue, settler: Settler) -> None:
        self.queue = queue
        self.settler = settler

    async def held(self, count: int) -> list[Delivery]:
        await self.queue.enqueue([new_job("noop") for _ in range(count)])
        return await self.queue.receive(count)

    async def end(self, count: int, *, at_once: bool = False) -> list[Delivery]:
        deliveries = await self.held(count)
        self.settler.add([Complete(delivery=delivery) for delivery in deliveries], at_once=at_once)
        return deliveries

    async def calls(self, count: int) -> None:
        await eventually(lambda: len(self.queue.calls) >= count, what=f"{count} calls, not {len(self.queue.calls)}")


@asynccontextmanager
async def reporting(kind: type[SlowQueue]) -> AsyncIterator[Bench]:
    backend = MemoryBackend()
    backend.register("orders", QueueSettings(), Owner(namespace="", name="orders", uid=""))
    async with kind(backend) as queue:
        settler = Settler(queue, Metrics().of("shop", "orders"), JobLog("orders"), nudge=Nudge())
        running = asyncio.create_task(settler.run())
        try:
            yield Bench(queue, settler)
        finally:
            running.cancel()
            await asyncio.wait([running])


async def test_where_one_call_settles_all_one_report_follows_another() -> None:
    async with reporting(SlowQueue) as bench:
        await bench.end(3, at_once=True)
        await bench.calls(1)
        await bench.end(4, at_once=True)
        await bench.end(5, at_once=True)
        assert bench.queue.sizes == [3], "the second waits for the first"
        bench.queue.answer()
        await bench.calls(2)
        assert bench.queue.sizes == [3, 9]


async def test_where_a_call_settles_ten_the_next_tens_wait_for_no_answer() -> None:
    async with reporting(QueueInTens) as bench:
        await bench.end(20)
        await bench.calls(1)
        await bench.end(10)
        await bench.calls(2)
        assert bench.queue.sizes == [20, 10]
        assert bench.queue.under_way == 2
        assert bench.settler.unreported == 30


async def test_only_so_many_reports_are_under_way() -> None:
    async with reporting(QueueInTens) as bench:
        for number in range(rules._MOST_REPORTS):
            await bench.end(CALL)
            await bench.calls(number + 1)
        await bench.end(CALL)
        await bench.end(CALL)
        bench.queue.answer()
        await bench.calls(rules._MOST_REPORTS + 1)
        assert bench.queue.sizes[-1] == 2 * CALL, "what had to wait goes together"


async def test_what_makes_no_whole_call_waits_for_company(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "LINGER_SECONDS", 3600.0)
    async with reporting(QueueInTens) as bench:
        await bench.end(13)
        await bench.calls(1)
        await bench.end(7)
        await bench.calls(2)
        assert bench.queue.sizes == [10, 10]


async def test_what_makes_no_whole_call_waits_no_longer_than_a_moment() -> None:
    async with reporting(QueueInTens) as bench:
        await bench.end(14)
        await bench.calls(2)
        assert bench.queue.sizes == [10, 4]


async def test_what_goes_back_waits_for_no_company() -> None:
    async with reporting(QueueInTens) as bench:
        bench.settler.release(await bench.held(13))
        await bench.calls(1)
        assert bench.queue.sizes == [13]


@pytest.mark.parametrize("kind", [SlowQueue, QueueInTens])
async def test_all_is_reported_once_the_last_of_several_reports_has_an_answer(kind: type[SlowQueue]) -> None:
    async with reporting(kind) as bench:
        await bench.end(20)
        await bench.end(3)
        flushed = asyncio.create_task(bench.settler.flushed())
        await bench.calls(1)
        assert not flushed.done()
        while not flushed.done():
            bench.queue.answer_all()
            await asyncio.sleep(0)
        assert bench.settler.unreported == 0
        assert bench.settler.unreported_bytes == 0


async def test_after_a_fault_one_report_is_tried_at_a_time_until_one_gets_through() -> None:
    async with reporting(QueueInTens) as bench:
        for number in range(3):
            await bench.end(CALL)
            await bench.calls(number + 1)
        bench.queue.answer(QueueUnavailableError("away"))
        await eventually(lambda: bench.settler.is_stuck, what="the fault to be known")
        await bench.end(CALL)
        bench.queue.answer()
        await eventually(lambda: bench.queue.under_way == 1, what="the second answer")
        assert bench.settler.is_stuck, "that one was begun before the fault"
        assert len(bench.queue.calls) == 3, "nothing new is tried while one is under way"
        bench.queue.answer()
        await bench.calls(4)
        assert bench.queue.sizes[3] == 2 * CALL, "what failed is tried again with what came since"
        bench.queue.answer()
        await eventually(lambda: not bench.settler.is_stuck, what="the end of the fault")
        await eventually(lambda: bench.settler.unreported == 0, what="all to be reported")


async def test_what_is_lost_while_it_is_reported_is_not_tried_again() -> None:
    async with reporting(QueueInTens) as bench:
        first = await bench.end(CALL)
        await bench.calls(1)
        await bench.end(CALL)
        await bench.calls(2)
        bench.settler.lose({first[0].key})
        bench.queue.answer(QueueUnavailableError("away"))
        bench.queue.answer()
        await bench.calls(3)
        assert bench.queue.sizes == [10, 10, 9]


@pytest.mark.parametrize("kind", [SlowQueue, QueueInTens])
async def test_a_fault_with_what_is_lost_stops_nobody_from_taking_more(kind: type[SlowQueue]) -> None:
    async with reporting(kind) as bench:
        lost = await bench.end(CALL)
        await bench.calls(1)
        bench.settler.lose({delivery.key for delivery in lost})
        bench.queue.answer(QueueUnavailableError("away"))
        await eventually(lambda: bench.settler.unreported == 0, what="nothing to be left")
        assert not bench.settler.is_stuck


@pytest.mark.parametrize("kind", [SlowQueue, QueueInTens])
async def test_what_is_lost_after_a_fault_stops_nobody_from_taking_more(kind: type[SlowQueue]) -> None:
    async with reporting(kind) as bench:
        lost = await bench.end(CALL)
        await bench.calls(1)
        bench.queue.answer(QueueUnavailableError("away"))
        await eventually(lambda: bench.settler.is_stuck, what="the fault to be known")
        bench.settler.lose({delivery.key for delivery in lost})
        await eventually(lambda: not bench.settler.is_stuck, what="nothing to be left")
