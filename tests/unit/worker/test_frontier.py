"""Where one queue object looks for jobs next, by what it was given."""

from __future__ import annotations

import pytest

from headrace.queues.postgres.frontier import LEVELS, Frontier

ALL: frozenset[str] = frozenset()
NOWHERE = [0] * 2 * LEVELS
NOW = 1000.0
WITHOUT_SLOW = frozenset({"slow"})


@pytest.fixture
def frontier() -> Frontier:
    return Frontier()


def test_at_first_nothing_is_known(frontier: Frontier) -> None:
    assert frontier.of(ALL, NOW) == (NOWHERE, None)


def test_the_next_stand_behind_the_last_of_each_lane(frontier: Frontier) -> None:
    frontier.found(ALL, [(3, 4, None, 7), (3, 9, None, 7), (0, 7, None, 7), (0, 2, 40, 7), (0, 5, 38, 7)], NOW)
    floors, look = frontier.of(ALL, NOW)
    assert look == 7
    assert (floors[3], floors[0], floors[LEVELS]) == (10, 8, 41)
    assert sum(map(bool, floors)) == 3


def test_what_comes_later_never_moves_it_back(frontier: Frontier) -> None:
    frontier.found(ALL, [(0, 9, None, 7)], NOW)
    frontier.found(ALL, [(0, 3, None, 7)], NOW)
    assert frontier.of(ALL, NOW)[0][0] == 10


def test_after_a_look_from_the_start_everybody_begins_anew(frontier: Frontier) -> None:
    frontier.found(ALL, [(0, 900, None, 7), (5, 900, None, 7)], NOW)
    frontier.found(ALL, [(0, 3, None, 8)], NOW)
    floors, look = frontier.of(ALL, NOW)
    assert look == 8
    assert (floors[0], floors[5]) == (4, 0)


def test_each_set_of_names_left_out_has_a_frontier_of_its_own(frontier: Frontier) -> None:
    frontier.found(WITHOUT_SLOW, [(0, 9, None, 7)], NOW)
    assert frontier.of(ALL, NOW) == (NOWHERE, None), "what was left out stands below"
    assert frontier.of(frozenset({"slow"}), NOW)[0][0] == 10


def test_of_very_many_sets_the_oldest_begin_anew(frontier: Frontier) -> None:
    for number in range(40):
        frontier.found(frozenset({str(number)}), [(0, 9, None, 7)], NOW)
    assert frontier.of(frozenset({"0"}), NOW) == (NOWHERE, None)
    assert frontier.of(frozenset({"39"}), NOW)[1] == 7


class TestLookingPastWhatIsLeftOut:
    def test_a_look_that_ended_early_is_gone_on_with(self, frontier: Frontier) -> None:
        assert frontier.passed(WITHOUT_SLOW, [(0, 10_000, None, 7), (3, 5, 900, 7)], NOW)
        floors, _ = frontier.of(WITHOUT_SLOW, NOW)
        assert (floors[0], floors[LEVELS + 3]) == (10_001, 901)

    def test_one_that_got_no_further_is_over(self, frontier: Frontier) -> None:
        """From the start, with a frontier beyond: there is no need to ask again."""
        frontier.found(WITHOUT_SLOW, [(0, 50_000, None, 7)], NOW)
        assert not frontier.passed(WITHOUT_SLOW, [(0, 10_000, None, 7)], NOW)
        assert not frontier.passed(WITHOUT_SLOW, [], NOW)

    def test_somebody_elses_look_from_the_start_is_no_reason_to_begin_anew(self, frontier: Frontier) -> None:
        frontier.found(WITHOUT_SLOW, [(0, 50_000, None, 7)], NOW)
        frontier.found(WITHOUT_SLOW, [(0, 50_001, None, 8)], NOW)
        frontier.found(WITHOUT_SLOW, [(3, 5, None, 9)], NOW)
        assert frontier.of(WITHOUT_SLOW, NOW)[0][0] == 50_002

    def test_it_begins_anew_the_less_often_the_longer_the_way_is(self, frontier: Frontier) -> None:
        frontier.found(WITHOUT_SLOW, [(0, 9, None, 7)], NOW)
        assert frontier.of(WITHOUT_SLOW, NOW + 0.4)[0] != NOWHERE
        assert frontier.of(WITHOUT_SLOW, NOW + 0.6)[0] == NOWHERE
        for look in range(1000):
            frontier.passed(WITHOUT_SLOW, [(0, 10_000 * (look + 1), None, 7)], NOW)
        frontier.passed(WITHOUT_SLOW, [], NOW)
        assert frontier.of(WITHOUT_SLOW, NOW + 140)[0] != NOWHERE
        assert frontier.of(WITHOUT_SLOW, NOW + 160)[0] == NOWHERE

    def test_the_way_is_gone_to_its_end_however_slow_looks_are(self, frontier: Frontier) -> None:
        """Else, with many left out and a busy server, what stands behind them would never be reached."""
        for look in range(100):
            now = NOW + 0.3 * look
            assert frontier.of(WITHOUT_SLOW, now)[0][0] == (10_000 * look + 1 if look else 0)
            assert frontier.passed(WITHOUT_SLOW, [(0, 10_000 * (look + 1), None, 7)], now)
        assert not frontier.passed(WITHOUT_SLOW, [], NOW + 30)
        assert frontier.of(WITHOUT_SLOW, NOW + 44)[0] != NOWHERE, "as long as ever, from there on"
        assert frontier.of(WITHOUT_SLOW, NOW + 46)[0] == NOWHERE

    def test_who_leaves_nothing_out_does_not_pass_again_what_is_done(self, frontier: Frontier) -> None:
        assert not frontier.passed(ALL, [(0, 10_000, None, 7)], NOW), "the look did not end early"
        assert frontier.of(ALL, NOW) == ([10_001, *NOWHERE[1:]], 7)

    def test_who_found_nothing_goes_by_the_database_alone(self, frontier: Frontier) -> None:
        """What came back may have got its number long before it was committed."""
        frontier.found(ALL, [(0, 9, 5, 7)], NOW)
        frontier.found(WITHOUT_SLOW, [(0, 9, None, 7)], NOW)
        frontier.nothing()
        assert frontier.of(ALL, NOW) == (NOWHERE, None)
        assert frontier.of(WITHOUT_SLOW, NOW)[0] != NOWHERE

    def test_who_leaves_nothing_out_goes_by_the_database(self, frontier: Frontier) -> None:
        frontier.found(ALL, [(0, 9, None, 7)], NOW)
        assert frontier.of(ALL, NOW + 1000)[0][0] == 10
