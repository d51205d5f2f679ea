"""Who is asked when, without a clock."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.queues.sqs.counting import DEAD_LETTERS_SECONDS
from headrace_operator.core.model import ObjectKey, QueueDepth
from headrace_operator.core.provider import Pace
from headrace_operator.providers import PROVIDERS
from headrace_operator.sampling import questions
from headrace_operator.sampling.schedule import (
    MOST_QUEUES,
    SLEEPING_SECONDS,
    Breaker,
    Rests,
    Schedule,
    period_seconds,
)

# A machine may be busy.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

IDLE = QueueDepth(delayed=5)
BUSY = QueueDepth(ready=1)


def keys(number: int) -> list[ObjectKey]:
    return [ObjectKey("shop", f"queue-{index}") for index in range(number)]


@pytest.mark.parametrize(
    ("interval", "depth", "is_listening", "seconds"),
    [
        (5, IDLE, False, 5),
        (1, BUSY, True, 1),
        (3600, IDLE, True, 20),
        (None, IDLE, True, SLEEPING_SECONDS),
        (None, IDLE, False, 5),
        (None, BUSY, True, 5),
        (None, QueueDepth(in_flight=1), True, 5),
        (None, QueueDepth(ready=1, paused=True), True, 5),
        (5, QueueDepth(delayed=1, next_due_seconds=2), False, 2.05),
        (None, QueueDepth(delayed=1, next_due_seconds=1), True, 1.05),
        (5, QueueDepth(delayed=1, next_due_seconds=-3), False, 0.05),
        (5, QueueDepth(delayed=1, next_due_seconds=900), False, 5),
    ],
)
def test_for_how_long_a_count_is_good(
    interval: float | None, depth: QueueDepth, is_listening: bool, seconds: float
) -> None:
    assert period_seconds(Pace(), interval, depth, is_listening=is_listening) == seconds


@pytest.mark.parametrize(("interval", "seconds"), [(None, 4), (1, 2.5), (5, 5), (3600, 20)])
def test_where_each_count_has_its_price_no_queue_is_counted_more_often_than_that_allows(
    interval: float | None, seconds: float
) -> None:
    pace = Pace(unscaled_seconds=4, shortest_seconds=2.5)
    assert period_seconds(pace, interval, BUSY, is_listening=False) == seconds
    assert period_seconds(pace, interval, IDLE, is_listening=False) == seconds


class TestBreaker:
    def test_the_pauses_grow_and_end_at_the_longest(self) -> None:
        rests = Rests(first_seconds=0.5, longest_seconds=30)
        assert [rests.seconds(failures, 0) for failures in (1, 2, 3, 6, 7, 8, 10_000)] == [0.5, 1, 2, 16, 30, 30, 30]
        assert rests.seconds(7, 1) == 15, "by chance up to a half less, so that not all come back together"

    def test_whoever_failed_is_left_alone_and_whoever_answers_is_not(self) -> None:
        breaker = Breaker(Rests(first_seconds=2, longest_seconds=30))
        assert breaker.lets_pass(0)
        breaker.failed(100, 0)
        breaker.failed(100, 0)
        assert (breaker.lets_pass(103.9), breaker.lets_pass(104)) == (False, True)
        breaker.succeeded()
        breaker.failed(200, 0)
        assert breaker.lets_pass(202), "it begins anew"

    def test_where_something_was_mended_it_is_tried_at_once(self) -> None:
        breaker = Breaker(Rests(first_seconds=2, longest_seconds=30))
        breaker.failed(0, 0)
        breaker.give_another_chance()
        assert breaker.lets_pass(0)


class TestTurns:
    def test_a_queue_is_due_at_once_and_then_after_each_period(self) -> None:
        [queue] = keys(1)
        schedule = Schedule(Pace())
        schedule.follow(queue, 100)
        assert schedule.take_due(100) == [queue]
        assert schedule.next_at() == math.inf, "it has its turn"
        assert schedule.read(queue, 100.5, period_seconds=5) == 105.5
        assert schedule.take_due(105.4) == ()
        assert schedule.take_due(105.5) == [queue]

    def test_the_period_begins_with_the_count_but_nobody_is_asked_twice_as_often(self) -> None:
        [queue] = keys(1)
        schedule = Schedule(Pace())
        schedule.follow(queue, 0)
        assert schedule.read(queue, 100, period_seconds=5, age_seconds=2) == 103
        assert schedule.read(queue, 100, period_seconds=5, age_seconds=14) == 102.5

    def test_whoever_is_nearly_due_comes_along(self) -> None:
        one, two, three = keys(3)
        schedule = Schedule(Pace())
        for queue, read_at in ((one, 0), (two, 1), (three, 3)):
            schedule.follow(queue, 0)
            schedule.read(queue, read_at, period_seconds=5)
        assert schedule.take_due(5) == [one, two]

    def test_where_each_queue_is_a_question_of_its_own_nobody_comes_along_early(self) -> None:
        one, two = keys(2)
        schedule = Schedule(Pace(gathers=False))
        for queue, read_at in ((one, 0), (two, 1)):
            schedule.follow(queue, 0)
            schedule.read(queue, read_at, period_seconds=5)
        assert schedule.take_due(5) == [one]

    def test_news_are_looked_at_once_for_a_burst_and_again_only_after_a_while(self) -> None:
        [queue] = keys(1)
        schedule = Schedule(Pace())
        schedule.follow(queue, 0)
        schedule.read(queue, 0, period_seconds=20)
        assert {schedule.hear(queue, 1), schedule.hear(queue, 1.01)} == {1.02}
        assert schedule.take_due(1.02) == [queue]
        schedule.read(queue, 1.03, period_seconds=20)
        assert schedule.hear(queue, 1.04) == 1.52

    def test_news_that_come_while_it_is_read_are_looked_at_afterwards(self) -> None:
        [queue] = keys(1)
        schedule = Schedule(Pace())
        schedule.follow(queue, 0)
        schedule.take_due(0)
        schedule.hear(queue, 1)
        assert schedule.read(queue, 1, period_seconds=20) == 1.02

    def test_a_queue_that_is_forgotten_meanwhile_is_never_due_again(self) -> None:
        [queue] = keys(1)
        schedule = Schedule(Pace())
        schedule.follow(queue, 0)
        schedule.take_due(0)
        schedule.forget(queue)
        assert schedule.read(queue, 1, period_seconds=5) == math.inf
        assert schedule.hear(queue, 1) == math.inf
        schedule.postpone(queue, 1)
        assert schedule.next_at() == math.inf


class Backend:
    """Counts queues, unless a slow one is among them."""

    def __init__(self, queues: Sequence[ObjectKey], slow: set[ObjectKey]) -> None:
        self.schedule = Schedule(Pace())
        self.slow = slow
        self.asked: list[Sequence[ObjectKey]] = []
        self.counted: set[ObjectKey] = set()
        for queue in queues:
            self.schedule.follow(queue, 0)

    def round(self, now: float, queues: Sequence[ObjectKey]) -> None:
        for together in self.schedule.questions([queue for queue in queues if self.schedule.may_count(queue, now)]):
            self.asked.append(together)
            if self.slow & set(together):
                self.schedule.took_too_long(together, now, 0)
            else:
                self.counted.update(together)
                for queue in together:
                    self.schedule.counted(queue)


class TestQuestions:
    @unhurried
    @given(st.integers(1, 500), st.sets(st.integers(0, 499), max_size=4))
    def test_whoever_is_slow_is_found_and_keeps_nobody_else_from_being_counted(
        self, number: int, slow: set[int]
    ) -> None:
        queues = keys(number)
        backend = Backend(queues, {queues[place] for place in slow if place < number})
        for _ in range(10):
            backend.counted.clear()
            backend.round(0, queues)
        assert backend.counted == set(queues) - backend.slow
        assert not any(backend.schedule.may_count(queue, 1) for queue in backend.slow)
        assert max(len(together) for together in backend.asked) <= MOST_QUEUES

    def test_a_thousand_queues_are_a_handful_of_questions(self) -> None:
        backend = Backend(keys(1000), set())
        backend.round(0, keys(1000))
        assert [len(together) for together in backend.asked] == [200] * 5

    def test_whoever_was_slow_is_tried_again_alone_and_after_growing_pauses(self) -> None:
        queues = keys(3)
        backend = Backend(queues, {queues[1]})
        for _ in range(3):
            backend.round(0, queues)
        assert not backend.schedule.may_count(queues[1], 14)
        backend.asked.clear()
        backend.round(16, queues)
        assert [queues[1]] in backend.asked
        assert not backend.schedule.may_count(queues[1], 45)
        backend.slow.clear()
        backend.round(47, queues)
        assert backend.schedule.may_count(queues[1], 47)

    @unhurried
    @given(st.lists(st.integers(1, 300), max_size=40))
    def test_no_queue_is_counted_with_more_than_it_tolerates_and_none_twice(self, sizes: list[int]) -> None:
        schedule = Schedule(Pace())
        tolerated = {}
        for number, size in enumerate(sizes):
            queue = ObjectKey("shop", f"queue-{number}")
            schedule.follow(queue, 0)
            schedule.took_too_long([queue] * size, 0, 0)
            tolerated[queue] = max(size // 2, 1)
        asked = list(schedule.questions(tolerated))
        assert sorted(queue for together in asked for queue in together) == sorted(tolerated)
        assert all(len(together) <= tolerated[queue] for together in asked for queue in together)


class TestBudget:
    @unhurried
    @given(
        st.lists(
            st.tuples(
                st.none() | st.floats(1, 60),
                st.floats(0, 2),
                st.sampled_from([IDLE, BUSY, QueueDepth(in_flight=3), None]),
            ),
            min_size=40,
            max_size=60,
        )
    )
    def test_whatever_happens_no_minute_sees_more_than_thirty_counting_calls_of_a_queue_in_sqs(
        self, told: list[tuple[float | None, float, QueueDepth | None]]
    ) -> None:
        pace = PROVIDERS["AwsSqs"].pace
        [queue] = keys(1)
        schedule = Schedule(pace)
        schedule.follow(queue, 0)
        now, dead_letters_due, calls = 0.0, 0.0, []
        for interval, takes_seconds, depth in told:
            now = max(now, schedule.next_at())
            assert schedule.take_due(now) == [queue]
            calls.append(now)
            if now >= dead_letters_due:
                calls.append(now)
                dead_letters_due = now + DEAD_LETTERS_SECONDS
            now += takes_seconds
            if depth is None:
                schedule.postpone(queue, now + questions._REFUSED_SECONDS)
            else:
                period = period_seconds(pace, interval, depth, is_listening=False)
                schedule.read(queue, now, period_seconds=period)
        assert all(sum(at <= later < at + 60 for later in calls) <= 30 for at in calls)
