from __future__ import annotations

from typing import Any

from headrace.queues.base import Delivery
from headrace.runtime.attempt import Attempt, Fate
from headrace.runtime.handlers import Terms
from headrace.runtime.waiting import Waiting
from support.jobs import job


def attempt(name: str, number: int, *, limit: int | None = None, taken_at: float = 0.0, **fields: Any) -> Attempt:
    delivery = Delivery(job=job(id=str(number), name=name, **fields), receipt="1")
    return Attempt(delivery, Terms(max_concurrent=limit), taken_at)


def ids(attempts: list[Attempt]) -> list[str]:
    return [each.delivery.job.id for each in attempts]


def started(waiting: Waiting) -> list[Attempt]:
    """All that start now."""
    found = []
    while (following := waiting.next(None, [])) is not None:
        following.fate = Fate.RUNNING
        found.append(following)
    return found


def ended(waiting: Waiting, attempt: Attempt, run_seconds: float) -> None:
    attempt.run_seconds = run_seconds
    waiting.ended(attempt)


def test_jobs_start_in_the_order_in_which_they_came() -> None:
    waiting = Waiting()
    for number in range(3):
        assert waiting.add(attempt("x", number))
    assert ids(started(waiting)) == ["0", "1", "2"]
    assert len(waiting) == 0


def test_those_that_may_not_start_are_told_of_and_their_bytes_forgotten() -> None:
    waiting = Waiting()
    for number in range(3):
        waiting.add(attempt("x", number, payload=b"ab"))
    assert waiting.payload_bytes == 6
    refused: list[Attempt] = []
    chosen = waiting.next(lambda delivery: delivery.job.id == "2", refused)
    assert chosen is not None
    assert (ids([chosen]), ids(refused)) == (["2"], ["0", "1"])
    assert waiting.payload_bytes == 0


def test_of_a_limited_name_no_more_is_taken_than_may_run_until_it_is_known_how_long_they_take() -> None:
    waiting = Waiting()
    assert [waiting.add(attempt("x", number, limit=2)) for number in range(3)] == [True, True, False]
    assert waiting.names.full() == {"x"}
    assert waiting.add(attempt("y", 4))
    assert ids(started(waiting)) == ["0", "1", "4"]


def test_once_they_are_known_to_be_short_some_are_kept_for_their_names_turn() -> None:
    waiting = Waiting()
    waiting.add(attempt("x", 0, limit=1))
    (first,) = started(waiting)
    ended(waiting, first, 0.25)
    assert waiting.names.full() == frozenset()
    # One runs, and a second's work of such jobs waits.
    assert [waiting.add(attempt("x", number, limit=1)) for number in range(1, 7)] == [True] * 5 + [False]
    waiting.add(attempt("y", 9))
    (second, other) = started(waiting)
    assert ids([second, other]) == ["1", "9"]
    assert (len(waiting), len(waiting.line)) == (4, 0), "those that are kept stand in nobody's way"
    ended(waiting, second, 0.25)
    assert ids(started(waiting)) == ["2"]


def test_a_full_name_is_asked_for_again_when_half_of_what_is_kept_is_used_up() -> None:
    waiting = Waiting()
    waiting.add(attempt("x", 0, limit=1))
    ended(waiting, started(waiting)[0], 0.25)
    for number in range(1, 6):
        waiting.add(attempt("x", number, limit=1))
    assert waiting.names.full() == {"x"}
    fullness = []
    running = started(waiting)
    while running:
        ended(waiting, running[0], 0.25)
        fullness.append(bool(waiting.names.full()))
        running = started(waiting)
    assert fullness == [True, True, False, False, False]


def test_where_too_many_came_no_more_are_asked_for_than_there_is_room_for_until_fewer_come() -> None:
    waiting = Waiting()
    assert waiting.names.most_wanted() is None
    for number in range(9):
        waiting.add(attempt("x", number, limit=1))
    (first,) = started(waiting)
    ended(waiting, first, 10.0)
    assert waiting.names.full() == frozenset()
    assert waiting.names.most_wanted() == 1
    waiting.names.asked(frozenset())
    assert waiting.names.most_wanted() is None


def test_what_is_removed_leaves_its_names_room_to_others() -> None:
    waiting = Waiting()
    waiting.add(attempt("x", 0, limit=1))
    ended(waiting, started(waiting)[0], 0.5)
    kept = [attempt("x", number, limit=1, payload=b"abc") for number in range(1, 4)]
    for each in kept:
        waiting.add(each)
    started(waiting)
    waiting.remove(kept[1:])
    assert (len(waiting), waiting.payload_bytes) == (0, 0)
    assert waiting.add(attempt("x", 9, limit=1))


def test_where_the_next_has_waited_for_long_all_behind_it_would() -> None:
    waiting = Waiting()
    for number, taken_at in enumerate((1.0, 2.0, 3.0)):
        waiting.add(attempt("y", number, taken_at=taken_at))
    assert waiting.oldest_taken_at() == 1.0
    assert waiting.stale(0.5) == []
    assert ids(waiting.stale(1.0)) == ["0", "1", "2"]
