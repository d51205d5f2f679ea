"""What an exception says of its attempt: the same as Python itself would, told once for many."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

import pytest

from headrace.runtime import failures
from headrace.runtime.failures import failure_of

if TYPE_CHECKING:
    from collections.abc import Callable


def plain(words: str) -> None:
    raise ValueError(words)


def caused(words: str) -> None:
    try:
        plain(words)
    except ValueError as error:
        raise LookupError(f"no {words}") from error


def in_handling(words: str) -> None:
    try:
        plain(words)
    except ValueError:
        raise LookupError(f"no {words}")  # noqa: B904 - what stands between the two is the point


def without_its_context(words: str) -> None:
    try:
        plain(words)
    except ValueError:
        raise LookupError(f"no {words}") from None


def noted(words: str) -> None:
    error = ValueError("noted")
    error.add_note(f"for {words}")
    raise error


def misspelt(words: str) -> None:
    compile(f"{words} = = 1", "theirs.py", "exec")


def several(words: str) -> None:
    raise ExceptionGroup("several", [ValueError(words), LookupError(words)])


def deep(words: str) -> None:
    def within(depth: int) -> None:
        if depth:
            within(depth - 1)
        raise ValueError(words)

    within(20)


def without_words(words: str) -> None:
    raise AssertionError


def in_a_circle(words: str) -> None:
    first, second = ValueError(words), LookupError(words)
    first.__cause__, second.__cause__ = second, first
    raise first


def raised_by(function: Callable[[str], None], words: str) -> BaseException:
    try:
        function(words)
    except BaseException as error:  # noqa: BLE001
        return error
    raise AssertionError("it raised nothing")


@pytest.fixture(autouse=True)
def nothing_told() -> None:
    failures._told.clear()


@pytest.mark.parametrize(
    "function",
    [
        plain,
        caused,
        in_handling,
        without_its_context,
        noted,
        misspelt,
        several,
        deep,
        without_words,
        in_a_circle,
    ],
    ids=lambda function: function.__name__,
)
def test_its_traceback_is_pythons_own_with_each_failures_own_words(function: Any) -> None:
    for words in ("ants", "bees", "ants"):
        error = raised_by(function, words)
        failed = failure_of(error)
        assert failed.traceback == "".join(traceback.format_exception(error))
        assert failed.error.startswith(f"{type(error).__name__}: {error}")
        assert failed.error_type == type(error).__name__


def test_stacks_are_formatted_once_for_each_place() -> None:
    for number in range(100):
        failure_of(raised_by(plain, str(number)))
        failure_of(raised_by(caused, str(number)))
    assert len(failures._told) == 2


def test_no_more_places_are_remembered_than_a_few_hundred() -> None:
    for number in range(2 * failures._CACHED + 10):
        scope: dict[str, Any] = {}
        exec(f"def place_{number}(words): raise ValueError(words)", scope)
        failure_of(raised_by(scope[f"place_{number}"], "ants"))
    assert len(failures._told) <= failures._CACHED


def test_one_cause_has_one_fingerprint_whatever_it_says_and_by_whatever_way_it_came() -> None:
    def by_another_way(words: str) -> None:
        plain(words)

    prints = {
        failure_of(raised_by(plain, "ants")).fingerprint,
        failure_of(raised_by(plain, "bees")).fingerprint,
        failure_of(raised_by(by_another_way, "ants")).fingerprint,
    }
    assert len(prints) == 1
    assert failure_of(raised_by(caused, "ants")).fingerprint not in prints


def test_it_says_where_it_was_raised() -> None:
    failed = failure_of(raised_by(plain, "ants"))
    assert failed.error.endswith(f"({__file__}:{plain.__code__.co_firstlineno + 1} in plain)")


def test_an_error_that_cannot_be_put_into_words_is_one_all_the_same() -> None:
    class UnspeakableError(Exception):
        def __str__(self) -> str:
            raise UnspeakableError

    def speechless(words: str) -> None:
        raise UnspeakableError

    failed = failure_of(raised_by(speechless, ""))
    assert failed.error.startswith("UnspeakableError: <")
    assert "in speechless" in (failed.traceback or "")
