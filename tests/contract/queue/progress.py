from __future__ import annotations

from typing import TYPE_CHECKING

from contract.queue.bench import (
    Bench,
    made,
    received_one,
    record_of,
)
from contract.queue.needs import (
    JOBS,
    ORDER,
    PROGRESS,
    UNCHARGED,
    Part,
    needs,
)
from headrace.job import NewJob
from headrace.queues.base import Progress, ShowsProgress
from support.verbs import enqueue, release

if TYPE_CHECKING:
    from headrace.queues.base import Delivery, Queue


async def report(queue: Queue, reports: list[tuple[Delivery, Progress]]) -> None:
    assert isinstance(queue, ShowsProgress)
    await queue.report_progress(reports)


@needs(PROGRESS, JOBS, UNCHARGED)
class ProgressContract(Part):
    @needs(ORDER)
    async def test_how_far_a_running_job_is_can_be_seen_and_the_newest_word_holds(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as worker:
            await worker.keep_alive()
            first, second = await enqueue(worker, [NewJob(name="a"), NewJob(name="b")])
            delivery, beside = await worker.receive(2)
            assert (await record_of(bench, first)).progress is None
            await report(worker, [(delivery, Progress(fraction=0.25, message="page 1"))])
            await report(
                worker,
                [
                    (beside, Progress(message='half a "snowman" \u2603')),
                    (delivery, Progress(fraction=0.5, message="page 2")),
                ],
            )
            assert (await record_of(bench, first)).progress == Progress(fraction=0.5, message="page 2")
            assert (await record_of(bench, second)).progress == Progress(message='half a "snowman" \u2603')

    @needs(ORDER)
    async def test_a_message_that_no_database_stores_keeps_no_other_back(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as worker:
            await worker.keep_alive()
            first, second = await enqueue(worker, [NewJob(name="a"), NewJob(name="b")])
            delivery, beside = await worker.receive(2)
            odd = Progress(fraction=0.5, message="page\x00 \ud800 2")
            await report(worker, [(delivery, odd), (beside, Progress(fraction=0.25, message="page 1"))])
            shown = (await record_of(bench, first)).progress
            assert shown is not None
            assert (shown.fraction, shown.message[:4], shown.message[-1]) == (0.5, "page", "2")
            assert (await record_of(bench, second)).progress == Progress(fraction=0.25, message="page 1")

    async def test_it_goes_with_the_run(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as worker:
            await worker.keep_alive()
            (job_id,) = await enqueue(worker, [NewJob()])
            delivery = await received_one(worker)
            await report(worker, [(delivery, Progress(fraction=0.9))])
            await release(worker, [delivery])
            assert (await record_of(bench, job_id)).progress is None
            delivery = await received_one(worker)
            assert (await record_of(bench, job_id)).progress is None

    async def test_who_holds_a_job_no_more_has_nothing_to_say_of_it(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as worker, bench.queue() as other:
            await worker.keep_alive()
            await other.keep_alive()
            (job_id,) = await enqueue(worker, [NewJob()])
            late = await received_one(worker)
            await release(worker, [late])
            await received_one(other)
            await report(worker, [(late, Progress(fraction=0.9))])
            assert (await record_of(bench, job_id)).progress is None
