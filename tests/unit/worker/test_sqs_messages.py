"""Jobs as messages of SQS, and the marks of dead ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from headrace.job import MAX_PAYLOAD_BYTES, Job, NewJob
from headrace.queues.envelope import GROWTH_BYTES, MalformedMessage, made
from headrace.queues.settlement import Failure
from headrace.queues.sqs.capabilities import MAX_MESSAGE_BYTES
from headrace.queues.sqs.messages import (
    DEAD_ATTRIBUTE,
    DeadMark,
    Outgoing,
    dead_letter,
    incoming,
    malformed_letter,
    mark_of,
    outgoing,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def job(**fields: Any) -> Job:
    return made(NewJob(**fields), queue="orders", id="the id", now=NOW)


def received(sent: Outgoing, **more: Any) -> dict[str, Any]:
    """As a receive gives it."""
    return {
        "MessageId": "the message's",
        "ReceiptHandle": "r",
        "Body": sent.entry["MessageBody"],
        "MessageAttributes": sent.entry["MessageAttributes"],
        "Attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": str(int(NOW.timestamp() * 1000))},
        **more,
    }


def test_a_job_comes_back_as_it_was() -> None:
    there = job(name="resize", payload=b"\x00\xff", headers={"a": "\x01é"}, fairness_key="acme", extra={"b": [1]})
    assert incoming(received(outgoing(there)), "orders") == there


def test_a_fairness_key_is_the_messages_group() -> None:
    assert outgoing(job(fairness_key="acme")).entry["MessageGroupId"] == "acme"
    assert "MessageGroupId" not in outgoing(job()).entry


@pytest.mark.parametrize(("wanted", "told"), [(0.001, 1), (1, 1), (1.2, 2), (900, 900), (86_400, 900)])
def test_a_delay_is_rounded_up_and_as_long_as_sqs_takes_it(wanted: float, told: int) -> None:
    assert outgoing(job(), delay_seconds=wanted).entry["DelaySeconds"] == told


def test_no_delay_is_none_lest_it_stand_for_the_queues_own() -> None:
    assert "DelaySeconds" not in outgoing(job()).entry


def test_a_message_without_our_attribute_is_a_job_with_its_other_attributes_for_headers() -> None:
    message = received(
        outgoing(job()), Body="hello", MessageAttributes={"tenant": {"DataType": "String", "StringValue": "a"}}
    )
    found = incoming(message, "orders")
    assert isinstance(found, Job)
    assert (found.id, found.name, found.payload, found.headers) == ("the message's", "", b"hello", {"tenant": "a"})
    assert (found.enqueued_at, found.attempt) == (NOW, 1)


@pytest.mark.parametrize(
    "ours", [{"DataType": "Binary", "BinaryValue": "AA=="}, {"DataType": "String", "StringValue": "{"}]
)
def test_an_attribute_that_nobody_understands_makes_the_message_malformed(ours: dict[str, str]) -> None:
    message = received(outgoing(job()), MessageAttributes={"headrace": ours})
    assert isinstance(incoming(message, "orders"), MalformedMessage)
    letter = malformed_letter(message, DeadMark(reason="InvalidEnvelope", at=NOW))
    assert letter.entry["MessageAttributes"]["headrace"] == ours
    assert letter.entry["MessageBody"] == message["Body"]


def test_a_dead_letter_is_a_job_that_starts_anew_and_a_mark() -> None:
    expires_at = NOW + timedelta(hours=1)
    dead = made(NewJob(name="doomed", expires_at=expires_at, delay_seconds=60), queue="orders", id="the id", now=NOW)
    message = received(dead_letter(dead, DeadMark(reason="Broken", at=NOW, attempts=4, failure=Failure(error="boom"))))
    again = incoming(message, "orders")
    assert isinstance(again, Job)
    assert (again.id, again.attempt, again.run_at, again.expires_at) == ("the id", 1, NOW, None)
    mark = mark_of(message)
    assert mark is not None
    assert (mark.reason, mark.attempts, mark.expires_at, mark.failure) == (
        "Broken",
        4,
        expires_at,
        Failure(error="boom"),
    )


def test_what_the_service_gave_up_has_no_mark_and_one_that_is_no_mark_is_none() -> None:
    assert mark_of(received(outgoing(job()))) is None
    for value in ("{", '{"reason":1}', "[]", ""):
        attributes = {DEAD_ATTRIBUTE: {"DataType": "String", "StringValue": value}}
        assert mark_of(received(outgoing(job()), MessageAttributes=attributes)) is None


@pytest.mark.parametrize("text", ["x" * 100_000, "\x00" * 100_000, "☃" * 100_000, "\ud800" * 10, ""])
def test_however_much_is_to_be_said_of_a_dead_job_it_fits(text: str) -> None:
    room = MAX_MESSAGE_BYTES - outgoing(job(payload=b"")).size_bytes - GROWTH_BYTES
    failure = Failure(error=text, error_type=text, fingerprint=text, traceback=text)
    for payload in (b".", b"." * min(room, MAX_PAYLOAD_BYTES)):
        letter = dead_letter(job(payload=payload), DeadMark(reason="GaveUp", at=NOW, attempts=3, failure=failure))
        assert letter.fits
        assert letter.size_bytes == size(letter)
        mark = mark_of(received(letter))
        assert mark is not None
        assert (mark.reason, mark.attempts) == ("GaveUp", 3)


def size(letter: Outgoing) -> int:
    """As SQS counts it."""
    return len(letter.entry["MessageBody"].encode()) + sum(
        len(name.encode()) + len(each["DataType"]) + len(each["StringValue"].encode())
        for name, each in letter.entry["MessageAttributes"].items()
    )
