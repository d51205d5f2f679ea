from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from headrace.job import InvalidJobError, NewJob
from headrace.queues import BACKENDS
from headrace.queues.capabilities import Capabilities, refuse_unsupported
from headrace.queues.errors import UnsupportedCapabilityError
from headrace.queues.memory.capabilities import CAPABILITIES
from headrace.sync import Producer, enqueue_in

ALL = replace(CAPABILITIES, fairness=True)
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
KEYED = NewJob(deduplication_key="k")
KEYED_FOR_AN_HOUR = NewJob(deduplication_key="k", deduplication_window_seconds=3600)

LACKS: list[tuple[str, dict[str, Any], NewJob, str]] = [
    ("no priorities", {"priorities": False}, NewJob(priority=1), "priority: .* leave it out"),
    ("no groups", {"groups": False}, NewJob(group="g"), "group: .* leave it out"),
    ("no fairness", {"fairness": False}, NewJob(fairness_key="tenant-1"), "fairness_key: .* leave it out"),
    ("no expiry", {"expiry": False}, NewJob(expires_at=NOW), "expires_at: .* leave it out"),
    (
        "no delays",
        {"max_enqueue_delay_seconds": 0},
        NewJob(delay_seconds=1),
        "delay_seconds or run_at: .* leave it",
    ),
    ("no delays", {"max_enqueue_delay_seconds": 0}, NewJob(run_at=NOW), "delay_seconds or run_at: .* leave it"),
    (
        "short delays",
        {"max_enqueue_delay_seconds": 900},
        NewJob(delay_seconds=901),
        "delay of 901 s: .* a new job by 900 s at",
    ),
    (
        "short delays",
        {"max_enqueue_delay_seconds": 900},
        NewJob(run_at=NOW + timedelta(hours=1)),
        "delay of 3600 s: .* a new job by 900 s at most",
    ),
    ("small payloads", {"max_payload_bytes": 9}, NewJob(payload=b"0123456789"), "payload of 10 bytes: .* takes 9 at"),
    (
        "no deduplication",
        {"deduplicates_unfinished": False, "max_deduplication_window_seconds": 0},
        KEYED,
        "deduplication_key: .* leave it out",
    ),
    (
        "windows alone",
        {"deduplicates_unfinished": False, "max_deduplication_window_seconds": 300},
        KEYED,
        "give deduplication_window_seconds, at most 300",
    ),
    (
        "short windows",
        {"max_deduplication_window_seconds": 300},
        KEYED_FOR_AN_HOUR,
        "deduplication_window_seconds 3600: .* for 300 s at most",
    ),
]


@pytest.mark.parametrize(("lacks", "job", "refusal"), [row[1:] for row in LACKS], ids=[row[0] for row in LACKS])
def test_what_a_backend_lacks_is_refused_with_the_field_and_the_fix(
    lacks: dict[str, Any], job: NewJob, refusal: str
) -> None:
    refuse_unsupported([NewJob(), job], ALL, now=NOW)
    with pytest.raises(UnsupportedCapabilityError, match=refusal):
        refuse_unsupported([NewJob(), job], replace(ALL, **lacks), now=NOW)


@pytest.mark.parametrize(("lacks", "job"), [(row[1], row[2]) for row in LACKS], ids=[row[0] for row in LACKS])
def test_what_a_backend_has_is_not_refused_for_what_else_it_lacks(lacks: dict[str, Any], job: NewJob) -> None:
    for others in (row[1] for row in LACKS if row[1].keys().isdisjoint(lacks)):
        refuse_unsupported([job], replace(ALL, **others), now=NOW)


def test_who_wants_groups_where_there_are_none_is_told_of_fairness_where_there_is_some() -> None:
    with pytest.raises(UnsupportedCapabilityError, match="leave it out; for tenants in turn, give fairness_key"):
        refuse_unsupported([NewJob(group="g")], replace(ALL, groups=False))
    with pytest.raises(UnsupportedCapabilityError, match=r"leave it out$"):
        refuse_unsupported([NewJob(group="g")], replace(ALL, groups=False, fairness=False))


def test_what_is_just_within_the_bounds_is_taken() -> None:
    bounded = replace(ALL, max_enqueue_delay_seconds=900, max_payload_bytes=9, max_deduplication_window_seconds=300)
    refuse_unsupported(
        [
            NewJob(delay_seconds=900, payload=b"012345678"),
            NewJob(run_at=NOW + timedelta(seconds=900)),
            NewJob(deduplication_key="k", deduplication_window_seconds=300),
        ],
        bounded,
        now=NOW,
    )


def test_a_moment_is_compared_with_the_longest_delay_only_where_the_time_is_known() -> None:
    refuse_unsupported([NewJob(run_at=NOW + timedelta(days=1))], replace(ALL, max_enqueue_delay_seconds=900))


def test_a_plain_job_asks_for_nothing() -> None:
    nothing = replace(
        ALL,
        priorities=False,
        groups=False,
        expiry=False,
        max_enqueue_delay_seconds=0,
        deduplicates_unfinished=False,
        max_deduplication_window_seconds=0,
    )
    refuse_unsupported([NewJob(name="plain", headers={"a": "b"})], nothing, now=NOW)


@pytest.mark.parametrize("scheme", BACKENDS)
def test_what_a_backend_can_do_is_known_without_its_packages(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> None:
        raise ModuleNotFoundError(package)

    monkeypatch.setattr("headrace.queues.require_packages", missing)
    assert isinstance(BACKENDS[scheme].capabilities, Capabilities)


@pytest.mark.parametrize("jobs", [None, NewJob(), iter([NewJob()]), [NewJob(), None], "resize", [{"name": "resize"}]])
def test_what_are_no_jobs_is_refused_by_every_way_to_enqueue(jobs: Any) -> None:
    nowhere = "postgresql://nobody@127.0.0.1:1/none"
    with Producer(nowhere) as producer:
        for refuse in (
            lambda: refuse_unsupported(jobs, ALL),
            lambda: enqueue_in(object(), "orders", jobs),
            lambda: producer.enqueue("orders", jobs),
        ):
            with pytest.raises(InvalidJobError, match="must be a list of NewJob, not"):
                refuse()
