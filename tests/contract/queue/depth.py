from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from contract.queue.bench import (
    LEASE_SECONDS,
    QUEUE,
    Bench,
    after_the_death_of,
    arrival,
    arrivals,
    cancel,
    counted,
    kept,
    killed,
    made,
    pause,
    purge,
    received_one,
    redrive,
    standing,
    stripped,
    twice_lost,
    working,
)
from contract.queue.needs import (
    CANCELLATION,
    COUNTING,
    DEAD_LETTERS,
    DELAYS,
    EXPIRY,
    GROUPS,
    HOUSEKEEPING,
    JOBS,
    LATER,
    ORDER,
    PAUSING,
    PRIORITIES,
    TIME,
    Part,
    needs,
)
from headrace.job import NewJob
from headrace.queues.base import Counts, Depth, Totals
from headrace.queues.inspection import (
    JobFilter,
)
from headrace.queues.settlement import Complete, DeadLetter, Discard, Failure, Release, Retry
from support.verbs import complete, dead_letter, discard, enqueue, release, retry

if TYPE_CHECKING:
    from headrace.queues.base import Queue


@needs(COUNTING, TIME, HOUSEKEEPING, DELAYS, PRIORITIES, GROUPS, EXPIRY, JOBS, LATER)
class DepthContract(Part):
    async def test_every_job_is_counted_once_and_where_it_stands(self, bench: Bench) -> None:
        await made(bench, max_retries=0)
        async with bench.queue() as queue:
            await queue.keep_alive()
            await queue.enqueue([NewJob(priority=9)] * 3)
            running, given_up, _ = await queue.receive(3)
            await retry(queue, given_up)
            await complete(queue, [running])
            due = NewJob(delay_seconds=10)
            waiting = NewJob(delay_seconds=100)
            expired = NewJob(expires_at=datetime.now(UTC) + timedelta(seconds=5))
            expired_in_time_to_come = NewJob(delay_seconds=10, expires_at=datetime.now(UTC) + timedelta(seconds=5))
            await queue.enqueue([NewJob(), due, waiting, expired, expired_in_time_to_come])
            await bench.pass_time(20)
            await queue.keep_alive()
            assert await standing(queue) == Depth(ready=2, delayed=1, in_flight=1, dead_lettered=1)
            assert 20 <= (await counted(queue)).oldest_ready_age_seconds < 60

    async def test_groups_suspects_and_hand_backs_are_counted_where_they_stand(self, bench: Bench) -> None:
        await made(bench)
        soon = datetime.now(UTC) + timedelta(seconds=60)
        async with AsyncExitStack() as stack:
            dying, worker = await working(bench, stack), await working(bench, stack)
            await twice_lost(bench, dying, worker, NewJob(name="suspect"), NewJob(name="delayed suspect"))
            suspect = await received_one(worker)
            await release(worker, [suspect], delay_seconds=1000)
            await worker.enqueue([NewJob(group="running", priority=10), NewJob(group="running")])
            async with bench.queue() as receiver:
                assert len(await receiver.receive(1)) == 1
                await worker.enqueue(
                    [
                        *(NewJob(group="due"), NewJob(group="due"), NewJob(group="due", delay_seconds=1000)),
                        *(NewJob(group="delayed", delay_seconds=1000), NewJob(group="delayed")),
                        *(NewJob(group="stale", expires_at=soon), NewJob(group="stale")),
                        NewJob(group="lone", delay_seconds=10),
                    ]
                )
                await bench.pass_time(80)
                await worker.keep_alive()
                # Ready: a suspect, the heads of due and lone. Delayed: the other suspect and the head of delayed.
                # Blocked: one behind a running head, two behind due, one behind delayed, and one behind stale, whose
                # own head is nowhere until it is given up.
                expected = Depth(ready=3, delayed=2, blocked=5, in_flight=1)
                assert await standing(worker) == expected
                assert 80 <= (await counted(worker)).oldest_ready_age_seconds < 150
                assert (await kept(worker)).expired == 1
                expected = Depth(ready=4, delayed=2, blocked=4, in_flight=1, dead_lettered=1)
                assert await standing(worker) == expected

    async def test_what_is_behind_the_head_is_blocked_whether_or_not_it_is_due(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(group="g"), NewJob(group="g", delay_seconds=60), NewJob(group="g")])
            # Before anybody has looked at the group, and after.
            for _ in range(2):
                assert await standing(queue) == Depth(ready=1, blocked=2)
                assert (await counted(queue)).next_due_seconds is None
                await kept(queue)
            head = await received_one(queue)
            assert await standing(queue) == Depth(in_flight=1, blocked=2)
            await complete(queue, [head])
            assert await standing(queue) == Depth(delayed=1, blocked=1)

    async def test_what_a_dead_worker_holds_counts_as_ready(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as dying, bench.queue() as alive:
            await dying.enqueue([NewJob(), NewJob()])
            await dying.keep_alive()
            await dying.receive(1)
            await bench.pass_time(LEASE_SECONDS + 1)
            await alive.keep_alive()
            await alive.receive(1)
            assert await standing(alive) == Depth(ready=1, in_flight=1)
            depth = await counted(alive)
            assert depth.oldest_ready_age_seconds >= LEASE_SECONDS
            assert depth.in_flight_seconds < LEASE_SECONDS, "of what is held by those who live"

    async def test_for_how_long_jobs_have_been_held_is_added_up(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob()] * 3)
            first = await queue.receive(1)
            await bench.pass_time(100)
            await queue.receive(1)
            await bench.pass_time(10)
            assert 120 <= (await counted(queue)).in_flight_seconds < 180
            await complete(queue, first)
            assert 10 <= (await counted(queue)).in_flight_seconds < 70

    async def test_when_the_next_delayed_job_is_due_is_told(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            assert (await counted(queue)).next_due_seconds is None
            await queue.enqueue([NewJob(), NewJob(delay_seconds=500), NewJob(delay_seconds=100)])
            due_seconds = (await counted(queue)).next_due_seconds
            assert due_seconds is not None
            assert 40 < due_seconds <= 100
            await bench.pass_time(100)
            await kept(queue)
            due_seconds = (await counted(queue)).next_due_seconds
            assert due_seconds is not None
            assert 340 < due_seconds <= 400

    async def test_whether_anything_is_ready_agrees_with_the_count(self, bench: Bench) -> None:
        await made(bench, max_retries=0)
        soon = datetime.now(UTC) + timedelta(seconds=60)

        async def ready(queue: Queue) -> bool:
            assert isinstance(queue, Counts)
            has_ready = await queue.has_ready()
            assert has_ready == ((await queue.depth()).ready > 0)
            assert await bench.backlog.have_ready([QUEUE, "no-such-queue"]) == {QUEUE: has_ready}
            return has_ready

        async with AsyncExitStack() as stack:
            dying, worker = await working(bench, stack), await working(bench, stack)
            assert not await ready(worker)
            await worker.enqueue([NewJob(name="plain", group="g"), NewJob(name="behind", group="g")])
            assert await ready(worker), "before anybody has looked at the group"
            held = await dying.receive(10)
            assert not await ready(worker), "held, or behind what is held"
            await retry(dying, held[0])
            assert await ready(worker), "the next of the group"
            assert len(await dying.receive(10)) == 1
            await bench.pass_time(LEASE_SECONDS + 1)
            await worker.keep_alive()
            assert await ready(worker), "held by nobody who is known to live"
            await kept(worker)
            assert await ready(worker), "rescued"
            await complete(worker, await arrival(worker))
            await worker.enqueue([NewJob(delay_seconds=10), NewJob(delay_seconds=200)])
            assert not await ready(worker), "nothing is due"
            await bench.pass_time(11)
            await worker.keep_alive()
            assert await ready(worker), "due, and looked at by nobody"
            await complete(worker, await arrival(worker))
            await worker.enqueue([NewJob(expires_at=soon)])
            assert await ready(worker)
            await bench.pass_time(61)
            await worker.keep_alive()
            assert not await ready(worker), "expired"
            await kept(worker)
            assert not await ready(worker), "given up"

    async def test_a_suspect_is_ready(self, bench: Bench) -> None:
        await made(bench)
        async with AsyncExitStack() as stack:
            dying, worker = await working(bench, stack), await working(bench, stack)
            await twice_lost(bench, dying, worker, NewJob())
            assert isinstance(worker, Counts)
            assert await worker.has_ready()
            assert await standing(worker) == Depth(ready=1)

    @needs(PAUSING)
    async def test_a_paused_queue_is_counted_as_such(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob()])
            assert not (await counted(queue)).paused
            for settings in ({"paused": True}, {}):
                await made(bench, **settings)
                assert (await counted(queue)).paused == bool(settings)
                assert (await bench.backlog.depths([QUEUE]))[QUEUE].paused == bool(settings)
            await pause(bench, paused=True)
            assert (await counted(queue)).paused
            assert await standing(queue) == Depth(ready=1)

    async def test_the_operator_counts_as_the_workers_do(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(), NewJob(delay_seconds=60), *[NewJob(group="g")] * 3])
            await queue.receive(1)
            counts = await bench.backlog.depths([QUEUE, "no-such-queue"])
            assert set(counts) == {QUEUE}
            assert stripped(counts[QUEUE]) == await standing(queue) == Depth(ready=1, delayed=1, blocked=2, in_flight=1)
            assert isinstance(queue, Counts)
            assert stripped(await queue.depth(max_age_seconds=60)) == stripped(counts[QUEUE])

    async def test_counting_at_once_gives_everybody_the_same(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as one, bench.queue() as two:
            await one.enqueue([NewJob()] * 10)
            await counted(one)
            assert isinstance(one, Counts)
            assert isinstance(two, Counts)
            depths = await asyncio.gather(*(queue.depth(max_age_seconds=60) for queue in (one, two, one, two)))
            assert {depth.ready for depth in depths} == {10}


def added_up(totals: Totals | None) -> Totals:
    assert totals is not None
    assert sum(totals.service_histogram) <= totals.completed + totals.failed
    return totals


@needs(COUNTING, TIME, HOUSEKEEPING, EXPIRY, JOBS, DEAD_LETTERS, CANCELLATION, DELAYS, LATER)
class TotalsContract(Part):
    async def test_a_new_queue_has_seen_nothing(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            assert (await counted(queue)).totals == Totals()

    @needs(ORDER)
    async def test_what_arrived_is_what_has_ended_and_what_is_there(self, bench: Bench) -> None:
        await made(bench, max_retries=1)
        async with bench.queue() as queue:
            await queue.keep_alive()
            ids = await enqueue(queue, [NewJob(name=f"{number}") for number in range(10)])
            await queue.enqueue([NewJob(delay_seconds=60), NewJob(group="g"), NewJob(group="g")])
            await queue.enqueue([NewJob(deduplication_key="k")] * 2)
            held = await queue.receive(5)
            await queue.settle(
                [
                    Complete(delivery=held[0], run_seconds=0.2),
                    Retry(delivery=held[1], delay_seconds=60, failure=Failure(error="x"), run_seconds=2),
                    DeadLetter(delivery=held[2], reason="x", run_seconds=20),
                    Discard(delivery=held[3]),
                    Release(delivery=held[4]),
                ]
            )
            assert await cancel(bench, ids[9]) == "cancelled"
            await queue.keep_alive()
            totals = added_up((await counted(queue)).totals)
            assert (totals.arrived, totals.completed, totals.failed, totals.dead_lettered) == (14, 1, 2, 1)
            depth = await standing(queue)
            present = depth.ready + depth.delayed + depth.blocked + depth.in_flight
            assert totals.arrived == present + 4, "one completed, one dead, two cancelled"

    async def test_a_redriven_job_has_arrived_once_and_may_die_again(self, bench: Bench) -> None:
        await made(bench, max_retries=0)
        async with bench.queue() as queue:
            await queue.keep_alive()
            await killed(queue, NewJob(), NewJob())
            assert await redrive(bench) == 2
            await dead_letter(queue, (await arrivals(queue, 2))[0], reason="x", error="again")
            await queue.keep_alive()
            totals = added_up((await counted(queue)).totals)
            assert (totals.arrived, totals.failed, totals.dead_lettered) == (2, 3, 3)

    async def test_how_long_attempts_ran_is_added_up_and_put_into_buckets(self, bench: Bench) -> None:
        await made(bench, max_retries=1)
        async with bench.queue() as queue:
            await queue.keep_alive()
            await queue.enqueue([NewJob()] * 6)
            deliveries = await queue.receive(6)
            for delivery, seconds in zip(deliveries, (0.005, 0.01, 0.02, 250.0, 5000.0, None), strict=True):
                await queue.settle([Complete(delivery=delivery, run_seconds=seconds)])
            await queue.enqueue([NewJob()] * 2)
            failed, given_up = await queue.receive(2)
            await queue.settle(
                [
                    Retry(delivery=failed, delay_seconds=60, failure=Failure(error="x"), run_seconds=0.5),
                    DeadLetter(delivery=given_up, reason="x", run_seconds=0.5),
                ]
            )
            await queue.keep_alive()
            totals = added_up((await counted(queue)).totals)
            assert (totals.completed, totals.failed) == (6, 2)
            assert totals.service_seconds == pytest.approx(5251.035)
            assert totals.service_histogram == (2, 1, 0, 0, 2, 0, 0, 0, 0, 1, 0, 1)

    async def test_totals_never_fall_whatever_becomes_of_jobs(self, bench: Bench) -> None:
        await made(bench, max_retries=0, completed_retention_seconds=10, dead_letter_retention_days=1)
        soon = datetime.now(UTC) + timedelta(seconds=60)
        seen = [Totals()]

        async def look(queue: Queue) -> None:
            await queue.keep_alive()
            now, before = added_up((await counted(queue)).totals), seen[-1]
            for field in ("arrived", "completed", "failed", "dead_lettered", "service_seconds"):
                assert getattr(now, field) >= getattr(before, field), field
            assert all(new >= old for new, old in zip(now.service_histogram, before.service_histogram, strict=True))
            seen.append(now)

        async with AsyncExitStack() as stack:
            dying, worker = await working(bench, stack), await working(bench, stack)
            await worker.enqueue([NewJob(name=f"{number}") for number in range(6)])
            await worker.enqueue([NewJob(name="stale", expires_at=soon, delay_seconds=30)])
            await look(worker)
            one, two, three, four = await worker.receive(4)
            await worker.settle([Complete(delivery=one, run_seconds=1)])
            await look(worker)
            await retry(worker, two)
            await look(worker)
            await dead_letter(worker, three, reason="x")
            await look(worker)
            assert await cancel(bench, four.job.id) == "requested"
            await discard(worker, four)
            await look(worker)
            await received_one_of(dying)
            await after_the_death_of(bench, dying, witness=worker)
            await look(worker)
            await bench.pass_time(61)
            await worker.keep_alive()
            await dying.keep_alive()
            assert (await kept(worker)).expired == 1
            await look(worker)
            assert await redrive(bench, JobFilter(name="stale")) == 1
            await look(worker)
            assert await purge(bench) == 2
            await look(worker)
            async with bench.queue() as closing:
                await closing.keep_alive()
                await closing.settle(
                    [Complete(delivery=delivery, run_seconds=1) for delivery in await arrival(closing)]
                )
            await look(worker)
            await bench.pass_time(2 * 86_400)
            await worker.keep_alive()
            await kept(worker)
            await look(worker)
            assert seen[-1].arrived >= 7
            assert seen[-1].dead_lettered == 3
            assert seen[-1].completed >= 2

    async def test_what_a_closed_worker_did_is_not_forgotten(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as other:
            async with bench.queue() as worker:
                await worker.keep_alive()
                await worker.enqueue([NewJob()] * 3)
                await worker.settle(
                    [Complete(delivery=delivery, run_seconds=1) for delivery in await worker.receive(3)]
                )
            totals = added_up((await counted(other)).totals)
            assert (totals.arrived, totals.completed, totals.service_seconds) == (3, 3, 3.0)


async def received_one_of(queue: Queue) -> None:
    assert len(await queue.receive(1)) == 1
