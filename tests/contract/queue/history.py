from __future__ import annotations

from typing import TYPE_CHECKING

from contract.queue.bench import (
    Bench,
    cancel,
    finished,
    kept,
    made,
    standing,
)
from contract.queue.needs import (
    COUNTING,
    HOUSEKEEPING,
    JOBS,
    ORDER,
    TIME,
    Part,
    needs,
)
from headrace.job import NewJob
from headrace.queues.base import Depth
from support.verbs import complete, enqueue, retry

if TYPE_CHECKING:
    pass


@needs(JOBS, TIME, HOUSEKEEPING, COUNTING)
class HistoryContract(Part):
    @needs(ORDER)
    async def test_finished_jobs_are_kept_where_the_queue_says_so_and_for_so_long(self, bench: Bench) -> None:
        await made(bench, completed_retention_seconds=60)
        async with bench.queue() as queue:
            _, _, waiting = await enqueue(queue, [NewJob(name="one"), NewJob(name="two"), NewJob(name="three")])
            one, two = await queue.receive(2)
            await complete(queue, [one])
            await retry(queue, two)
            await bench.pass_time(30)
            await cancel(bench, waiting)
            await complete(queue, await queue.receive(1))
            assert await finished(bench) == [
                ("one", "completed", 0),
                ("three", "cancelled", 0),
                ("two", "completed", 1),
            ]
            await bench.pass_time(31)
            assert (await kept(queue)).pruned == 1
            assert [name for name, _, _ in await finished(bench)] == ["three", "two"]
            assert await standing(queue) == Depth(), "history is no work"

    async def test_without_a_history_a_finished_job_is_gone(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            _, cancelled = await enqueue(queue, [NewJob(), NewJob()])
            await complete(queue, await queue.receive(1))
            await cancel(bench, cancelled)
        assert await finished(bench) == []

    async def test_a_history_that_is_given_up_is_pruned(self, bench: Bench) -> None:
        await made(bench, completed_retention_seconds=60)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob()])
            await complete(queue, await queue.receive(1))
            await made(bench, completed_retention_seconds=0)
            assert (await kept(queue)).pruned == 1
        assert await finished(bench) == []
