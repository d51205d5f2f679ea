from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from contract.queue.bench import (
    OWNER,
    QUEUE,
    Bench,
    arrival,
    cancel,
    dead,
    finished,
    kept,
    made,
    names,
    received_one,
    refused,
    stripped,
)
from contract.queue.needs import (
    CANCELLATION,
    DELAYS,
    GROUPS,
    HOUSEKEEPING,
    JOBS,
    PRIORITIES,
    WINDOWS,
    Part,
    needs,
)
from headrace.job import NewJob
from headrace.queues.base import Depth, Owner, QueueSettings
from headrace.queues.errors import PlaceTakenError, QueueNotFoundError
from support.verbs import complete, dead_letter, enqueue

if TYPE_CHECKING:
    pass


class ProvisionContract(Part):
    async def test_making_a_queue_twice_changes_nothing(self, bench: Bench) -> None:
        first = await bench.provisioner.ensure(QUEUE, QueueSettings(), OWNER)
        second = await bench.provisioner.ensure(QUEUE, QueueSettings(), OWNER)
        assert (first.changed, second.changed) == (True, False)
        assert first.facts == second.facts
        assert first.details != second.details

    @needs(HOUSEKEEPING)
    async def test_settings_reach_a_queue_that_is_open(self, bench: Bench) -> None:
        await made(bench, max_retries=3)
        async with bench.queue() as queue:
            assert queue.settings.max_retries == 3
            assert (await bench.provisioner.ensure(QUEUE, QueueSettings(max_retries=7), OWNER)).changed
            await kept(queue)
            assert queue.settings == QueueSettings(max_retries=7)

    async def test_anothers_queue_is_not_taken_and_its_owner_is_named(self, bench: Bench) -> None:
        await made(bench)
        with pytest.raises(PlaceTakenError, match="shop/orders"):
            await bench.provisioner.ensure(QUEUE, QueueSettings(), Owner(namespace="other", name=QUEUE, uid="9"))

    async def test_a_retained_queue_is_adopted_with_its_jobs_by_the_same_name(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name="kept")])
            adopted = await bench.provisioner.ensure(
                QUEUE, QueueSettings(), Owner(namespace="shop", name=QUEUE, uid="2")
            )
            assert adopted.changed
            assert names(await arrival(queue)) == ["kept"]

    @needs(HOUSEKEEPING, JOBS, CANCELLATION, GROUPS, PRIORITIES, DELAYS, WINDOWS)
    async def test_removing_takes_everything_and_is_safe_to_repeat(self, bench: Bench) -> None:
        await made(bench, completed_retention_seconds=60)
        async with bench.queue() as queue:
            await queue.keep_alive()
            await queue.enqueue([NewJob(priority=10), NewJob(priority=10), NewJob(priority=10)])
            running, bad, good = await queue.receive(3)
            await dead_letter(queue, bad, reason="x")
            await complete(queue, [good])
            await cancel(bench, running.job.id)
            await queue.enqueue([NewJob(), NewJob(delay_seconds=60), NewJob(group="g"), NewJob(group="g")])
            await queue.enqueue(
                [NewJob(deduplication_key="k", deduplication_window_seconds=1000, group="h", delay_seconds=60)]
            )
            await kept(queue)
            assert await bench.provisioner.remove(QUEUE, OWNER)
            assert refused(await complete(queue, [running])) == [running]
            with pytest.raises(QueueNotFoundError):
                await queue.keep_alive()
            with pytest.raises(QueueNotFoundError):
                await queue.enqueue([NewJob()])
        assert not await bench.provisioner.remove(QUEUE, OWNER)
        with pytest.raises(QueueNotFoundError):
            async with bench.queue():
                pass
        await made(bench, completed_retention_seconds=60)
        assert stripped((await bench.backlog.depths([QUEUE]))[QUEUE]) == Depth()
        assert (await dead(bench), await finished(bench)) == ([], [])
        async with bench.queue() as queue:
            assert await queue.receive(10) == []
            (job_id,) = await enqueue(queue, [NewJob(deduplication_key="k")])
            assert (await received_one(queue)).job.id == job_id

    async def test_only_the_owner_removes(self, bench: Bench) -> None:
        await made(bench)
        for owner in (Owner(namespace="other", name=QUEUE, uid="1"), Owner(namespace="shop", name=QUEUE, uid="2")):
            assert not await bench.provisioner.remove(QUEUE, owner)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob()])

    async def test_a_queue_that_does_not_exist_says_what_to_do(self, bench: Bench) -> None:
        await bench.provisioner.ensure("another", QueueSettings(), OWNER)
        with pytest.raises(QueueNotFoundError, match="orders"):
            async with bench.queue():
                pass
