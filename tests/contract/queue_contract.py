"""What every queue backend promises, verb by verb. A backend's test module subclasses these and gives a `bench`."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

import pytest

from headrace.job import NewJob
from headrace.queues.base import (
    Depth,
    LeaseLostError,
    Owner,
    PlaceTakenError,
    QueueNotFoundError,
    QueueSettings,
    UnsupportedCapabilityError,
)

if TYPE_CHECKING:
    from headrace.queues.base import Backlog, Delivery, Provisioner, Queue

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


class Bench(Protocol):
    """One backend under test, with a clock that only the test moves on."""

    provisioner: Provisioner
    backlog: Backlog

    def queue(self, *, lease_seconds: float = LEASE_SECONDS) -> Queue:
        """One more worker's or producer's own view of the queue; not yet open."""
        ...

    async def pass_time(self, seconds: float) -> None:
        """Let everything in the backend be older by so much."""
        ...

    async def dead_letters(self) -> list[DeadLetter]:
        """The dead-letter queue, oldest first."""
        ...


async def made(bench: Bench, **settings: object) -> None:
    await bench.provisioner.ensure(QUEUE, QueueSettings(**settings), OWNER)  # type: ignore[arg-type]


def names(deliveries: list[Delivery]) -> list[str]:
    return [delivery.job.name for delivery in deliveries]


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
        )
        async with bench.queue() as queue:
            (job_id,) = await queue.enqueue([job])
            (delivery,) = await queue.receive(10)
        got = delivery.job
        assert (got.id, got.queue, got.name, got.payload) == (job_id, QUEUE, "resize", b"\x00\xff")
        assert (got.content_type, got.headers, got.priority) == ("image/png", {"traceparent": "00-é"}, 7)
        assert (got.expires_at, got.attempt, got.run_at) == (expires_at, 1, got.enqueued_at)

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

    @pytest.mark.parametrize("job", [NewJob(group="g"), NewJob(deduplication_key="k")])
    async def test_what_the_backend_lacks_is_refused_and_nothing_is_enqueued(self, bench: Bench, job: NewJob) -> None:
        await made(bench)
        async with bench.queue() as queue:
            assert not queue.capabilities.groups
            assert not queue.capabilities.deduplication
            with pytest.raises(UnsupportedCapabilityError, match=r"group|deduplication_key"):
                await queue.enqueue([NewJob(), job])
            assert await queue.depth() == Depth()


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
            assert len(await worker.receive(1)) == 1

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
        await made(bench)
        async with bench.queue() as queue:
            await queue.enqueue([NewJob(), NewJob(delay_seconds=60), NewJob()])
            await queue.receive(1)
        assert await bench.provisioner.remove(QUEUE, OWNER)
        assert not await bench.provisioner.remove(QUEUE, OWNER)
        with pytest.raises(QueueNotFoundError):
            async with bench.queue():
                pass
        await made(bench)
        assert (await bench.backlog.depths([QUEUE]))[QUEUE] == Depth()

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
    HousekeepingContract,
    DepthContract,
    ProvisionContract,
):
    """All of it."""
