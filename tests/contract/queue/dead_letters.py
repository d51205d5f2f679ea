from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import pytest

from contract.queue.bench import QUEUE, Bench, arrival, arrivals, made, purge, redrive
from contract.queue.needs import DEAD_LETTERS, Part, needs
from headrace.job import NewJob
from headrace.queues.errors import UnsupportedCapabilityError
from headrace.queues.inspection import DeadLetters, FilterField, JobFilter, Redrive, require
from support.verbs import complete, dead_letter, retry

if TYPE_CHECKING:
    from headrace.queues.base import Delivery, Queue

ONE_OF_EACH: dict[FilterField, JobFilter] = {
    "ids": JobFilter(ids=("no such job",)),
    "state": JobFilter(state="dead"),
    "name": JobFilter(name="resize"),
    "reason": JobFilter(reason="Broken"),
    "older_than_seconds": JobFilter(older_than_seconds=60),
}


async def died(queue: Queue, *jobs: NewJob) -> list[Delivery]:
    """Enqueue these jobs, and give them up."""
    await queue.enqueue(jobs)
    deliveries = await arrivals(queue, len(jobs))
    for delivery in deliveries:
        await dead_letter(queue, delivery, reason="Broken", error="disk on fire")
    return deliveries


@needs(DEAD_LETTERS)
class DeadLetterContract(Part):
    async def test_a_dead_job_comes_back_as_it_was_with_all_its_attempts(self, bench: Bench) -> None:
        await made(bench, max_retries=1)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name="resize", payload=b"\x00\xff", headers={"a": "é"}, extra={"b": [1]})])
            (first,) = await arrival(queue)
            await retry(queue, first)
            assert (await retry(queue, (await arrival(queue))[0])).dead_lettered
            assert await redrive(bench) == 1
            (again,) = await arrival(queue)
            was, now = first.job, again.job
            assert (now.id, now.enqueued_at, now.name, now.payload) == (was.id, was.enqueued_at, "resize", b"\x00\xff")
            assert (now.headers, now.extra, now.attempt) == ({"a": "é"}, {"b": [1]}, 1)
            assert not (await retry(queue, again)).dead_lettered, "it has its retries again"
            assert await redrive(bench) == 0
            assert (await complete(queue, await arrival(queue))).accepted == 1

    async def test_a_redrive_by_hand_brings_all_of_them_and_a_purge_removes_them(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            ids = {delivery.job.id for delivery in await died(queue, *[NewJob()] * 25)}
            assert await redrive(bench) == 25
            again = await arrivals(queue, 25)
            assert {delivery.job.id for delivery in again} == ids
            for delivery in again:
                await dead_letter(queue, delivery, reason="Broken")
            assert await purge(bench) == 25
            assert await redrive(bench) == 0
            assert await queue.receive(10) == []

    async def test_dead_jobs_can_be_looked_at_and_stay_as_they_are(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            deliveries = await died(queue, NewJob(name="resize", payload=b"\x00\xff"), *[NewJob(name="other")] * 12)
            [resized] = [delivery.job.id for delivery in deliveries if delivery.job.name == "resize"]
            letters = require(await bench.inspector(), DeadLetters)
            for _ in range(2):
                records = await letters.letters(QUEUE, JobFilter())
                assert {record.job.id for record in records} == {delivery.job.id for delivery in deliveries}
                assert {(record.state, record.reason, record.job.attempt) for record in records} == {
                    ("dead", "Broken", 1)
                }
                (named,) = await letters.letters(QUEUE, JobFilter(name="resize"))
                assert (named.job.id, named.job.payload) == (resized, b"\x00\xff")
            assert len(await letters.letters(QUEUE, JobFilter(), limit=5)) == 5
            assert await letters.letters(QUEUE, JobFilter(ids=("no such job",))) == []
            assert await letters.letters(QUEUE, JobFilter(state="ready")) == []
            assert await redrive(bench) == 13, "nothing was changed, and nothing is hidden any more"

    async def test_a_redrive_at_a_rate_brings_all_of_them(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await died(queue, *[NewJob()] * 3)
            letters = require(await bench.inspector(), DeadLetters)
            assert await letters.redrive(QUEUE, Redrive(per_second=100)) == 3
            assert len(await arrivals(queue, 3)) == 3

    @pytest.mark.parametrize("field", get_args(FilterField))
    async def test_a_condition_is_kept_to_or_refused(self, bench: Bench, field: FilterField) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await died(queue, NewJob(name="other"))
            known = require(await bench.inspector(), DeadLetters).filters
            which = ONE_OF_EACH[field]
            meant = 1 if field in {"state", "reason"} else 0
            if field in known:
                assert await redrive(bench, which) == meant
                assert await purge(bench) == 1 - meant
            else:
                for change in (redrive, purge):
                    with pytest.raises(UnsupportedCapabilityError):
                        await change(bench, which)
                assert await redrive(bench) == 1, "nothing has changed"
