"""What a queue object in SQS holds, by the time that it is told."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from headrace.job import NewJob
from headrace.queues.base import Delivery
from headrace.queues.envelope import made
from headrace.queues.sqs.capabilities import MAX_VISIBILITY_SECONDS
from headrace.queues.sqs.holdings import Held, Holdings
from headrace.queues.sqs.lease import LEASE_SECONDS, VISIBILITY_SECONDS, visibility_of
from headrace.queues.sqs.place import MAX_WAIT_SECONDS
from headrace.queues.sqs.queue_settings import LOOK_SECONDS
from headrace.runtime.lease import TRUSTED_SHARE

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def holdings() -> Holdings:
    held = Holdings(lease_seconds=LEASE_SECONDS, visibility_seconds=VISIBILITY_SECONDS)
    held.has_heartbeats = True
    return held


def received(where: Holdings, receipt: str, at: float) -> Held:
    job = made(NewJob(), queue="orders", id=f"job of {receipt}", now=NOW)
    held = Held(Delivery(job=job, receipt=receipt), "m", 1, at, at + VISIBILITY_SECONDS)
    where.hold(held, at)
    return held


def heartbeat(where: Holdings, now: float, failing: frozenset[str] = frozenset()) -> frozenset[str]:
    """What a heartbeat does; gives the receipts of what it tells as lost."""
    for held in where.due(now):
        if held.delivery.receipt not in failing:
            where.extended(held, now + where.extension(held, now))
    return frozenset(receipt for receipt, _ in where.lost(now, []))


def test_what_is_young_is_left_alone_and_what_is_half_over_is_extended() -> None:
    where = holdings()
    received(where, "a", at=0)
    assert where.due(29) == []
    assert [held.delivery.receipt for held in where.due(30)] == ["a"]
    heartbeat(where, 30)
    assert where.due(59) == []
    assert len(where.due(60)) == 1


@pytest.mark.parametrize("interval", [1.0, 5.0, 7.5])
def test_whatever_was_not_told_as_lost_is_held_for_as_long_as_it_is_trusted(interval: float) -> None:
    where = holdings()
    failing = frozenset({"bad"})
    for number in range(200):
        now = number * interval
        received(where, f"good {number}", at=now - 19)  # A poll took that long.
        if number == 50:
            received(where, "bad", at=now)
        heartbeat(where, now, failing)
        assert all(held.expires_at >= now + LEASE_SECONDS * TRUSTED_SHARE for held in where)
    assert {held.delivery.receipt for held in where} == {f"good {number}" for number in range(200)}


def test_there_is_time_to_try_again_before_it_is_told_as_lost() -> None:
    where = holdings()
    received(where, "a", at=0)
    told = [now for now in range(0, 60, 5) if heartbeat(where, now, frozenset({"a"}))]
    assert told == [40], "it was tried at 30 and at 35 before, and can be trusted no more"


def test_what_ran_out_is_never_extended() -> None:
    where = holdings()
    received(where, "a", at=0)
    assert where.due(60) == []
    assert heartbeat(where, 60) == {"a"}
    assert len(where) == 0


def test_nothing_is_held_beyond_the_wall() -> None:
    where = holdings()
    received(where, "a", at=0)
    now, told = 0.0, frozenset[str]()
    while not told:
        now += 5
        told = heartbeat(where, now)
        assert all(held.expires_at <= MAX_VISIBILITY_SECONDS for held in where)
    assert now == pytest.approx(MAX_VISIBILITY_SECONDS - LEASE_SECONDS, abs=5)


def test_what_is_being_settled_is_neither_extended_nor_lost() -> None:
    where = holdings()
    held = received(where, "a", at=0)
    held.use = "settling"
    assert where.due(30) == []
    assert heartbeat(where, 100) == frozenset()
    held.use = None
    assert heartbeat(where, 100) == {"a"}


def test_a_heartbeat_from_beside_extends_what_that_of_a_loop_which_stands_was_about() -> None:
    where = holdings()
    held = received(where, "a", at=0)
    held.use = "extending"
    assert where.due(30) == []
    assert where.due(30, beside=True) == [held]
    held.use = "settling"
    assert where.due(30, beside=True) == []


def test_without_heartbeats_what_ran_out_is_forgotten_when_there_is_much_of_it() -> None:
    where = Holdings(lease_seconds=LEASE_SECONDS, visibility_seconds=VISIBILITY_SECONDS)
    for number in range(25_000):
        received(where, f"{number}", at=float(number))
    assert len(where) <= 10_001


def test_a_dead_workers_jobs_start_again_within_a_minute() -> None:
    assert visibility_of(LEASE_SECONDS) == VISIBILITY_SECONDS == 60
    assert [visibility_of(seconds) for seconds in (0.1, 1, 2, 4)] == [1, 3, 5, 10]


def test_an_idle_worker_makes_at_most_two_hundred_calls_an_hour() -> None:
    # A poll waits for a third of what its messages are held for, and for no longer than the service lets it.
    poll_seconds = min(MAX_WAIT_SECONDS, VISIBILITY_SECONDS / 3)
    assert poll_seconds == 20
    polls, looks = 3600 / poll_seconds, 2 * 3600 / LOOK_SECONDS
    assert polls + looks == 192
