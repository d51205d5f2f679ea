from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from contract.queue.bench import (
    Bench,
    arrival,
    cancel,
    ends,
    kept,
    made,
    names,
    received_one,
    settle,
)
from contract.queue.needs import (
    EXPIRY,
    HOUSEKEEPING,
    JOBS,
    KEYS,
    LATER,
    TIME,
    WINDOWS,
    Part,
    needs,
)
from headrace.job import NewJob
from headrace.queues.base import Owner, QueueSettings
from support.verbs import complete, enqueue, retry

if TYPE_CHECKING:
    pass


@needs(KEYS)
class DeduplicationContract(Part):
    @needs(LATER)
    async def test_while_a_job_with_the_key_is_unfinished_no_other_is_enqueued(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue, bench.queue() as other:
            (first,) = await enqueue(queue, [NewJob(name="first", deduplication_key="k")])
            (same,) = await enqueue(other, [NewJob(name="second", deduplication_key="k")])
            assert same == first
            delivery = await received_one(queue)
            assert delivery.job.name == "first", "it is left as it was"
            assert await enqueue(other, [NewJob(deduplication_key="k")]) == [first], "while it runs"
            await retry(queue, delivery, delay_seconds=30)
            assert await enqueue(other, [NewJob(deduplication_key="k")]) == [first], "while it waits for a retry"
            assert await queue.receive(10) == []

    @ends
    async def test_the_key_is_free_when_the_job_has_ended(self, bench: Bench, verb: str) -> None:
        await made(bench)
        async with bench.queue() as queue:
            (first,) = await enqueue(queue, [NewJob(deduplication_key="k")])
            await settle(queue, await received_one(queue), verb)
            (second,) = await enqueue(queue, [NewJob(deduplication_key="k")])
            assert second != first
            assert (await received_one(queue)).job.id == second

    @needs(TIME, HOUSEKEEPING, JOBS, EXPIRY)
    async def test_the_key_is_free_when_the_job_was_cancelled_or_has_expired(self, bench: Bench) -> None:
        await made(bench)
        soon = datetime.now(UTC) + timedelta(seconds=10)
        async with bench.queue() as queue:
            cancelled, expired = await enqueue(
                queue, [NewJob(deduplication_key="a"), NewJob(deduplication_key="b", expires_at=soon)]
            )
            await cancel(bench, cancelled)
            await bench.pass_time(11)
            assert (await enqueue(queue, [NewJob(deduplication_key="b")])) == [expired], "expired, but not yet given up"
            await kept(queue)
            again = await enqueue(queue, [NewJob(deduplication_key="a"), NewJob(deduplication_key="b")])
            assert {cancelled, expired}.isdisjoint(again)

    @needs(TIME, HOUSEKEEPING, WINDOWS)
    async def test_the_key_is_kept_for_a_window_though_the_job_has_ended(self, bench: Bench) -> None:
        await made(bench)
        job = NewJob(deduplication_key="k", deduplication_window_seconds=60)
        async with bench.queue() as queue:
            (first,) = await enqueue(queue, [job])
            await complete(queue, await queue.receive(1))
            await bench.pass_time(50)
            await kept(queue)
            assert await enqueue(queue, [job]) == [first]
            assert await queue.receive(1) == []
            await bench.pass_time(11)
            (second,) = await enqueue(queue, [job])
            assert second != first
            assert (await received_one(queue)).job.id == second

    @needs(TIME, HOUSEKEEPING, WINDOWS)
    @pytest.mark.parametrize("pruned", [False, True])
    async def test_a_window_that_is_over_frees_no_key_of_an_unfinished_job(self, bench: Bench, *, pruned: bool) -> None:
        await made(bench)
        job = NewJob(deduplication_key="k", deduplication_window_seconds=60)
        async with bench.queue() as queue:
            (first,) = await enqueue(queue, [job])
            await bench.pass_time(61)
            if pruned:
                await kept(queue)
            assert await enqueue(queue, [job]) == [first]
            await complete(queue, await queue.receive(1))
            assert await enqueue(queue, [job]) != [first]

    async def test_duplicates_inside_one_call_are_one_job(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            ids = await enqueue(
                queue,
                [
                    NewJob(name="a", deduplication_key="k"),
                    NewJob(name="b"),
                    NewJob(name="c", deduplication_key="k"),
                    NewJob(name="d", deduplication_key="other"),
                ],
            )
            assert ids[0] == ids[2]
            assert len(set(ids)) == 3
            assert sorted(names(await queue.receive(10))) == ["a", "b", "d"]

    async def test_producers_at_once_make_one_job_of_a_key(self, bench: Bench) -> None:
        await made(bench)
        keys = [f"key-{number}" for number in range(20)]
        async with AsyncExitStack() as stack:
            producers = [await stack.enter_async_context(bench.queue()) for _ in range(4)]
            # In different orders, so that they meet crosswise.
            orders = [keys, keys[::-1], keys[10:] + keys[:10], keys[::2] + keys[1::2]]
            answers = await asyncio.gather(
                *(
                    enqueue(producer, [NewJob(name=key, deduplication_key=key) for key in order])
                    for producer, order in zip(producers, orders, strict=True)
                )
            )
            ids = [dict(zip(order, answer, strict=True)) for order, answer in zip(orders, answers, strict=True)]
            assert ids.count(ids[0]) == 4
            assert sorted(names(await producers[0].receive(100))) == sorted(keys)

    async def test_keys_belong_to_their_queue(self, bench: Bench) -> None:
        await made(bench)
        another = Owner(namespace="shop", name="another", uid="2")
        await bench.provisioner.ensure("another", QueueSettings(), another)
        async with bench.queue() as queue, bench.queue("another") as other:
            await queue.enqueue([NewJob(deduplication_key="k")])
            await other.enqueue([NewJob(deduplication_key="k")])
            assert (len(await arrival(queue)), len(await arrival(other))) == (1, 1)

    async def test_a_producer_is_told_whether_its_job_is_new_and_whose_the_key_is(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            (first,) = await queue.enqueue([NewJob(name="first", deduplication_key="k")])
            assert first.is_new
            plain, taken, free, twice = await queue.enqueue(
                [
                    NewJob(),
                    NewJob(deduplication_key="k"),
                    NewJob(deduplication_key="free"),
                    NewJob(deduplication_key="free"),
                ]
            )
            assert (plain.is_new, taken.is_new, free.is_new, twice.is_new) == (True, False, True, False)
            assert (taken.id, twice.id) == (first.id, free.id)
            assert len({first.id, plain.id, free.id}) == 3


@needs(WINDOWS)
class DeduplicationWindowContract(Part):
    async def test_within_its_window_a_key_makes_one_job_though_that_has_ended(self, bench: Bench) -> None:
        await made(bench)
        job = NewJob(name="once", deduplication_key="k", deduplication_window_seconds=300)
        async with bench.queue() as queue:
            await queue.enqueue([job])
            await complete(queue, await arrival(queue))
            await queue.enqueue([job, NewJob(name="another")])
            assert names(await arrival(queue)) == ["another"]
            assert await queue.receive(10) == []
