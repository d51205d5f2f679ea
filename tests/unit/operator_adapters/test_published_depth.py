from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.metrics import Metrics
from headrace.queues.base import Depth, Totals
from headrace_operator.core.model import ObjectKey, QueueDepth
from headrace_operator.sampling.published import PAGE_BYTES, PublishedDepth, parse_depth

QUEUE = ObjectKey("shop", "thumbnails")

FIELDS: dict[str, Any] = {
    "namespace": "shop",
    "queue": "thumbnails",
    "age_seconds": 1.5,
    "ready": 12,
    "blocked": 2,
    "delayed": 3,
    "in_flight": 4,
    "in_flight_seconds": 9.5,
    "dead_lettered": 1,
    "oldest_ready_age_seconds": 7.5,
    "next_due_seconds": -3.0,
    "paused": True,
    "is_lower_bound": True,
    "arrived": 100,
    "completed": 80,
    "failed": 5,
    "service_seconds": 60.5,
}


def page(*lines: dict[str, Any]) -> bytes:
    return json.dumps(lines).encode()


def test_the_whole_depth_is_read_with_its_age() -> None:
    depth = {name: value for name, value in FIELDS.items() if name not in ("namespace", "queue", "age_seconds")}
    assert parse_depth(page(FIELDS), QUEUE) == PublishedDepth(depth=QueueDepth(**depth), age_seconds=1.5)


def test_it_is_what_a_worker_publishes() -> None:
    metrics = Metrics()
    totals = Totals(arrived=100, completed=80, failed=5, service_seconds=60.5)
    metrics.of("shop", "mails").observe_depth(Depth(ready=1))
    metrics.of("shop", "thumbnails").observe_depth(Depth(ready=12, next_due_seconds=30, totals=totals, age_seconds=2))
    found = parse_depth(metrics.render_depths(), QUEUE)
    assert found is not None
    assert found.age_seconds == pytest.approx(2, abs=1)
    assert (found.depth.ready, found.depth.next_due_seconds, found.depth.completed) == (12, 30, 80)


@pytest.mark.parametrize("missing", FIELDS)
def test_a_missing_field_means_unknown_and_never_zero(missing: str) -> None:
    assert parse_depth(page({name: value for name, value in FIELDS.items() if name != missing}), QUEUE) is None


def test_what_is_not_known_of_is_passed_over() -> None:
    assert parse_depth(page({**FIELDS, "colour": "blue"}), QUEUE) is not None


@pytest.mark.parametrize("other", [{"queue": "mails"}, {"namespace": "elsewhere"}])
def test_another_queue_says_nothing_about_this_one(other: dict[str, str]) -> None:
    assert parse_depth(page({**FIELDS, **other}), QUEUE) is None
    assert parse_depth(page({**FIELDS, **other}, FIELDS), QUEUE) is not None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ready", -1),
        ("ready", 2**60),
        pytest.param("ready", 10**400, id="endless"),
        ("next_due_seconds", math.inf),
        ("next_due_seconds", 1e300),
        ("ready", 1.5),
        ("ready", "1"),
        ("ready", None),
        ("in_flight_seconds", math.inf),
        ("age_seconds", math.nan),
        ("age_seconds", -1),
        ("paused", 1),
        ("arrived", -1),
    ],
)
def test_a_number_that_is_none_makes_the_depth_unknown(field: str, value: object) -> None:
    assert parse_depth(page({**FIELDS, field: value}), QUEUE) is None


@pytest.mark.parametrize("filling", [b"[", b'[{"a":', b"[[],", b'{"', b"1", b"\xff", b" ", b"[1e999,", b'["\\u0000",'])
def test_whatever_a_pod_answers_means_unknown(filling: bytes) -> None:
    assert parse_depth((filling * PAGE_BYTES)[:PAGE_BYTES], QUEUE) is None


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_mean_unknown(content: bytes) -> None:
    assert parse_depth(content, QUEUE) is None
