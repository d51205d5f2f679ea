from __future__ import annotations

from headrace.runtime.repeats import Repeats, Unsaid


def test_the_first_is_said_and_those_that_repeat_it_are_counted() -> None:
    repeats = Repeats()
    assert [repeats.is_first("failed", "resize", "E1") for _ in range(1000)] == [True] + [False] * 999
    assert repeats.due() == [Unsaid("failed", "resize", 999)]


def test_the_first_of_each_kind_is_said() -> None:
    repeats = Repeats()
    assert repeats.is_first("failed", "resize", "E1")
    assert not repeats.is_first("failed", "resize", "E1")
    assert repeats.is_first("failed", "resize", "E2")
    assert not repeats.is_first("failed", "resize", "E2")
    assert repeats.is_first("failed", "mail", "E1")
    assert repeats.is_first("dead-lettered", "resize")


def test_as_long_as_it_repeats_it_is_said_by_its_number_alone() -> None:
    repeats = Repeats()
    repeats.is_first("failed", "resize", "E1")
    repeats.is_first("failed", "resize", "E1")
    assert repeats.due() == [Unsaid("failed", "resize", 1)]
    assert not repeats.is_first("failed", "resize", "E1")
    assert repeats.due() == [Unsaid("failed", "resize", 1)]


def test_after_a_second_without_it_begins_anew() -> None:
    repeats = Repeats()
    repeats.is_first("failed", "resize", "E1")
    assert repeats.due() == []
    assert repeats.is_first("failed", "resize", "E1")


def test_however_many_names_there_are_no_more_are_remembered_than_a_thousand() -> None:
    repeats = Repeats()
    said = [repeats.is_first("of an unknown name", f"name {number}") for number in range(5000)]
    assert sum(said) == 1001
    assert repeats.due() == [Unsaid("of an unknown name", "…", 3999)]
