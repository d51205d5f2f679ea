"""What every queue backend promises, verb by verb. A backend's test module subclasses these and gives a `bench`."""

from __future__ import annotations

import asyncio
import pickle
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal, Protocol

import pytest
from msgspec import structs

from headrace.job import NewJob
from headrace.queues.base import (
    Depth,
    Failure,
    JobFilter,
    LeaseLostError,
    Owner,
    PlaceTakenError,
    Progress,
    QueueNotFoundError,
    QueueSettings,
    UnsupportedCapabilityError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from headrace.queues.base import (
        Backlog,
        Delivery,
        Inspector,
        JobRecord,
        JobState,
        Maintained,
        Provisioner,
        Queue,
        Settled,
    )

QUEUE = "orders"
OWNER = Owner(namespace="shop", name=QUEUE, uid="1")
LEASE_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class DeadLetter:
    """A dead letter, as tests look at it."""

    name: str
    reason: str
    error: str | None
    attempt: int
    failures: tuple[Failure, ...] = field(default=(), compare=False)


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A job in the history of finished ones, as tests look at it."""

    name: str
    outcome: str
    attempt: int


class Bench(Protocol):
    """One backend under test, with a clock that only the test moves on."""

    provisioner: Provisioner
    backlog: Backlog

    def queue(self, name: str = QUEUE, *, lease_seconds: float = LEASE_SECONDS) -> Queue:
        """One more worker's or producer's own view of a queue; not yet open."""
        ...

    async def pass_time(self, seconds: float) -> None:
        """Let everything in the backend be older by so much."""
        ...

    async def dead_letters(self) -> list[DeadLetter]:
        """The dead-letter queue, oldest first."""
        ...

    async def finished(self) -> list[Finished]:
        """The history of finished jobs, oldest first."""
        ...

    async def inspector(self) -> Inspector:
        """What people use, open; it is closed with the bench."""
        ...


async def made(bench: Bench, **settings: object) -> None:
    await bench.provisioner.ensure(QUEUE, QueueSettings(**settings), OWNER)  # type: ignore[arg-type]


async def cancel(bench: Bench, job_id: str) -> Literal["cancelled", "requested"] | None:
    return await (await bench.inspector()).cancel(QUEUE, job_id)


async def pause(bench: Bench, *, paused: bool) -> None:
    await (await bench.inspector()).pause(QUEUE, paused=paused)


def names(deliveries: list[Delivery]) -> list[str]:
    return [delivery.job.name for delivery in deliveries]


VERBS: dict[str, Callable[[Queue, Delivery], Awaitable[Settled]]] = {
    "complete": lambda queue, delivery: queue.complete([delivery]),
    "retry": lambda queue, delivery: queue.retry(delivery, delay_seconds=0, error="boom"),
    "release": lambda queue, delivery: queue.release([delivery]),
    "dead_letter": lambda queue, delivery: queue.dead_letter(delivery, reason="Unreadable"),
    "discard": lambda queue, delivery: queue.discard(delivery),
}
every_verb = pytest.mark.parametrize("verb", VERBS)
ends = pytest.mark.parametrize("verb", ["complete", "dead_letter", "discard"])


async def received_one(queue: Queue) -> Delivery:
    (delivery,) = await queue.receive(10)
    return delivery


async def after_the_death_of(bench: Bench, *workers: Queue, witness: Queue) -> Maintained:
    """Let workers fall silent for longer than a lease; another one finds out, and they start anew."""
    await bench.pass_time(LEASE_SECONDS + 1)
    await witness.keep_alive()
    maintained = await witness.maintain()
    for worker in workers:
        with pytest.raises(LeaseLostError):
            await worker.keep_alive()
        await worker.keep_alive()
        await worker.maintain()
    return maintained


async def working(bench: Bench, stack: AsyncExitStack) -> Queue:
    """A worker with heartbeats."""
    queue = await stack.enter_async_context(bench.queue())
    await queue.keep_alive()
    return queue


class EnqueueContract:
    async def test_a_job_arrives_as_it_was_sent(self, bench: Bench) -> None:
        await made(bench)
        expires_at = datetime(2100, 1, 1, tzinfo=UTC)
        job = NewJob(
            name="resize",
            payload=b"\x00\xff",
            content_type="image/png",
            headers={"traceparent": "00-é"},
            priority=7,
            expires_at=expires_at,
            group="tenant-123",
            deduplication_key="picture-17",
        )
        async with bench.queue() as queue:
            (job_id,) = await queue.enqueue([job])
            (delivery,) = await queue.receive(10)
        assert not delivery.is_suspect
        got = delivery.job
        assert (got.group, got.deduplication_key) == ("tenant-123", "picture-17")
        assert (got.id, got.queue, got.name, got.payload) == (job_id, QUEUE, "resize", b"\x00\xff")
        assert (got.content_type, got.headers, got.priority) == ("image/png", {"traceparent": "00-é"}, 7)
        assert (got.expires_at, got.attempt, got.run_at) == (expires_at, 1, got.enqueued_at)

    async def test_a_received_job_can_be_handed_to_another_process(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name="plain"), NewJob(name="full", headers={"a": "b"}, group="g")])
            received = [delivery.job for delivery in await queue.receive(2)]
        assert len(received) == 2
        assert pickle.loads(pickle.dumps(received)) == received

    async def test_ids_come_in_the_order_of_the_jobs(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            ids = await queue.enqueue([NewJob(name=f"{number:03}", priority=number % 3) for number in range(500)])
            deliveries = await queue.receive(500)
        assert {delivery.job.id: delivery.job.name for delivery in deliveries} == {
            job_id: f"{number:03}" for number, job_id in enumerate(ids)
        }

    async def test_nothing_to_enqueue_is_fine(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            assert await queue.enqueue([]) == []

    async def test_calls_at_once_each_get_their_own_ids(self, bench: Bench) -> None:
        await made(bench)
        kinds = [NewJob(), NewJob(delay_seconds=0.001), NewJob(group="g"), NewJob(deduplication_key="k")]
        calls = [
            [structs.replace(kind, name=f"{number}/{place}") for place in range(number % 3)]
            for number in range(40)
            for kind in kinds[number % 4 : number % 4 + 1]
        ]
        async with bench.queue() as queue:
            answers = await asyncio.gather(*(queue.enqueue(jobs) for jobs in calls))
            expected = {
                job_id: job.name
                for jobs, ids in zip(calls, answers, strict=True)
                for job, job_id in zip(jobs, ids, strict=True)
            }
            got: dict[str, str] = {}
            while len(got) < len(expected):
                deliveries = await queue.receive(100, wait_seconds=10)
                got |= {delivery.job.id: delivery.job.name for delivery in deliveries}
                await queue.complete(deliveries)
        # Of jobs with the same key the first stands for all.
        assert set(got) == set(expected)
        assert [answer for answer, jobs in zip(answers, calls, strict=True) if len(answer) != len(jobs)] == []
        assert all(got[job_id] == name for job_id, name in expected.items() if int(name.split("/")[0]) % 4 != 3)

    async def test_what_the_backend_declares_it_takes_and_the_rest_it_refuses(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            for capability, job in {
                "priorities": NewJob(priority=1),
                "delays": NewJob(delay_seconds=60),
                "groups": NewJob(group="g"),
                "deduplication": NewJob(deduplication_key="k"),
            }.items():
                before = await queue.depth()
                if getattr(queue.capabilities, capability):
                    assert len(await queue.enqueue([NewJob(), job])) == 2
                else:
                    with pytest.raises(UnsupportedCapabilityError):
                        await queue.enqueue([NewJob(), job])
                    assert await queue.depth() == before, "nothing is enqueued"

    async def test_transactions_are_of_the_backends_own_kind(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob()])
            delivery = await received_one(queue)
            with pytest.raises(UnsupportedCapabilityError):
                await queue.enqueue_in(object(), [NewJob()])
            with pytest.raises(UnsupportedCapabilityError):
                await queue.complete_in(object(), delivery)
            assert await queue.depth() == Depth(in_flight=1)


class ReceiveContract:
    async def test_an_empty_queue_gives_nothing(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            assert await queue.receive(10) == []
            assert await queue.receive(10, wait_seconds=0.01) == []

    async def test_higher_priority_comes_first_then_the_older(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name=name, priority=int(name[0])) for name in ("0a", "5a", "9a", "0b", "5b")])
            assert names(await queue.receive(3)) == ["9a", "5a", "5b"]
            assert names(await queue.receive(3)) == ["0a", "0b"]

    async def test_no_more_than_the_limit_is_leased(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob()] * 5)
            assert len(await queue.receive(2)) == 2
            depth = await queue.depth()
            assert (depth.ready, depth.in_flight) == (3, 2)

    async def test_receivers_at_once_never_get_the_same_job(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as one, bench.queue() as two, bench.queue() as three:
            await one.keep_alive()
            await one.enqueue([NewJob()] * 300)

            async def receive_all(queue: Queue) -> list[str]:
                ids: list[str] = []
                while deliveries := await queue.receive(7):
                    ids += [delivery.job.id for delivery in deliveries]
                return ids

            received = await asyncio.gather(*(receive_all(queue) for queue in (one, two, three, one, two)))
        seen = Counter(job_id for ids in received for job_id in ids)
        assert len(seen) == 300
        assert set(seen.values()) == {1}

    async def test_a_waiting_receiver_gets_the_job_that_comes(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            waiting = asyncio.create_task(queue.receive(1, wait_seconds=30))
            await asyncio.sleep(0)
            await queue.enqueue([NewJob(name="late")])
            assert names(await waiting) == ["late"]

    async def test_a_waiting_worker_finds_the_job_that_another_enqueues(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as worker, bench.queue() as producer:

            async def first() -> list[Delivery]:
                while not (deliveries := await worker.receive(1)):
                    await worker.wait(60)
                return deliveries

            working = asyncio.create_task(first())
            await asyncio.sleep(0)
            await producer.enqueue([NewJob(name="news")])
            async with asyncio.timeout(20):
                assert names(await working) == ["news"]

    async def test_waiting_can_be_cut_short_and_loses_nothing(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.wait(0.001)
            for waiting in (queue.wait(60), queue.receive(1, wait_seconds=60)):
                task = asyncio.ensure_future(waiting)
                await asyncio.sleep(0.01)
                task.cancel()
                await asyncio.wait([task])
                assert task.cancelled()
            await queue.enqueue([NewJob(name="kept")])
            assert names(await queue.receive(1, wait_seconds=10)) == ["kept"]

    async def test_a_queue_paused_by_hand_gives_none_whatever_its_settings_say(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.keep_alive()
            await queue.enqueue([NewJob(), NewJob(delay_seconds=10), NewJob(group="g")])
            await bench.pass_time(11)
            await pause(bench, paused=True)
            await queue.keep_alive()
            assert queue.settings.paused
            await made(bench, max_retries=5)
            assert await queue.receive(10) == []
            await pause(bench, paused=False)
            await queue.keep_alive()
            assert not queue.settings.paused
            assert len(await queue.receive(10)) == 3

    async def test_a_paused_queue_takes_jobs_and_gives_none(self, bench: Bench) -> None:
        await made(bench, paused=True)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob()])
            assert await queue.receive(1) == []
            await queue.keep_alive()
            assert await queue.receive(1) == []
            await made(bench, paused=False)
            assert len(await queue.receive(1)) == 1

    async def test_a_delayed_job_waits_until_it_is_due(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(delay_seconds=60)])
            assert await queue.receive(1) == []
            assert (await queue.depth()).delayed == 1
            await bench.pass_time(61)
            (delivery,) = await queue.receive(1)
            assert delivery.job.run_at - delivery.job.enqueued_at == timedelta(seconds=60)

    async def test_a_job_can_be_given_its_hour(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            tomorrow, past = datetime.now(UTC) + timedelta(days=1), datetime(2000, 1, 1, tzinfo=UTC)
            await queue.enqueue([NewJob(name="tomorrow", run_at=tomorrow), NewJob(name="past", run_at=past)])
            assert names(await queue.receive(10)) == ["past"]
            await bench.pass_time(86_400 + 60)
            assert names(await queue.receive(10)) == ["tomorrow"]

    async def test_housekeeping_makes_due_jobs_ready_too(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name="urgent", delay_seconds=5, priority=9), *[NewJob(name="bulk")] * 3])
            await bench.pass_time(6)
            await queue.maintain()
            assert names(await queue.receive(1)) == ["urgent"]


class SettleContract:
    async def test_a_completed_job_is_gone(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob()] * 3)
            deliveries = await queue.receive(3)
            settled = await queue.complete(deliveries)
            assert (settled.accepted, settled.refused, settled.dead_lettered) == (3, (), 0)
            assert await queue.depth() == Depth()

    async def test_a_second_settlement_is_refused(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name="a"), NewJob(name="b")])
            first, second = await queue.receive(2)
            await queue.complete([first])
            settled = await queue.complete([first, second])
            assert (settled.accepted, settled.refused) == (1, (first,))
            assert (await queue.retry(first, delay_seconds=0, error="x")).refused == (first,)
            assert (await queue.release([first])).refused == (first,)
            assert (await queue.dead_letter(first, reason="x")).refused == (first,)
            assert (await queue.discard(first)).refused == (first,)

    @every_verb
    @pytest.mark.parametrize("late", VERBS)
    async def test_whatever_was_said_of_a_job_what_is_said_later_is_refused(
        self, bench: Bench, verb: str, late: str
    ) -> None:
        await made(bench)
        async with bench.queue() as worker, bench.queue() as other:
            await worker.keep_alive()
            await worker.enqueue([NewJob()])
            delivery = await received_one(worker)
            assert (await VERBS[verb](worker, delivery)).accepted == 1
            again = await other.receive(1)
            assert (await VERBS[late](worker, delivery)).refused == (delivery,)
            assert (await other.complete(again)).accepted == len(again), "and does not touch who has it now"

    async def test_a_delivery_of_before_a_release_is_refused_though_the_same_worker_has_the_job_again(
        self, bench: Bench
    ) -> None:
        await made(bench)
        async with bench.queue() as worker:
            await worker.keep_alive()
            await worker.enqueue([NewJob()])
            before = await received_one(worker)
            await worker.release([before])
            again = await received_one(worker)
            assert (await worker.complete([before])).refused == (before,)
            assert (await worker.complete([again])).accepted == 1

    async def test_a_failed_attempt_is_charged_and_comes_back_after_its_delay(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob()])
            (delivery,) = await queue.receive(1)
            settled = await queue.retry(delivery, delay_seconds=30, error="boom")
            assert (settled.accepted, settled.dead_lettered) == (1, 0)
            assert await queue.receive(1) == []
            assert (await queue.depth()).delayed == 1
            await bench.pass_time(31)
            (again,) = await queue.receive(1)
            assert (again.job.id, again.job.attempt) == (delivery.job.id, 2)

    async def test_three_retries_are_four_attempts_then_the_dead_letter_queue(self, bench: Bench) -> None:
        await made(bench, max_retries=3)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name="doomed")])
            for attempt in (1, 2, 3, 4):
                (delivery,) = await queue.receive(1)
                assert delivery.job.attempt == attempt
                settled = await queue.retry(delivery, delay_seconds=0, error=f"error {attempt}")
                assert settled.dead_lettered == (attempt == 4)
            assert await queue.receive(1) == []
            assert await queue.depth() == Depth(dead_lettered=1)
        assert await bench.dead_letters() == [
            DeadLetter(name="doomed", reason="RetriesExhausted", error="error 4", attempt=4)
        ]

    async def test_the_failures_of_a_job_stay_with_it_the_newest_with_its_traceback(self, bench: Bench) -> None:
        await made(bench, max_retries=24)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name="doomed")])
            for attempt in range(1, 26):
                await queue.retry(
                    await received_one(queue), delay_seconds=0, error=f"error {attempt}", traceback=f"trace {attempt}"
                )
        (letter,) = await bench.dead_letters()
        assert [failure.attempt for failure in letter.failures] == list(range(6, 26)), "the last twenty"
        assert [failure.error for failure in letter.failures][-2:] == ["error 24", "error 25"]
        assert [failure.traceback for failure in letter.failures] == [None] * 19 + ["trace 25"]
        assert all(later.at >= earlier.at for earlier, later in zip(letter.failures, letter.failures[1:], strict=False))

    async def test_giving_up_is_a_failed_attempt_where_it_comes_with_an_error(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name="bad")])
            await queue.retry(await received_one(queue), delay_seconds=0, error="first")
            await queue.dead_letter(
                await received_one(queue), reason="GaveUp", error="no such picture", traceback="at line 1"
            )
        (letter,) = await bench.dead_letters()
        assert letter == DeadLetter(name="bad", reason="GaveUp", error="no such picture", attempt=2)
        assert [(failure.error, failure.traceback) for failure in letter.failures] == [
            ("first", None),
            ("no such picture", "at line 1"),
        ]

    async def test_a_job_can_be_given_up_at_once_with_a_reason(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name="bad")])
            (delivery,) = await queue.receive(1)
            settled = await queue.dead_letter(delivery, reason="Unreadable")
            assert (settled.accepted, settled.dead_lettered) == (1, 1)
        assert await bench.dead_letters() == [DeadLetter(name="bad", reason="Unreadable", error=None, attempt=1)]

    async def test_without_a_dead_letter_queue_a_job_out_of_attempts_is_dropped(self, bench: Bench) -> None:
        await made(bench, max_retries=0, dead_letter_enabled=False)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(), NewJob()])
            one, two = await queue.receive(2)
            assert (await queue.retry(one, delay_seconds=0, error="x")).dead_lettered == 1
            assert (await queue.dead_letter(two, reason="x")).dead_lettered == 1
            assert await queue.depth() == Depth()

    async def test_a_release_charges_nothing(self, bench: Bench) -> None:
        await made(bench, max_retries=0)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob()] * 2)
            for _ in range(3):
                deliveries = await queue.receive(2)
                assert [delivery.job.attempt for delivery in deliveries] == [1, 1]
                assert (await queue.release(deliveries)).accepted == 2
            deliveries = await queue.receive(2)
            await queue.release(deliveries, delay_seconds=10)
            assert (await queue.depth()).delayed == 2
            await bench.pass_time(11)
            assert [delivery.job.attempt for delivery in await queue.receive(2)] == [1, 1]

    async def test_a_batch_of_different_attempts_settles_as_one(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name="old")])
            await queue.retry((await queue.receive(1))[0], delay_seconds=0, error="x")
            await queue.enqueue([NewJob(name="new")])
            deliveries = await queue.receive(2)
            assert [delivery.job.attempt for delivery in deliveries] == [2, 1]
            assert (await queue.complete(deliveries)).accepted == 2


class LeaseContract:
    async def test_a_lost_workers_job_goes_back_uncharged_and_its_late_completion_is_refused(
        self, bench: Bench
    ) -> None:
        await made(bench, max_retries=0)
        async with bench.queue() as lost, bench.queue() as other:
            await lost.keep_alive()
            await lost.enqueue([NewJob()])
            (held,) = await lost.receive(1)
            assert await other.receive(1) == []
            await bench.pass_time(LEASE_SECONDS + 1)
            assert (await other.maintain()).rescued == 1
            (taken,) = await other.receive(1)
            assert (taken.job.id, taken.job.attempt) == (held.job.id, 1)
            assert (await lost.complete([held])).refused == (held,)
            assert (await lost.retry(held, delay_seconds=0, error="x")).refused == (held,)
            assert (await lost.release([held])).refused == (held,)
            assert (await lost.dead_letter(held, reason="x")).refused == (held,)
            with pytest.raises(LeaseLostError):
                await lost.keep_alive()
            assert (await other.complete([taken])).accepted == 1

    async def test_a_lease_kept_alive_holds(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as worker, bench.queue() as other:
            await worker.keep_alive()
            await worker.enqueue([NewJob()])
            (held,) = await worker.receive(1)
            for _ in range(3):
                await bench.pass_time(LEASE_SECONDS - 1)
                await worker.keep_alive()
                assert (await other.maintain()).rescued == 0
            assert (await worker.complete([held])).accepted == 1

    async def test_after_a_lost_lease_the_next_heartbeat_starts_another(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as worker, bench.queue() as other:
            await worker.keep_alive()
            await worker.enqueue([NewJob()])
            await worker.receive(1)
            await bench.pass_time(LEASE_SECONDS + 1)
            await other.maintain()
            assert await worker.receive(1) == [], "nothing is leased under a lease that is gone"
            with pytest.raises(LeaseLostError):
                await worker.keep_alive()
            assert await worker.receive(1) == [], "nor without one, while heartbeats are expected"
            await worker.keep_alive()
            await worker.maintain()
            assert len(await worker.receive(1)) == 1

    @every_verb
    async def test_who_lost_its_lease_can_say_nothing_of_its_jobs_any_more(self, bench: Bench, verb: str) -> None:
        await made(bench)
        async with bench.queue() as lost, bench.queue() as other:
            await lost.keep_alive()
            await lost.enqueue([NewJob()])
            held = await received_one(lost)
            await bench.pass_time(LEASE_SECONDS + 1)
            await other.maintain()
            assert (await VERBS[verb](lost, held)).refused == (held,), "before it knows"
            taken = await received_one(other)
            with pytest.raises(LeaseLostError):
                await lost.keep_alive()
            assert (await VERBS[verb](lost, held)).refused == (held,), "and after"
            assert (await other.complete([taken])).accepted == 1

    async def test_a_lease_that_ran_out_and_was_judged_by_nobody_is_as_good_as_new(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as slow, bench.queue() as other:
            await slow.keep_alive()
            await slow.enqueue([NewJob(), NewJob()])
            one, two = await slow.receive(2)
            await bench.pass_time(LEASE_SECONDS + 1)
            assert (await slow.complete([one])).accepted == 1
            await slow.keep_alive()
            assert (await other.maintain()).rescued == 0
            assert await other.receive(1) == []
            assert (await slow.complete([two])).accepted == 1

    async def test_without_heartbeats_the_visibility_timeout_is_the_lease(self, bench: Bench) -> None:
        await made(bench, visibility_timeout_seconds=100)
        async with bench.queue() as receiver, bench.queue() as other:
            await receiver.enqueue([NewJob()])
            (held,) = await receiver.receive(1)
            await bench.pass_time(99)
            assert (await other.maintain()).rescued == 0
            await bench.pass_time(2)
            assert (await other.maintain()).rescued == 1
            assert (await receiver.complete([held])).refused == (held,)

    async def test_closing_a_worker_gives_its_lease_back_at_once(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as other:
            async with bench.queue() as worker:
                await worker.keep_alive()
                await worker.enqueue([NewJob()])
                await worker.receive(1)
            assert len(await other.receive(1)) == 1


class GroupContract:
    async def test_jobs_of_a_group_come_in_order_one_at_a_time(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as one, bench.queue() as two:
            await one.enqueue([NewJob(name=name, group="g") for name in ("first", "second")])
            await two.enqueue([NewJob(name="third", group="g")])
            for name in ("first", "second", "third"):
                (delivery,) = await one.receive(10)
                assert delivery.job.name == name
                assert await two.receive(10) == []
                await one.complete([delivery])
            assert await one.depth() == Depth()

    async def test_groups_hold_neither_each_other_nor_jobs_without_one(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name=name, group=name[0]) for name in ("a1", "a2", "b1", "b2")])
            await queue.enqueue([NewJob(name="free")])
            assert sorted(names(await queue.receive(10))) == ["a1", "b1", "free"]

    async def test_priority_orders_groups_by_their_head_and_never_the_jobs_inside_one(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue(
                [
                    NewJob(name="a1", group="a", priority=1),
                    NewJob(name="a2", group="a", priority=10),
                    NewJob(name="b1", group="b", priority=5),
                    NewJob(name="b2", group="b", priority=0),
                    NewJob(name="free", priority=3),
                ]
            )
            order = []
            while deliveries := await queue.receive(1):
                order += names(deliveries)
                await queue.complete(deliveries)
            assert order == ["b1", "free", "a1", "a2", "b2"]

    async def test_priority_delay_and_group_together(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name="head", priority=10, delay_seconds=30, group="tenant-123")])
            await queue.enqueue([NewJob(name="next", group="tenant-123"), NewJob(name="bulk", priority=9)])
            depth = await queue.depth()
            assert (depth.ready, depth.delayed) == (1, 2)
            assert names(await queue.receive(10)) == ["bulk"], "the delayed head holds its group"
            await bench.pass_time(31)
            await queue.enqueue([NewJob(name="more", priority=9)])
            deliveries = await queue.receive(10)
            assert names(deliveries) == ["head", "more"]
            assert (deliveries[0].job.priority, deliveries[0].job.group) == (10, "tenant-123")
            await queue.complete(deliveries)
            assert names(await queue.receive(10)) == ["next"]

    async def test_a_delay_inside_a_group_counts_from_its_enqueue(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name="head", group="g"), NewJob(name="later", group="g", delay_seconds=30)])
            await queue.enqueue([NewJob(name="last", group="g")])
            head = await received_one(queue)
            await bench.pass_time(20)
            await queue.complete([head])
            assert await queue.receive(10) == [], "later is the head now, and not due yet"
            assert (await queue.depth()).delayed == 2
            await bench.pass_time(11)
            assert names(await queue.receive(10)) == ["later"]

    @pytest.mark.parametrize("verb", ["retry", "release"])
    @pytest.mark.parametrize("delay_seconds", [0, 30])
    async def test_a_head_that_goes_back_holds_its_group(self, bench: Bench, verb: str, delay_seconds: int) -> None:
        await made(bench)
        async with bench.queue() as queue, bench.queue() as other:
            await queue.enqueue([NewJob(name="head", group="g"), NewJob(name="next", group="g", priority=10)])
            head = await received_one(queue)
            if verb == "retry":
                await queue.retry(head, delay_seconds=delay_seconds, error="boom")
            else:
                await queue.release([head], delay_seconds=delay_seconds)
            if delay_seconds:
                assert await other.receive(10) == []
                await bench.pass_time(delay_seconds + 1)
            deliveries = await other.receive(10)
            assert names(deliveries) == ["head"]
            await other.complete(deliveries)
            assert names(await queue.receive(10)) == ["next"]

    @ends
    async def test_when_the_head_has_ended_the_next_comes(self, bench: Bench, verb: str) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name=name, group="g") for name in ("head", "next")])
            await VERBS[verb](queue, await received_one(queue))
            assert names(await queue.receive(10)) == ["next"]

    async def test_when_the_head_is_out_of_attempts_the_next_comes(self, bench: Bench) -> None:
        await made(bench, max_retries=0)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name=name, group="g") for name in ("head", "next")])
            await queue.retry(await received_one(queue), delay_seconds=0, error="boom")
            assert names(await queue.receive(10)) == ["next"]

    async def test_when_the_head_has_expired_the_next_comes(self, bench: Bench) -> None:
        await made(bench)
        soon = datetime.now(UTC) + timedelta(seconds=10)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name="head", group="g", expires_at=soon), NewJob(name="next", group="g")])
            await bench.pass_time(11)
            assert await queue.receive(10) == []
            assert await queue.depth() == Depth(delayed=1), "what has expired holds its group until it is given up"
            assert (await queue.maintain()).expired == 1
            assert names(await queue.receive(10)) == ["next"]
        assert [letter.name for letter in await bench.dead_letters()] == ["head"]

    async def test_a_job_can_expire_behind_the_head(self, bench: Bench) -> None:
        await made(bench)
        soon = datetime.now(UTC) + timedelta(seconds=10)
        async with bench.queue() as queue:
            await queue.enqueue(
                [
                    NewJob(name="head", group="g"),
                    NewJob(name="stale", group="g", expires_at=soon),
                    NewJob(name="next", group="g"),
                ]
            )
            head = await received_one(queue)
            await bench.pass_time(11)
            assert (await queue.maintain()).expired == 1
            await queue.complete([head])
            assert names(await queue.receive(10)) == ["next"]

    @pytest.mark.parametrize("place", ["head", "middle"])
    @pytest.mark.parametrize("looked_at", [False, True])
    async def test_a_cancelled_job_leaves_its_group_to_the_others(
        self, bench: Bench, place: str, *, looked_at: bool
    ) -> None:
        await made(bench)
        async with bench.queue() as queue:
            order = ["head", "middle", "last"]
            ids = await queue.enqueue([NewJob(name=name, group="g") for name in order])
            if looked_at:
                await queue.maintain()
            assert await cancel(bench, ids[order.index(place)]) == "cancelled"
            order.remove(place)
            for name in order:
                delivery = await received_one(queue)
                assert delivery.job.name == name
                await queue.complete([delivery])
            assert await queue.depth() == Depth()

    async def test_a_lost_workers_head_holds_its_group(self, bench: Bench) -> None:
        await made(bench)
        async with AsyncExitStack() as stack:
            dead, other = await working(bench, stack), await working(bench, stack)
            await dead.enqueue([NewJob(name="head", group="g"), NewJob(name="next", group="g", priority=10)])
            await received_one(dead)
            await after_the_death_of(bench, dead, witness=other)
            for name in ("head", "next"):
                delivery = await received_one(other)
                assert delivery.job.name == name
                await other.complete([delivery])

    async def test_a_batch_of_many_heads_settles_as_one(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue(
                [NewJob(group=f"{number}", priority=number % 11) for _ in range(2) for number in range(40)]
            )
            for _ in range(2):
                deliveries = await queue.receive(100)
                assert len({delivery.job.group for delivery in deliveries}) == len(deliveries) == 40
                assert (await queue.complete(deliveries)).accepted == 40
            assert await queue.depth() == Depth()

    async def test_receivers_and_producers_at_once_keep_every_group_in_order(self, bench: Bench) -> None:
        """Whatever becomes of the heads: completed, failed, handed back, given up, cancelled, expired."""
        await made(bench, max_retries=100)
        groups, jobs_each = [f"group-{number}" for number in range(6)], 12
        ended: list[str] = []
        running: set[str] = set()
        out_of_order: list[str] = []

        async def produce(queue: Queue, group: str) -> None:
            past = datetime(2000, 1, 1, tzinfo=UTC)
            for number in range(jobs_each):
                job = NewJob(name=f"{group}/{number:02}", group=group, priority=number % 3)
                if number % 12 == 11:
                    await queue.enqueue([structs.replace(job, expires_at=past)])
                    ended.append(job.name)
                elif number % 12 == 10:
                    (job_id,) = await queue.enqueue([structs.replace(job, run_at=datetime(2100, 1, 1, tzinfo=UTC))])
                    while (outcome := await cancel(bench, job_id)) == "requested":
                        await queue.maintain()
                    assert outcome in {"cancelled", None}
                    ended.append(job.name)
                else:
                    await queue.enqueue([job])

        async def run(queue: Queue, delivery: Delivery) -> None:
            name, group, attempt = delivery.job.name, str(delivery.job.group), delivery.job.attempt
            if group in running:
                out_of_order.append(f"{name} beside another")
            if any(other.startswith(group) and other > name for other in ended if other[-2:] < "10"):
                out_of_order.append(f"{name} too late")
            running.add(group)
            await asyncio.sleep(0)
            running.remove(group)
            verb = ["complete", "retry", "complete", "release", "dead_letter"][int(name[-2:]) % 5]
            if attempt > 1 or (verb == "release" and name in released):
                verb = "complete"
            if verb == "release":
                released.add(name)
            elif verb != "retry":
                ended.append(name)
            assert (await VERBS[verb](queue, delivery)).accepted == 1

        released: set[str] = set()

        async def work(queue: Queue) -> None:
            while len(ended) < len(groups) * jobs_each:
                for delivery in await queue.receive(3):
                    await run(queue, delivery)
                await queue.maintain()
                await queue.wait(0.01)

        async with AsyncExitStack() as stack:
            workers = [await working(bench, stack) for _ in range(4)]
            async with asyncio.timeout(60):
                await asyncio.gather(
                    *(work(worker) for worker in workers),
                    *(produce(workers[number % 4], group) for number, group in enumerate(groups)),
                )
            assert out_of_order == []
            while (depth := await workers[0].depth()).delayed or depth.ready:
                await workers[0].maintain()
        given_up = Counter(letter.reason for letter in await bench.dead_letters())
        assert given_up == {"Unreadable": len(groups) * 2, "Expired": len(groups)}


class DeduplicationContract:
    async def test_while_a_job_with_the_key_is_unfinished_no_other_is_enqueued(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue, bench.queue() as other:
            (first,) = await queue.enqueue([NewJob(name="first", deduplication_key="k")])
            (same,) = await other.enqueue([NewJob(name="second", deduplication_key="k", priority=10)])
            assert same == first
            delivery = await received_one(queue)
            assert (delivery.job.name, delivery.job.priority) == ("first", 0), "it is left as it was"
            assert await other.enqueue([NewJob(deduplication_key="k")]) == [first], "while it runs"
            await queue.retry(delivery, delay_seconds=30, error="boom")
            assert await other.enqueue([NewJob(deduplication_key="k")]) == [first], "while it waits for a retry"
            assert (await queue.depth()).delayed == 1

    @ends
    async def test_the_key_is_free_when_the_job_has_ended(self, bench: Bench, verb: str) -> None:
        await made(bench)
        async with bench.queue() as queue:
            (first,) = await queue.enqueue([NewJob(deduplication_key="k")])
            await VERBS[verb](queue, await received_one(queue))
            (second,) = await queue.enqueue([NewJob(deduplication_key="k")])
            assert second != first
            assert (await received_one(queue)).job.id == second

    async def test_the_key_is_free_when_the_job_was_cancelled_or_has_expired(self, bench: Bench) -> None:
        await made(bench)
        soon = datetime.now(UTC) + timedelta(seconds=10)
        async with bench.queue() as queue:
            cancelled, expired = await queue.enqueue(
                [NewJob(deduplication_key="a"), NewJob(deduplication_key="b", expires_at=soon)]
            )
            await cancel(bench, cancelled)
            await bench.pass_time(11)
            assert (await queue.enqueue([NewJob(deduplication_key="b")])) == [expired], "expired, but not yet given up"
            await queue.maintain()
            again = await queue.enqueue([NewJob(deduplication_key="a"), NewJob(deduplication_key="b")])
            assert {cancelled, expired}.isdisjoint(again)

    async def test_the_key_is_kept_for_a_window_though_the_job_has_ended(self, bench: Bench) -> None:
        await made(bench)
        job = NewJob(deduplication_key="k", deduplication_window_seconds=60)
        async with bench.queue() as queue:
            (first,) = await queue.enqueue([job])
            await queue.complete(await queue.receive(1))
            await bench.pass_time(50)
            await queue.maintain()
            assert await queue.enqueue([job]) == [first]
            assert await queue.receive(1) == []
            await bench.pass_time(11)
            (second,) = await queue.enqueue([job])
            assert second != first
            assert (await received_one(queue)).job.id == second

    @pytest.mark.parametrize("pruned", [False, True])
    async def test_a_window_that_is_over_frees_no_key_of_an_unfinished_job(self, bench: Bench, *, pruned: bool) -> None:
        await made(bench)
        job = NewJob(deduplication_key="k", deduplication_window_seconds=60)
        async with bench.queue() as queue:
            (first,) = await queue.enqueue([job])
            await bench.pass_time(61)
            if pruned:
                await queue.maintain()
            assert await queue.enqueue([job]) == [first]
            await queue.complete(await queue.receive(1))
            assert await queue.enqueue([job]) != [first]

    async def test_duplicates_inside_one_call_are_one_job(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            ids = await queue.enqueue(
                [
                    NewJob(name="a", deduplication_key="k"),
                    NewJob(name="b"),
                    NewJob(name="c", deduplication_key="k", group="g"),
                    NewJob(name="d", deduplication_key="other"),
                ]
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
                    producer.enqueue([NewJob(name=key, deduplication_key=key) for key in order])
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
            assert ((await queue.depth()).ready, (await other.depth()).ready) == (1, 1)


class SuspectContract:
    async def test_what_a_dead_worker_held_is_claimed_alone_by_who_holds_nothing(self, bench: Bench) -> None:
        await made(bench)
        async with AsyncExitStack() as stack:
            dead, busy, idle = [await working(bench, stack) for _ in range(3)]
            await dead.enqueue([NewJob(name="a"), NewJob(name="b")])
            await dead.receive(2)
            await busy.enqueue([NewJob(name="mine")])
            mine = await received_one(busy)
            await bench.pass_time(LEASE_SECONDS - 1)
            await busy.keep_alive()
            await bench.pass_time(2)
            await idle.keep_alive()
            assert (await idle.maintain()).rescued == 2
            await busy.maintain()
            assert await busy.receive(10) == [], "it holds a job"
            await idle.enqueue([NewJob(name="innocent", priority=10)])
            suspect = await received_one(idle)
            assert (suspect.job.name, suspect.is_suspect, suspect.job.attempt) == ("a", True, 1)
            assert await idle.receive(10) == [], "nothing comes beside a suspect"
            await busy.complete([mine])
            await busy.maintain()
            other_suspect = await received_one(busy)
            assert (other_suspect.job.name, other_suspect.is_suspect) == ("b", True)
            await idle.complete([suspect])
            await idle.maintain()
            innocent = await received_one(idle)
            assert (innocent.job.name, innocent.is_suspect) == ("innocent", False)

    async def test_a_worker_that_is_never_idle_makes_room_for_a_suspect(self, bench: Bench) -> None:
        await made(bench)
        async with AsyncExitStack() as stack:
            busy, dead = await working(bench, stack), await working(bench, stack)
            await dead.enqueue([NewJob(name="suspect")])
            await received_one(dead)
            await busy.enqueue([NewJob(name=f"{number}") for number in range(10)])
            held = await busy.receive(1)
            await bench.pass_time(LEASE_SECONDS + 1)
            await busy.keep_alive()
            assert (await busy.maintain()).rescued == 1
            assert await busy.receive(1) == [], "it takes no more, however much there is"
            await busy.complete(held)
            suspect = await received_one(busy)
            assert (suspect.job.name, suspect.is_suspect) == ("suspect", True)
            await busy.complete([suspect])
            assert len(await busy.receive(10)) == 9

    async def test_a_job_that_three_workers_died_of_alone_is_poisonous(self, bench: Bench) -> None:
        await made(bench, max_retries=0)
        async with AsyncExitStack() as stack:
            dying, witness = await working(bench, stack), await working(bench, stack)
            poison_id, _ = await dying.enqueue(
                [NewJob(name="poison", group="g", deduplication_key="k"), NewJob(group="g")]
            )
            for death in (1, 2, 3):
                poison = await received_one(dying)
                assert (poison.job.name, poison.job.attempt) == ("poison", 1)
                maintained = await after_the_death_of(bench, dying, witness=witness)
                assert (maintained.rescued, maintained.poisoned) == ((1, 0) if death < 3 else (0, 1))
            (letter,) = await bench.dead_letters()
            assert (letter.name, letter.reason, letter.attempt) == ("poison", "WorkerLost", 0)
            assert letter.error is not None
            assert (await received_one(witness)).job.name == "", "its group goes on without it"
            assert poison_id not in await witness.enqueue([NewJob(deduplication_key="k")]), "its key is free"

    async def test_who_died_beside_others_is_not_charged(self, bench: Bench) -> None:
        await made(bench)
        async with AsyncExitStack() as stack:
            dying, witness = await working(bench, stack), await working(bench, stack)
            await dying.enqueue([NewJob(name="innocent"), NewJob(name="poison")])
            await dying.receive(1)
            await dying.receive(1)
            assert (await after_the_death_of(bench, dying, witness=witness)).rescued == 2
            innocent = await received_one(dying)
            assert innocent.is_suspect
            await dying.complete([innocent])
            for death in (1, 2, 3):
                await received_one(dying)
                maintained = await after_the_death_of(bench, dying, witness=witness)
                assert maintained.poisoned == (death == 3), "the death beside another was not counted"

    @pytest.mark.parametrize("how", ["released", "closed"])
    async def test_a_suspect_handed_back_stays_one(self, bench: Bench, how: str) -> None:
        await made(bench)
        async with AsyncExitStack() as stack:
            dead, other = await working(bench, stack), await working(bench, stack)
            await dead.enqueue([NewJob(name="suspect")])
            await received_one(dead)
            await after_the_death_of(bench, dead, witness=other)
            async with bench.queue() as draining:
                await draining.keep_alive()
                await draining.maintain()
                suspect = await received_one(draining)
                if how == "released":
                    await draining.release([suspect])
            await other.enqueue([NewJob(name="innocent")])
            assert (await other.depth()).ready == 2
            await other.maintain()
            again = await received_one(other)
            assert (again.job.name, again.is_suspect, again.job.attempt) == ("suspect", True, 1)

    async def test_a_suspect_handed_back_with_a_delay_waits(self, bench: Bench) -> None:
        await made(bench)
        async with AsyncExitStack() as stack:
            dead, other = await working(bench, stack), await working(bench, stack)
            await dead.enqueue([NewJob()])
            await received_one(dead)
            await after_the_death_of(bench, dead, witness=other)
            await other.release([await received_one(other)], delay_seconds=30)
            await other.maintain()
            assert await other.receive(10) == []
            assert await other.depth() == Depth(delayed=1)
            await bench.pass_time(31)
            await other.keep_alive()
            await other.maintain()
            assert (await other.depth()).ready == 1
            assert (await received_one(other)).is_suspect

    async def test_a_suspect_that_fails_as_others_do_is_no_suspect_any_more(self, bench: Bench) -> None:
        await made(bench)
        async with AsyncExitStack() as stack:
            dying, witness = await working(bench, stack), await working(bench, stack)
            await dying.enqueue([NewJob(name="a")])
            for _ in range(2):
                await received_one(dying)
                await after_the_death_of(bench, dying, witness=witness)
            await dying.retry(await received_one(dying), delay_seconds=0, error="boom")
            await dying.enqueue([NewJob(name="b")])
            deliveries = await dying.receive(10)
            assert [(delivery.job.name, delivery.is_suspect) for delivery in deliveries] == [("a", False), ("b", False)]
            await dying.complete(deliveries[1:])
            assert (await after_the_death_of(bench, dying, witness=witness)).poisoned == 0, "its deaths are forgotten"

    async def test_suspects_come_by_priority_too(self, bench: Bench) -> None:
        await made(bench)
        async with AsyncExitStack() as stack:
            dead, other = await working(bench, stack), await working(bench, stack)
            await dead.enqueue([NewJob(name="low"), NewJob(name="high", priority=9)])
            await dead.receive(2)
            await after_the_death_of(bench, dead, witness=other)
            assert (await received_one(other)).job.name == "high"
            assert (await received_one(dead)).job.name == "low"

    async def test_tasks_of_one_worker_that_receive_at_once_take_no_suspect_beside_another_job(
        self, bench: Bench
    ) -> None:
        await made(bench)
        async with AsyncExitStack() as stack:
            dead, other = await working(bench, stack), await working(bench, stack)
            await dead.enqueue([NewJob(), NewJob(), NewJob()])
            await dead.receive(3)
            await after_the_death_of(bench, dead, witness=other)
            await other.enqueue([NewJob(), NewJob()])
            batches = await asyncio.gather(*(other.receive(1) for _ in range(5)))
            held = [delivery for batch in batches for delivery in batch]
            assert len(held) == 1 or not any(delivery.is_suspect for delivery in held)


class CancelContract:
    async def test_what_nobody_runs_is_gone_at_once(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            ids = await queue.enqueue(
                [
                    NewJob(),
                    NewJob(delay_seconds=60),
                    NewJob(group="g"),
                    NewJob(group="g"),
                    NewJob(deduplication_key="k"),
                ]
            )
            await queue.retry((await queue.receive(1))[0], delay_seconds=60, error="boom")
            for job_id in ids:
                assert await cancel(bench, job_id) == "cancelled"
                assert await cancel(bench, job_id) is None, "once is enough"
            assert await queue.depth() == Depth()
            assert await queue.receive(10) == []
        assert await bench.dead_letters() == []

    @pytest.mark.parametrize("job_id", ["0", "987654321"])
    async def test_what_is_not_there_can_not_be_cancelled(self, bench: Bench, job_id: str) -> None:
        await made(bench)
        assert await cancel(bench, job_id) is None

    async def test_a_running_job_is_stopped_by_its_worker(self, bench: Bench) -> None:
        await made(bench)
        async with AsyncExitStack() as stack:
            worker, other = await working(bench, stack), await working(bench, stack)
            (job_id, _) = await worker.enqueue([NewJob(name="a"), NewJob(name="b")])
            running, beside = await worker.receive(2)
            assert await cancel(bench, job_id) == "requested"
            assert await cancel(bench, job_id) == "requested"
            assert (await worker.maintain()).cancelled == 0, "nobody takes it from its worker"
            assert await other.keep_alive() == frozenset()
            assert await worker.keep_alive() == {job_id}
            assert await worker.keep_alive() == {job_id}, "until it is stopped"
            settled = await worker.discard(running)
            assert (settled.accepted, settled.dead_lettered) == (1, 0)
            assert await worker.keep_alive() == frozenset()
            assert (await worker.complete([beside])).accepted == 1
            assert (await worker.maintain()).cancelled == 0
            assert await worker.depth() == Depth()

    async def test_a_job_that_completes_before_it_is_stopped_is_completed(self, bench: Bench) -> None:
        await made(bench, completed_retention_seconds=60)
        async with bench.queue() as worker:
            await worker.keep_alive()
            (job_id,) = await worker.enqueue([NewJob(name="quick")])
            running = await received_one(worker)
            assert await cancel(bench, job_id) == "requested"
            assert (await worker.complete([running])).accepted == 1
            assert await worker.keep_alive() == frozenset()
            assert (await worker.maintain()).cancelled == 0
        assert await bench.finished() == [Finished(name="quick", outcome="completed", attempt=0)]

    @pytest.mark.parametrize("verb", ["retry", "release"])
    @pytest.mark.parametrize("group", [None, "g"])
    async def test_a_job_that_goes_back_before_it_is_stopped_does_not_run_again(
        self, bench: Bench, verb: str, group: str | None
    ) -> None:
        await made(bench)
        async with bench.queue() as worker:
            await worker.keep_alive()
            (job_id,) = await worker.enqueue([NewJob(group=group)])
            running = await received_one(worker)
            await cancel(bench, job_id)
            assert (await VERBS[verb](worker, running)).accepted == 1
            assert (await worker.maintain()).cancelled == 1
            assert await worker.receive(10) == []
            assert await worker.depth() == Depth()

    async def test_who_takes_a_cancelled_job_that_went_back_is_told_as_well(self, bench: Bench) -> None:
        await made(bench)
        async with AsyncExitStack() as stack:
            worker, other = await working(bench, stack), await working(bench, stack)
            (job_id,) = await worker.enqueue([NewJob()])
            running = await received_one(worker)
            await cancel(bench, job_id)
            await worker.release([running])
            again = await received_one(other)
            assert await other.keep_alive() == {job_id}
            assert (await other.discard(again)).accepted == 1

    async def test_a_cancelled_job_whose_worker_dies_does_not_run_again(self, bench: Bench) -> None:
        await made(bench, completed_retention_seconds=60)
        async with AsyncExitStack() as stack:
            dead, other = await working(bench, stack), await working(bench, stack)
            (job_id,) = await dead.enqueue([NewJob(name="a")])
            await received_one(dead)
            assert await cancel(bench, job_id) == "requested"
            assert (await after_the_death_of(bench, dead, witness=other)).cancelled == 1
            assert await other.receive(10) == []
            assert await other.depth() == Depth()
        assert await bench.finished() == [Finished(name="a", outcome="cancelled", attempt=0)]
        assert await bench.dead_letters() == []

    async def test_a_cancelled_job_that_is_out_of_attempts_is_dead(self, bench: Bench) -> None:
        await made(bench, max_retries=0)
        async with bench.queue() as worker:
            await worker.keep_alive()
            (job_id,) = await worker.enqueue([NewJob()])
            running = await received_one(worker)
            await cancel(bench, job_id)
            await worker.retry(running, delay_seconds=0, error="boom")
            assert (await worker.maintain()).cancelled == 0
            assert await worker.depth() == Depth(dead_lettered=1)

    async def test_a_suspect_can_be_cancelled(self, bench: Bench) -> None:
        await made(bench)
        async with AsyncExitStack() as stack:
            dead, other = await working(bench, stack), await working(bench, stack)
            (job_id,) = await dead.enqueue([NewJob()])
            await received_one(dead)
            await after_the_death_of(bench, dead, witness=other)
            assert await cancel(bench, job_id) == "cancelled"
            assert await other.depth() == Depth()

    async def test_a_job_is_either_cancelled_or_claimed_never_both(self, bench: Bench) -> None:
        await made(bench)
        async with AsyncExitStack() as stack:
            workers = [await working(bench, stack) for _ in range(2)]
            ids = await workers[0].enqueue([NewJob(group=f"{number}" if number % 2 else None) for number in range(60)])

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
            told = (await workers[0].keep_alive()) | (await workers[1].keep_alive())
            assert told == {delivery.job.id for _, delivery in held}
            for worker, delivery in held:
                assert (await worker.discard(delivery)).accepted == 1
            await workers[0].maintain()
            assert await workers[0].depth() == Depth()


async def killed(queue: Queue, *jobs: NewJob, reason: str = "Broken") -> list[str]:
    """Enqueue these jobs, and let them die."""
    ids = await queue.enqueue(jobs)
    while deliveries := await queue.receive(100):
        for delivery in deliveries:
            await queue.dead_letter(delivery, reason=reason, error="disk on fire", traceback="Traceback: …")
    return ids


async def listed(bench: Bench, which: JobFilter, *, limit: int = 100) -> list[str]:
    return [record.job.name for record in await (await bench.inspector()).jobs(QUEUE, which, limit=limit)]


async def record_of(bench: Bench, job_id: str) -> JobRecord:
    record = await (await bench.inspector()).job(QUEUE, job_id)
    assert record is not None
    return record


class InspectContract:
    async def test_queues_are_listed_with_what_they_hold(self, bench: Bench) -> None:
        await made(bench, max_retries=7)
        await bench.provisioner.ensure("letters", QueueSettings(), Owner(namespace="post", name="letters", uid="2"))
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(), NewJob(delay_seconds=60)])
        await pause(bench, paused=True)
        letters, orders = await (await bench.inspector()).queues()
        assert (letters.name, letters.owner) == ("letters", Owner(namespace="post", name="letters", uid="2"))
        assert (letters.depth, letters.paused_by_hand) == (Depth(), False)
        assert (orders.name, orders.owner, orders.settings.max_retries) == (QUEUE, OWNER, 7)
        assert (orders.depth.ready, orders.depth.delayed, orders.paused_by_hand) == (1, 1, True)

    async def test_a_queue_that_does_not_exist_is_said(self, bench: Bench) -> None:
        await made(bench)
        inspector = await bench.inspector()
        for asked in (
            inspector.pause("nowhere", paused=True),
            inspector.job("nowhere", "1"),
            inspector.jobs("nowhere", JobFilter()),
            inspector.cancel("nowhere", "1"),
            inspector.retry_now("nowhere", "1"),
            inspector.redrive("nowhere", JobFilter()),
            inspector.purge("nowhere", JobFilter()),
            inspector.recover_stuck("nowhere", older_than_seconds=0),
        ):
            with pytest.raises(QueueNotFoundError, match="nowhere"):
                await asked

    async def test_a_job_is_known_wherever_it_stands(self, bench: Bench) -> None:
        await made(bench, completed_retention_seconds=60)
        async with AsyncExitStack() as stack:
            queue = await stack.enter_async_context(bench.queue())
            (dead,) = await killed(queue, NewJob(name="dead"))
            completed, cancelled = await queue.enqueue([NewJob(name="completed"), NewJob(name="cancelled")])
            await queue.complete(await queue.receive(1))
            await cancel(bench, cancelled)
            running, blocked = await queue.enqueue([NewJob(name=name, group="g") for name in ("running", "blocked")])
            await queue.receive(1)
            worker, lost = await working(bench, stack), await working(bench, stack)
            (suspect,) = await lost.enqueue([NewJob(name="suspect")])
            await received_one(lost)
            await after_the_death_of(bench, lost, witness=worker)
            ready, delayed = await lost.enqueue([NewJob(name="ready"), NewJob(name="delayed", delay_seconds=60)])
            states: dict[str, JobState] = {
                suspect: "suspect",
                dead: "dead",
                completed: "completed",
                cancelled: "cancelled",
                running: "running",
                blocked: "blocked",
                ready: "ready",
                delayed: "delayed",
            }
            for job_id, state in states.items():
                record = await record_of(bench, job_id)
                assert (record.job.id, record.job.name, record.state) == (job_id, state, state)
                assert (record.holder is not None) == (state == "running")
                assert (record.ended_at is not None) == (state in {"dead", "completed", "cancelled"})
                assert await listed(bench, JobFilter(state=state)) == [state]
            assert (await record_of(bench, running)).job.attempt == 1, "the attempt under way"
            record = await record_of(bench, dead)
            assert (record.job.attempt, record.reason) == (1, "Broken")
            assert [(failure.error, failure.traceback) for failure in record.failures] == [
                ("disk on fire", "Traceback: …")
            ]
            assert await listed(bench, JobFilter()) == [
                *("running", "suspect", "ready"),
                *("delayed", "blocked"),
                *("cancelled", "completed"),
            ], "the dead only where they are asked for"

    @pytest.mark.parametrize("job_id", ["0", "987654321", "no number", "", "-1", "9" * 30, "٣"])
    async def test_there_is_no_job_of_such_an_id(self, bench: Bench, job_id: str) -> None:
        await made(bench)
        inspector = await bench.inspector()
        assert await inspector.job(QUEUE, job_id) is None
        assert await inspector.cancel(QUEUE, job_id) is None
        assert not await inspector.retry_now(QUEUE, job_id)

    async def test_jobs_are_listed_as_they_would_be_claimed_then_those_that_wait(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue(
                [
                    NewJob(name="later", delay_seconds=120),
                    NewJob(name="soon", delay_seconds=60),
                    NewJob(name="second"),
                    NewJob(name="first", priority=5),
                    NewJob(name="third", group="g"),
                    NewJob(name="behind", group="g"),
                ]
            )
            # Before anybody has looked at the group, and after.
            for _ in range(2):
                assert await listed(bench, JobFilter()) == ["first", "second", "third", "soon", "later", "behind"]
                assert await listed(bench, JobFilter(), limit=4) == ["first", "second", "third", "soon"]
                await queue.maintain()

    async def test_filters_must_all_hold(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            old, _ = await queue.enqueue([NewJob(name="a", payload=b"1"), NewJob(name="b")])
            await bench.pass_time(3600)
            new, delayed = await queue.enqueue([NewJob(name="a", payload=b"2"), NewJob(name="a", delay_seconds=60)])
            inspector = await bench.inspector()

            async def ids(which: JobFilter) -> list[str]:
                return [record.job.id for record in await inspector.jobs(QUEUE, which)]

            assert await ids(JobFilter(name="a")) == [old, new, delayed]
            assert await ids(JobFilter(name="a", older_than_seconds=1800)) == [old]
            assert await ids(JobFilter(state="delayed")) == [delayed]
            assert await ids(JobFilter(ids=(delayed, new, "no number"))) == [new, delayed]
            assert await ids(JobFilter(ids=(delayed, new), state="ready")) == [new]
            assert await ids(JobFilter(reason="Broken")) == []

    async def test_a_delayed_job_can_be_made_due_and_a_dead_one_put_back(self, bench: Bench) -> None:
        await made(bench)
        inspector = await bench.inspector()
        async with bench.queue() as queue:
            (dead,) = await killed(queue, NewJob(name="dead"))
            delayed, ready, running = await queue.enqueue(
                [NewJob(name="delayed", delay_seconds=60), NewJob(name="ready"), NewJob(name="running", priority=9)]
            )
            await queue.receive(1)
            assert await inspector.retry_now(QUEUE, delayed)
            assert await inspector.retry_now(QUEUE, dead)
            assert not await inspector.retry_now(QUEUE, ready)
            assert not await inspector.retry_now(QUEUE, running)
            assert sorted(names(await queue.receive(10))) == ["dead", "delayed", "ready"]

    async def test_redriven_jobs_keep_their_ids_and_have_all_attempts_before_them(self, bench: Bench) -> None:
        await made(bench, max_retries=0)
        inspector = await bench.inspector()
        async with bench.queue() as queue:
            ids = await killed(queue, NewJob(name="a", priority=3), NewJob(name="b"))
            assert await inspector.redrive(QUEUE, JobFilter()) == 2
            assert await inspector.redrive(QUEUE, JobFilter()) == 0
            deliveries = await queue.receive(10)
            assert [(delivery.job.id, delivery.job.attempt) for delivery in deliveries] == [(ids[0], 1), (ids[1], 1)]
            await queue.retry(deliveries[0], delay_seconds=0, error="still burning")
        assert [failure.error for failure in (await record_of(bench, ids[0])).failures] == [
            "disk on fire",
            "still burning",
        ]

    async def test_only_what_is_meant_is_redriven_or_purged(self, bench: Bench) -> None:
        await made(bench)
        inspector = await bench.inspector()
        async with bench.queue() as queue:
            await killed(queue, NewJob(name="old"))
            await bench.pass_time(3600)
            (by_id,) = await killed(queue, NewJob(name="x"))
            await killed(queue, NewJob(name="by-name"))
            await killed(queue, NewJob(name="by-reason"), reason="Expired")
            await queue.enqueue([NewJob(name="alive", delay_seconds=60)])
            for act in (inspector.redrive, inspector.purge):
                assert await act(QUEUE, JobFilter(name="by-name", reason="Expired")) == 0
                assert await act(QUEUE, JobFilter(state="delayed")) == 0
                assert await act(QUEUE, JobFilter(name="alive")) == 0
            assert await inspector.purge(QUEUE, JobFilter(name="by-name")) == 1
            for which, name in (
                (JobFilter(ids=(by_id, "999", "nonsense")), "x"),
                (JobFilter(reason="Expired"), "by-reason"),
                (JobFilter(older_than_seconds=1800), "old"),
            ):
                assert await inspector.redrive(QUEUE, which) == 1
                # It has its old place, before where a slow connection's receiver looks every time.
                assert names(await queue.receive(10, wait_seconds=5)) == [name]
            assert (await queue.depth()).dead_lettered == 0

    async def test_a_redriven_job_goes_behind_the_head_of_its_group(self, bench: Bench) -> None:
        await made(bench)
        inspector = await bench.inspector()
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name="first", group="g"), NewJob(name="second", group="g")])
            await queue.dead_letter(await received_one(queue), reason="Broken")
            second = await received_one(queue)
            await queue.enqueue([NewJob(name="third", group="g")])
            assert await inspector.redrive(QUEUE, JobFilter()) == 1
            assert await queue.receive(10) == [], "one at a time"
            await queue.complete([second])
            for name in ("first", "third"):
                delivery = await received_one(queue)
                assert delivery.job.name == name
                await queue.complete([delivery])

    async def test_a_redriven_job_takes_its_key_again_where_it_is_free(self, bench: Bench) -> None:
        await made(bench)
        inspector = await bench.inspector()
        async with bench.queue() as queue:
            (kept,) = await killed(queue, NewJob(deduplication_key="kept", deduplication_window_seconds=60))
            (free,) = await killed(queue, NewJob(deduplication_key="free"))
            (lost,) = await killed(queue, NewJob(deduplication_key="lost"))
            await queue.enqueue([NewJob(deduplication_key="lost")])
            assert await inspector.redrive(QUEUE, JobFilter()) == 2
            assert await queue.enqueue([NewJob(deduplication_key=key) for key in ("kept", "free")]) == [kept, free]
            assert (await record_of(bench, lost)).state == "dead", "another has its key"
            assert not await inspector.retry_now(QUEUE, lost)

    async def test_a_redriven_job_has_as_long_to_start_as_a_new_one(self, bench: Bench) -> None:
        await made(bench, message_retention_seconds=60)
        inspector = await bench.inspector()
        async with bench.queue() as queue:
            (job_id,) = await queue.enqueue([NewJob()])
            await bench.pass_time(61)
            assert (await queue.maintain()).expired == 1
            assert await inspector.redrive(QUEUE, JobFilter(reason="Expired")) == 1
            await bench.pass_time(50)
            assert (await received_one(queue)).job.id == job_id

    async def test_what_nobody_keeps_alive_can_be_put_back_by_hand(self, bench: Bench) -> None:
        await made(bench)
        inspector = await bench.inspector()
        async with AsyncExitStack() as stack:
            alive, silent = await working(bench, stack), await working(bench, stack)
            held, stuck = await alive.enqueue([NewJob(name="held"), NewJob(name="stuck")])
            await alive.receive(1)
            late = await received_one(silent)
            await bench.pass_time(100)
            await alive.keep_alive()
            assert await inspector.recover_stuck(QUEUE, older_than_seconds=200) == []
            assert await inspector.recover_stuck(QUEUE, older_than_seconds=60) == [stuck]
            assert await inspector.recover_stuck(QUEUE, older_than_seconds=60) == []
            assert ((await record_of(bench, stuck)).state, (await record_of(bench, held)).state) == (
                "suspect",
                "running",
            )
            assert (await silent.complete([late])).refused == (late,)
            with pytest.raises(LeaseLostError):
                await silent.keep_alive()


class ProgressContract:
    async def test_how_far_a_running_job_is_can_be_seen_and_the_newest_word_holds(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as worker:
            await worker.keep_alive()
            first, second = await worker.enqueue([NewJob(name="a"), NewJob(name="b")])
            delivery, beside = await worker.receive(2)
            assert (await record_of(bench, first)).progress is None
            await worker.report_progress([(delivery, Progress(fraction=0.25, message="page 1"))])
            await worker.report_progress(
                [
                    (beside, Progress(message='half a "snowman" \u2603')),
                    (delivery, Progress(fraction=0.5, message="page 2")),
                ]
            )
            assert (await record_of(bench, first)).progress == Progress(fraction=0.5, message="page 2")
            assert (await record_of(bench, second)).progress == Progress(message='half a "snowman" \u2603')

    async def test_a_message_that_no_database_stores_keeps_no_other_back(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as worker:
            await worker.keep_alive()
            first, second = await worker.enqueue([NewJob(name="a"), NewJob(name="b")])
            delivery, beside = await worker.receive(2)
            odd = Progress(fraction=0.5, message="page\x00 \ud800 2")
            await worker.report_progress([(delivery, odd), (beside, Progress(fraction=0.25, message="page 1"))])
            shown = (await record_of(bench, first)).progress
            assert shown is not None
            assert (shown.fraction, shown.message[:4], shown.message[-1]) == (0.5, "page", "2")
            assert (await record_of(bench, second)).progress == Progress(fraction=0.25, message="page 1")

    async def test_it_goes_with_the_run(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as worker:
            await worker.keep_alive()
            (job_id,) = await worker.enqueue([NewJob()])
            delivery = await received_one(worker)
            await worker.report_progress([(delivery, Progress(fraction=0.9))])
            await worker.release([delivery])
            assert (await record_of(bench, job_id)).progress is None
            delivery = await received_one(worker)
            assert (await record_of(bench, job_id)).progress is None

    async def test_who_holds_a_job_no_more_has_nothing_to_say_of_it(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as worker, bench.queue() as other:
            await worker.keep_alive()
            await other.keep_alive()
            (job_id,) = await worker.enqueue([NewJob()])
            late = await received_one(worker)
            await worker.release([late])
            await received_one(other)
            await worker.report_progress([(late, Progress(fraction=0.9))])
            assert (await record_of(bench, job_id)).progress is None


class HistoryContract:
    async def test_finished_jobs_are_kept_where_the_queue_says_so_and_for_so_long(self, bench: Bench) -> None:
        await made(bench, completed_retention_seconds=60)
        async with bench.queue() as queue:
            _, _, waiting = await queue.enqueue([NewJob(name="one"), NewJob(name="two"), NewJob(name="three")])
            one, two = await queue.receive(2)
            await queue.complete([one])
            await queue.retry(two, delay_seconds=0, error="boom")
            await bench.pass_time(30)
            await cancel(bench, waiting)
            await queue.complete(await queue.receive(1))
            assert await bench.finished() == [
                Finished(name="one", outcome="completed", attempt=0),
                Finished(name="three", outcome="cancelled", attempt=0),
                Finished(name="two", outcome="completed", attempt=1),
            ]
            await bench.pass_time(31)
            assert (await queue.maintain()).pruned == 1
            assert [job.name for job in await bench.finished()] == ["three", "two"]
            assert await queue.depth() == Depth(), "history is no work"

    async def test_without_a_history_a_finished_job_is_gone(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            _, cancelled = await queue.enqueue([NewJob(), NewJob()])
            await queue.complete(await queue.receive(1))
            await cancel(bench, cancelled)
        assert await bench.finished() == []

    async def test_a_history_that_is_given_up_is_pruned(self, bench: Bench) -> None:
        await made(bench, completed_retention_seconds=60)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob()])
            await queue.complete(await queue.receive(1))
            await made(bench, completed_retention_seconds=0)
            assert (await queue.maintain()).pruned == 1
        assert await bench.finished() == []


class HousekeepingContract:
    async def test_a_job_never_started_in_time_expires_to_the_dead_letter_queue(self, bench: Bench) -> None:
        await made(bench, message_retention_seconds=60)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(name="stale"), NewJob(name="late", delay_seconds=30)])
            await bench.pass_time(61)
            assert names(await queue.receive(10)) == ["late"], "retention counts from when a job could start"
            assert (await queue.depth()).ready == 0, "an expired job is not ready"
            assert (await queue.maintain()).expired == 1
        assert await bench.dead_letters() == [DeadLetter(name="stale", reason="Expired", error=None, attempt=0)]

    async def test_a_job_that_has_been_started_does_not_expire(self, bench: Bench) -> None:
        await made(bench, message_retention_seconds=60)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob()])
            (delivery,) = await queue.receive(1)
            await queue.retry(delivery, delay_seconds=0, error="x")
            await bench.pass_time(61)
            assert (await queue.maintain()).expired == 0
            assert (await queue.depth()).ready == 1
            assert len(await queue.receive(1)) == 1

    async def test_old_dead_letters_are_pruned(self, bench: Bench) -> None:
        await made(bench, dead_letter_retention_days=14)
        async with bench.queue() as queue:
            for name in ("old", "young"):
                await queue.enqueue([NewJob(name=name)])
                (delivery,) = await queue.receive(1)
                await queue.dead_letter(delivery, reason="x")
                await bench.pass_time(10 * 86_400)
            assert (await queue.maintain()).pruned == 1
        assert [letter.name for letter in await bench.dead_letters()] == ["young"]


class DepthContract:
    async def test_every_job_is_counted_once_and_where_it_stands(self, bench: Bench) -> None:
        await made(bench, max_retries=0)
        async with bench.queue() as queue:
            await queue.keep_alive()
            await queue.enqueue([NewJob(priority=9)] * 3)
            running, dead, _ = await queue.receive(3)
            await queue.retry(dead, delay_seconds=0, error="x")
            await queue.complete([running])
            due = NewJob(delay_seconds=10)
            waiting = NewJob(delay_seconds=100)
            expired = NewJob(expires_at=datetime.now(UTC) + timedelta(seconds=5))
            expired_in_time_to_come = NewJob(delay_seconds=10, expires_at=datetime.now(UTC) + timedelta(seconds=5))
            await queue.enqueue([NewJob(), due, waiting, expired, expired_in_time_to_come])
            await bench.pass_time(20)
            await queue.keep_alive()
            depth = await queue.depth()
            assert (depth.ready, depth.delayed, depth.in_flight, depth.dead_lettered) == (2, 1, 1, 1)
            assert 20 <= depth.oldest_ready_age_seconds < 60

    async def test_groups_suspects_and_hand_backs_are_counted_where_they_stand(self, bench: Bench) -> None:
        await made(bench)
        soon = datetime.now(UTC) + timedelta(seconds=5)
        async with AsyncExitStack() as stack:
            dead, worker = await working(bench, stack), await working(bench, stack)
            await dead.enqueue([NewJob(name="suspect"), NewJob(name="delayed suspect")])
            await dead.receive(2)
            await after_the_death_of(bench, dead, witness=worker)
            suspect = await received_one(worker)
            await worker.release([suspect], delay_seconds=100)
            await worker.enqueue([NewJob(group="running", priority=10), NewJob(group="running")])
            async with bench.queue() as receiver:
                assert len(await receiver.receive(1)) == 1
                await worker.enqueue(
                    [
                        *(NewJob(group="due"), NewJob(group="due"), NewJob(group="due", delay_seconds=100)),
                        *(NewJob(group="delayed", delay_seconds=100), NewJob(group="delayed")),
                        *(NewJob(group="stale", expires_at=soon), NewJob(group="stale")),
                        NewJob(group="lone", delay_seconds=10),
                    ]
                )
                # Ready: a suspect, the heads of due and lone. Delayed: the other suspect, one behind a running head,
                # two behind due, both of delayed, one behind stale, whose own head is nowhere until it is given up.
                await bench.pass_time(20)
                await worker.keep_alive()
                depth = await worker.depth()
                assert (depth.ready, depth.delayed, depth.in_flight, depth.dead_lettered) == (3, 7, 1, 0)
                assert 20 <= depth.oldest_ready_age_seconds < 60
                assert (await worker.maintain()).expired == 1
                depth = await worker.depth()
                assert (depth.ready, depth.delayed, depth.in_flight, depth.dead_lettered) == (4, 6, 1, 1)

    async def test_what_a_dead_worker_holds_counts_as_ready(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as dead, bench.queue() as alive:
            await dead.enqueue([NewJob(), NewJob()])
            await dead.keep_alive()
            await dead.receive(1)
            await bench.pass_time(LEASE_SECONDS + 1)
            await alive.keep_alive()
            await alive.receive(1)
            depth = await alive.depth()
            assert (depth.ready, depth.in_flight) == (1, 1)
            assert depth.oldest_ready_age_seconds >= LEASE_SECONDS

    async def test_the_operator_counts_as_the_workers_do(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(), NewJob(delay_seconds=60)])
            counted = await bench.backlog.depths([QUEUE, "no-such-queue"])
            assert set(counted) == {QUEUE}
            assert (counted[QUEUE].ready, counted[QUEUE].delayed) == (1, 1)
            shared = await queue.depth(max_age_seconds=60)
            assert (shared.ready, shared.delayed) == (1, 1)

    async def test_counting_at_once_gives_everybody_the_same(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as one, bench.queue() as two:
            await one.enqueue([NewJob()] * 10)
            depths = await asyncio.gather(*(queue.depth(max_age_seconds=60) for queue in (one, two, one, two)))
            assert {depth.ready for depth in depths} == {10}


class ProvisionContract:
    async def test_making_a_queue_twice_changes_nothing(self, bench: Bench) -> None:
        first = await bench.provisioner.ensure(QUEUE, QueueSettings(), OWNER)
        second = await bench.provisioner.ensure(QUEUE, QueueSettings(), OWNER)
        assert (first.changed, second.changed) == (True, False)
        assert first.schema_version == second.schema_version

    async def test_settings_reach_a_queue_that_is_open(self, bench: Bench) -> None:
        await made(bench, max_retries=3)
        async with bench.queue() as queue:
            assert queue.settings.max_retries == 3
            assert (await bench.provisioner.ensure(QUEUE, QueueSettings(max_retries=7), OWNER)).changed
            await queue.maintain()
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
            assert names(await queue.receive(1)) == ["kept"]

    async def test_removing_takes_everything_and_is_safe_to_repeat(self, bench: Bench) -> None:
        await made(bench, completed_retention_seconds=60)
        async with bench.queue() as queue:
            await queue.keep_alive()
            await queue.enqueue([NewJob(priority=10), NewJob(priority=10), NewJob(priority=10)])
            running, dead, finished = await queue.receive(3)
            await queue.dead_letter(dead, reason="x")
            await queue.complete([finished])
            await cancel(bench, running.job.id)
            await queue.enqueue([NewJob(), NewJob(delay_seconds=60), NewJob(group="g"), NewJob(group="g")])
            await queue.enqueue(
                [NewJob(deduplication_key="k", deduplication_window_seconds=1000, group="h", delay_seconds=60)]
            )
            await queue.maintain()
            assert await bench.provisioner.remove(QUEUE, OWNER)
            assert (await queue.complete([running])).refused == (running,)
            with pytest.raises(LeaseLostError):
                await queue.keep_alive()
            with pytest.raises(QueueNotFoundError):
                await queue.enqueue([NewJob()])
        assert not await bench.provisioner.remove(QUEUE, OWNER)
        with pytest.raises(QueueNotFoundError):
            async with bench.queue():
                pass
        await made(bench, completed_retention_seconds=60)
        assert (await bench.backlog.depths([QUEUE]))[QUEUE] == Depth()
        assert (await bench.dead_letters(), await bench.finished()) == ([], [])
        async with bench.queue() as queue:
            assert await queue.receive(10) == []
            (job_id,) = await queue.enqueue([NewJob(deduplication_key="k")])
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


class QueueContract(
    EnqueueContract,
    ReceiveContract,
    SettleContract,
    LeaseContract,
    GroupContract,
    DeduplicationContract,
    SuspectContract,
    CancelContract,
    InspectContract,
    ProgressContract,
    HistoryContract,
    HousekeepingContract,
    DepthContract,
    ProvisionContract,
):
    """All of it."""
