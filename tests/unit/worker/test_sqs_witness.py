"""What a worker's polls prove of a queue whose counts prove nothing."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.queues.base import WITNESS_SECONDS, Witnessed
from headrace.queues.sqs.witness import Witness

# A machine may be busy.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def empty_for(witness: Witness, now: float) -> float | None:
    return witness.witnessed(now, held=0).empty_for_seconds


def test_before_the_first_poll_has_ended_nothing_is_known() -> None:
    assert Witness().witnessed(100, held=0) == Witnessed(held=0, empty_for_seconds=None, oldest_age_seconds=0)


def test_polls_that_come_back_empty_prove_emptiness_since_the_first_of_them_began() -> None:
    witness = Witness()
    witness.poll_ended(100, 120, [])
    assert empty_for(witness, 121) == 21
    witness.poll_ended(120, 140, [])
    assert empty_for(witness, 145) == 45


@pytest.mark.parametrize("brings", [[3.0], None], ids=["something", "a failure"])
def test_a_poll_that_brings_something_or_fails_ends_what_was_known(brings: list[float] | None) -> None:
    witness = Witness()
    witness.poll_ended(100, 120, [])
    if brings is None:
        witness.poll_failed(125)
    else:
        witness.poll_ended(120, 125, brings)
    assert empty_for(witness, 126) is None
    witness.poll_ended(125, 145, [])
    assert empty_for(witness, 146) == 21


def test_an_empty_poll_proves_nothing_of_the_time_in_which_another_brought_something() -> None:
    witness = Witness()
    witness.poll_ended(100, 119, [0.5])
    witness.poll_ended(100, 120, [])
    assert empty_for(witness, 121) == 2


def test_who_polls_no_more_knows_nothing_for_long() -> None:
    witness = Witness()
    witness.poll_ended(100, 120, [])
    assert empty_for(witness, 120 + WITNESS_SECONDS) == 20 + WITNESS_SECONDS
    assert empty_for(witness, 121 + WITNESS_SECONDS) is None


def test_what_is_held_is_told_as_it_is() -> None:
    assert Witness().witnessed(100, held=7).held == 7


@unhurried
@given(st.lists(st.tuples(st.floats(0, 20), st.floats(-5, 1000)), max_size=30), st.floats(0, 100))
def test_the_oldest_age_is_the_greatest_of_the_last_half_minute_and_none_is_below_zero(
    came: list[tuple[float, float]], later: float
) -> None:
    witness, now, seen = Witness(), 0.0, []
    for pause, age in came:
        now += pause
        witness.poll_ended(now, now, [age, age / 2])
        seen.append((now, max(age, age / 2)))
    now += later
    wanted = max((age for at, age in seen if now - at <= WITNESS_SECONDS), default=0.0)
    assert witness.witnessed(now, held=0).oldest_age_seconds == max(wanted, 0.0)
