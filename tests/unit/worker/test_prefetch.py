from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace.runtime.prefetch import MAX_PREFETCH, PREFETCH_SECONDS, Prefetch


def test_nothing_is_taken_ahead_while_nothing_is_known() -> None:
    assert Prefetch(slots=10).jobs == 0


def test_short_jobs_are_taken_in_big_batches() -> None:
    prefetch = Prefetch(slots=10)
    prefetch.observe(100, 100 * 0.00002)
    assert prefetch.jobs == MAX_PREFETCH


def test_long_jobs_are_left_to_whoever_is_free() -> None:
    prefetch = Prefetch(slots=10)
    prefetch.observe(1, 60)
    assert prefetch.jobs == 0


def test_about_a_fifth_of_a_second_of_work_waits() -> None:
    prefetch = Prefetch(slots=10)
    prefetch.observe(20, 20 * 0.05)
    assert prefetch.jobs == 40


def test_a_long_job_among_short_ones_is_believed_at_once_and_forgotten_slowly() -> None:
    prefetch = Prefetch(slots=10)
    prefetch.observe(50, 50 * 0.001)
    prefetch.observe(1, 10)
    assert prefetch.jobs == 0
    for _ in range(10):
        prefetch.observe(50, 50 * 0.001)
    assert 0 <= prefetch.jobs < 10
    for _ in range(200):
        prefetch.observe(50, 50 * 0.001)
    assert prefetch.jobs == MAX_PREFETCH


@given(
    slots=st.integers(1, 10_000),
    seen=st.lists(st.tuples(st.integers(0, 1000), st.floats(0, 1e6)), max_size=20),
)
def test_there_is_never_more_than_the_limit_and_never_much_work(slots: int, seen: list[tuple[int, float]]) -> None:
    prefetch = Prefetch(slots)
    for jobs, seconds in seen:
        prefetch.observe(jobs, seconds)
    assert 0 <= prefetch.jobs <= MAX_PREFETCH
    slowest = max((seconds / jobs for jobs, seconds in seen[-1:] if jobs), default=0.0)
    assert prefetch.jobs * slowest <= PREFETCH_SECONDS * slots * 1.000001
