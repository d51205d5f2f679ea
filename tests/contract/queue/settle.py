from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from contract.queue.bench import (
    VERBS,
    Bench,
    arrival,
    arrivals,
    dead,
    errors,
    every_verb,
    made,
    names,
    received_one,
    refused,
    settle,
    standing,
)
from contract.queue.needs import (
    COUNTING,
    ERRORS,
    JOBS,
    LATER,
    TIME,
    UNCHARGED,
    Part,
    needs,
)
from headrace.job import NewJob
from headrace.queues.base import Depth
from headrace.queues.settlement import Complete, DeadLetter, Discard, Failure, Release, Retry, Settled
from support.verbs import complete, dead_letter, enqueue, release, retry

if TYPE_CHECKING:
    from headrace.queues.base import Queue
    from headrace.queues.settlement import Settlement

BOOM = Failure(error="boom", error_type="OSError", fingerprint="0a1b2c", traceback="at line 1")


async def settled_of_each_kind(queue: Queue) -> tuple[list[Settlement], Settled]:
    """Five jobs, named by what becomes of them, in one call."""
    await queue.enqueue([NewJob(name=name) for name in ("complete", "retry", "release", "dead", "discard")])
    held = {delivery.job.name: delivery for delivery in await arrivals(queue, 5)}
    mixed: list[Settlement] = [
        Retry(delivery=held["retry"], delay_seconds=0, failure=BOOM),
        Complete(delivery=held["complete"], run_seconds=0.1),
        DeadLetter(delivery=held["dead"], reason="Unreadable"),
        Release(delivery=held["release"]),
        Discard(delivery=held["discard"]),
    ]
    return mixed, await queue.settle(mixed)


class SettleContract(Part):
    async def test_a_completed_job_is_gone(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob()] * 3)
            assert await complete(queue, await arrivals(queue, 3)) == Settled(accepted=3)
            assert await queue.receive(10) == []

    async def test_nothing_to_settle_is_fine(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            assert await queue.settle([]) == Settled(accepted=0)

    async def test_all_kinds_can_be_settled_in_one_call(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            mixed, settled = await settled_of_each_kind(queue)
            assert (settled.accepted, settled.refused, settled.unsettled) == (5, (), ())
            assert settled.dead_lettered == (mixed[2],)
            again = await arrivals(queue, 2)
            assert sorted(names(again)) == ["release", "retry"]
            assert await queue.receive(10) == []

    async def test_what_is_refused_is_told_and_keeps_nothing_else_back(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name="a"), NewJob(name="b"), NewJob(name="c")])
            first, second, third = await arrivals(queue, 3)
            await complete(queue, [first])
            late: list[Settlement] = [
                Retry(delivery=first, delay_seconds=0, failure=BOOM),
                Retry(delivery=second, delay_seconds=0, failure=BOOM),
                Complete(delivery=third),
            ]
            assert await queue.settle(late) == Settled(accepted=2, refused=(late[0],))
            assert names(await arrival(queue)) == [second.job.name]

    async def test_a_delivery_is_settled_once(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name="a"), NewJob(name="b")])
            first, second = await arrivals(queue, 2)
            await complete(queue, [first])
            settled = await complete(queue, [first, second])
            assert (settled.accepted, refused(settled)) == (1, [first])
            for verb in VERBS:
                assert refused(await settle(queue, first, verb)) == [first]

    @every_verb
    @pytest.mark.parametrize("late", VERBS)
    async def test_whatever_was_said_of_a_job_what_is_said_later_is_refused(
        self, bench: Bench, verb: str, late: str
    ) -> None:
        await made(bench)
        async with bench.queue() as worker, bench.queue() as other:
            await worker.keep_alive()
            await worker.enqueue([NewJob()])
            (delivery,) = await arrival(worker)
            assert (await settle(worker, delivery, verb)).accepted == 1
            again = await other.receive(1)
            assert refused(await settle(worker, delivery, late)) == [delivery]
            assert (await complete(other, again)).accepted == len(again), "and does not touch who has it now"

    async def test_a_delivery_of_before_a_release_is_refused_though_the_same_worker_has_the_job_again(
        self, bench: Bench
    ) -> None:
        await made(bench)
        async with bench.queue() as worker:
            await worker.keep_alive()
            await worker.enqueue([NewJob()])
            (before,) = await arrival(worker)
            await release(worker, [before])
            (again,) = await arrival(worker)
            assert before.key != again.key
            assert refused(await complete(worker, [before])) == [before]
            assert (await complete(worker, [again])).accepted == 1

    async def test_a_failed_attempt_is_charged(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob()])
            (delivery,) = await arrival(queue)
            assert delivery.job.attempt == 1
            assert await retry(queue, delivery) == Settled(accepted=1)
            (again,) = await arrival(queue)
            assert (again.job.id, again.job.enqueued_at, again.job.attempt) == (
                delivery.job.id,
                delivery.job.enqueued_at,
                2,
            )

    @needs(LATER)
    async def test_a_retry_comes_back_after_its_delay(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name="failed")])
            (delivery,) = await arrival(queue)
            await retry(queue, delivery, delay_seconds=1)
            await queue.enqueue([NewJob(name="meanwhile")])
            assert names(await arrival(queue)) == ["meanwhile"]
            (again,) = await arrival(queue)
            assert (again.job.id, again.job.attempt) == (delivery.job.id, 2)

    async def test_three_retries_are_four_attempts_then_it_is_dead(self, bench: Bench) -> None:
        await made(bench, max_retries=3)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name="doomed")])
            for attempt in (1, 2, 3, 4):
                (delivery,) = await arrival(queue)
                assert delivery.job.attempt == attempt
                settled = await retry(queue, delivery, error=f"error {attempt}")
                assert len(settled.dead_lettered) == (attempt == 4)
            assert await queue.receive(1) == []

    async def test_without_a_dead_letter_queue_a_job_out_of_attempts_is_dropped(self, bench: Bench) -> None:
        await made(bench, max_retries=0, dead_letter_enabled=False)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(), NewJob()])
            one, two = await arrivals(queue, 2)
            assert len((await retry(queue, one)).dead_lettered) == 1
            assert len((await dead_letter(queue, two, reason="x")).dead_lettered) == 1
            assert await queue.receive(10) == []

    @needs(UNCHARGED)
    async def test_a_release_charges_nothing(self, bench: Bench) -> None:
        await made(bench, max_retries=0)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob()] * 2)
            for _ in range(3):
                deliveries = await arrivals(queue, 2)
                assert [delivery.job.attempt for delivery in deliveries] == [1, 1]
                assert await release(queue, deliveries) == Settled(accepted=2)
            await release(queue, await arrivals(queue, 2), delay_seconds=0.2)
            assert [delivery.job.attempt for delivery in await arrivals(queue, 2)] == [1, 1]

    async def test_a_batch_of_different_attempts_settles_as_one(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name="old")])
            await retry(queue, (await arrival(queue))[0])
            await queue.enqueue([NewJob(name="new")])
            deliveries = await arrivals(queue, 2)
            assert sorted(delivery.job.attempt for delivery in deliveries) == [1, 2]
            assert await complete(queue, deliveries) == Settled(accepted=2)


@needs(JOBS, COUNTING, LATER)
class SettledJobsContract(Part):
    """Where settled jobs stand afterwards."""

    async def test_each_kind_puts_its_job_where_it_says(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await settled_of_each_kind(queue)
            assert await standing(queue) == Depth(ready=2, dead_lettered=1)
        assert [(record.job.name, record.reason) for record in await dead(bench)] == [("dead", "Unreadable")]

    @needs(TIME)
    async def test_five_hundred_retries_of_different_delays_settle_as_one(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name=f"{number}") for number in range(500)])
            deliveries = await arrivals(queue, 500)
            failed = [
                Retry(
                    delivery=delivery,
                    delay_seconds=60.0 * (1 + int(delivery.job.name) % 7),
                    failure=Failure(error=f"error of {delivery.job.name}"),
                )
                for delivery in deliveries
            ]
            assert await queue.settle(failed) == Settled(accepted=500)
            assert await standing(queue) == Depth(delayed=500)
            for minute in range(1, 8):
                await bench.pass_time(60 if minute > 1 else 61)
                due = await arrivals(queue, len(range(minute - 1, 500, 7)))
                assert {int(name) % 7 for name in names(due)} == {minute - 1}
                assert all(delivery.job.attempt == 2 for delivery in due)
                assert await queue.settle(
                    [DeadLetter(delivery=delivery, reason=f"Minute {minute}", failure=BOOM) for delivery in due]
                ) == Settled(
                    accepted=len(due),
                    dead_lettered=tuple(
                        DeadLetter(delivery=delivery, reason=f"Minute {minute}", failure=BOOM) for delivery in due
                    ),
                )
        records = await dead(bench)
        assert len(records) == 500
        for record in records:
            assert errors(record) == [f"error of {record.job.name}", "boom"]
            assert record.reason == f"Minute {int(record.job.name) % 7 + 1}"

    async def test_of_a_batch_of_retries_those_out_of_attempts_are_dead_and_told(self, bench: Bench) -> None:
        await made(bench, max_retries=1)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name="old")] * 3)
            for delivery in await arrivals(queue, 3):
                await retry(queue, delivery)
            await queue.enqueue([NewJob(name="new")] * 3)
            failed = [Retry(delivery=delivery, delay_seconds=60, failure=BOOM) for delivery in await arrivals(queue, 6)]
            settled = await queue.settle(failed)
            assert settled.accepted == 6
            assert [each.delivery.job.name for each in settled.dead_lettered] == ["old"] * 3
            assert await standing(queue) == Depth(delayed=3, dead_lettered=3)
        assert {record.reason for record in await dead(bench)} == {"RetriesExhausted"}

    @needs(ERRORS)
    async def test_the_failures_of_a_job_stay_with_it_the_newest_with_its_traceback(self, bench: Bench) -> None:
        await made(bench, max_retries=24)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name="doomed")])
            for attempt in range(1, 26):
                await retry(queue, (await arrival(queue))[0], error=f"error {attempt}", traceback=f"trace {attempt}")
        (record,) = await dead(bench)
        assert (record.job.attempt, record.reason) == (25, "RetriesExhausted")
        assert [failed.attempt for failed in record.failures] == list(range(6, 26)), "the last twenty"
        assert errors(record)[-2:] == ["error 24", "error 25"]
        assert [failed.failure.traceback for failed in record.failures] == [None] * 19 + ["trace 25"]
        times = [failed.at for failed in record.failures]
        assert times == sorted(times)

    @needs(ERRORS)
    async def test_what_is_known_of_a_failure_is_kept(self, bench: Bench) -> None:
        await made(bench, max_retries=1)
        async with bench.queue() as queue:
            (job_id,) = await enqueue(queue, [NewJob()])
            for failure in (BOOM, Failure(error='it\'s "odd": \x00 \ud800 ☃')):
                await queue.settle([Retry(delivery=(await arrival(queue))[0], delay_seconds=0, failure=failure)])
        (record,) = await dead(bench)
        assert record.job.id == job_id
        first, second = (failed.failure for failed in record.failures)
        assert (first.error, first.error_type, first.fingerprint) == ("boom", "OSError", "0a1b2c")
        assert (second.error_type, second.fingerprint, second.traceback) == (None, None, None)
        assert second.error.startswith('it\'s "odd": ')
        assert second.error.endswith("☃")

    @needs(ERRORS)
    async def test_giving_up_is_a_failed_attempt_with_its_error_where_there_is_one(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name="bad")])
            await retry(queue, await received_one(queue), error="first")
            await dead_letter(
                queue, await received_one(queue), reason="GaveUp", error="no such picture", traceback="at line 1"
            )
            await queue.enqueue([NewJob(name="unreadable")])
            await dead_letter(queue, await received_one(queue), reason="Unreadable")
        bad, unreadable = await dead(bench)
        assert (bad.job.name, bad.reason, bad.job.attempt) == ("bad", "GaveUp", 2)
        assert [(failed.failure.error, failed.failure.traceback) for failed in bad.failures] == [
            ("first", None),
            ("no such picture", "at line 1"),
        ]
        assert (unreadable.reason, unreadable.job.attempt, unreadable.failures) == ("Unreadable", 1, ())

    @needs(TIME, UNCHARGED)
    async def test_a_release_with_a_delay_waits(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob()] * 2)
            await release(queue, await arrivals(queue, 2), delay_seconds=10)
            assert await standing(queue) == Depth(delayed=2)
            await bench.pass_time(11)
            assert [delivery.job.attempt for delivery in await arrivals(queue, 2)] == [1, 1]

    async def test_what_is_dropped_is_nowhere(self, bench: Bench) -> None:
        await made(bench, max_retries=0, dead_letter_enabled=False)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob()])
            await retry(queue, await received_one(queue))
            assert await standing(queue) == Depth()
        assert await dead(bench) == []
