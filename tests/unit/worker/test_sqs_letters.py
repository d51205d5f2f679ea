"""Dead letters of SQS, read: who gave a job up and where, which are meant, and what a redrive sends."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from headrace.job import NewJob
from headrace.queues.envelope import made
from headrace.queues.inspection import JobFilter
from headrace.queues.settlement import Failure
from headrace.queues.sqs.letters import is_meant, packs, read, revived
from headrace.queues.sqs.messages import DeadMark, Outgoing, dead_letter, incoming, outgoing

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DIED = NOW - timedelta(hours=1)
ARN = "arn:aws:sqs:eu-central-1:123456789012:"
MARK = DeadMark(reason="Broken", at=DIED, source="shop-orders", attempts=4, failure=Failure(error="disk on fire"))
JOB = structs.replace(
    made(NewJob(name="resize", fairness_key="t1"), queue="orders", id="7", now=NOW - timedelta(days=1)),
    attempt=4,
    expires_at=NOW,
)


def message(sent: Outgoing, **system: str) -> dict[str, Any]:
    return {
        "MessageId": "m-1",
        "ReceiptHandle": "r-1",
        "Body": sent.entry["MessageBody"],
        "MessageAttributes": sent.entry["MessageAttributes"],
        "Attributes": {"SentTimestamp": "1772366400000", **system},
    }


def plain(body: str = "{}", **system: str) -> dict[str, Any]:
    return message(Outgoing("m-1", {"MessageBody": body, "MessageAttributes": {}}, 2), **system)


def test_a_letter_that_a_worker_wrote_tells_all_that_happened() -> None:
    letter = read(message(dead_letter(JOB, MARK)), "orders")
    record = letter.record
    assert (record.job.id, record.job.attempt, record.job.expires_at) == ("7", 4, NOW)
    assert (record.state, record.reason, record.ended_at, letter.died_at) == ("dead", "Broken", DIED, DIED)
    assert [failed.failure.error for failed in record.failures] == ["disk on fire"]
    assert letter.source == "shop-orders"


def test_what_the_service_moved_was_received_too_often_whatever_it_died_of_before() -> None:
    for sent in (outgoing(JOB), dead_letter(JOB, MARK)):
        letter = read(message(sent, DeadLetterQueueSourceArn=f"{ARN}shop-orders"), "orders")
        assert (letter.record.reason, letter.record.ended_at, letter.source) == (
            "ReceivedTooOften",
            None,
            "shop-orders",
        )
        assert letter.died_at == datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_a_message_that_somebody_put_there_names_no_queue() -> None:
    letter = read(plain(), "orders")
    assert (letter.record.reason, letter.source, letter.record.job.name) == ("ReceivedTooOften", "", "")


@pytest.mark.parametrize(
    ("which", "holds"),
    [
        (JobFilter(), True),
        (JobFilter(state="dead"), True),
        (JobFilter(state="ready"), False),
        (JobFilter(ids=("7", "8")), True),
        (JobFilter(ids=()), False),
        (JobFilter(name="resize", reason="Broken"), True),
        (JobFilter(name="resize", reason="Expired"), False),
        (JobFilter(name="mail"), False),
        (JobFilter(older_than_seconds=3600), True),
        (JobFilter(older_than_seconds=3601), False),
    ],
)
def test_all_conditions_must_hold(which: JobFilter, holds: bool) -> None:
    assert is_meant(read(message(dead_letter(JOB, MARK)), "orders").record, which, NOW) is holds


def test_a_redrive_sends_the_job_as_it_was_with_all_its_attempts_and_no_mark() -> None:
    sent = revived(message(dead_letter(JOB, MARK)), "orders")
    assert sent.entry["MessageAttributes"].keys() == {"headrace"}
    assert sent.entry["MessageGroupId"] == "t1"
    again = incoming(message(sent), "orders")
    assert again == structs.replace(JOB, attempt=1, expires_at=None)


def test_what_can_not_be_understood_goes_as_it_came() -> None:
    attributes = {"theirs": {"DataType": "Binary", "BinaryValue": b"\x00"}}
    entry = {
        "MessageBody": "body",
        "MessageAttributes": {
            "headrace": {"DataType": "String", "StringValue": "no JSON"},
            **attributes,
            "headrace-dead": {"DataType": "String", "StringValue": "whatever"},
        },
    }
    sent = revived(message(Outgoing("m-1", entry, 4), MessageGroupId="t2"), "orders")
    assert sent.entry["MessageBody"] == "body"
    assert sent.entry["MessageGroupId"] == "t2"
    ours = {"headrace": {"DataType": "String", "StringValue": "no JSON"}}
    assert sent.entry["MessageAttributes"] == ours | attributes


def test_a_plain_producers_tenants_take_turns_after_a_redrive_too() -> None:
    sent = revived(plain('{"a": 1}', MessageGroupId="t3"), "orders")
    assert (sent.entry["MessageBody"], sent.entry["MessageGroupId"]) == ('{"a": 1}', "t3")


@given(st.lists(st.integers(1, 100), max_size=60), st.integers(1, 10))
def test_calls_take_no_more_than_they_may_and_keep_the_order(sizes: list[int], most: int) -> None:
    sent = [Outgoing(str(place), {}, size) for place, size in enumerate(sizes)]
    found = list(packs(sent, most=most, most_bytes=100))
    assert [one for pack in found for one in pack] == sent
    assert all(0 < len(pack) <= most and sum(one.size_bytes for one in pack) <= 100 for pack in found)
    for one, following in itertools.pairwise(found):
        assert len(one) == most or sum(each.size_bytes for each in one) + following[0].size_bytes > 100, (
            "none is half empty"
        )
