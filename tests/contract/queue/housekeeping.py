from __future__ import annotations

from typing import TYPE_CHECKING

from contract.queue.bench import (
    Bench,
    counted,
    dead,
    kept,
    made,
    names,
    received_one,
)
from contract.queue.needs import (
    COUNTING,
    DELAYS,
    EXPIRY,
    GROUPS,
    HOUSEKEEPING,
    JOBS,
    TIME,
    Part,
    needs,
)
from headrace.job import NewJob
from support.verbs import complete, dead_letter, retry

if TYPE_CHECKING:
    pass


@needs(TIME, HOUSEKEEPING, COUNTING, JOBS, EXPIRY, DELAYS)
class HousekeepingContract(Part):
    async def test_a_job_never_started_in_time_expires_to_the_dead_letter_queue(self, bench: Bench) -> None:
        await made(bench, message_retention_seconds=60)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name="stale"), NewJob(name="late", delay_seconds=30)])
            await bench.pass_time(61)
            assert names(await queue.receive(10)) == ["late"], "retention counts from when a job could start"
            assert (await counted(queue)).ready == 0, "an expired job is not ready"
            assert (await kept(queue)).expired == 1
        (letter,) = await dead(bench)
        assert (letter.job.name, letter.reason, letter.job.attempt, letter.failures) == ("stale", "Expired", 0, ())

    async def test_a_job_that_has_been_started_does_not_expire(self, bench: Bench) -> None:
        await made(bench, message_retention_seconds=60)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob()])
            (delivery,) = await queue.receive(1)
            await retry(queue, delivery, error="x")
            await bench.pass_time(61)
            assert (await kept(queue)).expired == 0
            assert (await counted(queue)).ready == 1
            assert len(await queue.receive(1)) == 1

    async def test_old_dead_letters_are_pruned(self, bench: Bench) -> None:
        await made(bench, dead_letter_retention_days=14)
        async with bench.queue() as queue:
            for name in ("old", "young"):
                await queue.enqueue([NewJob(name=name)])
                (delivery,) = await queue.receive(1)
                await dead_letter(queue, delivery, reason="x")
                await bench.pass_time(10 * 86_400)
            assert (await kept(queue)).pruned == 1
        assert [letter.job.name for letter in await dead(bench)] == ["young"]

    @needs(GROUPS, EXPIRY)
    async def test_a_job_that_runs_past_its_time_to_start_does_not_expire(self, bench: Bench) -> None:
        await made(bench, message_retention_seconds=60)
        async with bench.queue() as queue:
            await queue.keep_alive()
            await queue.enqueue([NewJob(name="long", group="g")])
            held = await received_one(queue)
            await bench.pass_time(61)
            await queue.keep_alive()
            assert (await kept(queue)).expired == 0
            assert (await complete(queue, [held])).accepted == 1

    async def test_a_round_with_nothing_to_do_does_nothing(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(), NewJob(delay_seconds=60)])
            await queue.receive(1)
            done = await kept(queue)
            assert (done.rescued, done.poisoned, done.expired, done.cancelled, done.pruned) == (0, 0, 0, 0, 0)
