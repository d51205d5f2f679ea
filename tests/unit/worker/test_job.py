from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from headrace.job import MAX_PAYLOAD_BYTES, InvalidJobError, NewJob, new_job

DEEP: list[object] = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"name": "x" * 256}, "name"),
        ({"name": "two\nlines"}, "name"),
        ({"payload": b"x" * (MAX_PAYLOAD_BYTES + 1)}, "payload"),
        ({"payload": "{}"}, "must be bytes, not str"),
        ({"priority": 11}, "priority 11"),
        ({"priority": 1.5}, "whole number"),
        ({"priority": "5"}, "whole number"),
        ({"priority": -1}, "priority -1"),
        ({"delay_seconds": -1.0}, "delay_seconds"),
        ({"delay_seconds": math.inf}, "delay_seconds"),
        ({"delay_seconds": math.nan}, "delay_seconds"),
        ({"delay_seconds": 1e300}, "delay_seconds"),
        ({"name": "half \ud800"}, "surrogate"),
        ({"headers": {"a": "half \ud800"}}, "header 'a'"),
        ({"headers": {"zero\x00": "b"}}, "header 'zero"),
        ({"content_type": "text/plain\n"}, "content_type"),
        ({"group": ""}, "group"),
        ({"group": "x" * 129}, "group"),
        ({"group": "half \udfff"}, "surrogate"),
        ({"deduplication_key": "two\nlines"}, "deduplication_key"),
        ({"fairness_key": ""}, "fairness_key ''"),
        ({"fairness_key": "x" * 129}, "1 to 128 letters"),
        ({"fairness_key": "tenant 1"}, "all of ASCII and no space"),
        ({"fairness_key": "größe"}, "all of ASCII"),
        ({"fairness_key": "line\n"}, "all of ASCII"),
        ({"fairness_key": 17}, "fairness_key: must be a string, not int"),
        ({"deduplication_window_seconds": 60.0}, "beside a deduplication_key"),
        ({"deduplication_key": "k", "deduplication_window_seconds": 0.0}, "more than 0"),
        ({"deduplication_key": "k", "deduplication_window_seconds": 1e300}, "at most"),
        ({"delay_seconds": 1.0, "run_at": datetime(2030, 1, 1, tzinfo=UTC)}, "give one"),
        ({"run_at": datetime(2030, 1, 1)}, "time zone"),  # noqa: DTZ001
        ({"expires_at": datetime(2030, 1, 1)}, "time zone"),  # noqa: DTZ001
        ({"run_at": datetime(9999, 1, 1, tzinfo=UTC)}, "year 9000"),
        ({"expires_at": datetime.max.replace(tzinfo=UTC)}, "year 9000"),
        ({"run_at": datetime.min.replace(tzinfo=UTC)}, "year 2"),
        ({"priority": 1.0}, "whole number"),
        ({"priority": True}, "whole number"),
        ({"name": None}, "name: must be a string, not NoneType"),
        ({"name": b"resize"}, "name: must be a string, not bytes"),
        ({"payload": None}, "must be bytes, not NoneType"),
        ({"content_type": None}, "content_type: must be a string"),
        ({"headers": None}, "headers: must be a mapping of strings to strings, not NoneType"),
        ({"headers": ["a"]}, "headers: must be a mapping"),
        ({"headers": {"a": None}}, "header 'a': must be a string to a string, not to NoneType"),
        ({"headers": {1: "a"}}, "header 1: must be a string"),
        ({"priority": None}, "priority None"),
        ({"delay_seconds": None}, "delay_seconds: must be a number of seconds, not NoneType"),
        ({"delay_seconds": timedelta(seconds=1)}, "delay_seconds: must be a number of seconds, not timedelta"),
        ({"run_at": 1.0}, "run_at: must be a datetime, not float"),
        ({"run_at": "2030-01-01"}, "run_at: must be a datetime, not str"),
        ({"expires_at": date(2030, 1, 1)}, "expires_at: must be a datetime, not date"),
        ({"group": 17}, "group: must be a string, not int"),
        ({"deduplication_key": 17}, "deduplication_key: must be a string, not int"),
        ({"deduplication_key": "k", "deduplication_window_seconds": "1"}, "window_seconds: must be a number"),
        ({"extra": None}, "extra: must be a mapping"),
        ({"extra": ["a"]}, "extra: must be a mapping"),
        ({"extra": {1: "a"}}, "extra 1: must be JSON"),
        ({"extra": {"a": object()}}, "extra 'a': must be JSON"),
        ({"extra": {"a": [math.nan]}}, "extra 'a': must be JSON"),
        ({"extra": {"a": {"b": "zero\x00"}}}, "extra 'a': must be JSON"),
        ({"extra": {"a": DEEP}}, "extra: nested too deeply"),
        ({"extra": {"priority": 1}}, "extra 'priority': is a field of the envelope"),
        ({"extra": {"body": "text"}}, "extra 'body': is a field of the envelope"),
        ({"extra": {"version": 1}}, "extra 'version': must be a whole number above 1"),
    ],
)
def test_a_job_no_backend_would_take_is_refused_when_made(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidJobError, match=complaint):
        NewJob(**fields)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"idempotency_key": 17}, "idempotency_key '17': a string"),
        ({"idempotency_key": ""}, "idempotency_key ''"),
        ({"idempotency_key": "x" * 1025}, "idempotency_key 'x"),
        ({"idempotency_key": "k", "headers": None}, "headers: must be a mapping"),
        ({"idempotency_key": "zero\x00"}, "header 'idempotency-key'"),
    ],
)
def test_a_key_that_cannot_be_one_is_refused(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidJobError, match=complaint):
        new_job("resize", **arguments)


def test_a_payload_is_encoded_as_json_and_bytes_are_left_alone() -> None:
    assert new_job("a", {"é": [1, None]}).payload == '{"é":[1,null]}'.encode()
    assert new_job("a").payload == b"null"
    raw = new_job("a", b"\xff")
    assert (raw.payload, raw.content_type) == (b"\xff", "application/octet-stream")
    assert new_job("a", b"<x/>", content_type="text/xml", priority=3).content_type == "text/xml"


@pytest.mark.parametrize(
    "payload",
    [math.nan, [math.inf], object(), {1: object()}, "\ud800", pytest.param(DEEP, id="nested too deeply")],
)
def test_what_json_cannot_say_is_refused(payload: object) -> None:
    with pytest.raises(InvalidJobError, match="payload"):
        new_job("a", payload)
