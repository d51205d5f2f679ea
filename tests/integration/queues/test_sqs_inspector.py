"""What people do with a queue in SQS: look at it, at its dead letters, put them back, remove them; whatever fails.

Differences of the servers from AWS that tests work around: moto gives receives that come at once the same message
(https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ReceiveMessage.html: a message that was
received is hidden), so what is counted exactly is counted on ElasticMQ.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from headrace.job import NewJob
from headrace.queues import inspector_from_url
from headrace.queues.base import Owner
from headrace.queues.errors import QueueAccessError, QueueError, QueueNotFoundError
from headrace.queues.inspection import JobFilter, Jobs, Pauses, Purge, Redrive, Stuck
from headrace.queues.sqs import walk
from headrace.queues.sqs.inspector import SqsInspector
from support.sqs import QUEUE, Sqs, queues_on
from support.verbs import complete, dead_letter, retry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from headrace.queues.base import Delivery, Queue
    from support.elasticmq import ElasticMq
    from support.moto import Moto

DEAD = f"{QUEUE}-dead"


@pytest.fixture
async def sqs(elasticmq: ElasticMq) -> AsyncIterator[Sqs]:
    async with queues_on(elasticmq) as sqs:
        await sqs.made()
        yield sqs


@pytest.fixture
async def on_moto(moto: Moto) -> AsyncIterator[Sqs]:
    async with queues_on(moto) as sqs:
        await sqs.made()
        yield sqs


@pytest.fixture
async def inspector(sqs: Sqs) -> AsyncIterator[SqsInspector]:
    async with SqsInspector(sqs.address(), name=QUEUE) as inspector:
        yield inspector


async def arrived(queue: Queue, number: int) -> list[Delivery]:
    deliveries: list[Delivery] = []
    while len(deliveries) < number:
        deliveries += await queue.receive(number - len(deliveries), wait_seconds=5)
    return deliveries


async def died(sqs: Sqs, *jobs: NewJob, reason: str = "Broken", error: str | None = "disk on fire") -> list[str]:
    async with sqs.queue() as queue:
        enqueued = [job.id for job in await queue.enqueue(jobs)]
        for delivery in await arrived(queue, len(jobs)):
            settled = await dead_letter(queue, delivery, reason=reason, error=error)
            assert settled.dead_lettered
    return enqueued


async def dead_messages(sqs: Sqs) -> tuple[int, int, int]:
    return await sqs.counts(DEAD)


async def has_some(sqs: Sqs) -> bool:
    return (await sqs.counts())[0] >= 2


async def until(look: Callable[[], Awaitable[object]], wanted: object) -> None:
    async with asyncio.timeout(20):
        while await look() != wanted:  # noqa: ASYNC110 - the service tells nobody
            await asyncio.sleep(0.02)


# Looking


async def test_a_queue_is_shown_with_its_counts_its_settings_and_its_owner(sqs: Sqs, inspector: SqsInspector) -> None:
    await died(sqs, NewJob(), NewJob())
    async with sqs.queue() as queue:
        await queue.enqueue([NewJob(), NewJob(delay_seconds=600)])
    (record,) = await inspector.queues()
    assert (record.name, record.owner, record.settings.max_retries) == (
        QUEUE,
        Owner(namespace="shop", name=QUEUE, uid="1"),
        3,
    )
    assert (record.depth.ready, record.depth.delayed, record.depth.in_flight, record.depth.dead_lettered) == (
        1,
        1,
        0,
        2,
    )
    assert record.depth.is_approximate
    assert record.settings.dead_letter_retention_days == 14
    assert record.unknown == {"oldest_ready_age_seconds"}
    assert await inspector.queue(sqs.prefix + QUEUE) == record, "by its own name, too"
    with pytest.raises(QueueNotFoundError, match="queue mails: this URL leads to queue orders; give the URL of mails"):
        await inspector.queue("mails")


async def test_what_tags_of_ours_would_tell_is_unknown_without_them(on_moto: Sqs) -> None:
    await on_moto.client.call("CreateQueue", {"QueueName": on_moto.prefix + "plain"})
    async with SqsInspector(on_moto.address("plain")) as inspector:
        (record,) = await inspector.queues()
        assert {"max_retries", "message_retention_seconds"} < record.unknown
        assert (record.owner, record.settings.dead_letter_enabled) == (None, False)
        with pytest.raises(QueueNotFoundError, match="has no dead-letter queue: its redrive policy names none; give"):
            await inspector.letters(on_moto.prefix + "plain", JobFilter())


async def test_what_the_service_can_not_do_is_no_role_of_its_inspector(inspector: SqsInspector) -> None:
    assert not isinstance(inspector, Jobs | Pauses | Stuck)


async def test_dead_letters_show_what_happened_and_stay_as_they_are(sqs: Sqs, inspector: SqsInspector) -> None:
    async with sqs.queue() as queue:
        await queue.enqueue([NewJob(name="resize", payload=b"\x00", headers={"a": "é"}, fairness_key="t1")])
        (first,) = await arrived(queue, 1)
        await retry(queue, first, error="once")
        (second,) = await arrived(queue, 1)
        await dead_letter(queue, second, reason="Broken", error="disk on fire", traceback="Traceback: …")
    for _ in range(2):
        (record,) = await inspector.letters(QUEUE, JobFilter())
        assert (record.job.id, record.job.name, record.job.payload) == (first.job.id, "resize", b"\x00")
        assert (record.job.headers, record.job.fairness_key, record.job.attempt) == ({"a": "é"}, "t1", 2)
        assert (record.state, record.reason, record.job.enqueued_at) == ("dead", "Broken", first.job.enqueued_at)
        (failed,) = record.failures
        assert (failed.attempt, failed.failure.error, failed.failure.traceback) == (2, "disk on fire", "Traceback: …")
        assert failed.at == record.ended_at
        assert await dead_messages(sqs) == (1, 0, 0), "visible again at once"


async def test_of_many_letters_as_many_are_shown_as_are_asked_for_and_nothing_else_is_hidden(
    sqs: Sqs, inspector: SqsInspector
) -> None:
    ids = await died(sqs, *[NewJob(name=f"n{number}") for number in range(25)])
    assert len(await inspector.letters(QUEUE, JobFilter(), limit=7)) == 7
    found = await inspector.letters(QUEUE, JobFilter())
    assert {record.job.id for record in found} == set(ids)
    moments = [record.ended_at for record in found if record.ended_at is not None]
    assert moments == sorted(moments, reverse=True)
    (named,) = await inspector.letters(QUEUE, JobFilter(name="n17"))
    assert named.job.name == "n17"
    assert await inspector.letters(QUEUE, JobFilter(older_than_seconds=3600)) == []
    assert len(await inspector.letters(QUEUE, JobFilter(ids=(ids[3], ids[20], "none")))) == 2
    assert await dead_messages(sqs) == (25, 0, 0)


async def test_what_the_service_gave_up_itself_is_told_as_received_too_often(sqs: Sqs, inspector: SqsInspector) -> None:
    async with sqs.queue() as queue:
        (job,) = await queue.enqueue([NewJob(name="deadly")])
    maxima = (await sqs.call("GetQueueAttributes", AttributeNames=["RedrivePolicy"]))["Attributes"]["RedrivePolicy"]
    assert "maxReceiveCount" in maxima
    for _ in range(30):
        if (await dead_messages(sqs))[0]:
            break
        await sqs.call("ReceiveMessage", VisibilityTimeout=0, WaitTimeSeconds=0)
    (record,) = await inspector.letters(QUEUE, JobFilter())
    assert (record.job.id, record.reason, record.ended_at, record.job.attempt) == (job.id, "ReceivedTooOften", None, 0)
    assert await inspector.redrive(QUEUE, Redrive(which=JobFilter(reason="ReceivedTooOften"))) == 1
    async with sqs.queue() as queue:
        (again,) = await arrived(queue, 1)
        assert (again.job.id, again.job.attempt) == (job.id, 1)


# Putting back


async def test_a_redriven_job_is_as_it_was_with_all_its_attempts(sqs: Sqs, inspector: SqsInspector) -> None:
    async with sqs.queue() as queue:
        await queue.enqueue([NewJob(name="resize", headers={"a": "é"}, fairness_key="t1", extra={"b": [1]})])
        for _ in range(3):
            await retry(queue, (await arrived(queue, 1))[0])
        (delivery,) = await arrived(queue, 1)
        assert (await retry(queue, delivery)).dead_lettered
        assert await inspector.redrive(QUEUE, Redrive()) == 1
        assert await dead_messages(sqs) == (0, 0, 0)
        (again,) = await arrived(queue, 1)
        was = delivery.job
        assert (again.job.id, again.job.enqueued_at, again.job.attempt) == (was.id, was.enqueued_at, 1)
        assert (again.job.headers, again.job.fairness_key, again.job.extra) == ({"a": "é"}, "t1", {"b": [1]})
        assert not (await retry(queue, again)).dead_lettered


async def test_only_what_is_meant_goes_back_and_the_rest_is_visible_again(sqs: Sqs, inspector: SqsInspector) -> None:
    ids = await died(sqs, *[NewJob(name="a" if number % 3 else "b") for number in range(30)])
    assert await inspector.redrive(QUEUE, Redrive(which=JobFilter(name="b"))) == 10
    assert await dead_messages(sqs) == (20, 0, 0)
    assert await inspector.redrive(QUEUE, Redrive(which=JobFilter(ids=(ids[1], ids[0])))) == 1
    assert await inspector.redrive(QUEUE, Redrive(which=JobFilter(state="ready"))) == 0
    assert await inspector.redrive(QUEUE, Redrive(per_second=200)) == 19
    async with sqs.queue() as queue:
        deliveries = await arrived(queue, 30)
        assert sorted(delivery.job.id for delivery in deliveries) == sorted(ids)
        assert (await complete(queue, deliveries)).accepted == 30


async def test_what_dies_again_meanwhile_is_left_alone(sqs: Sqs, inspector: SqsInspector) -> None:
    ids = await died(sqs, *[NewJob()] * 12)
    again: list[str] = []

    async def kill_at_once() -> None:
        async with sqs.queue() as queue:
            while len(again) < len(ids):
                for delivery in await queue.receive(10, wait_seconds=1):
                    again.append(delivery.job.id)
                    await dead_letter(queue, delivery, reason="Again")

    killing = asyncio.create_task(kill_at_once())
    async with asyncio.timeout(60):
        assert await inspector.redrive(QUEUE, Redrive(per_second=10)) == 12
        await killing
    assert sorted(again) == sorted(ids), "each was put back once"
    assert await inspector.redrive(QUEUE, Redrive(which=JobFilter(reason="Again"))) == 12


async def test_a_message_that_can_not_be_understood_goes_back_as_it_came(sqs: Sqs, inspector: SqsInspector) -> None:
    await sqs.send("body", {"headrace": '{"version": "newer"}', "theirs": "kept"})
    async with sqs.queue() as queue:
        assert await queue.receive(1, wait_seconds=2) == []
        await until(lambda: dead_messages(sqs), (1, 0, 0))
    (record,) = await inspector.letters(QUEUE, JobFilter(reason="InvalidEnvelope"))
    assert record.job.payload == b"body"
    assert await inspector.redrive(QUEUE, Redrive()) == 1
    answer = await sqs.call("ReceiveMessage", WaitTimeSeconds=0, MessageAttributeNames=["All"])
    (message,) = answer["Messages"]
    told = {name: attribute["StringValue"] for name, attribute in message["MessageAttributes"].items()}
    assert (message["Body"], told) == ("body", {"headrace": '{"version": "newer"}', "theirs": "kept"})


async def test_a_plain_producers_job_keeps_its_id_and_its_headers(sqs: Sqs, inspector: SqsInspector) -> None:
    await sqs.send('{"picture": 1}', {"traceparent": "00-1"})
    async with sqs.queue() as queue:
        (delivery,) = await arrived(queue, 1)
        await dead_letter(queue, delivery, reason="Broken")
        assert await inspector.redrive(QUEUE, Redrive()) == 1
        (again,) = await arrived(queue, 1)
        assert (again.job.id, again.job.name, again.job.payload) == (delivery.job.id, "", b'{"picture": 1}')
        assert again.job.headers == {"traceparent": "00-1"}


async def test_of_a_dead_letter_queue_that_is_shared_only_the_queues_own_go_back(
    sqs: Sqs, inspector: SqsInspector
) -> None:
    await died(sqs, NewJob(name="ours"))
    await sqs.made("mails")
    letters = sqs.server.queue_url(sqs.prefix + DEAD)
    async with (
        sqs.queue("mails") as queue,
        SqsInspector(sqs.address("mails", dead_letter_queue_url=letters), name="mails") as mails,
    ):
        await queue.enqueue([NewJob(name="theirs")])
        (delivery,) = await arrived(queue, 1)
        await dead_letter(queue, delivery, reason="Broken")
        # As if both queues had the one dead-letter queue.
        (message,) = await sqs.messages("mails-dead")
        await sqs.send(message["Body"], _texts(message), queue=DEAD)
        assert [letter.job.name for letter in await inspector.letters(QUEUE, JobFilter())] == ["ours"]
        assert [letter.job.name for letter in await mails.letters("mails", JobFilter())] == ["theirs"]
        assert await inspector.redrive(QUEUE, Redrive()) == 1
        assert await mails.purge("mails", Purge()) == 1


def _texts(message: dict[str, Any]) -> dict[str, str]:
    return {name: attribute["StringValue"] for name, attribute in message["MessageAttributes"].items()}


async def test_letters_that_fill_a_call_go_back_in_as_many_as_it_takes(sqs: Sqs, inspector: SqsInspector) -> None:
    ids = await died(sqs, *[NewJob(payload=b"." * 400_000)] * 5, error=None)
    assert await inspector.redrive(QUEUE, Redrive()) == 5
    async with sqs.queue() as queue:
        assert sorted(delivery.job.id for delivery in await arrived(queue, 5)) == sorted(ids)


# Removing


async def test_what_is_purged_is_gone_and_nothing_else(sqs: Sqs, inspector: SqsInspector) -> None:
    await died(sqs, *[NewJob(name="a")] * 12, *[NewJob(name="b")] * 3)
    assert await inspector.purge(QUEUE, Purge(which=JobFilter(name="a"))) == 12
    assert await dead_messages(sqs) == (3, 0, 0)
    assert await inspector.purge(QUEUE, Purge()) == 3
    assert await inspector.purge(QUEUE, Purge()) == 0


# What fails


async def test_what_could_not_be_sent_stays_dead_and_is_told(sqs: Sqs, inspector: SqsInspector) -> None:
    await died(sqs, *[NewJob(name=f"n{number}") for number in range(10)])
    sqs.proxy.fail_entries("SendMessageBatch", lambda entry: entry["Id"] in {"2", "7"}, times=1)
    with pytest.raises(QueueError, match=r"8 jobs were put back, 2 stay dead, the first is [0-9a-f-]+"):
        await inspector.redrive(QUEUE, Redrive())
    assert await dead_messages(sqs) == (2, 0, 0), "let go at once"
    assert await inspector.redrive(QUEUE, Redrive()) == 2


async def test_letters_that_could_not_be_deleted_are_deleted_with_the_next_try(
    sqs: Sqs, inspector: SqsInspector
) -> None:
    await died(sqs, *[NewJob()] * 5)
    sqs.proxy.fail_entries("DeleteMessageBatch", lambda entry: entry["Id"] in {"0", "3"}, times=1)
    assert await inspector.redrive(QUEUE, Redrive()) == 5
    assert await dead_messages(sqs) == (0, 0, 0)


async def test_letters_that_can_not_be_deleted_are_named_since_their_jobs_run(
    sqs: Sqs, inspector: SqsInspector
) -> None:
    await died(sqs, NewJob())
    sqs.proxy.fail_entries("DeleteMessageBatch", lambda _: True, times=float("inf"))
    with pytest.raises(QueueError, match=r"1 jobs were put back, but the dead letters of 1 are still there, .* purge"):
        await inspector.redrive(QUEUE, Redrive())
    sqs.proxy.heal()
    assert await dead_messages(sqs) == (1, 0, 0)


async def test_a_right_that_is_missing_is_named_and_nothing_is_lost(moto: Moto) -> None:
    async with queues_on(moto) as sqs:
        await sqs.made()
        await died(sqs, NewJob())
        policy = {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    # moto knows the batch's action by the name of its operation.
                    # https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-api-permissions-reference.html
                    "Action": ["sqs:ReceiveMessage", "sqs:ChangeMessageVisibility*", "sqs:GetQueueAttributes"],
                    "Resource": "*",
                }
            ],
        }
        key_id, secret = await moto.user(policy)
        options = {"access_key_id": key_id, "secret_access_key": secret}
        moto.require_rights()
        try:
            async with inspector_from_url(moto.url(sqs.prefix + QUEUE), **options) as inspector:
                assert isinstance(inspector, SqsInspector)
                with pytest.raises(QueueAccessError, match=r"sqs:SendMessage.*0 jobs were put back"):
                    await inspector.redrive(sqs.prefix + QUEUE, Redrive())
                with pytest.raises(QueueAccessError, match=r"sqs:DeleteMessage.*0 dead jobs were removed"):
                    await inspector.purge(sqs.prefix + QUEUE, Purge())
                assert len(await inspector.letters(sqs.prefix + QUEUE, JobFilter())) == 1
        finally:
            moto.require_no_rights()


async def test_who_is_stopped_amid_a_redrive_leaves_nothing_hidden_and_nothing_twice(
    sqs: Sqs, inspector: SqsInspector
) -> None:
    ids = await died(sqs, *[NewJob()] * 30)
    redriving = asyncio.create_task(inspector.redrive(QUEUE, Redrive(per_second=5)))
    await until(lambda: has_some(sqs), True)
    redriving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await redriving
    visible, hidden, _ = await dead_messages(sqs)
    assert hidden == 0
    assert visible + (await sqs.counts())[0] == 30
    assert await inspector.redrive(QUEUE, Redrive()) == visible
    async with sqs.queue() as queue:
        assert sorted(delivery.job.id for delivery in await arrived(queue, 30)) == sorted(ids)


async def test_who_would_have_to_hide_more_than_may_be_hidden_is_told_so(
    sqs: Sqs, inspector: SqsInspector, monkeypatch: pytest.MonkeyPatch
) -> None:
    await died(sqs, *[NewJob(name=f"n{number}") for number in range(20)])
    monkeypatch.setattr(walk, "MOST_HELD", 5)
    with pytest.raises(QueueError, match="more than 5 dead letters were looked at and left"):
        await inspector.letters(QUEUE, JobFilter(name="none"))
    assert await inspector.purge(QUEUE, Purge(which=JobFilter())) == 20, "what is taken away hides nothing"


async def test_on_a_server_that_gives_a_letter_twice_it_goes_back_once(on_moto: Sqs) -> None:
    ids = await died(on_moto, *[NewJob()] * 12)
    async with SqsInspector(on_moto.address(), name=QUEUE) as inspector:
        assert {record.job.id for record in await inspector.letters(QUEUE, JobFilter())} == set(ids)
        assert await inspector.redrive(QUEUE, Redrive()) == 12
    visible, hidden, _ = await on_moto.counts()
    assert visible + hidden == 12
