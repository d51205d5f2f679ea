"""What is made of the pages of workers."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.metrics import Metrics
from headrace.queues.base import Depth, Totals, Witnessed
from headrace_operator.core.model import ObjectKey, QueueDepth, Witness
from headrace_operator.sampling.published import (
    PAGE_BYTES,
    PublishedDepth,
    PublishedWitness,
    parse_depth,
    parse_witnessed,
    with_witness,
)

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


# What workers have seen

SEEN: dict[str, Any] = {
    "namespace": "shop",
    "queue": "thumbnails",
    "held": 2,
    "empty_for_seconds": None,
    "oldest_age_seconds": 7.5,
}
APPROXIMATE = QueueDepth(is_approximate=True)


def seen(held: int = 0, empty_for_seconds: float | None = 30.0, oldest_age_seconds: float = 0.0) -> PublishedWitness:
    return PublishedWitness(held=held, empty_for_seconds=empty_for_seconds, oldest_age_seconds=oldest_age_seconds)


def test_a_worker_that_counts_nothing_tells_what_it_has_seen() -> None:
    assert parse_witnessed(page(SEEN), QUEUE) == seen(2, None, 7.5)
    assert parse_depth(page(SEEN), QUEUE) is None


def test_it_is_what_such_a_worker_publishes() -> None:
    metrics = Metrics()
    metrics.of("shop", "thumbnails").witnessed = lambda: Witnessed(
        held=0, empty_for_seconds=41.5, oldest_age_seconds=3.5
    )
    metrics.of("shop", "mails").observe_depth(Depth(ready=1))
    content = metrics.render_depths()
    assert parse_witnessed(content, QUEUE) == seen(0, 41.5, 3.5)
    assert parse_witnessed(content, ObjectKey("shop", "mails")) is None
    assert parse_depth(content, ObjectKey("shop", "mails")) is not None


def test_both_are_told_where_both_are_known() -> None:
    content = page({**FIELDS, **SEEN})
    assert parse_depth(content, QUEUE) == parse_depth(page(FIELDS), QUEUE)
    assert parse_witnessed(content, QUEUE) is not None


@pytest.mark.parametrize("missing", SEEN)
def test_who_leaves_something_out_has_seen_nothing(missing: str) -> None:
    assert parse_witnessed(page({name: value for name, value in SEEN.items() if name != missing}), QUEUE) is None


@pytest.mark.parametrize(
    ("field", "value"), [("held", -1), ("held", None), ("empty_for_seconds", -0.5), ("oldest_age_seconds", math.inf)]
)
def test_a_number_that_is_none_is_no_witness(field: str, value: object) -> None:
    assert parse_witnessed(page({**SEEN, field: value}), QUEUE) is None


def test_a_zero_is_known_when_every_ready_worker_has_polled_in_vain_and_holds_nothing() -> None:
    depth = with_witness(APPROXIMATE, [seen(empty_for_seconds=50), seen(empty_for_seconds=30)], ready=2)
    assert depth.witness == Witness(asked=2, empty=2, empty_for_seconds=30)
    assert depth.is_known_empty
    assert not APPROXIMATE.is_known_empty


@pytest.mark.parametrize(
    ("said", "ready"),
    [
        ([], 0),
        ([], 1),
        ([seen()], 2),
        ([seen(), seen(empty_for_seconds=None)], 2),
        ([seen(), seen(held=1)], 2),
    ],
    ids=["nobody is there", "nobody answers", "one does not answer", "one has got something", "one holds something"],
)
def test_a_zero_that_one_of_them_does_not_confirm_is_unknown(said: list[PublishedWitness], ready: int) -> None:
    assert not with_witness(APPROXIMATE, said, ready=ready).is_known_empty


def test_numbers_beyond_reason_are_cut_to_what_decisions_can_work_with() -> None:
    depth = with_witness(APPROXIMATE, [seen(held=0, empty_for_seconds=2.0**53)], ready=1)
    assert depth.witness is not None
    assert depth.witness.empty_for_seconds == 30 * 86_400
    assert with_witness(APPROXIMATE, [seen(held=2**53)] * 1000, ready=1000).in_flight == 2**53


def test_what_workers_hold_is_in_flight_whatever_was_counted() -> None:
    assert with_witness(APPROXIMATE, [seen(held=3), seen(held=4)], ready=2).in_flight == 7
    assert with_witness(QueueDepth(in_flight=9, is_approximate=True), [seen(held=3)], ready=1).in_flight == 9


def test_the_oldest_age_is_the_greatest_that_was_seen_while_anything_is_ready() -> None:
    said = [seen(oldest_age_seconds=5), seen(oldest_age_seconds=8)]
    assert with_witness(QueueDepth(ready=1, is_approximate=True), said, ready=2).oldest_ready_age_seconds == 8
    assert with_witness(APPROXIMATE, said, ready=2).oldest_ready_age_seconds == 0
