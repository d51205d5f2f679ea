from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from contract.queue.bench import (
    LEASE_SECONDS,
    Bench,
    after_the_death_of,
    arrivals,
    counted,
    dead,
    kept,
    made,
    names,
    received_one,
    standing,
    twice_lost,
    working,
)
from contract.queue.needs import (
    COUNTING,
    DELAYS,
    GROUPS,
    HOUSEKEEPING,
    JOBS,
    KEYS,
    LATER,
    ORDER,
    PRIORITIES,
    SKIPPING,
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


async def holding_all(worker: Queue, jobs: list[NewJob]) -> list[Delivery]:
    await worker.enqueue(jobs)
    held = await worker.receive(len(jobs))
    assert len(held) == len(jobs)
    return held


@needs(TIME, HOUSEKEEPING, UNCHARGED, COUNTING, DELAYS, PRIORITIES, GROUPS, KEYS, JOBS, SKIPPING, LATER)
class SuspectContract(Part):
    """What becomes of jobs whose worker was lost: at the first loss nothing, from the second on they are held alone."""

    async def test_at_a_first_loss_all_that_was_held_goes_back_as_ordinary_jobs(self, bench: Bench) -> None:
        await made(bench)
        async with AsyncExitStack() as stack:
            dying, other = await working(bench, stack), await working(bench, stack)
            (mine,) = await holding_all(other, [NewJob(name="mine")])
            await holding_all(dying, [NewJob(name=f"{number}") for number in range(5)])
            assert (await after_the_death_of(bench, dying, witness=other)).rescued == 5
            assert await standing(other) == Depth(ready=5, in_flight=1)
            again = await other.receive(10)
            assert sorted(names(again)) == ["0", "1", "2", "3", "4"], "together, and beside what it holds"
            assert {(delivery.is_suspect, delivery.job.attempt) for delivery in again} == {(False, 1)}
            assert (await complete(other, [mine, *again])).accepted == 6

    async def test_what_two_workers_were_lost_with_is_claimed_alone_by_who_holds_nothing(self, bench: Bench) -> None:
        await made(bench)
        async with AsyncExitStack() as stack:
            dying, busy, idle = [await working(bench, stack) for _ in range(3)]
            (mine,) = await holding_all(busy, [NewJob(name="mine")])
            await holding_all(dying, [NewJob(name="a"), NewJob(name="b")])
            for loss in (1, 2):
                await bench.pass_time(LEASE_SECONDS - 1)
                await busy.keep_alive()
                await bench.pass_time(2)
                await idle.keep_alive()
                assert (await kept(idle)).rescued == 2
                assert len((await dying.keep_alive()).lost) == 2
                if loss == 1:
                    assert len(await dying.receive(2)) == 2
            await kept(busy)
            assert await busy.receive(10) == [], "it holds a job, and makes no room"
            await idle.enqueue([NewJob(name="innocent", priority=10)])
            suspect = await received_one(idle)
            assert (suspect.job.name, suspect.is_suspect, suspect.job.attempt) == ("a", True, 1)
            assert await idle.receive(10) == [], "nothing comes beside a suspect"
            await complete(busy, [mine])
            await kept(busy)
            other_suspect = await received_one(busy)
            assert (other_suspect.job.name, other_suspect.is_suspect) == ("b", True)
            await complete(idle, [suspect])
            await kept(idle)
            innocent = await received_one(idle)
            assert (innocent.job.name, innocent.is_suspect) == ("innocent", False)

    async def test_a_worker_that_is_never_idle_makes_room_for_a_suspect(self, bench: Bench) -> None:
        await made(bench)
        async with AsyncExitStack() as stack:
            busy, dying = await working(bench, stack), await working(bench, stack)
            await twice_lost(bench, dying, busy, NewJob(name="suspect"))
            await dying.__aexit__(None, None, None)
            await busy.enqueue([NewJob(name=f"{number}") for number in range(10)])
            held = await busy.receive(1, without={"suspect"})
            await kept(busy)
            assert await busy.receive(1) == [], "it takes no more, however much there is"
            await complete(busy, held)
            suspect = await received_one(busy)
            assert (suspect.job.name, suspect.is_suspect) == ("suspect", True)
            await complete(busy, [suspect])
            assert len(await busy.receive(10)) == 9

    @needs(ORDER)
    async def test_making_room_ends_after_thirty_seconds(self, bench: Bench) -> None:
        await made(bench)
        async with AsyncExitStack() as stack:
            busy, dying = await working(bench, stack), await working(bench, stack)
            await twice_lost(bench, dying, busy, NewJob(name="suspect"))
            await dying.__aexit__(None, None, None)
            await busy.enqueue([NewJob(name=f"{number}") for number in range(10)])
            (held,) = await busy.receive(1, without={"suspect"})
            await kept(busy)
            assert await busy.receive(1) == []
            await for_seconds(bench, 32, busy)
            assert names(await busy.receive(1)) == ["1"], "its job is a long one: its other slots go on"
            assert (await complete(busy, [held])).accepted == 1

    async def test_then_it_is_anothers_turn_and_who_holds_the_fewest_comes_first(self, bench: Bench) -> None:
        await made(bench)
        async with AsyncExitStack() as stack:
            dying, witness = await working(bench, stack), await working(bench, stack)
            await twice_lost(bench, dying, witness, NewJob(name="suspect"))
            await dying.__aexit__(None, None, None)
            await witness.__aexit__(None, None, None)
            many, few = await working(bench, stack), await working(bench, stack)
            await few.enqueue([NewJob(name="innocent") for _ in range(10)])
            # Suspects are none of theirs, as long as they take jobs by the name that is left.
            assert len(await many.receive(3, without={"suspect"})) == 3
            assert len(await few.receive(2, without={"suspect"})) == 2
            await kept(many)
            await kept(few)
            await kept(many)
            assert await few.receive(1) == []
            assert len(await many.receive(1)) == 1
            await for_seconds(bench, 32, many, few)
            assert await many.receive(1) == []
            assert len(await few.receive(1)) == 1

    async def test_a_job_that_three_workers_died_of_alone_is_poisonous(self, bench: Bench) -> None:
        await made(bench, max_retries=0)
        async with AsyncExitStack() as stack:
            dying, witness = await working(bench, stack), await working(bench, stack)
            poison_id, _ = await enqueue(
                dying, [NewJob(name="poison", group="g", deduplication_key="k"), NewJob(group="g")]
            )
            for death in (1, 2, 3):
                poison = await received_one(dying)
                assert (poison.job.name, poison.job.attempt) == ("poison", 1)
                assert poison.is_suspect == (death == 3)
                maintained = await after_the_death_of(bench, dying, witness=witness)
                assert (maintained.rescued, maintained.poisoned) == ((1, 0) if death < 3 else (0, 1))
            (letter,) = await dead(bench)
            assert (letter.job.name, letter.reason, letter.job.attempt) == ("poison", "WorkerLost", 0)
            assert (await received_one(witness)).job.name == "", "its group goes on without it"
            assert poison_id not in await enqueue(witness, [NewJob(deduplication_key="k")]), "its key is free"

    async def test_who_died_beside_others_is_not_charged(self, bench: Bench) -> None:
        await made(bench)
        async with AsyncExitStack() as stack:
            dying, witness = await working(bench, stack), await working(bench, stack)
            await twice_lost(bench, dying, witness, NewJob(name="innocent"), NewJob(name="poison"))
            innocent = await received_one(dying)
            assert innocent.is_suspect
            await complete(dying, [innocent])
            for death in (1, 2, 3):
                await received_one(dying)
                maintained = await after_the_death_of(bench, dying, witness=witness)
                assert maintained.poisoned == (death == 3), "the deaths beside another were not counted"

    async def test_losses_and_deaths_are_forgotten_a_day_after_the_last_one(self, bench: Bench) -> None:
        await made(bench)
        async with AsyncExitStack() as stack:
            dying, witness = await working(bench, stack), await working(bench, stack)
            await twice_lost(bench, dying, witness, NewJob(name="long"))
            suspect = await received_one(dying)
            assert suspect.is_suspect
            await bench.pass_time(25 * 3600)
            await dying.keep_alive()
            await witness.keep_alive()
            assert (await after_the_death_of(bench, dying, witness=witness)).poisoned == 0, "after a day of running"
            again = await received_one(dying)
            assert not again.is_suspect, "this was a first loss again"

    @pytest.mark.parametrize("how", ["released", "closed"])
    async def test_a_suspect_handed_back_stays_one(self, bench: Bench, how: str) -> None:
        await made(bench)
        async with AsyncExitStack() as stack:
            dying, other = await working(bench, stack), await working(bench, stack)
            await twice_lost(bench, dying, other, NewJob(name="suspect"))
            async with bench.queue() as draining:
                await draining.keep_alive()
                await kept(draining)
                suspect = await received_one(draining)
                if how == "released":
                    await release(draining, [suspect])
            await other.enqueue([NewJob(name="innocent")])
            assert (await counted(other)).ready == 2
            await kept(other)
            again = await received_one(other)
            assert (again.job.name, again.is_suspect, again.job.attempt) == ("suspect", True, 1)

    async def test_a_suspect_handed_back_with_a_delay_waits(self, bench: Bench) -> None:
        await made(bench)
        async with AsyncExitStack() as stack:
            dying, other = await working(bench, stack), await working(bench, stack)
            await twice_lost(bench, dying, other, NewJob())
            await release(other, [await received_one(other)], delay_seconds=30)
            await kept(other)
            assert await other.receive(10) == []
            assert await standing(other) == Depth(delayed=1)
            await bench.pass_time(31)
            await other.keep_alive()
            await kept(other)
            assert (await counted(other)).ready == 1
            assert (await received_one(other)).is_suspect

    @needs(ORDER)
    async def test_a_suspect_that_fails_as_others_do_is_no_suspect_any_more(self, bench: Bench) -> None:
        await made(bench)
        async with AsyncExitStack() as stack:
            dying, witness = await working(bench, stack), await working(bench, stack)
            await twice_lost(bench, dying, witness, NewJob(name="a"))
            await retry(dying, await received_one(dying))
            await dying.enqueue([NewJob(name="b")])
            deliveries = await arrivals(dying, 2)
            assert [(delivery.job.name, delivery.is_suspect) for delivery in deliveries] == [("a", False), ("b", False)]
            await complete(dying, deliveries[1:])
            assert (await after_the_death_of(bench, dying, witness=witness)).poisoned == 0, "its deaths are forgotten"
            assert not (await received_one(dying)).is_suspect, "and its losses"

    async def test_suspects_come_by_priority_too(self, bench: Bench) -> None:
        await made(bench)
        async with AsyncExitStack() as stack:
            dying, other = await working(bench, stack), await working(bench, stack)
            await twice_lost(bench, dying, other, NewJob(name="low"), NewJob(name="high", priority=9))
            assert (await received_one(other)).job.name == "high"
            assert (await received_one(dying)).job.name == "low"

    async def test_tasks_of_one_worker_that_receive_at_once_take_no_suspect_beside_another_job(
        self, bench: Bench
    ) -> None:
        await made(bench)
        async with AsyncExitStack() as stack:
            dying, other = await working(bench, stack), await working(bench, stack)
            await twice_lost(bench, dying, other, NewJob(), NewJob(), NewJob())
            await other.enqueue([NewJob(), NewJob()])
            batches = await asyncio.gather(*(other.receive(1) for _ in range(5)))
            held = [delivery for batch in batches for delivery in batch]
            assert len(held) == 1 or not any(delivery.is_suspect for delivery in held)

    async def test_what_travels_with_a_job_survives_its_rescues(self, bench: Bench) -> None:
        await made(bench)
        async with AsyncExitStack() as stack:
            dying, other = await working(bench, stack), await working(bench, stack)
            job = NewJob(name="a", headers={"b": "c"}, extra={"d": [1, None]}, group="g", deduplication_key="k")
            await twice_lost(bench, dying, other, job)
            suspect = await received_one(other)
            assert suspect.is_suspect
            got = suspect.job
            assert (got.name, got.headers, got.extra) == ("a", {"b": "c"}, {"d": [1, None]})
            assert (got.group, got.deduplication_key) == ("g", "k")
            await release(other, [suspect])
            await kept(other)
            assert (await received_one(other)).job.extra == {"d": [1, None]}


async def for_seconds(bench: Bench, seconds: int, *workers: Queue) -> None:
    """Time in which all these workers live."""
    for _ in range(0, seconds, 4):
        await bench.pass_time(4)
        for worker in workers:
            await worker.keep_alive()
    for _ in range(2):
        for worker in workers:
            await kept(worker)
