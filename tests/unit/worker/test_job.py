from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import pytest

from headrace.job import MAX_PAYLOAD_BYTES, InvalidJobError, NewJob, new_job


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
        ({"deduplication_window_seconds": 60.0}, "beside a deduplication_key"),
        ({"deduplication_key": "k", "deduplication_window_seconds": 0.0}, "more than 0"),
        ({"deduplication_key": "k", "deduplication_window_seconds": 1e300}, "at most"),
        ({"delay_seconds": 1.0, "run_at": datetime(2030, 1, 1, tzinfo=UTC)}, "give one"),
        ({"run_at": datetime(2030, 1, 1)}, "time zone"),  # noqa: DTZ001
        ({"expires_at": datetime(2030, 1, 1)}, "time zone"),  # noqa: DTZ001
        ({"run_at": datetime(9999, 1, 1, tzinfo=UTC)}, "year 9000"),
        ({"expires_at": datetime.max.replace(tzinfo=UTC)}, "year 9000"),
    ],
)
def test_a_job_no_backend_would_take_is_refused_when_made(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidJobError, match=complaint):
        NewJob(**fields)


def test_a_payload_is_encoded_as_json_and_bytes_are_left_alone() -> None:
    assert new_job("a", {"é": [1, None]}).payload == '{"é":[1,null]}'.encode()
    assert new_job("a").payload == b"null"
    raw = new_job("a", b"\xff")
    assert (raw.payload, raw.content_type) == (b"\xff", "application/octet-stream")
    assert new_job("a", b"<x/>", content_type="text/xml", priority=3).content_type == "text/xml"


DEEP: list[object] = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    "payload",
    [math.nan, [math.inf], object(), {1: object()}, "\ud800", pytest.param(DEEP, id="nested too deeply")],
)
def test_what_json_cannot_say_is_refused(payload: object) -> None:
    with pytest.raises(InvalidJobError, match="payload"):
        new_job("a", payload)
