from __future__ import annotations

import math

import pytest

from headrace_operator.metrics_api.quantity import format_quantity


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0"),
        (1, "1"),
        (3.0, "3"),
        (2.5, "2500m"),
        (0.0004, "0"),
        (0.001, "1m"),
        (-1.5, "-1500m"),
        (12_345_678_901, "12345678901"),
    ],
)
def test_whole_numbers_are_plain_and_others_are_in_thousandths(value: float, expected: str) -> None:
    assert format_quantity(value) == expected


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_finite_number_has_no_quantity(value: float) -> None:
    with pytest.raises(ValueError, match="not a finite number"):
        format_quantity(value)
