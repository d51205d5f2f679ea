"""How many workers, and why: every rule of who writes which number, told as cases."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace_operator.core.model import QueueDepth, Sample, SampleSource
from headrace_operator.core.scaling import Decision, History, Situation, decide, wanted_workers
from headrace_operator.core.spec import Autoscaling, ScalingMode, Target

START = datetime(2026, 1, 1, tzinfo=UTC)


def scaling(mode: str = "Direct", *, per_replica: int = 10, **changes: Any) -> Autoscaling:
    return Autoscaling(mode=ScalingMode(mode), target=Target(queue_depth_per_replica=per_replica), **changes)


def sample(ready: int = 0, in_flight: int = 0, *, at: datetime = START, paused: bool = False) -> Sample:
    depth = QueueDepth(ready=ready, in_flight=in_flight, paused=paused)
    return Sample(depth=depth, sampled_at=at, source=SampleSource.BACKEND)


def decide_once(spec: Autoscaling, current: int | None, seen: Sample | None, **changes: Any) -> Decision:
    changes = {"scaled_to_zero": False, **changes}
    return decide(spec, Situation(current=current, sample=seen, **changes), History(), START)


@dataclass
class Story:
    """One pool over time: each step is what is seen then; the number is carried from step to step."""

    spec: Autoscaling
    current: int | None = None
    scaled_to_zero: bool = False
    now: datetime = START
    history: History = field(default_factory=History)
    last: Decision | None = None

    def step(
        self,
        seconds: float,
        ready: int | None = 0,
        in_flight: int = 0,
        *,
        current: int | None = None,
        paused: bool = False,
    ) -> int:
        """Let time pass, see this (None: the reading fails; `current`: somebody else's number), decide."""
        self.now += timedelta(seconds=seconds)
        if current is not None:
            self.current = current
        seen = None if ready is None else sample(ready, in_flight, at=self.now, paused=paused)
        situation = Situation(current=self.current, scaled_to_zero=self.scaled_to_zero, sample=seen)
        self.last = decide(self.spec, situation, self.history, self.now)
        self.history, self.current = self.last.history, self.last.desired_replicas
        self.scaled_to_zero = self.last.scaled_to_zero
        return self.last.desired_replicas

    @property
    def reason(self) -> str:
        assert self.last is not None
        return self.last.reason


@pytest.mark.parametrize(
    ("mode", "current", "marked", "seen", "desired", "reason", "ours"),
    [
        # Off: the user's number, whatever the load.
        ("Off", None, False, None, 1, "ManualScaling", False),
        ("Off", 4, False, sample(100), 4, "ManualScaling", False),
        ("Off", 0, False, sample(100), 0, "ManualScaling", False),
        # HPA: the autoscaler's number from 1 up is followed; from zero the operator wakes to what the load wants.
        ("HPA", None, False, sample(0), 0, "WaitingForJobs", True),
        ("HPA", None, False, sample(35), 4, "Woken", False),
        ("HPA", 0, True, sample(35), 4, "Woken", False),
        ("HPA", 7, False, sample(35), 7, "HorizontalPodAutoscaler", False),
        ("HPA", 20, False, sample(35), 20, "HorizontalPodAutoscaler", False),
        ("HPA", 7, False, None, 7, "SignalsLost", False),
        # Direct: the operator's number alone, in flight counted like ready.
        ("Direct", None, False, sample(0), 0, "WaitingForJobs", True),
        ("Direct", 1, False, sample(35), 4, "Load", False),
        ("Direct", 1, False, sample(5, 30), 4, "Load", False),
        ("Direct", 4, False, sample(40), 4, "Load", False),
        ("Direct", 1, False, sample(1000), 10, "Load", False),
        ("Direct", 7, False, None, 7, "SignalsLost", False),
        ("Direct", 20, False, None, 10, "SignalsLost", False),
        # Zero: ours waits for enough that could start now; what is held by a lease elsewhere can't.
        ("Direct", 0, True, sample(0, 30), 0, "WaitingForJobs", True),
        ("Direct", 0, True, sample(1), 1, "Woken", False),
        ("Direct", 0, True, None, 0, "SignalsLost", True),
        ("Direct", None, False, None, 0, "SignalsLost", True),
        # Zero: a hand's is never woken, in no mode.
        ("Direct", 0, False, sample(1000), 0, "PausedAtZero", False),
        ("HPA", 0, False, sample(1000), 0, "PausedAtZero", False),
        ("HPA", 0, False, None, 0, "PausedAtZero", False),
        # A paused queue: what is ready can't start and wants nobody, what is in flight is still worked on.
        ("Direct", 0, True, sample(500, paused=True), 0, "QueuePaused", True),
        ("HPA", 0, True, sample(500, paused=True), 0, "QueuePaused", True),
        ("Direct", None, False, sample(500, paused=True), 0, "QueuePaused", True),
        ("Direct", 1, False, sample(500, 30, paused=True), 3, "Load", False),
        # A zero that was ours stays known as ours while scaling is off.
        ("Off", 0, True, sample(5), 0, "ManualScaling", True),
    ],
)
def test_who_decides_on_which_number(
    mode: str, current: int | None, marked: bool, seen: Sample | None, desired: int, reason: str, ours: bool
) -> None:
    decision = decide_once(scaling(mode), current, seen, scaled_to_zero=marked)
    assert (decision.desired_replicas, decision.reason, decision.scaled_to_zero) == (desired, reason, ours)


@pytest.mark.parametrize("mode", ["Direct", "HPA", "Off"])
@pytest.mark.parametrize("current", [0, 3, 30])
def test_the_annotation_holds_any_number_in_every_mode(mode: str, current: int) -> None:
    decision = decide_once(scaling(mode), current, sample(1000), paused=True)
    assert (decision.desired_replicas, decision.reason) == (current, "Paused")


def test_a_zero_of_ours_survives_the_annotation() -> None:
    decision = decide_once(scaling(), 0, sample(1000), paused=True, scaled_to_zero=True)
    assert decision.scaled_to_zero


def test_activation_depth_is_what_wakes_and_not_what_keeps_awake() -> None:
    spec = scaling(activation_depth=5)
    assert decide_once(spec, 0, sample(4), scaled_to_zero=True).desired_replicas == 0
    assert decide_once(spec, 0, sample(5), scaled_to_zero=True).desired_replicas == 1
    assert decide_once(spec, 1, sample(1)).desired_replicas == 1


@pytest.mark.parametrize("mode", ["Direct", "HPA"])
def test_a_raised_minimum_lifts_a_zero_of_ours_but_no_hands(mode: str) -> None:
    spec = scaling(mode, min_replicas=2)
    assert decide_once(spec, 0, sample(0), scaled_to_zero=True).desired_replicas == 2
    assert decide_once(spec, 0, sample(0)).desired_replicas == 0
    assert decide_once(spec, None, None).desired_replicas == 2


@pytest.mark.parametrize(
    ("ready", "minimum", "reason"),
    [(101, 0, "TooManyReplicas"), (100, 0, None), (0, 0, None), (0, 3, "TooFewReplicas")],
)
def test_a_bound_that_holds_the_number_is_told(ready: int, minimum: int, reason: str | None) -> None:
    decision = decide_once(scaling(min_replicas=minimum), 5, sample(ready))
    assert (decision.limited.reason if decision.limited else None) == reason


@pytest.mark.parametrize("mode", ["Direct", "HPA"])
def test_idle_long_enough_goes_to_zero_from_any_number(mode: str) -> None:
    story = Story(scaling(mode, scale_to_zero_after_seconds=60), current=7)
    assert [story.step(5) for _ in range(12)] == [7] * 12
    assert story.step(5) == 0
    assert story.reason == "Idle"
    assert story.scaled_to_zero


@pytest.mark.parametrize("mode", ["Direct", "HPA"])
def test_a_paused_queue_lets_its_pool_go_to_zero_and_wakes_it_when_it_is_resumed(mode: str) -> None:
    story = Story(scaling(mode, scale_to_zero_after_seconds=10), current=3)
    story.step(5, 500, 2, paused=True)
    story.step(5, 500, paused=True)
    assert story.step(10, 500, paused=True) == 0
    assert story.reason == "Idle"
    assert story.last is not None
    assert "the queue is paused with 500 ready" in story.last.message
    assert story.step(5, 500, paused=True) == 0
    assert story.step(5, 500) == 10
    assert story.reason == "Woken"


def test_a_count_that_stopped_is_told_as_one() -> None:
    depth = QueueDepth(ready=100_000, is_lower_bound=True)
    seen = Sample(depth=depth, sampled_at=START, source=SampleSource.BACKEND)
    assert "at least 100000 ready" in decide_once(scaling(), 1, seen).message


def test_work_starts_the_idle_clock_anew() -> None:
    story = Story(scaling(scale_to_zero_after_seconds=10), current=1)
    story.step(5)
    story.step(5)
    story.step(5, 0, 1)
    assert [story.step(5) for _ in range(3)] == [1, 1, 0]


def test_a_lost_reading_neither_stops_nor_feeds_the_idle_clock() -> None:
    story = Story(scaling(scale_to_zero_after_seconds=10), current=1)
    story.step(5)
    assert [story.step(5, None), story.step(5, None)] == [1, 1]
    assert story.step(1) == 0


def test_a_long_silence_starts_the_idle_clock_anew() -> None:
    story = Story(scaling(scale_to_zero_after_seconds=10), current=1)
    story.step(5)
    story.step(120, None)
    assert [story.step(1), story.step(5), story.step(5)] == [1, 1, 0]


def test_a_slow_sample_interval_is_no_silence() -> None:
    story = Story(scaling(sample_interval_seconds=300, scale_to_zero_after_seconds=600), current=1)
    assert [story.step(300) for _ in range(3)] == [1, 1, 0]


def test_a_number_that_an_autoscaler_writes_late_over_our_zero_is_zero_again_at_once() -> None:
    story = Story(scaling("HPA", scale_to_zero_after_seconds=10), current=3)
    story.step(5)
    story.step(10)
    assert story.step(1, current=2) == 0


def test_with_a_minimum_an_idle_pool_stays() -> None:
    story = Story(scaling(min_replicas=2, scale_to_zero_after_seconds=10), current=2)
    assert [story.step(30) for _ in range(5)] == [2] * 5


def test_direct_goes_up_at_once_and_down_to_the_highest_of_the_last_minute() -> None:
    story = Story(scaling(), current=1)
    assert story.step(5, 80) == 8
    assert story.step(5, 30) == 8
    assert story.reason == "Stabilizing"
    assert story.step(30, 50) == 8
    assert story.step(24, 10) == 8
    assert story.step(1, 10) == 5
    assert story.step(35, 10) == 1


def test_direct_goes_up_in_the_middle_of_going_down() -> None:
    story = Story(scaling(), current=1)
    story.step(5, 50)
    story.step(5, 10)
    assert story.step(5, 70) == 7


def test_a_restarted_operator_holds_the_number_for_the_window_before_it_shrinks() -> None:
    story = Story(scaling(), current=9)
    assert story.step(0, 10) == 9
    assert story.step(30, 10) == 9
    assert story.step(30, 10) == 1


def test_numbers_of_before_a_sleep_do_not_come_back_after_the_wake() -> None:
    story = Story(scaling(scale_to_zero_after_seconds=5), current=1)
    assert story.step(5, 100) == 10
    story.step(5)
    assert story.step(5) == 0
    assert story.step(5, 3) == 1
    assert story.step(5, 3) == 1


def test_what_is_remembered_stays_small() -> None:
    story = Story(scaling(), current=1)
    for number in range(300):
        story.step(1, 10 + number % 90)
    assert len(story.history.recommendations) <= 10


@given(
    ready=st.integers(0, 10_000),
    in_flight=st.integers(0, 10_000),
    current=st.none() | st.integers(0, 50),
    minimum=st.integers(0, 20),
    spread=st.integers(1, 20),
    marked=st.booleans(),
    mode=st.sampled_from(["Direct", "HPA"]),
)
def test_what_the_operator_decides_itself_is_within_bounds_or_a_zero(
    ready: int, in_flight: int, current: int | None, minimum: int, spread: int, marked: bool, mode: str
) -> None:
    spec = scaling(mode, min_replicas=minimum, max_replicas=minimum + spread)
    decision = decide_once(spec, current, sample(ready, in_flight), scaled_to_zero=marked)
    desired = decision.desired_replicas
    if desired not in (current, 0):
        assert max(1, minimum) <= desired <= spec.max_replicas
    if desired == 0 and current != 0:
        assert minimum == 0
        assert decision.scaled_to_zero
    assert 1 <= wanted_workers(spec, QueueDepth(ready=ready)) <= spec.max_replicas


@given(ready=st.integers(0, 500), more=st.integers(0, 500))
def test_more_jobs_never_want_fewer_workers(ready: int, more: int) -> None:
    spec = scaling(max_replicas=30)
    assert wanted_workers(spec, QueueDepth(ready=ready + more)) >= wanted_workers(spec, QueueDepth(ready=ready))
