"""Where one queue object looks for jobs next, by what it was given."""

from __future__ import annotations

import pytest

from headrace.queues.postgres.frontier import LEVELS, Frontier

ALL: frozenset[str] = frozenset()
NOWHERE = [0] * 2 * LEVELS


@pytest.fixture
def frontier() -> Frontier:
    return Frontier()


def test_at_first_nothing_is_known(frontier: Frontier) -> None:
    assert frontier.of(ALL) == (NOWHERE, None)


def test_the_next_stand_behind_the_last_of_each_lane(frontier: Frontier) -> None:
    frontier.found(ALL, [(3, 4, None, 7), (3, 9, None, 7), (0, 7, None, 7), (0, 2, 40, 7), (0, 5, 38, 7)])
    floors, look = frontier.of(ALL)
    assert look == 7
    assert (floors[3], floors[0], floors[LEVELS]) == (10, 8, 41)
    assert sum(map(bool, floors)) == 3


def test_what_comes_later_never_moves_it_back(frontier: Frontier) -> None:
    frontier.found(ALL, [(0, 9, None, 7)])
    frontier.found(ALL, [(0, 3, None, 7)])
    assert frontier.of(ALL)[0][0] == 10


def test_after_a_look_from_the_start_everybody_begins_anew(frontier: Frontier) -> None:
    frontier.found(ALL, [(0, 900, None, 7), (5, 900, None, 7)])
    frontier.found(ALL, [(0, 3, None, 8)])
    floors, look = frontier.of(ALL)
    assert look == 8
    assert (floors[0], floors[5]) == (4, 0)


def test_each_set_of_names_left_out_has_a_frontier_of_its_own(frontier: Frontier) -> None:
    frontier.found(frozenset({"slow"}), [(0, 9, None, 7)])
    assert frontier.of(ALL) == (NOWHERE, None), "what was left out stands below"
    assert frontier.of(frozenset({"slow"}))[0][0] == 10


def test_of_very_many_sets_the_oldest_begin_anew(frontier: Frontier) -> None:
    for number in range(40):
        frontier.found(frozenset({str(number)}), [(0, 9, None, 7)])
    assert frontier.of(frozenset({"0"})) == (NOWHERE, None)
    assert frontier.of(frozenset({"39"}))[1] == 7
