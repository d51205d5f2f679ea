# ruff: noqa: ARG005 - what matters of these functions is their parameters
from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from headrace import Job, NewJob
from headrace.app import App, AppError, Context, DeadLetter, Retry, Snooze
from headrace.queues.envelope import made
from headrace.retry import RetryPolicy


def a_job() -> Job:
    return made(NewJob(name="a"), queue="orders", id="1", now=datetime(2026, 3, 1, tzinfo=UTC))


def test_a_function_is_declared_and_stays_itself() -> None:
    app = App()

    @app.job("resize")
    async def resize(payload: Any) -> str:
        return f"resized {payload}"

    @app.job("")
    def anything(payload: Any, context: Context) -> None: ...

    assert resize.__name__ == "resize"
    assert (app.jobs["resize"].is_async, app.jobs["resize"].takes_context) == (True, False)
    assert (app.jobs[""].is_async, app.jobs[""].takes_context) == (False, True)


def test_a_second_parameter_with_a_default_is_the_functions_own() -> None:
    app = App()

    @app.job("a")
    def a(payload: Any, scale: int = 2) -> None: ...

    assert not app.jobs["a"].takes_context


def test_a_name_is_declared_once() -> None:
    app = App()
    app.job("a")(lambda payload: None)
    with pytest.raises(AppError, match="declared twice"):
        app.job("a")(lambda payload: None)


@pytest.mark.parametrize("function", [lambda: None, lambda a, b, c: None, lambda *, payload: None])
def test_a_function_that_cannot_take_a_payload_is_refused(function: Any) -> None:
    with pytest.raises(AppError, match=r"\(payload\) or \(payload, context\)"):
        App().job("a")(function)


async def yields_in_a_coroutine(payload: Any) -> Any:
    yield payload


def yields(payload: Any) -> Any:
    yield payload


@pytest.mark.parametrize("function", [yields, yields_in_a_coroutine])
def test_a_generator_is_refused_since_calling_it_does_nothing(function: Any) -> None:
    with pytest.raises(AppError, match="its function yields"):
        App().job("a")(function)


@pytest.mark.parametrize("function", [None, 5, "resize", int])
def test_what_is_no_function_is_refused(function: Any) -> None:
    with pytest.raises(AppError, match=r"job 'a': its function must take \(payload\)"):
        App().job("a")(function)


def test_a_decorator_without_its_name_is_refused() -> None:
    def resize(payload: Any) -> None: ...

    with pytest.raises(AppError, match=r'write @app.job\("resize"\)'):
        App().job(resize)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [None, 5, "x" * 256, "two\nlines", b"a"])
def test_a_name_that_no_job_can_have_is_refused(name: Any) -> None:
    with pytest.raises(AppError, match="name"):
        App().job(name)


@pytest.mark.parametrize(
    ("terms", "complaint"),
    [
        *(({"timeout": value}, "timeout") for value in (True, "5", -1, 0, math.nan, math.inf, timedelta(0), 1e300)),
        *(({"max_concurrent": value}, "max_concurrent must be a whole number") for value in (True, "2", 1.5, 0, -1)),
        *(({"process": value}, "process must be True or False") for value in ("yes", 1)),
        *(({"retry": value}, "retry must be a RetryPolicy") for value in (5, "x", RetryPolicy)),
        ({"idempotency_key": "order"}, "idempotency_key must be a function"),
    ],
)
def test_terms_that_make_no_sense_are_refused_with_the_jobs_name(terms: dict[str, Any], complaint: str) -> None:
    with pytest.raises(AppError, match=f"job 'a': {complaint}"):
        App().job("a", **terms)


@pytest.mark.parametrize("after", [-1, "1", True, math.nan, 1e300, timedelta(seconds=-1)])
@pytest.mark.parametrize("said", [lambda after: Retry(after=after), Snooze, Context(a_job()).extend])
def test_a_handler_is_told_of_seconds_that_are_none(said: Any, after: Any) -> None:
    with pytest.raises(ValueError, match="must be a number of seconds"):
        said(after)


@pytest.mark.parametrize("fraction", [-0.1, 1.1, "half", True, math.nan])
def test_progress_is_from_0_to_1(fraction: Any) -> None:
    with pytest.raises(ValueError, match="must be from 0 to 1"):
        Context(a_job()).progress(fraction)


def test_what_a_handler_says_without_a_reason_has_one_all_the_same() -> None:
    nothing: Any = None
    assert str(Retry()) == str(Retry("")) == str(Retry(nothing)) == "the handler asked for another attempt"
    assert str(DeadLetter()) == str(DeadLetter("")) == str(DeadLetter(nothing)) == "the handler gave it up"
