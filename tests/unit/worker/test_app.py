# ruff: noqa: ARG005 - what matters of these functions is their parameters
from __future__ import annotations

from typing import Any

import pytest

from headrace.app import App, AppError, Context


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
