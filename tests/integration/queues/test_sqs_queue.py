"""Working on a queue in SQS: what is charged, what is dead, what calls cost, and what a stop leaves behind."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from headrace.idempotency import failure_counts_in, store_from_url
from headrace.job import NewJob
from headrace.queues.base import Maintained
from headrace.queues.envelope import encode, made
from headrace.queues.errors import QueueNotFoundError
from headrace.queues.settlement import Failure, Retry, Settled
from headrace.queues.sqs.messages import mark_of
from support.sqs import QUEUE, Sqs, queues_on
from support.verbs import complete, dead_letter, enqueue, release, retry
from support.worker_process import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from headrace.queues.base import Delivery, Queue
    from headrace.queues.sqs.queue import SqsQueue
    from support.elasticmq import ElasticMq
    from support.redis import RedisServer

PATIENCE_SECONDS = 30.0


@pytest.fixture
async def sqs(elasticmq: ElasticMq) -> AsyncIterator[Sqs]:
    async with queues_on(elasticmq) as sqs:
        yield sqs


async def arrivals(queue: Queue, count: int) -> list[Delivery]:
    deliveries: list[Delivery] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(deliveries) < count:
            deliveries += await queue.receive(count - len(deliveries), wait_seconds=0.5)
    return deliveries


async def arrival(queue: Queue) -> Delivery:
    (delivery,) = await arrivals(queue, 1)
    return delivery


async def kept(queue: SqsQueue) -> Maintained:
    """What rounds of housekeeping report, once they report something."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (done := await queue.maintain()) == Maintained():
            await queue.receive(10, wait_seconds=0.1)
    return done


def marks(messages: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """Why these are dead, and how many of their attempts failed."""
    found = [mark_of(message) for message in messages]
    return [(mark.reason, mark.attempts) for mark in found if mark is not None]


# Attempts


async def test_a_job_that_was_lost_and_drained_five_times_each_is_not_dead_and_has_all_its_attempts(sqs: Sqs) -> None:
    await sqs.made(max_retries=1)
    async with sqs.queue() as producer:
        (job_id,) = await enqueue(producer, [NewJob(name="unlucky")])
    for _ in range(5):
        # Killed, as far as the service can tell: nobody extends what is held for a second.
        async with sqs.queue(lease_seconds=0.4) as doomed:
            await doomed.keep_alive()
            held = await arrival(doomed)
            assert held.job.attempt == 1
            await asyncio.sleep(1.1)
    async with sqs.queue() as worker:
        for _ in range(5):
            held = await arrival(worker)
            assert (held.job.id, held.job.attempt) == (job_id, 1)
            await release(worker, [held])
        held = await arrival(worker)
        assert (held.job.id, held.job.attempt) == (job_id, 1)
        assert not (await retry(worker, held)).dead_lettered
        last = await arrival(worker)
        assert (last.job.id, last.job.attempt) == (job_id, 2)
        assert (await retry(worker, last)).dead_lettered
    assert marks(await sqs.messages()) == [("RetriesExhausted", 2)]


async def test_failures_are_counted_in_the_store_and_in_the_message_while_that_is_away(
    sqs: Sqs, own_redis: RedisServer
) -> None:
    await sqs.made(max_retries=5)
    async with store_from_url(own_redis.url) as store, sqs.queue(failure_counts=failure_counts_in(store)) as queue:
        (job_id,) = await enqueue(queue, [NewJob()])
        sent = sqs.proxy.calls["SendMessageBatch"]
        for attempt in (1, 2):
            held = await arrival(queue)
            assert held.job.attempt == attempt
            await retry(queue, held)
        assert sqs.proxy.calls["SendMessageBatch"] == sent, "nothing is sent anew"
        third = await arrival(queue)
        assert third.job.attempt == 3
        own_redis.stop()
        await retry(queue, third)
        assert sqs.proxy.calls["SendMessageBatch"] == sent + 1
        fourth = await arrival(queue)
        own_redis.start()
        await retry(queue, fourth)
        fifth = await arrival(queue)
        assert (fourth.job.id, fourth.job.attempt, fifth.job.id, fifth.job.attempt) == (job_id, 4, job_id, 5)
        assert (await complete(queue, [fifth])).accepted == 1
        await eventually(lambda: own_redis.command("KEYS", "*failures*") == [], what="a count that is forgotten")


async def test_a_retry_waits_for_its_delay_also_where_it_is_sent_anew(sqs: Sqs) -> None:
    await sqs.made()
    async with sqs.queue() as queue:
        await queue.enqueue([NewJob()])
        held = await arrival(queue)
        await retry(queue, held, delay_seconds=600)
        assert await sqs.counts() == (0, 0, 1)


async def test_who_receives_a_job_before_its_time_puts_it_back_uncharged(sqs: Sqs) -> None:
    await sqs.made()
    now = datetime.now(UTC)
    early = made(NewJob(run_at=now + timedelta(hours=1)), queue=QUEUE, id="early", now=now)
    message = encode(early)
    async with sqs.queue() as queue:
        await queue.keep_alive()
        # Sent by a worker that had it wait for longer than a message can be delayed.
        await sqs.send(message.body, {"headrace": message.attribute})
        assert await queue.receive(1, wait_seconds=1.5) == []
        assert await sqs.counts() == (0, 1, 0), "it is invisible"
        assert queue.witnessed().held == 0


@pytest.mark.parametrize("ahead", [timedelta(hours=1), timedelta(hours=-1)], ids=["ahead", "behind"])
async def test_a_producers_wrong_clock_makes_no_job_wait_for_longer_than_it_was_told(
    sqs: Sqs, ahead: timedelta
) -> None:
    await sqs.made(message_retention_seconds=600)
    there = datetime.now(UTC) + ahead
    job = made(NewJob(name="delayed", delay_seconds=1), queue=QUEUE, id="delayed", now=there)
    message = encode(job)
    async with sqs.queue() as queue:
        await sqs.send(message.body, {"headrace": message.attribute}, DelaySeconds=1)
        assert (await arrival(queue)).job.name == "delayed"


# What is not to run


async def test_what_was_not_started_in_time_is_dead_lettered_and_counted(sqs: Sqs) -> None:
    await sqs.made(message_retention_seconds=1)
    past = datetime.now(UTC) - timedelta(seconds=5)
    async with sqs.queue() as queue:
        await queue.enqueue([NewJob(name="by itself", expires_at=past)])
        await queue.enqueue([NewJob(name="by the queue", expires_at=None)])
        await sqs.send("a plain producer's")
        await asyncio.sleep(1.2)
        assert await queue.receive(10, wait_seconds=1) == []
        expired = 0
        while expired < 3:
            expired += (await kept(queue)).expired
        assert await queue.maintain() == Maintained(), "each is told once"
    assert marks(await sqs.messages()) == [("Expired", 0)] * 3
    assert await sqs.counts() == (0, 0, 0)


async def test_a_job_that_has_failed_before_is_not_too_late_wherever_that_is_counted(sqs: Sqs, redis_url: str) -> None:
    await sqs.made(message_retention_seconds=2)
    async with store_from_url(redis_url, prefix=f"{sqs.prefix}:") as store:
        for counts in (failure_counts_in(store), None):
            async with sqs.queue(failure_counts=counts) as queue:
                (job_id,) = await enqueue(queue, [NewJob()])
                await retry(queue, await arrival(queue), delay_seconds=3)
                again = await arrival(queue)
                assert (again.job.id, again.job.attempt) == (job_id, 2)
                await complete(queue, [again])
                assert await queue.maintain() == Maintained()


async def test_a_message_that_nobody_understands_is_dead_lettered_as_it_came(sqs: Sqs) -> None:
    await sqs.made()
    async with sqs.queue() as queue:
        await sqs.send("{}", {"headrace": '{"version":1}', "tenant": "acme"})
        assert await queue.receive(10, wait_seconds=1) == []
        assert await kept(queue) == Maintained(malformed=1)
    (letter,) = await sqs.messages()
    attributes = {name: each["StringValue"] for name, each in letter["MessageAttributes"].items()}
    assert (letter["Body"], attributes["headrace"], attributes["tenant"]) == ("{}", '{"version":1}', "acme")
    assert marks([letter]) == [("InvalidEnvelope", 0)]


async def test_a_message_of_somebody_who_does_not_know_us_is_a_job_without_a_name(sqs: Sqs) -> None:
    await sqs.made()
    async with sqs.queue() as queue:
        await sqs.send('{"Records":[]}', {"traceparent": "00-a-b-01"})
        held = await arrival(queue)
        assert (held.job.name, held.job.payload, held.job.headers) == (
            "",
            b'{"Records":[]}',
            {"traceparent": "00-a-b-01"},
        )
        await retry(queue, held)
        again = await arrival(queue)
        assert (again.job.id, again.job.name, again.job.payload, again.job.attempt) == (
            held.job.id,
            "",
            held.job.payload,
            2,
        )


async def test_a_dead_letter_tells_why_and_starts_anew_when_the_service_itself_moves_it(sqs: Sqs) -> None:
    await sqs.made()
    expires_at = datetime(2100, 1, 1, tzinfo=UTC)
    async with sqs.queue() as queue:
        await queue.enqueue([NewJob(name="doomed", expires_at=expires_at)])
        await retry(queue, await arrival(queue))
        await dead_letter(
            queue, await arrival(queue), reason="GaveUp", error="\x00 disk \ud800 full", traceback="t" * 9000
        )
        (letter,) = await sqs.messages()
        mark = mark_of(letter)
        assert mark is not None
        assert mark.failure is not None
        assert (mark.reason, mark.attempts, mark.failure.error) == ("GaveUp", 2, "\x00 disk \ufffd full")
        assert (mark.expires_at, len(mark.failure.traceback or "")) == (expires_at, 4000)
        attributes = {name: each["StringValue"] for name, each in letter["MessageAttributes"].items()}
        await sqs.send(letter["Body"], attributes)
        again = await arrival(queue)
        assert (again.job.name, again.job.attempt, again.job.expires_at) == ("doomed", 1, None)


async def test_the_largest_job_can_be_dead_lettered(sqs: Sqs) -> None:
    await sqs.made()
    async with sqs.queue() as queue:
        room = queue.capabilities.max_payload_bytes
        await queue.enqueue([NewJob(payload=b"." * room, headers={"padding": "." * 500})])
        settled = await dead_letter(
            queue, await arrival(queue), reason="TooMuch", error="e" * 5000, traceback="t" * 5000
        )
        assert (settled.accepted, settled.unsettled) == (1, ())
    assert [reason for reason, _ in marks(await sqs.messages())] == ["TooMuch"]


async def test_a_message_of_somebody_elses_that_leaves_no_room_for_ours_is_not_lost_and_stops_nobody(sqs: Sqs) -> None:
    await sqs.made(max_retries=0)
    async with sqs.queue() as queue:
        await sqs.send("." * (1024 * 1024 - 10))
        held = await arrival(queue)
        assert await retry(queue, held) == Settled(
            accepted=1, dead_lettered=(Retry(delivery=held, delay_seconds=0, failure=Failure(error="boom")),)
        )
        assert await sqs.counts() == (0, 1, 0), "it is invisible for a while"


# Never lose a job


async def test_what_could_not_be_sent_to_the_dead_letter_queue_is_not_deleted(sqs: Sqs) -> None:
    await sqs.made()
    async with sqs.queue() as queue:
        await queue.enqueue([NewJob()])
        held = await arrival(queue)
        sqs.proxy.fail_entries("SendMessageBatch", lambda _: True)
        settled_error = await refused_by(queue, held)
        assert "injected" in settled_error
        assert sqs.proxy.calls["DeleteMessageBatch"] == 0
        assert (await dead_letter(queue, held, reason="Broken")).accepted == 1
    assert marks(await sqs.messages()) == [("Broken", 1)]


async def refused_by(queue: SqsQueue, held: Delivery) -> str:
    with pytest.raises(Exception, match="injected") as raised:
        await dead_letter(queue, held, reason="Broken")
    return str(raised.value)


@pytest.mark.parametrize("is_denied", [False, True], ids=["deleted", "denied"])
async def test_a_dead_letter_queue_that_is_gone_or_refused_stops_nobody_and_loses_nothing(
    sqs: Sqs, is_denied: bool
) -> None:
    await sqs.made(max_retries=0)
    async with sqs.queue() as queue:
        await enqueue(queue, [NewJob(name="dead"), NewJob(name="rejected")])
        first, second = await arrivals(queue, 2)
        if is_denied:
            sqs.proxy.answer(403, "AccessDenied", operation="SendMessageBatch", of=f"{QUEUE}-dead", times=float("inf"))
        else:
            await sqs.call("DeleteQueue", f"{QUEUE}-dead")
        assert await retry(queue, first) == Settled(accepted=1), "it is not dead yet"
        assert (await dead_letter(queue, second, reason="Broken")).dead_lettered == ()
        assert await sqs.counts() == (0, 2, 0), "they are hidden for a while"
        assert queue.witnessed().held == 0, "and nothing here waits for them"


async def test_a_dead_letter_whose_message_could_not_be_deleted_is_not_sent_twice(sqs: Sqs) -> None:
    await sqs.made()
    async with sqs.queue() as queue:
        await queue.enqueue([NewJob()])
        held = await arrival(queue)
        sqs.proxy.fail_entries("DeleteMessageBatch", lambda _: True)
        await refused_by(queue, held)
        assert (await dead_letter(queue, held, reason="Broken")).accepted == 1
        assert await sqs.counts() == (0, 0, 0)
    assert marks(await sqs.messages()) == [("Broken", 1)]


async def test_a_queue_without_a_dead_letter_queue_drops_what_is_dead(sqs: Sqs) -> None:
    await sqs.made(max_retries=0, dead_letter_enabled=False)
    async with sqs.queue() as queue:
        assert not queue.settings.dead_letter_enabled
        await queue.enqueue([NewJob()])
        assert len((await retry(queue, await arrival(queue))).dead_lettered) == 1
        assert await sqs.counts() == (0, 0, 0)


# Queues that somebody else has made


async def test_a_queue_without_tags_and_without_a_redrive_policy_is_worked_and_what_it_lacks_is_told_to_workers(
    sqs: Sqs, caplog: pytest.LogCaptureFixture
) -> None:
    await sqs.client.call(
        "CreateQueue", {"QueueName": f"{sqs.prefix}{QUEUE}", "Attributes": {"VisibilityTimeout": "77"}}
    )
    async with sqs.queue() as queue:
        assert (queue.settings.visibility_timeout_seconds, queue.settings.max_retries) == (77, 3)
        await queue.enqueue([NewJob()])
        assert caplog.messages == [], "a producer needs nothing of it"
        await queue.keep_alive()
        assert "dead jobs are dropped" in caplog.text
        assert len((await dead_letter(queue, await arrival(queue), reason="Broken")).dead_lettered) == 1
        assert await sqs.counts() == (0, 0, 0)


async def test_where_the_service_gives_up_after_two_receives_what_is_put_back_is_not_given_up(sqs: Sqs) -> None:
    await sqs.made()
    arn = (await sqs.call("GetQueueAttributes", f"{QUEUE}-dead", AttributeNames=["QueueArn"]))["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 2})
    await sqs.call("SetQueueAttributes", Attributes={"RedrivePolicy": policy})
    async with sqs.queue() as queue:
        (job_id,) = await enqueue(queue, [NewJob()])
        for _ in range(4):
            held = await arrival(queue)
            assert (held.job.id, held.job.attempt) == (job_id, 1)
            await release(queue, [held])
        await retry(queue, await arrival(queue))
        assert (await arrival(queue)).job.attempt == 2
    assert await sqs.messages() == []


@pytest.mark.parametrize("operation", ["GetQueueAttributes", "ListQueueTags"])
async def test_settings_that_can_not_be_read_any_more_stay_as_they_were(sqs: Sqs, operation: str) -> None:
    await sqs.made(max_retries=7, dead_letter_enabled=False, visibility_timeout_seconds=77)
    async with sqs.queue(look_seconds=0) as queue:
        before = queue.settings
        assert (before.max_retries, before.dead_letter_enabled, before.visibility_timeout_seconds) == (7, False, 77)
        sqs.proxy.answer(403, "ExpiredToken", operation=operation, times=float("inf"))
        await queue.maintain()
        assert queue.settings == before, "with fewer retries, jobs would die that have attempts left"


# What calls cost


async def test_five_hundred_settlements_are_fifty_calls(sqs: Sqs) -> None:
    await sqs.made()
    async with sqs.queue() as queue:
        await queue.keep_alive()
        await queue.enqueue([NewJob()] * 500)
        assert sqs.proxy.calls["SendMessageBatch"] == 50
        held = await arrivals(queue, 500)
        assert (await complete(queue, held)).accepted == 500
        assert sqs.proxy.calls["DeleteMessageBatch"] == 50


async def test_jobs_of_a_hundred_callers_at_once_travel_together(sqs: Sqs) -> None:
    await sqs.made()
    async with sqs.queue() as queue:
        ids = await asyncio.gather(*(enqueue(queue, [NewJob(name=f"{number}")]) for number in range(100)))
        assert len({job_id for (job_id,) in ids}) == 100
        assert sqs.proxy.calls["SendMessageBatch"] == 10


async def test_a_backlog_fills_a_hundred_slots_within_two_seconds(sqs: Sqs) -> None:
    await sqs.made()
    async with sqs.queue(wait_time_seconds=20) as queue, sqs.queue() as producer:
        await queue.keep_alive()
        idle = asyncio.create_task(queue.receive(100, wait_seconds=30))
        await eventually(lambda: sqs.proxy.under_way["ReceiveMessage"] == 1, what="a poll under way")
        sqs.proxy.delay_seconds = 0.02
        await producer.enqueue([NewJob()] * 150)
        held = 0
        async with asyncio.timeout(2):
            held += len(await idle)
            while held < 100:
                held += len(await queue.receive(100 - held, wait_seconds=5))


async def test_an_idle_worker_has_one_poll_at_a_time_under_way_which_waits_as_long_as_it_may(sqs: Sqs) -> None:
    await sqs.made()
    async with sqs.queue(wait_time_seconds=2, lease_seconds=24) as queue:
        await queue.keep_alive()
        at_once = []
        for _ in range(13):
            # A worker looks far more often than polls end.
            assert await queue.receive(100, wait_seconds=0.3) == []
            assert (await queue.keep_alive()).lost == frozenset()
            await queue.maintain()
            at_once.append(sqs.proxy.under_way["ReceiveMessage"])
        assert set(at_once) == {1}
        # Four seconds, of two each; with polls of twenty seconds, 180 an hour.
        assert sqs.proxy.calls["ReceiveMessage"] <= 3
        others = sqs.proxy.calls.total() - sqs.proxy.calls["ReceiveMessage"]
        assert others == 2, "the look at the queue's attributes and tags when it was opened"


# Leaving


async def test_closing_gives_everything_back_at_once_what_is_still_on_its_way_too(sqs: Sqs) -> None:
    await sqs.made()
    async with sqs.queue() as other:
        await other.keep_alive()
        async with sqs.queue(lease_seconds=60) as worker:
            await worker.keep_alive()
            await worker.enqueue([NewJob()] * 25)
            held = await arrivals(worker, 5)
            sqs.proxy.slow(0.5, operation="ReceiveMessage", times=3)
            assert await worker.receive(20, wait_seconds=0.1) == [], "the poll goes on"
            assert len(held) == 5
        assert len(await arrivals(other, 25)) == 25
        assert await sqs.counts() == (0, 25, 0)


async def test_what_nobody_wants_any_more_goes_back(sqs: Sqs) -> None:
    await sqs.made()
    async with sqs.queue(lease_seconds=60) as full, sqs.queue() as other:
        await full.keep_alive()
        await full.enqueue([NewJob()])
        sqs.proxy.slow(0.5, operation="ReceiveMessage")
        assert await full.receive(1, wait_seconds=0.1) == []
        assert (await arrival(other)).job.attempt == 1


async def test_whoever_ends_its_polls_keeps_nothing_for_itself(sqs: Sqs) -> None:
    await sqs.made()
    async with sqs.queue(lease_seconds=60) as draining, sqs.queue() as other:
        await draining.keep_alive()
        await draining.enqueue([NewJob()] * 2)
        running = await arrival(draining)
        sqs.proxy.slow(0.5, operation="ReceiveMessage")
        assert await draining.receive(1, wait_seconds=0.1) == []
        await draining.end_polls()
        assert draining.witnessed().held == 1
        assert len(await other.receive(10, wait_seconds=1)) == 1
        assert await draining.receive(1, wait_seconds=5) == []
        assert (await draining.keep_alive()).lost == frozenset()
        assert (await complete(draining, [running])).accepted == 1


async def test_what_nobody_understands_is_not_taken_faster_than_it_can_be_put_away(sqs: Sqs) -> None:
    await sqs.made()
    for _ in range(50):
        entries = [
            {
                "Id": str(number),
                "MessageBody": "broken",
                "MessageAttributes": {"headrace": {"DataType": "String", "StringValue": "{"}},
            }
            for number in range(10)
        ]
        await sqs.call("SendMessageBatch", Entries=entries)
    async with sqs.queue(lease_seconds=24) as queue:
        await queue.keep_alive()
        sqs.proxy.slow(2, operation="SendMessageBatch", times=float("inf"))
        assert await queue.receive(100, wait_seconds=1) == []
        _, in_flight, _ = await sqs.counts()
        assert 0 < in_flight <= 200
        sqs.proxy.heal()


async def test_large_jobs_are_taken_by_few_polls_at_a_time(sqs: Sqs) -> None:
    await sqs.made()
    async with sqs.queue(lease_seconds=24) as queue:
        await queue.keep_alive()
        await queue.enqueue([NewJob(payload=b"." * 1_000_000)] * 40)
        # Forty at once would be forty megabytes beside what waits here already.
        second_poll = asyncio.create_task(sqs.proxy.until_under_way("ReceiveMessage", 2))
        assert len(await arrivals(queue, 40)) == 40
        assert not second_poll.done()
        second_poll.cancel()


async def test_what_ran_out_before_anybody_took_it_is_given_to_nobody(sqs: Sqs) -> None:
    await sqs.made()
    async with sqs.queue(lease_seconds=0.4) as queue, sqs.queue() as other:
        await queue.keep_alive()
        await queue.enqueue([NewJob()])
        sqs.proxy.slow(0.2, operation="ReceiveMessage")
        assert await queue.receive(1, wait_seconds=0.1) == []
        await eventually(lambda: queue.witnessed().held == 1, what="a job that nobody has taken yet")
        await other.keep_alive()
        taken = await arrival(other)  # As if all had stood here meanwhile.
        assert len((await queue.keep_alive()).lost) == 1
        assert await queue.receive(1) == []
        assert (await complete(other, [taken])).accepted == 1


class DeafCounts:
    """A store of failures that never answers."""

    async def add(self, _: Sequence[str]) -> list[int]:
        raise OSError("away")

    async def read(self, _: Sequence[str]) -> list[int]:
        await asyncio.Event().wait()
        return []

    async def forget(self, _: Sequence[str]) -> None:
        raise OSError("away")


async def test_what_was_not_looked_through_when_polls_end_is_left_to_its_lease(sqs: Sqs) -> None:
    await sqs.made()
    async with sqs.queue() as other:
        await enqueue(other, [NewJob()])
        await release(other, [await arrival(other)])
    async with sqs.queue(lease_seconds=24, failure_counts=DeafCounts()) as queue:
        await queue.keep_alive()
        assert await queue.receive(1, wait_seconds=0.5) == []
        await queue.end_polls()
        assert queue.witnessed().held == 0, "else heartbeats would hold it for as long as other jobs run here"


async def test_a_queue_that_is_not_there_is_named(sqs: Sqs) -> None:
    await sqs.made()
    async with sqs.queue() as queue:
        await sqs.call("DeleteQueue")
        for attempt in (queue.enqueue([NewJob()]), queue.receive(1), queue.keep_alive()):
            with pytest.raises(QueueNotFoundError):
                await attempt
