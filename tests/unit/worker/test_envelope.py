"""The form in which a broker carries jobs: every string and byte comes back, whatever SQS has no characters for."""

from __future__ import annotations

import json
import re
import uuid
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from xml.sax.saxutils import escape
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec import structs

from headrace.job import ENVELOPE_VERSION, MAX_DELAY_SECONDS, Job, NewJob, new_job
from headrace.queues import envelope
from headrace.queues.envelope import MalformedMessage, Message, decode, encode, job_id, made, refuse_oversized
from headrace.queues.errors import UnsupportedCapabilityError

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""On a busy machine, an example may take long."""

NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
SENT_AT = datetime(2026, 3, 2, tzinfo=UTC)
ID = "019cb8e8-7a3b-7000-8000-000000000001"

# What a message may include, by AWSSimpleQueueService/latest/APIReference/API_SendMessage.html.
XML_1_0 = re.compile("[\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")

text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
line = st.text(st.characters(exclude_characters="\x7f", exclude_categories=["Cs"], min_codepoint=0x20))
tens = st.binary(min_size=10, max_size=10)
keys = st.none() | line.filter(lambda key: 1 <= len(key) <= 128)
# Of an hour that a clock shows twice, Python says that it equals no moment of another zone.
moments = st.datetimes(datetime(1900, 1, 1), datetime(8998, 1, 1), timezones=st.timezones()).filter(  # noqa: DTZ001
    lambda moment: moment == moment.astimezone(UTC)
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
unknown = st.dictionaries(
    text.filter(lambda name: name not in {*Job.__struct_fields__, *NewJob.__struct_fields__, "version", "body"}),
    values,
    max_size=3,
)
extras = st.builds(
    lambda fields, version: {**fields, **version},
    unknown,
    st.just({}) | st.builds(lambda number: {"version": number}, st.integers(ENVELOPE_VERSION + 1, 10**9)),
)
new_jobs = st.builds(
    NewJob,
    name=line.filter(lambda name: len(name) <= 255),
    payload=st.binary(max_size=200) | text.map(str.encode),
    content_type=line,
    headers=st.dictionaries(text, text, max_size=3),
    priority=st.integers(0, 10),
    run_at=st.none() | moments,
    expires_at=st.none() | moments,
    group=keys,
    deduplication_key=keys,
    fairness_key=st.none() | st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=128),
    extra=extras,
)


def received(message: Message, **changed: Any) -> Job:
    job = decode(message.body, message.attribute, queue="orders", id="the broker's", sent_at=SENT_AT, **changed)
    assert isinstance(job, Job), job.error
    return job


def in_xml(string: str) -> str:
    """What a parser of XML makes of it."""
    found = ET.fromstring(f"<m>{escape(string)}</m>").text
    assert found is not None
    return found


def in_utc(job: Job) -> Job:
    """With its moments as they come back: in the hour that a zone has twice, Python calls none equal to another's."""
    expires_at = None if job.expires_at is None else job.expires_at.astimezone(UTC)
    return structs.replace(job, run_at=job.run_at.astimezone(UTC), expires_at=expires_at)


@unhurried
@given(new_jobs, st.integers(1, 10**6))
@example(NewJob(payload=b""), 1)
@example(NewJob(expires_at=datetime(1999, 10, 31, 1, tzinfo=ZoneInfo("America/Boise"))), 1)
@example(NewJob(payload=b"\r\n"), 1)
@example(NewJob(payload="\ufffe".encode(), headers={"\uffff": "\r\x01", "]]>": "&amp;<"}), 2)
@example(NewJob(payload=b"\xff\x00", extra={"version": 2, "tags": ["a", {"\ufffe": "\x02"}]}), 1)
@example(NewJob(run_at=datetime(2, 1, 1, tzinfo=timezone(timedelta(hours=14)))), 1)
def test_every_string_and_byte_comes_back_by_way_of_xml(new: NewJob, attempt: int) -> None:
    job = structs.replace(made(new, queue="orders", id=ID, now=NOW), attempt=attempt)
    message = encode(job)
    assert message.body
    assert XML_1_0.fullmatch(message.body)
    assert XML_1_0.fullmatch(message.attribute)
    assert received(Message(body=in_xml(message.body), attribute=in_xml(message.attribute))) == in_utc(job)
    assert encode(received(message)) == message, "a hop changes nothing"


def test_json_stays_readable_and_what_is_at_its_default_is_left_out() -> None:
    message = encode(made(new_job("resize", {"näme": "a\tb"}), queue="orders", id=ID, now=NOW))
    assert message.body == '{"näme":"a\\tb"}'
    assert json.loads(message.attribute) == {
        "version": ENVELOPE_VERSION,
        "id": ID,
        "name": "resize",
        "enqueued_at": "2026-03-01T12:00:00.123456Z",
    }


def test_id_and_enqueued_at_survive_a_hop_a_retry_and_a_move() -> None:
    job = received(encode(made(new_job("resize", delay_seconds=60), queue="orders", id=ID, now=NOW)))
    assert (job.id, job.enqueued_at, job.run_at) == (ID, NOW, NOW + timedelta(seconds=60))
    again = structs.replace(job, attempt=job.attempt + 1, run_at=NOW + timedelta(hours=1))
    message = encode(again)
    moved = decode(message.body, message.attribute, queue="elsewhere", id="another", sent_at=SENT_AT)
    assert moved == structs.replace(again, queue="elsewhere")


def test_what_a_newer_release_put_in_is_carried_at_its_level_with_its_version() -> None:
    theirs = {"version": 7, "id": ID, "enqueued_at": "2026-03-01T12:00:00Z", "tags": ["a"], "limit_key": None}
    job = received(Message(body="null", attribute=json.dumps(theirs)))
    assert job.extra == {"version": 7, "tags": ["a"], "limit_key": None}
    assert json.loads(encode(structs.replace(job, attempt=2)).attribute) == {**theirs, "attempt": 2}


def test_a_field_that_this_release_knows_is_never_taken_from_what_it_does_not() -> None:
    job = structs.replace(made(NewJob(), queue="orders", id=ID, now=NOW), extra={"priority": 9, "id": "other"})
    assert received(encode(job)) == structs.replace(job, extra={})


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ('{"Records":[]}', "application/json"),
        ("hello", "text/plain; charset=utf-8"),
        ("", "text/plain; charset=utf-8"),
        ("[" * 100_000, "application/octet-stream"),
        (b'{"Records":[]}', "application/json"),
        ("hellö".encode(), "text/plain; charset=utf-8"),
        (b"\xff\x00", "application/octet-stream"),
        (b'"\xff"', "application/octet-stream"),
    ],
)
def test_a_message_without_the_attribute_is_a_job_with_an_empty_name(body: str | bytes, content_type: str) -> None:
    headers = {"traceparent": "00-1-2-01", "zero": "\0"}
    job = decode(body, None, queue="orders", id="m-1", sent_at=SENT_AT, headers=headers)
    assert isinstance(job, Job)
    payload = body if isinstance(body, bytes) else body.encode()
    assert (job.id, job.name, job.payload, job.content_type) == ("m-1", "", payload, content_type)
    assert (job.enqueued_at, job.run_at, job.attempt) == (SENT_AT, SENT_AT, 1)
    assert job.headers == {"traceparent": "00-1-2-01"}, "what no job can have is left out"


GOOD = {"version": 1, "id": ID, "enqueued_at": "2026-03-01T12:00:00Z"}


@pytest.mark.parametrize(
    ("attribute", "complaint"),
    [
        ("", "truncated"),
        ("{", "truncated"),
        ("[]", "Expected `object`"),
        ("null", "Expected `object`"),
        ("[" * 100_000, "nested too deeply"),
        ("{}", "missing required field `version`"),
        ({**GOOD, "version": "1"}, r"Expected `int`, got `str` - at `\$.version`"),
        ({**GOOD, "version": 0}, r"\$.version"),
        ({**GOOD, "id": ""}, r"\$.id"),
        ({**GOOD, "enqueued_at": "yesterday"}, r"\$.enqueued_at"),
        ({**GOOD, "enqueued_at": "2026-03-01T12:00:00"}, r"\$.enqueued_at"),
        ({**GOOD, "enqueued_at": "0001-01-01T00:00:00+14:00"}, "enqueued_at 0001-01-01"),
        ({**GOOD, "enqueued_at": "9999-12-31T23:59:59-14:00"}, "enqueued_at 9999-12-31"),
        ({**GOOD, "headers": {"a": 1}}, r"\$.headers"),
        ({**GOOD, "attempt": 0}, r"\$.attempt"),
        ({**GOOD, "priority": 11}, "priority 11"),
        ({**GOOD, "name": "two\nlines"}, "name 'two"),
        ({**GOOD, "group": ""}, "group ''"),
        ({**GOOD, "run_at": "9999-01-01T00:00:00Z"}, "run_at"),
        ({**GOOD, "queue": "mine"}, "extra 'queue'"),
        ({**GOOD, "body": "rot13"}, r"\$.body"),
        ({**GOOD, "body": "base64"}, "base64"),
    ],
)
def test_what_cannot_be_understood_is_told_and_kept(attribute: Any, complaint: str) -> None:
    attribute = attribute if isinstance(attribute, str) else json.dumps(attribute)
    got = decode("the body, ä", attribute, queue="orders", id="m-1", sent_at=SENT_AT)
    assert isinstance(got, MalformedMessage)
    assert re.search(complaint, got.error)
    assert (got.job.id, got.job.name, got.job.payload) == ("m-1", "", "the body, ä".encode())


@unhurried
@given(new_jobs)
def test_a_broker_of_bytes_carries_the_same(new: NewJob) -> None:
    job = made(new, queue="orders", id=ID, now=NOW)
    message = encode(job)
    assert decode(message.body.encode(), message.attribute, queue="orders", id="m-1", sent_at=SENT_AT) == job


@unhurried
@given(st.text() | st.binary(), st.text())
def test_no_message_whatever_is_an_exception(body: str | bytes, attribute: str) -> None:
    got = decode(body, attribute, queue="orders", id="m-1", sent_at=SENT_AT)
    assert isinstance(got, Job | MalformedMessage)


@unhurried
@given(st.dictionaries(st.sampled_from(["version", "id", "enqueued_at", "tags", *envelope._KNOWN]), values))
def test_no_attribute_whatever_is_an_exception(fields: dict[str, Any]) -> None:
    got = decode("null", json.dumps({**GOOD, **fields}), queue="orders", id="m-1", sent_at=SENT_AT)
    if isinstance(got, Job):
        assert received(encode(got)) == got


@unhurried
@given(new_jobs)
def test_the_size_is_what_sqs_counts(new: NewJob) -> None:
    message = encode(made(new, queue="orders", id=ID, now=NOW))
    sent = (message.body, "headrace", "String", message.attribute)
    assert message.size_bytes == sum(len(part.encode()) for part in sent)


def test_what_fits_when_it_is_enqueued_fits_after_a_thousand_attempts() -> None:
    job = made(new_job("resize", b"x" * 1000), queue="orders", id=ID, now=NOW)
    largest = envelope.enqueued_bytes(job)
    later = structs.replace(
        job, attempt=1000, run_at=NOW + timedelta(seconds=MAX_DELAY_SECONDS / 2), expires_at=job.expires_at
    )
    assert encode(later).size_bytes <= largest


def test_a_job_that_no_message_holds_is_refused_with_its_size() -> None:
    job = made(new_job("resize", b"\xff" * 900_000), queue="orders", id=ID, now=NOW)
    refuse_oversized([job], envelope.enqueued_bytes(job))
    with pytest.raises(UnsupportedCapabilityError, match=r"900000 bytes of payload makes a message of 1200\d\d\d: .*"):
        refuse_oversized([job], 1024 * 1024)


@unhurried
@given(st.lists(st.datetimes(datetime(1970, 1, 2), datetime(8000, 1, 1)), min_size=2), tens)  # noqa: DTZ001
def test_ids_are_uuids_of_version_7_that_sort_by_time(moments: list[datetime], chance: bytes) -> None:
    ids = [job_id(moment.replace(tzinfo=UTC), chance) for moment in moments]
    assert {uuid.UUID(made_id).version for made_id in ids} == {7}
    assert {uuid.UUID(made_id).variant for made_id in ids} == {uuid.RFC_4122}
    by_time = [made_id for _, made_id in sorted(zip(moments, ids, strict=True))]
    assert by_time == sorted(ids)


def test_ids_of_one_moment_differ_by_their_chance() -> None:
    assert len({job_id(NOW, bytes([n, *[0] * 8, m])) for n in range(16) for m in range(16)}) == 256
