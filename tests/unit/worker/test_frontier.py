"""Where to look for jobs next."""

from __future__ import annotations

import pytest

from headrace.queues.postgres.frontier import FRONTIER_SECONDS, Frontier, Look

ALL: frozenset[str] = frozenset()
START: list[int | None] = [0] * 11


@pytest.fixture
def frontier() -> Frontier:
    return Frontier()


def found(
    frontier: Frontier, look: Look, *jobs: tuple[int, ...], at: float, is_short: bool = False, took: float = 0.001
) -> None:
    """Of jobs, the priority, the id, and where it has one the number under which it came back."""
    three = [(job[0], job[1], job[2] if len(job) > 2 else None) for job in jobs]
    frontier.found(look, three, is_short=is_short, started=at - took, ended=at)


def at_work(frontier: Frontier, *, took: float = 0.001, without: frozenset[str] = ALL) -> None:
    """At second 100, a look from the start has found all that it wanted, up to job 7 of priority 0."""
    found(frontier, frontier.next_look(without, 100.0), (0, 7), at=100.0, took=took)


def test_the_first_look_is_from_the_start(frontier: Frontier) -> None:
    assert frontier.next_look(ALL, 100.0) == Look(ALL, START, from_start=True)


def test_the_next_begins_behind_what_was_found(frontier: Frontier) -> None:
    look = frontier.next_look(ALL, 100.0)
    found(frontier, look, (3, 4), (3, 9), (0, 7), at=100.0)
    look = frontier.next_look(ALL, 100.1)
    assert (look.floors[:11], look.from_start) == ([8, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0], False)


def test_after_a_while_it_is_from_the_start_again(frontier: Frontier) -> None:
    at_work(frontier)
    assert not frontier.next_look(ALL, 100.0 + 0.9 * FRONTIER_SECONDS).from_start
    assert frontier.next_look(ALL, 100.0 + FRONTIER_SECONDS).from_start


def test_a_short_batch_says_that_there_is_time_to_look_from_the_start(frontier: Frontier) -> None:
    at_work(frontier)
    found(frontier, frontier.next_look(ALL, 100.1), (0, 8), at=100.1, is_short=True)
    assert frontier.next_look(ALL, 100.2).from_start


def test_what_came_back_is_looked_for_behind_the_last_that_was_found(frontier: Frontier) -> None:
    look = frontier.next_look(ALL, 100.0)
    found(frontier, look, (0, 7, 40), (2, 9, 40), at=100.0)
    look = frontier.next_look(ALL, 100.1)
    assert look.floors[11:22] == [41, None, 41, *[None] * 8], "a look from the start says how far it has seen"
    found(frontier, look, (0, 3, 52), (0, 8), at=100.1)
    look = frontier.next_look(ALL, 100.2)
    assert (look.floors[0], look.floors[11]) == (9, 53)


def test_it_says_how_long_ago_the_last_look_from_the_start_began(frontier: Frontier) -> None:
    at_work(frontier, took=0.5)
    assert frontier.next_look(ALL, 100.25).floors[22] == 750


def test_a_look_from_the_frontier_never_moves_it_back(frontier: Frontier) -> None:
    at_work(frontier)
    found(frontier, frontier.next_look(ALL, 100.1), (0, 2), at=100.1)
    assert frontier.next_look(ALL, 100.2).floors[0] == 8


class TestExpensiveLooks:
    """An old transaction keeps a million dead rows at the start."""

    @pytest.fixture
    def frontier(self) -> Frontier:
        frontier = Frontier()
        found(frontier, frontier.next_look(ALL, 90.0), (0, 6), at=90.0, took=0.2)
        return frontier

    def test_one_that_was_slow_by_chance_tells_nothing(self, frontier: Frontier) -> None:
        at_work(frontier, took=0.001)
        found(frontier, frontier.next_look(ALL, 101.0), (0, 9), at=101.0, took=0.2)
        assert frontier.next_look(ALL, 101.0 + FRONTIER_SECONDS).from_start

    def test_they_are_made_seldom(self, frontier: Frontier) -> None:
        at_work(frontier, took=0.2)
        assert not frontier.next_look(ALL, 100.0 + 3.9).from_start
        assert frontier.next_look(ALL, 100.0 + 4.1).from_start

    def test_a_look_that_found_nothing_does_not_lead_to_another(self, frontier: Frontier) -> None:
        at_work(frontier, took=0.2)
        look = frontier.next_look(ALL, 101.0)
        found(frontier, look, at=101.0, is_short=True)
        assert frontier.second_look(look, 101.0) is None
        assert frontier.second_look(look, 104.1) == Look(ALL, START, from_start=True)


def test_where_the_frontier_has_nothing_the_start_may(frontier: Frontier) -> None:
    at_work(frontier)
    look = frontier.next_look(ALL, 100.1)
    found(frontier, look, at=100.1, is_short=True)
    second = frontier.second_look(look, 100.1)
    assert second == Look(ALL, START, from_start=True)
    assert frontier.second_look(second, 100.1) is None


class TestNamesLeftOut:
    def test_each_set_of_them_has_a_frontier_of_its_own(self, frontier: Frontier) -> None:
        at_work(frontier, without=frozenset({"slow"}))
        assert frontier.next_look(ALL, 100.1).from_start, "what was left out stands below"
        assert not frontier.next_look(frozenset({"slow"}), 100.1).from_start

    def test_of_very_many_sets_the_oldest_begin_anew(self, frontier: Frontier) -> None:
        at_work(frontier)
        for number in range(100):
            at_work(frontier, without=frozenset({str(number)}))
        assert frontier.next_look(ALL, 100.1).from_start
        assert not frontier.next_look(frozenset({"99"}), 100.1).from_start
