"""What becomes of a job: how it stood with it when its run ended, by how the run ended."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from headrace.queues.base import Delivery
from headrace.queues.settlement import Complete, DeadLetter, Discard, Failure, Release, Retry
from headrace.retry import RetryPolicy
from headrace.runtime.attempt import STOPPED, Attempt, Ending, Fate, settlement_of
from headrace.runtime.handlers import DEFAULT_TERMS
from headrace.runtime.outcome import COMPLETED, Failed, GivenUp, Interrupted, Snoozed
from support.jobs import job

DELIVERY = Delivery(job=job(attempt=2), receipt="7")
POLICY = RetryPolicy(initial_delay_seconds=10, jitter=0)

DONE = Complete(delivery=DELIVERY, run_seconds=3.0)
AGAIN = Retry(delivery=DELIVERY, delay_seconds=20.0, failure=Failure(error="boom", error_type="E"), run_seconds=3.0)
TIMED_OUT = Retry(
    delivery=DELIVERY,
    delay_seconds=20.0,
    failure=Failure(error="timed out after 30 s", error_type="JobTimeout", fingerprint="job-timeout"),
    run_seconds=3.0,
)
DEAD = DeadLetter(delivery=DELIVERY, reason="no such picture", run_seconds=3.0)
LATER = Release(delivery=DELIVERY, delay_seconds=60.0)
BACK = Release(delivery=DELIVERY)
GONE = Discard(delivery=DELIVERY)

COMPLETED_RUN = COMPLETED
FAILED = Failed("boom", error_type="E")
GIVEN_UP = GivenUp("no such picture")
SNOOZED = Snoozed(60.0)
INTERRUPTED = Interrupted("the server was stopped with us")

ENDINGS: dict[str, Ending] = {
    "completed": COMPLETED_RUN,
    "failed": FAILED,
    "given up": GIVEN_UP,
    "snoozed": SNOOZED,
    "interrupted": INTERRUPTED,
    "stopped": STOPPED,
}
TABLE: dict[Fate, tuple[Any, Any, Any, Any, Any, Any]] = {
    #                 completed failed given up snoozed interrupted stopped
    Fate.WAITING: (DONE, AGAIN, DEAD, LATER, BACK, BACK),
    Fate.KEPT: (DONE, AGAIN, DEAD, LATER, BACK, BACK),
    Fate.RUNNING: (DONE, AGAIN, DEAD, LATER, BACK, BACK),
    Fate.HANDED_BACK: (DONE, BACK, DEAD, LATER, BACK, BACK),
    Fate.TIMED_OUT: (DONE, AGAIN, DEAD, LATER, TIMED_OUT, TIMED_OUT),
    Fate.CANCELLED: (DONE, GONE, GONE, GONE, GONE, GONE),
    Fate.LOST: (None, None, None, None, None, None),
    Fate.ENDED: (None, None, None, None, None, None),
}


@pytest.mark.parametrize(
    ("fate", "ending", "expected"),
    [
        pytest.param(fate, ending, TABLE[fate][column], id=f"{fate.name.lower()}-{name}")
        for fate, (column, (name, ending)) in itertools.product(Fate, enumerate(ENDINGS.items()))
    ],
)
def test_what_becomes_of_it(fate: Fate, ending: Ending, expected: object) -> None:
    settlement = settlement_of(DELIVERY, fate, ending, policy=POLICY, chance=0.0, limit_seconds=30.0, run_seconds=3.0)
    assert settlement == expected


def test_the_last_attempt_of_its_policy_is_its_end() -> None:
    once = RetryPolicy(max_retries=1)
    settlement = settlement_of(DELIVERY, Fate.RUNNING, FAILED, policy=once, chance=0.0, run_seconds=3.0)
    assert settlement == DeadLetter(
        delivery=DELIVERY,
        reason="RetriesExhausted",
        failure=Failure(error="boom", error_type="E"),
        run_seconds=3.0,
    )


def test_a_handler_may_say_when_it_is_to_be_tried_again() -> None:
    settlement = settlement_of(DELIVERY, Fate.RUNNING, Failed("busy", delay_seconds=5.0), policy=POLICY, chance=0.5)
    assert isinstance(settlement, Retry)
    assert settlement.delay_seconds == 5.0


def test_what_led_to_giving_up_is_kept() -> None:
    given_up = GivenUp("Rejected", error="400: no such size", traceback="…")
    settlement = settlement_of(DELIVERY, Fate.RUNNING, given_up, policy=POLICY, chance=0.0)
    assert isinstance(settlement, DeadLetter)
    assert settlement.failure == Failure(error="400: no such size", traceback="…")


@pytest.mark.parametrize(
    ("fates", "expected"),
    [
        ((Fate.TIMED_OUT, Fate.HANDED_BACK), Fate.TIMED_OUT),
        ((Fate.HANDED_BACK, Fate.TIMED_OUT), Fate.HANDED_BACK),
        ((Fate.TIMED_OUT, Fate.CANCELLED), Fate.CANCELLED),
        ((Fate.CANCELLED, Fate.HANDED_BACK), Fate.CANCELLED),
        ((Fate.CANCELLED, Fate.LOST), Fate.LOST),
        ((Fate.LOST, Fate.CANCELLED), Fate.LOST),
    ],
    ids=lambda value: "-".join(fate.name.lower() for fate in value) if isinstance(value, tuple) else None,
)
def test_what_was_said_first_holds_but_a_cancellation_and_a_loss_outdo_it(
    fates: tuple[Fate, ...], expected: Fate
) -> None:
    attempt = Attempt(DELIVERY, DEFAULT_TERMS, 0.0)
    for fate in fates:
        attempt.stop(fate)
    assert attempt.fate is expected
    assert attempt.is_stopped


def test_one_that_was_abandoned_is_settled_once_whatever_is_said_of_it_until_it_stops() -> None:
    attempt = Attempt(DELIVERY, DEFAULT_TERMS, 0.0)
    attempt.fate = Fate.RUNNING
    attempt.stop(Fate.HANDED_BACK)
    assert attempt.end(STOPPED, POLICY, 0.0) == Release(delivery=DELIVERY)
    attempt.stop(Fate.CANCELLED)
    assert attempt.end(STOPPED, POLICY, 0.0) is None


def test_a_job_is_settled_once() -> None:
    attempt = Attempt(DELIVERY, DEFAULT_TERMS, 0.0)
    assert attempt.end(COMPLETED, POLICY, 0.0) == Complete(delivery=DELIVERY, run_seconds=0.0)
    assert attempt.end(STOPPED, POLICY, 0.0) is None
