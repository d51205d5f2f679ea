from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from msgspec import structs

from contract.queue.bench import (
    Bench,
    after_the_death_of,
    arrival,
    arrivals,
    cancel,
    counted,
    dead,
    ends,
    kept,
    made,
    names,
    received_one,
    settle,
    standing,
    working,
)
from contract.queue.needs import (
    CANCELLATION,
    COUNTING,
    DELAYS,
    EXPIRY,
    GROUPS,
    HOUSEKEEPING,
    JOBS,
    LATER,
    PRIORITIES,
    TIME,
    UNCHARGED,
    Part,
    needs,
)
from headrace.job import NewJob
from headrace.queues.base import Depth
from support.verbs import complete, enqueue, release, retry

if TYPE_CHECKING:
    from headrace.queues.base import Delivery, Queue


@needs(GROUPS)
class GroupContract(Part):
    async def test_jobs_of_a_group_come_in_order_one_at_a_time(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as one, bench.queue() as two:
            await one.enqueue([NewJob(name=name, group="g") for name in ("first", "second")])
            await two.enqueue([NewJob(name="third", group="g")])
            for name in ("first", "second", "third"):
                (delivery,) = await arrival(one)
                assert delivery.job.name == name
                assert await two.receive(10) == []
                await complete(one, [delivery])
            assert await one.receive(10) == []

    async def test_groups_hold_neither_each_other_nor_jobs_without_one(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name=name, group=name[0]) for name in ("a1", "a2", "b1", "b2")])
            await queue.enqueue([NewJob(name="free")])
            assert sorted(names(await arrivals(queue, 3))) == ["a1", "b1", "free"]
            assert await queue.receive(10) == []

    async def test_a_failed_head_holds_its_group(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name="head", group="g"), NewJob(name="next", group="g")])
            await retry(queue, (await arrival(queue))[0])
            (again,) = await arrival(queue)
            assert (again.job.name, again.job.attempt) == ("head", 2)
            await complete(queue, [again])
            assert names(await arrival(queue)) == ["next"]

    @ends
    async def test_when_the_head_has_ended_the_next_comes(self, bench: Bench, verb: str) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name=name, group="g") for name in ("head", "next")])
            await settle(queue, (await arrival(queue))[0], verb)
            assert names(await arrival(queue)) == ["next"]

    async def test_when_the_head_is_out_of_attempts_the_next_comes(self, bench: Bench) -> None:
        await made(bench, max_retries=0)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name=name, group="g") for name in ("head", "next")])
            await retry(queue, (await arrival(queue))[0])
            assert names(await arrival(queue)) == ["next"]


@needs(GROUPS, PRIORITIES, DELAYS, UNCHARGED, TIME, HOUSEKEEPING, COUNTING, JOBS, LATER)
class GroupOverTimeContract(Part):
    """Groups beside priorities, delays and whatever else can become of a head."""

    async def test_priority_orders_groups_by_their_head_and_never_the_jobs_inside_one(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue(
                [
                    NewJob(name="a1", group="a", priority=1),
                    NewJob(name="a2", group="a", priority=10),
                    NewJob(name="b1", group="b", priority=5),
                    NewJob(name="b2", group="b", priority=0),
                    NewJob(name="free", priority=3),
                ]
            )
            order = []
            while deliveries := await queue.receive(1):
                order += names(deliveries)
                await complete(queue, deliveries)
            assert order == ["b1", "free", "a1", "a2", "b2"]

    async def test_priority_delay_and_group_together(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name="head", priority=10, delay_seconds=30, group="tenant-123")])
            await queue.enqueue([NewJob(name="next", group="tenant-123"), NewJob(name="bulk", priority=9)])
            depth = await counted(queue)
            assert (depth.ready, depth.delayed, depth.blocked) == (1, 1, 1)
            assert names(await queue.receive(10)) == ["bulk"], "the delayed head holds its group"
            await bench.pass_time(31)
            await queue.enqueue([NewJob(name="more", priority=9)])
            deliveries = await queue.receive(10)
            assert names(deliveries) == ["head", "more"]
            assert (deliveries[0].job.priority, deliveries[0].job.group) == (10, "tenant-123")
            await complete(queue, deliveries)
            assert names(await queue.receive(10)) == ["next"]

    async def test_a_delay_inside_a_group_counts_from_its_enqueue(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name="head", group="g"), NewJob(name="later", group="g", delay_seconds=30)])
            await queue.enqueue([NewJob(name="last", group="g")])
            head = await received_one(queue)
            await bench.pass_time(20)
            await complete(queue, [head])
            assert await queue.receive(10) == [], "later is the head now, and not due yet"
            assert await standing(queue) == Depth(delayed=1, blocked=1)
            await bench.pass_time(11)
            assert names(await queue.receive(10)) == ["later"]

    @pytest.mark.parametrize("verb", ["retry", "release"])
    @pytest.mark.parametrize("delay_seconds", [0, 30])
    async def test_a_head_that_goes_back_holds_its_group(self, bench: Bench, verb: str, delay_seconds: int) -> None:
        await made(bench)
        async with bench.queue() as queue, bench.queue() as other:
            await queue.enqueue([NewJob(name="head", group="g"), NewJob(name="next", group="g", priority=10)])
            head = await received_one(queue)
            if verb == "retry":
                await retry(queue, head, delay_seconds=delay_seconds)
            else:
                await release(queue, [head], delay_seconds=delay_seconds)
            if delay_seconds:
                assert await other.receive(10) == []
                await bench.pass_time(delay_seconds + 1)
            deliveries = await other.receive(10)
            assert names(deliveries) == ["head"]
            await complete(other, deliveries)
            assert names(await queue.receive(10)) == ["next"]

    @needs(EXPIRY)
    async def test_when_the_head_has_expired_the_next_comes(self, bench: Bench) -> None:
        await made(bench)
        soon = datetime.now(UTC) + timedelta(seconds=10)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name="head", group="g", expires_at=soon), NewJob(name="next", group="g")])
            await bench.pass_time(11)
            assert await queue.receive(10) == []
            assert await standing(queue) == Depth(blocked=1), "what has expired holds its group until it is given up"
            assert (await kept(queue)).expired == 1
            assert names(await queue.receive(10)) == ["next"]
        assert [letter.job.name for letter in await dead(bench)] == ["head"]

    @needs(EXPIRY)
    async def test_a_job_can_expire_behind_the_head(self, bench: Bench) -> None:
        await made(bench)
        soon = datetime.now(UTC) + timedelta(seconds=10)
        async with bench.queue() as queue:
            await queue.enqueue(
                [
                    NewJob(name="head", group="g"),
                    NewJob(name="stale", group="g", expires_at=soon),
                    NewJob(name="next", group="g"),
                ]
            )
            head = await received_one(queue)
            await bench.pass_time(11)
            assert (await kept(queue)).expired == 1
            await complete(queue, [head])
            assert names(await queue.receive(10)) == ["next"]

    @needs(CANCELLATION)
    @pytest.mark.parametrize("place", ["head", "middle"])
    @pytest.mark.parametrize("looked_at", [False, True])
    async def test_a_cancelled_job_leaves_its_group_to_the_others(
        self, bench: Bench, place: str, *, looked_at: bool
    ) -> None:
        await made(bench)
        async with bench.queue() as queue:
            order = ["head", "middle", "last"]
            ids = await enqueue(queue, [NewJob(name=name, group="g") for name in order])
            if looked_at:
                await kept(queue)
            assert await cancel(bench, ids[order.index(place)]) == "cancelled"
            order.remove(place)
            for name in order:
                delivery = await received_one(queue)
                assert delivery.job.name == name
                await complete(queue, [delivery])
            assert await standing(queue) == Depth()

    async def test_a_lost_workers_head_holds_its_group(self, bench: Bench) -> None:
        await made(bench)
        async with AsyncExitStack() as stack:
            dead, other = await working(bench, stack), await working(bench, stack)
            await dead.enqueue([NewJob(name="head", group="g"), NewJob(name="next", group="g", priority=10)])
            await received_one(dead)
            await after_the_death_of(bench, dead, witness=other)
            for name in ("head", "next"):
                delivery = await received_one(other)
                assert delivery.job.name == name
                await complete(other, [delivery])

    async def test_a_batch_of_many_heads_settles_as_one(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue(
                [NewJob(group=f"{number}", priority=number % 11) for _ in range(2) for number in range(40)]
            )
            for _ in range(2):
                deliveries = await queue.receive(100)
                assert len({delivery.job.group for delivery in deliveries}) == len(deliveries) == 40
                assert (await complete(queue, deliveries)).accepted == 40
            assert await standing(queue) == Depth()

    @needs(CANCELLATION, EXPIRY)
    async def test_receivers_and_producers_at_once_keep_every_group_in_order(self, bench: Bench) -> None:
        """Whatever becomes of the heads: completed, failed, handed back, given up, cancelled, expired."""
        await made(bench, max_retries=100)
        groups, jobs_each = [f"group-{number}" for number in range(6)], 12
        ended: list[str] = []
        running: set[str] = set()
        out_of_order: list[str] = []

        async def produce(queue: Queue, group: str) -> None:
            past = datetime(2000, 1, 1, tzinfo=UTC)
            for number in range(jobs_each):
                job = NewJob(name=f"{group}/{number:02}", group=group, priority=number % 3)
                if number % 12 == 11:
                    await queue.enqueue([structs.replace(job, expires_at=past)])
                    ended.append(job.name)
                elif number % 12 == 10:
                    (job_id,) = await enqueue(queue, [structs.replace(job, run_at=datetime(2100, 1, 1, tzinfo=UTC))])
                    while (outcome := await cancel(bench, job_id)) == "requested":
                        await kept(queue)
                    assert outcome in {"cancelled", None}
                    ended.append(job.name)
                else:
                    await queue.enqueue([job])

        async def run(queue: Queue, delivery: Delivery) -> None:
            name, group, attempt = delivery.job.name, str(delivery.job.group), delivery.job.attempt
            if group in running:
                out_of_order.append(f"{name} beside another")
            if any(other.startswith(group) and other > name for other in ended if other[-2:] < "10"):
                out_of_order.append(f"{name} too late")
            running.add(group)
            await asyncio.sleep(0)
            running.remove(group)
            verb = ["complete", "retry", "complete", "release", "dead_letter"][int(name[-2:]) % 5]
            if attempt > 1 or (verb == "release" and name in released):
                verb = "complete"
            if verb == "release":
                released.add(name)
            elif verb != "retry":
                ended.append(name)
            assert (await settle(queue, delivery, verb)).accepted == 1

        released: set[str] = set()

        async def work(queue: Queue) -> None:
            while len(ended) < len(groups) * jobs_each:
                for delivery in await queue.receive(3, wait_seconds=0.01):
                    await run(queue, delivery)
                await kept(queue)

        async with AsyncExitStack() as stack:
            workers = [await working(bench, stack) for _ in range(4)]
            async with asyncio.timeout(60):
                await asyncio.gather(
                    *(work(worker) for worker in workers),
                    *(produce(workers[number % 4], group) for number, group in enumerate(groups)),
                )
            assert out_of_order == []
            while await standing(workers[0]) != Depth(dead_lettered=len(groups) * 3):
                await kept(workers[0])
        given_up = Counter(letter.reason for letter in await dead(bench))
        assert given_up == {"Unreadable": len(groups) * 2, "Expired": len(groups)}
