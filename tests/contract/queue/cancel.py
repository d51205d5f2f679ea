from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from contract.queue.bench import (
    Bench,
    after_the_death_of,
    cancel,
    dead,
    finished,
    kept,
    made,
    received_one,
    record_of,
    settle,
    standing,
    twice_lost,
    working,
)
from contract.queue.needs import (
    CANCELLATION,
    COUNTING,
    DELAYS,
    GROUPS,
    HOUSEKEEPING,
    JOBS,
    KEYS,
    LATER,
    ORDER,
    TIME,
    UNCHARGED,
    Part,
    needs,
)
from headrace.job import NewJob
from headrace.queues.base import Depth, KeptAlive
from support.verbs import complete, discard, enqueue, release, retry

if TYPE_CHECKING:
    from headrace.queues.base import Delivery, Queue


@needs(CANCELLATION, JOBS, COUNTING, TIME, HOUSEKEEPING, DELAYS, GROUPS, KEYS, UNCHARGED, LATER)
class CancelContract(Part):
    async def test_what_nobody_runs_is_gone_at_once(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            ids = await enqueue(
                queue,
                [
                    NewJob(),
                    NewJob(delay_seconds=60),
                    NewJob(group="g"),
                    NewJob(group="g"),
                    NewJob(deduplication_key="k"),
                ],
            )
            await retry(queue, (await queue.receive(1))[0], delay_seconds=60)
            for job_id in ids:
                assert await cancel(bench, job_id) == "cancelled"
                assert await cancel(bench, job_id) is None, "once is enough"
            assert await standing(queue) == Depth()
            assert await queue.receive(10) == []
        assert await dead(bench) == []

    @pytest.mark.parametrize("job_id", ["0", "987654321"])
    async def test_what_is_not_there_can_not_be_cancelled(self, bench: Bench, job_id: str) -> None:
        await made(bench)
        assert await cancel(bench, job_id) is None

    @needs(ORDER)
    async def test_a_running_job_is_stopped_by_its_worker(self, bench: Bench) -> None:
        await made(bench)
        async with AsyncExitStack() as stack:
            worker, other = await working(bench, stack), await working(bench, stack)
            (job_id, _) = await enqueue(worker, [NewJob(name="a"), NewJob(name="b")])
            running, beside = await worker.receive(2)
            assert await cancel(bench, job_id) == "requested"
            assert await cancel(bench, job_id) == "requested"
            assert (await kept(worker)).cancelled == 0, "nobody takes it from its worker"
            assert await other.keep_alive() == KeptAlive()
            told = KeptAlive(cancelled=frozenset({running.key}))
            assert await worker.keep_alive() == told
            assert await worker.keep_alive() == told, "until it is stopped"
            settled = await discard(worker, running)
            assert (settled.accepted, settled.dead_lettered) == (1, ())
            assert await worker.keep_alive() == KeptAlive()
            assert (await complete(worker, [beside])).accepted == 1
            assert (await kept(worker)).cancelled == 0
            assert await standing(worker) == Depth()

    async def test_a_job_that_completes_before_it_is_stopped_is_completed(self, bench: Bench) -> None:
        await made(bench, completed_retention_seconds=60)
        async with bench.queue() as worker:
            await worker.keep_alive()
            (job_id,) = await enqueue(worker, [NewJob(name="quick")])
            running = await received_one(worker)
            assert await cancel(bench, job_id) == "requested"
            assert (await complete(worker, [running])).accepted == 1
            assert await worker.keep_alive() == KeptAlive()
            assert (await kept(worker)).cancelled == 0
        assert await finished(bench) == [("quick", "completed", 0)]

    @pytest.mark.parametrize("verb", ["retry", "release"])
    @pytest.mark.parametrize("group", [None, "g"])
    async def test_a_job_that_goes_back_before_it_is_stopped_does_not_run_again(
        self, bench: Bench, verb: str, group: str | None
    ) -> None:
        await made(bench)
        async with bench.queue() as worker:
            await worker.keep_alive()
            (job_id,) = await enqueue(worker, [NewJob(group=group)])
            running = await received_one(worker)
            await cancel(bench, job_id)
            assert (await settle(worker, running, verb)).accepted == 1
            assert (await kept(worker)).cancelled == 1
            assert await worker.receive(10) == []
            assert await standing(worker) == Depth()

    async def test_who_takes_a_cancelled_job_that_went_back_is_told_as_well(self, bench: Bench) -> None:
        await made(bench)
        async with AsyncExitStack() as stack:
            worker, other = await working(bench, stack), await working(bench, stack)
            (job_id,) = await enqueue(worker, [NewJob()])
            running = await received_one(worker)
            await cancel(bench, job_id)
            await release(worker, [running])
            again = await received_one(other)
            assert (await other.keep_alive()).cancelled == {again.key}
            assert (await discard(other, again)).accepted == 1

    async def test_a_cancelled_job_whose_worker_dies_does_not_run_again(self, bench: Bench) -> None:
        await made(bench, completed_retention_seconds=60)
        async with AsyncExitStack() as stack:
            dying, other = await working(bench, stack), await working(bench, stack)
            (job_id,) = await enqueue(dying, [NewJob(name="a")])
            await received_one(dying)
            assert await cancel(bench, job_id) == "requested"
            assert (await after_the_death_of(bench, dying, witness=other)).cancelled == 1
            assert await other.receive(10) == []
            assert await standing(other) == Depth()
        assert await finished(bench) == [("a", "cancelled", 0)]
        assert await dead(bench) == []

    async def test_a_cancelled_job_that_is_out_of_attempts_is_dead(self, bench: Bench) -> None:
        await made(bench, max_retries=0)
        async with bench.queue() as worker:
            await worker.keep_alive()
            (job_id,) = await enqueue(worker, [NewJob()])
            running = await received_one(worker)
            await cancel(bench, job_id)
            await retry(worker, running)
            assert (await kept(worker)).cancelled == 0
            assert await standing(worker) == Depth(dead_lettered=1)

    async def test_a_suspect_can_be_cancelled(self, bench: Bench) -> None:
        await made(bench)
        async with AsyncExitStack() as stack:
            dying, other = await working(bench, stack), await working(bench, stack)
            (job_id,) = await twice_lost(bench, dying, other, NewJob())
            assert (await record_of(bench, job_id)).state == "suspect"
            assert await cancel(bench, job_id) == "cancelled"
            assert await standing(other) == Depth()

    async def test_a_job_is_either_cancelled_or_claimed_never_both(self, bench: Bench) -> None:
        await made(bench)
        async with AsyncExitStack() as stack:
            workers = [await working(bench, stack) for _ in range(2)]
            ids = await enqueue(workers[0], [NewJob(group=f"{number}" if number % 2 else None) for number in range(60)])

            async def receive_all(worker: Queue) -> list[Delivery]:
                held: list[Delivery] = []
                while deliveries := await worker.receive(2):
                    held += deliveries
                return held

            one, two, *answers = await asyncio.gather(
                *(receive_all(worker) for worker in workers), *(cancel(bench, job_id) for job_id in ids[::-1])
            )
            assert isinstance(one, list)
            assert isinstance(two, list)
            outcome = dict(zip(ids[::-1], answers, strict=True))
            held = [(worker, delivery) for worker, batch in zip(workers, (one, two), strict=True) for delivery in batch]
            assert all(outcome[delivery.job.id] == "requested" for _, delivery in held)
            told = (await workers[0].keep_alive()).cancelled | (await workers[1].keep_alive()).cancelled
            assert told == {delivery.key for _, delivery in held}
            for worker, delivery in held:
                assert (await discard(worker, delivery)).accepted == 1
            await kept(workers[0])
            assert await standing(workers[0]) == Depth()
