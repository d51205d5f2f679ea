from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.retry import RetryPolicy, unknown_name_delay_seconds


@pytest.mark.parametrize(("attempt", "delay"), [(1, 1), (2, 2), (3, 4), (9, 256), (10, 512), (11, 600), (10_000, 600)])
def test_delays_double_up_to_the_maximum(attempt: int, delay: float) -> None:
    assert RetryPolicy().delay_seconds(attempt, chance=0.0) == delay


def test_chance_takes_off_its_part() -> None:
    policy = RetryPolicy(initial_delay_seconds=10, jitter=0.5)
    assert policy.delay_seconds(1, chance=0.0) == 10
    assert policy.delay_seconds(1, chance=0.5) == 7.5
    assert RetryPolicy(jitter=0).delay_seconds(3, chance=0.9) == 4


@given(
    attempt=st.integers(1, 10_000),
    chance=st.floats(0, 1, exclude_max=True),
    initial=st.floats(0, 1e6),
    multiplier=st.floats(1, 1e3),
    maximum=st.floats(0, 1e6),
    jitter=st.floats(0, 1),
)
def test_no_delay_is_negative_or_above_the_maximum(
    attempt: int, chance: float, initial: float, multiplier: float, maximum: float, jitter: float
) -> None:
    policy = RetryPolicy(initial_delay_seconds=initial, multiplier=multiplier, max_delay_seconds=maximum, jitter=jitter)
    assert 0 <= policy.delay_seconds(attempt, chance) <= maximum


@pytest.mark.parametrize(("age", "delay"), [(-5, 1), (0, 1), (7, 7), (3600, 60)])
def test_an_unknown_name_waits_as_long_as_it_has_waited(age: float, delay: float) -> None:
    assert unknown_name_delay_seconds(age, chance=0.0) == delay


@pytest.mark.parametrize("name", ["initial_delay_seconds", "multiplier", "max_delay_seconds"])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), 1e11])
def test_a_policy_whose_delays_no_backend_can_store_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} .*to 10000000000"):
        RetryPolicy(**{name: value})  # type: ignore[arg-type]  # none of them is max_retries


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        *(({"max_retries": value}, "max_retries .* whole number") for value in (1.5, "1", True, -1)),
        *(({"jitter": value}, "jitter .* from 0 to 1") for value in (None, "1", -0.1, 1.1, math.nan)),
        *(({"max_delay_seconds": value}, "max_delay_seconds .* number") for value in (None, "1", True, timedelta(1))),
    ],
)
def test_a_policy_of_no_numbers_is_refused(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        RetryPolicy(**fields)
