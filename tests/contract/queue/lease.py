from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from contract.queue.bench import (
    LEASE_SECONDS,
    PATIENCE_SECONDS,
    VERBS,
    Bench,
    arrival,
    arrivals,
    cancel,
    every_verb,
    kept,
    made,
    maintain,
    names,
    received_one,
    refused,
    settle,
)
from contract.queue.needs import (
    ASIDE,
    CANCELLATION,
    FENCED,
    HOUSEKEEPING,
    JOBS,
    ORDER,
    TIME,
    UNCHARGED,
    Part,
    needs,
)
from headrace.job import NewJob
from headrace.queues.base import KeepsAliveAside, KeptAlive
from headrace.queues.errors import LeaseLostError
from support.verbs import complete, enqueue, release

if TYPE_CHECKING:
    from headrace.queues.base import Delivery, Queue


async def regained(queue: Queue) -> list[Delivery]:
    """What comes once a lease of another has run out."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await arrival(queue)


class LeaseContract(Part):
    async def test_what_one_holds_no_other_is_given(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as worker, bench.queue() as other:
            await worker.keep_alive()
            await worker.enqueue([NewJob()])
            assert len(await arrival(worker)) == 1
            await maintain(other)
            assert await other.receive(1) == []

    async def test_while_all_is_well_a_heartbeat_has_nothing_to_say(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as worker:
            assert await worker.keep_alive() == KeptAlive()
            await worker.enqueue([NewJob()])
            held = await arrival(worker)
            assert await worker.keep_alive() == KeptAlive()
            assert (await complete(worker, held)).accepted == 1
            assert await worker.keep_alive() == KeptAlive()

    async def test_without_heartbeats_a_job_is_held_for_the_visibility_timeout(self, bench: Bench) -> None:
        await made(bench, visibility_timeout_seconds=1)
        async with bench.queue() as receiver, bench.queue() as other:
            (job_id,) = await enqueue(receiver, [NewJob()])
            assert len(await arrival(receiver)) == 1
            assert await other.receive(1) == []
            (taken,) = await regained(other)
            assert taken.job.id == job_id

    @needs(FENCED)
    async def test_who_held_it_too_long_can_say_nothing_of_it_any_more(self, bench: Bench) -> None:
        await made(bench, visibility_timeout_seconds=1)
        async with bench.queue() as receiver, bench.queue() as other:
            await receiver.enqueue([NewJob()])
            (held,) = await arrival(receiver)
            (taken,) = await regained(other)
            assert refused(await complete(receiver, [held])) == [held]
            assert (await complete(other, [taken])).accepted == 1

    async def test_closing_a_worker_gives_its_jobs_back_uncharged(self, bench: Bench) -> None:
        await made(bench, visibility_timeout_seconds=1)
        async with bench.queue() as other:
            async with bench.queue() as worker:
                await worker.keep_alive()
                (job_id,) = await enqueue(worker, [NewJob()])
                assert len(await arrival(worker)) == 1
            (again,) = await regained(other)
            assert again.job.id == job_id

    async def test_heartbeats_hold_a_job_for_longer_than_a_lease(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue(lease_seconds=2) as worker, bench.queue(lease_seconds=2) as other:
            assert worker.lease_seconds == 2, "a worker trusts its lease for as long as the queue says"
            await worker.keep_alive()
            await worker.enqueue([NewJob()])
            held = await arrival(worker)
            for _ in range(8):
                await asyncio.sleep(0.5)
                assert await worker.keep_alive() == KeptAlive()
                await maintain(other)
                assert await other.receive(1) == []
            assert (await complete(worker, held)).accepted == 1

    async def test_a_heartbeat_holds_nothing_that_is_released_meanwhile(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue(lease_seconds=60) as worker, bench.queue(lease_seconds=60) as other:
            await worker.keep_alive()
            ids = await enqueue(worker, [NewJob()] * 5)
            for queue in (worker, other) * 5:
                await queue.keep_alive()
                held = await arrivals(queue, 5)
                assert {delivery.job.id for delivery in held} == set(ids)
                _, settled, _ = await asyncio.gather(queue.keep_alive(), release(queue, held), queue.keep_alive())
                assert settled.accepted == 5

    async def test_who_falls_silent_for_longer_than_a_lease_loses_its_jobs_and_is_told(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue(lease_seconds=1) as worker, bench.queue(lease_seconds=1) as other:
            await worker.keep_alive()
            ids = await enqueue(worker, [NewJob()] * 2)
            held = await arrivals(worker, 2)
            await asyncio.sleep(1.5)
            taken = await arrivals(other, 2)
            assert sorted(delivery.job.id for delivery in taken) == sorted(ids)
            assert (await worker.keep_alive()).lost == {delivery.key for delivery in held}
            assert await worker.keep_alive() == KeptAlive(), "the loss is told once"
            assert (await complete(other, taken)).accepted == 2


@needs(TIME, HOUSEKEEPING, FENCED, UNCHARGED)
class LeaseOverTimeContract(Part):
    async def test_closing_a_worker_gives_its_lease_back_at_once(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as other:
            async with bench.queue() as worker:
                await worker.keep_alive()
                await worker.enqueue([NewJob()])
                await worker.receive(1)
            (again,) = await other.receive(1)
            assert (again.job.attempt, again.is_suspect) == (1, False)

    async def test_a_lost_workers_job_goes_back_uncharged_and_its_late_settlements_are_refused(
        self, bench: Bench
    ) -> None:
        await made(bench, max_retries=0)
        async with bench.queue() as lost, bench.queue() as other:
            await lost.keep_alive()
            await lost.enqueue([NewJob(extra={"a": 1})])
            held = await received_one(lost)
            assert await other.receive(1) == []
            await bench.pass_time(LEASE_SECONDS + 1)
            assert (await kept(other)).rescued == 1
            taken = await received_one(other)
            assert (taken.job.id, taken.job.attempt, taken.job.extra) == (held.job.id, 1, {"a": 1})
            for verb in VERBS:
                assert refused(await settle(lost, held, verb)) == [held]
            assert (await complete(other, [taken])).accepted == 1

    @needs(ORDER)
    async def test_a_heartbeat_tells_what_is_lost_and_begins_another_lease(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as worker, bench.queue() as other:
            await worker.keep_alive()
            await worker.enqueue([NewJob(name="a"), NewJob(name="b")])
            held = await worker.receive(1) + await worker.receive(1)
            await bench.pass_time(LEASE_SECONDS + 1)
            await kept(other)
            assert await worker.receive(1) == [], "nothing is leased under a lease that is gone"
            assert await worker.keep_alive() == KeptAlive(lost=frozenset(delivery.key for delivery in held))
            await kept(worker)
            again = await arrivals(worker, 2)
            assert names(again) == ["a", "b"]
            assert await worker.keep_alive() == KeptAlive(), "the loss is told once"
            assert (await complete(worker, again)).accepted == 2

    async def test_a_lease_kept_alive_holds(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as worker, bench.queue() as other:
            await worker.keep_alive()
            await worker.enqueue([NewJob()])
            held = await received_one(worker)
            for _ in range(3):
                await bench.pass_time(LEASE_SECONDS - 1)
                assert await worker.keep_alive() == KeptAlive()
                assert (await kept(other)).rescued == 0
            assert (await complete(worker, [held])).accepted == 1

    @needs(ASIDE)
    async def test_another_thread_can_keep_it_alive_while_the_event_loop_is_stuck(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as worker, bench.queue() as other:
            assert isinstance(worker, KeepsAliveAside)
            await worker.keep_alive()
            await worker.enqueue([NewJob()])
            held = await received_one(worker)
            for _ in range(2):
                await bench.pass_time(LEASE_SECONDS - 1)
                thread = threading.Thread(target=asyncio.run, args=(worker.keep_alive_aside(),))
                thread.start()
                thread.join(PATIENCE_SECONDS)
                assert not thread.is_alive()
            assert (await kept(other)).rescued == 0
            assert await worker.keep_alive() == KeptAlive()
            assert (await complete(worker, [held])).accepted == 1

    @needs(ASIDE)
    async def test_a_lease_that_was_judged_is_not_brought_back_from_another_thread(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as worker, bench.queue() as other:
            assert isinstance(worker, KeepsAliveAside)
            await worker.keep_alive()
            await worker.enqueue([NewJob()])
            held = await received_one(worker)
            await bench.pass_time(LEASE_SECONDS + 1)
            assert (await kept(other)).rescued == 1
            with pytest.raises(LeaseLostError):
                await worker.keep_alive_aside()
            assert (await worker.keep_alive()).lost == {held.key}

    @every_verb
    async def test_who_lost_its_lease_can_say_nothing_of_its_jobs_any_more(self, bench: Bench, verb: str) -> None:
        await made(bench)
        async with bench.queue() as lost, bench.queue() as other:
            await lost.keep_alive()
            await lost.enqueue([NewJob(), NewJob()])
            before, after = await lost.receive(2)
            await bench.pass_time(LEASE_SECONDS + 1)
            await kept(other)
            assert refused(await settle(lost, before, verb)) == [before], "before it knows"
            taken = await arrivals(other, 2)
            assert after.key in (await lost.keep_alive()).lost
            assert refused(await settle(lost, after, verb)) == [after], "and after"
            assert (await complete(other, taken)).accepted == 2

    async def test_a_lease_that_ran_out_and_was_judged_by_nobody_is_as_good_as_new(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as slow, bench.queue() as other:
            await slow.keep_alive()
            await slow.enqueue([NewJob(), NewJob()])
            one, two = await slow.receive(2)
            await bench.pass_time(LEASE_SECONDS + 1)
            assert (await complete(slow, [one])).accepted == 1
            assert await slow.keep_alive() == KeptAlive()
            assert (await kept(other)).rescued == 0
            assert await other.receive(1) == []
            assert (await complete(slow, [two])).accepted == 1

    async def test_without_heartbeats_the_visibility_timeout_is_the_lease(self, bench: Bench) -> None:
        await made(bench, visibility_timeout_seconds=100)
        async with bench.queue() as receiver, bench.queue() as other:
            await receiver.enqueue([NewJob()])
            held = await received_one(receiver)
            await bench.pass_time(99)
            assert (await kept(other)).rescued == 0
            await bench.pass_time(2)
            assert (await kept(other)).rescued == 1
            assert refused(await complete(receiver, [held])) == [held]

    async def test_what_was_received_before_the_first_heartbeat_is_lost_by_itself(self, bench: Bench) -> None:
        await made(bench, visibility_timeout_seconds=10)
        async with bench.queue() as worker, bench.queue() as other:
            await worker.enqueue([NewJob(name="early"), NewJob(name="later")])
            (early,) = await worker.receive(1)
            await worker.keep_alive()
            (later,) = await worker.receive(1)
            for _ in range(3):
                await bench.pass_time(LEASE_SECONDS - 1)
                assert await worker.keep_alive() == KeptAlive()
            assert (await kept(other)).rescued == 1
            assert (await worker.keep_alive()).lost == {early.key}
            assert refused(await complete(worker, [early])) == [early]
            assert (await complete(worker, [later])).accepted == 1

    @needs(CANCELLATION, JOBS)
    async def test_a_heartbeat_tells_lost_from_cancelled(self, bench: Bench) -> None:
        await made(bench, visibility_timeout_seconds=10)
        async with bench.queue() as worker, bench.queue() as other:
            await worker.enqueue([NewJob(name="early"), NewJob(name="stopped"), NewJob(name="fine")])
            (early,) = await worker.receive(1)
            await worker.keep_alive()
            stopped, _ = await worker.receive(2)
            for _ in range(3):
                await bench.pass_time(LEASE_SECONDS - 1)
                await worker.keep_alive()
            await kept(other)
            assert await cancel(bench, stopped.job.id) == "requested"
            told = await worker.keep_alive()
            assert told == KeptAlive(lost=frozenset({early.key}), cancelled=frozenset({stopped.key}))
