"""Trouble with the API that lasts shows in the log, and no more than once a minute."""

from __future__ import annotations

import logging

import pytest

from headrace_operator.core.model import ConflictError, OperatorError, PassingError, TransientError
from headrace_operator.kubernetes.errors import ExpiredError
from headrace_operator.kubernetes.trouble import ApiTrouble

TIMEOUT = PassingError("ApiServerTimeout", "the API server did not answer in time (GET /x)")


class Hours:
    """A clock, and requests that end now and then."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.trouble = ApiTrouble(lambda: self.now)

    def pass_by(self, *, seconds: int, error: OperatorError | None) -> None:
        """A request a second that ends so."""
        for _ in range(seconds):
            self.trouble.observe(error)
            self.now += 1


@pytest.fixture
def hours() -> Hours:
    return Hours()


def warnings(log: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in log.records if record.levelno == logging.WARNING]


def test_what_passes_within_seconds_is_worth_no_line(hours: Hours, caplog: pytest.LogCaptureFixture) -> None:
    hours.pass_by(seconds=9, error=TIMEOUT)
    hours.pass_by(seconds=70, error=None)
    hours.pass_by(seconds=9, error=TIMEOUT)
    assert warnings(caplog) == []


def test_what_goes_on_is_told_once_a_minute_with_its_count(hours: Hours, caplog: pytest.LogCaptureFixture) -> None:
    hours.pass_by(seconds=3 * 60, error=TIMEOUT)
    told = warnings(caplog)
    assert len(told) == 3
    assert "11 requests in the last 10 s" in told[0]
    assert "60 requests in the last 60 s, the newest: ApiServerTimeout: the API server did not answer" in told[1]


def test_requests_that_succeed_in_between_do_not_hide_it(hours: Hours, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(30):
        hours.pass_by(seconds=1, error=TIMEOUT)
        hours.pass_by(seconds=1, error=None)
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize(
    "error",
    [
        ConflictError("Conflict", "somebody else wrote first"),
        ExpiredError("Expired", "too old"),
        TransientError("NotFound", "there is none"),
        None,
    ],
)
def test_how_the_api_works_is_no_trouble(
    hours: Hours, caplog: pytest.LogCaptureFixture, error: OperatorError | None
) -> None:
    hours.pass_by(seconds=200, error=error)
    assert warnings(caplog) == []
