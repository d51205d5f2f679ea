from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from contract.queue.bench import (
    PATIENCE_SECONDS,
    Bench,
    arrival,
    arrivals,
    kept,
    made,
    names,
    pause,
    received_one,
    standing,
)
from contract.queue.needs import (
    COUNTING,
    DELAYS,
    GROUPS,
    HOUSEKEEPING,
    LISTENING,
    LONG_DELAYS,
    ORDER,
    PAUSES,
    PAUSING,
    PRIORITIES,
    SKIPPING,
    TIME,
    Part,
    needs,
)
from headrace.job import NewJob
from headrace.queues.base import Depth, Listens
from support.verbs import complete, enqueue

if TYPE_CHECKING:
    from headrace.queues.base import Queue

# A job of a megabyte, and more of them than any backend should give at once.
LARGE = NewJob(payload=b"." * 1_000_000)
MANY_LARGE = 24


class ReceiveContract(Part):
    async def test_an_empty_queue_gives_nothing(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            assert await queue.receive(10) == []
            assert await queue.receive(10, wait_seconds=0.01) == []

    @needs(ORDER)
    async def test_the_oldest_comes_first(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue, bench.queue() as other:
            await queue.enqueue([NewJob(name="1"), NewJob(name="2")])
            await other.enqueue([NewJob(name="3")])
            await queue.enqueue([NewJob(name="4")])
            assert names(await arrivals(queue, 3)) == ["1", "2", "3"]
            assert names(await arrivals(other, 1)) == ["4"]

    @needs(PRIORITIES, ORDER)
    async def test_higher_priority_comes_first_then_the_older(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name=name, priority=int(name[0])) for name in ("0a", "5a", "9a", "0b", "5b")])
            assert names(await queue.receive(3)) == ["9a", "5a", "5b"]
            assert names(await queue.receive(3)) == ["0a", "0b"]

    async def test_no_more_than_the_limit_is_given(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue, bench.queue() as other:
            await queue.enqueue([NewJob()] * 5)
            first = await arrivals(queue, 2)
            assert len(first) == 2
            assert len(await queue.receive(0)) == 0
            rest = await arrivals(other, 3)
            assert len({delivery.job.id for delivery in (*first, *rest)}) == 5

    @pytest.mark.parametrize("limit", [0, -1])
    async def test_where_there_is_no_room_nothing_is_given(self, bench: Bench, limit: int) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await enqueue(queue, [NewJob()])
            assert await queue.receive(limit) == []
            assert len(await queue.receive(1)) == 1

    @needs(COUNTING)
    async def test_what_is_given_is_in_flight_and_the_rest_ready(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob()] * 5)
            await queue.receive(2)
            assert await standing(queue) == Depth(ready=3, in_flight=2)

    async def test_receivers_at_once_never_get_the_same_job(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as one, bench.queue() as two, bench.queue() as three:
            await one.keep_alive()
            await one.enqueue([NewJob()] * 300)
            ids: list[str] = []

            async def receive_all(queue: Queue) -> None:
                while len(ids) < 300:
                    deliveries = await queue.receive(7, wait_seconds=0.05)
                    ids.extend(delivery.job.id for delivery in deliveries)

            async with asyncio.timeout(PATIENCE_SECONDS):
                await asyncio.gather(*(receive_all(queue) for queue in (one, two, three, one, two)))
        assert len(ids) == 300
        assert set(Counter(ids).values()) == {1}

    async def test_what_is_large_comes_in_as_many_batches_as_it_takes(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            can = queue.capabilities
            job = NewJob(payload=LARGE.payload[: can.max_payload_bytes])
            for _ in range(MANY_LARGE // 8):
                await queue.enqueue([job] * 8)
            seen: list[str] = []
            while len(seen) < MANY_LARGE:
                batch = await arrival(queue, MANY_LARGE)
                assert all(len(delivery.job.payload) == len(job.payload) for delivery in batch)
                seen += [delivery.job.id for delivery in batch]
            assert len(set(seen)) == len(seen) == MANY_LARGE

    async def test_a_waiting_receiver_gets_the_job_that_comes(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            waiting = asyncio.create_task(queue.receive(1, wait_seconds=PATIENCE_SECONDS))
            await asyncio.sleep(0)
            await queue.enqueue([NewJob(name="late")])
            assert names(await waiting) == ["late"]

    async def test_a_waiting_worker_finds_the_job_that_another_enqueues(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as worker, bench.queue() as producer:
            waiting = asyncio.create_task(worker.receive(1, wait_seconds=2 * PATIENCE_SECONDS))
            await asyncio.sleep(0)
            await producer.enqueue([NewJob(name="news")])
            async with asyncio.timeout(PATIENCE_SECONDS):
                assert names(await waiting) == ["news"]

    async def test_told_to_stop_a_receiver_that_waits_comes_back_and_nothing_is_lost(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            stop = asyncio.Event()
            waiting = asyncio.create_task(queue.receive(1, wait_seconds=3600, stop=stop))
            await asyncio.sleep(0.05)
            assert not waiting.done()
            stop.set()
            async with asyncio.timeout(PATIENCE_SECONDS):
                held = await waiting
            assert held == []
            await queue.enqueue([NewJob(name="kept")])
            assert names(await arrival(queue)) == ["kept"]

    async def test_told_to_stop_beforehand_a_receiver_does_not_wait(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            stop = asyncio.Event()
            stop.set()
            async with asyncio.timeout(PATIENCE_SECONDS):
                assert await queue.receive(1, wait_seconds=3600, stop=stop) == []

    async def test_jobs_that_come_while_receivers_are_told_to_stop_are_all_given_once(self, bench: Bench) -> None:
        await made(bench)
        seen: list[str] = []
        async with bench.queue() as queue, bench.queue() as producer:
            ids: list[str] = []
            for pauses in range(20):
                stop = asyncio.Event()
                waiting = asyncio.create_task(queue.receive(10, wait_seconds=3600, stop=stop))
                ids += await enqueue(producer, [NewJob()])
                for _ in range(pauses):
                    await asyncio.sleep(0)
                stop.set()
                held = await waiting
                seen += [delivery.job.id for delivery in held]
                await complete(queue, held)
            while len(seen) < len(ids):
                held = await arrival(queue)
                seen += [delivery.job.id for delivery in held]
                await complete(queue, held)
        assert sorted(seen) == sorted(ids)

    @needs(HOUSEKEEPING)
    async def test_a_cancelled_receiver_loses_nothing(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            task = asyncio.create_task(queue.receive(1, wait_seconds=3600))
            await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            await queue.enqueue([NewJob(name="kept")])
            assert names(await arrival(queue)) == ["kept"]

    @needs(LISTENING)
    async def test_whoever_waits_can_be_asked_whether_it_is_told_of_jobs(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            assert isinstance(queue, Listens)
            assert queue.is_listening in {True, False}

    @needs(DELAYS)
    async def test_a_delayed_job_waits_until_it_is_due(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name="later", delay_seconds=1)])
            await queue.enqueue([NewJob(name="now")])
            assert names(await arrival(queue)) == ["now"]
            (delivery,) = await arrival(queue)
            assert delivery.job.name == "later"
            assert delivery.job.run_at - delivery.job.enqueued_at == timedelta(seconds=1)
            assert datetime.now(UTC) - delivery.job.enqueued_at > timedelta(seconds=0.9)

    @needs(DELAYS)
    async def test_a_job_whose_hour_is_past_comes_at_once(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name="past", run_at=datetime(2000, 1, 1, tzinfo=UTC))])
            assert names(await arrival(queue)) == ["past"]

    @needs(SKIPPING)
    async def test_names_that_are_not_wanted_now_are_left_out(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name=name) for name in ("a", "b", "a", "c", "b")])
            assert names(await queue.receive(10, without={"a", "b"})) == ["c"]
            assert names(await queue.receive(1, without={"a"})) == ["b"]
            assert names(await queue.receive(10, without={"a", "unheard of"})) == ["b"]
            assert await queue.receive(10, without={"a"}) == []
            assert names(await arrivals(queue, 2)) == ["a", "a"]

    @needs(SKIPPING, PRIORITIES, ORDER)
    async def test_what_was_left_out_has_its_old_place_when_it_is_wanted_again(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name=name) for name in ("a", "b")])
            await queue.enqueue([NewJob(name="a", priority=5)])
            assert names(await queue.receive(1, without={"a"})) == ["b"]
            await queue.enqueue([NewJob(name="c")])
            deliveries = await arrivals(queue, 3)
            assert sorted(names(deliveries[:2])) == ["a", "a"]
            assert [delivery.job.priority for delivery in deliveries] == [5, 0, 0]
            assert deliveries[2].job.name == "c"

    @needs(SKIPPING, GROUPS)
    async def test_a_head_that_is_left_out_holds_its_group(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name=name, group="g") for name in ("full", "next")])
            assert await queue.receive(10, without={"full"}) == []
            assert (await received_one(queue)).job.name == "full"

    @needs(SKIPPING)
    async def test_a_receiver_that_waits_waits_for_a_name_that_is_wanted(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue, bench.queue() as producer:
            await producer.enqueue([NewJob(name="full")])
            waiting = asyncio.create_task(queue.receive(1, wait_seconds=3600, without={"full"}))
            await asyncio.sleep(0.05)
            assert not waiting.done()
            await producer.enqueue([NewJob(name="wanted")])
            async with asyncio.timeout(PATIENCE_SECONDS):
                assert names(await waiting) == ["wanted"]

    @needs(PAUSING)
    async def test_a_paused_queue_takes_jobs_and_gives_none(self, bench: Bench) -> None:
        await made(bench, paused=True)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob()])
            assert await queue.receive(1) == []
            await queue.keep_alive()
            assert queue.settings.paused
            assert await queue.receive(1) == []
            await made(bench, paused=False)
            assert len(await arrival(queue)) == 1


@needs(TIME, DELAYS)
class ReceiveOverTimeContract(Part):
    @needs(COUNTING)
    async def test_a_delayed_job_is_delayed_for_as_long_as_it_was_told(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(delay_seconds=60)])
            await bench.pass_time(50)
            assert await queue.receive(1) == []
            assert await standing(queue) == Depth(delayed=1)
            await bench.pass_time(11)
            (delivery,) = await queue.receive(1)
            assert delivery.job.run_at - delivery.job.enqueued_at == timedelta(seconds=60)

    @needs(LONG_DELAYS)
    async def test_a_job_can_be_given_its_hour(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            tomorrow, past = datetime.now(UTC) + timedelta(days=1), datetime(2000, 1, 1, tzinfo=UTC)
            await queue.enqueue([NewJob(name="tomorrow", run_at=tomorrow), NewJob(name="past", run_at=past)])
            assert names(await queue.receive(10)) == ["past"]
            await bench.pass_time(86_400 + 60)
            assert names(await queue.receive(10)) == ["tomorrow"]

    @needs(HOUSEKEEPING, PRIORITIES)
    async def test_housekeeping_makes_due_jobs_ready_too(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name="urgent", delay_seconds=5, priority=9), *[NewJob(name="bulk")] * 3])
            await bench.pass_time(6)
            await kept(queue)
            assert names(await queue.receive(1)) == ["urgent"]

    @needs(PAUSING, PAUSES, GROUPS)
    async def test_a_queue_paused_by_hand_gives_none_whatever_its_settings_say(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.keep_alive()
            await queue.enqueue([NewJob(), NewJob(delay_seconds=10), NewJob(group="g")])
            await bench.pass_time(11)
            await pause(bench, paused=True)
            await queue.keep_alive()
            assert queue.settings.paused
            await made(bench, max_retries=5)
            assert await queue.receive(10) == []
            await pause(bench, paused=False)
            await queue.keep_alive()
            assert not queue.settings.paused
            assert len(await arrivals(queue, 3)) == 3
