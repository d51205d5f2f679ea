"""How many workers, and why: every rule of who writes which number, told as cases."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace_operator.core.model import QueueDepth, Sample, SampleSource, Witness
from headrace_operator.core.scaling import Decision, History, SeenQueue, Situation, decide
from headrace_operator.core.spec import Autoscaling, Fallback, ScalingMode, Target

START = datetime(2026, 1, 1, tzinfo=UTC)

# A machine may be busy.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def scaling(mode: str = "Direct", *, per_replica: int | None = None, **changes: Any) -> Autoscaling:
    return Autoscaling(mode=ScalingMode(mode), target=Target(queue_depth_per_replica=per_replica), **changes)


def sample(ready: int = 0, in_flight: int = 0, *, at: datetime = START, paused: bool = False) -> Sample:
    depth = QueueDepth(ready=ready, in_flight=in_flight, paused=paused)
    return Sample(depth=depth, sampled_at=at, source=SampleSource.BACKEND)


def queues(seen: Sample | None) -> tuple[SeenQueue, ...]:
    return (SeenQueue(name="mail", sample=seen),)


def decide_once(spec: Autoscaling, current: int | None, seen: Sample | None, **changes: Any) -> Decision:
    changes = {"scaled_to_zero": False, **changes}
    return decide(spec, Situation(current=current, queues=queues(seen), **changes), History(), START)


def wanted(spec: Autoscaling, seen: Sample) -> int:
    """What the load wants, whatever is written."""
    found = decide_once(spec, None, seen).wanted_replicas
    assert found is not None
    return found


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
        if current is not None:
            self.current = current
        at = self.now + timedelta(seconds=seconds)
        return self.see(seconds, None if ready is None else sample(ready, in_flight, at=at, paused=paused))

    def see(self, seconds: float, seen: Sample | None) -> int:
        """Let time pass, see this sample, decide."""
        self.now += timedelta(seconds=seconds)
        situation = Situation(current=self.current, scaled_to_zero=self.scaled_to_zero, queues=queues(seen))
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
        # Off at a zero of ours: nobody would wake it, so it is left.
        ("Off", 0, True, sample(5), 1, "ManualScaling", False),
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


@unhurried
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
    assert 1 <= wanted(spec, sample(ready)) <= spec.max_replicas


@unhurried
@given(ready=st.integers(0, 500), more=st.integers(0, 500))
def test_more_jobs_never_want_fewer_workers(ready: int, more: int) -> None:
    spec = scaling(max_replicas=30)
    assert wanted(spec, sample(ready + more)) >= wanted(spec, sample(ready))


# Several queues, and parts of them


def two(first: Sample | None, second: Sample | None, share: Fraction = Fraction(1)) -> tuple[SeenQueue, ...]:
    return (SeenQueue(name="urgent", sample=first, share=share), SeenQueue(name="bulk", sample=second, share=share))


def decide_two(
    spec: Autoscaling, current: int | None, first: Sample | None, second: Sample | None, **changes: Any
) -> Decision:
    share = changes.pop("share", Fraction(1))
    changes = {"scaled_to_zero": current == 0, "queues": two(first, second, share), **changes}
    return decide(spec, Situation(current=current, **changes), History(), START)


def test_the_loads_of_several_queues_add_up() -> None:
    decision = decide_two(scaling(), 1, sample(20, 5), sample(30))
    assert (decision.desired_replicas, decision.reason) == (6, "Load")
    assert decision.message == "50 ready and 5 in flight at 10 a worker: 6 workers"


def test_a_paused_queue_among_several_adds_what_is_in_flight_alone_and_is_named() -> None:
    decision = decide_two(scaling(), 1, sample(20), sample(500, 5, paused=True))
    assert decision.desired_replicas == 3
    assert decision.message == "520 ready and 5 in flight, queue bulk is paused at 10 a worker: 3 workers"
    assert decide_two(scaling(), 0, sample(0), sample(500, paused=True)).reason == "WaitingForJobs"
    assert decide_two(scaling(), 0, sample(1, paused=True), sample(500, paused=True)).reason == "QueuePaused"


@pytest.mark.parametrize("mode", ["Direct", "HPA"])
def test_while_one_of_several_queues_is_unknown_the_number_may_grow_and_does_not_shrink(mode: str) -> None:
    held = decide_two(scaling(mode), 4, sample(10), None)
    assert (held.desired_replicas, held.reason) == (4, "SignalsLost")
    assert held.message == "the depth of queue bulk is unknown: holding 4 workers"
    assert (held.wanted_replicas, decide_two(scaling(mode), 4, sample(70), None).wanted_replicas) == (4, 7)
    assert decide_two(scaling(), 4, sample(70), None).desired_replicas == 7


def test_while_one_of_several_queues_is_unknown_the_others_jobs_still_wake_and_nothing_goes_to_zero() -> None:
    assert decide_two(scaling(), 0, sample(1), None).reason == "Woken"
    assert decide_two(scaling(), 0, sample(0), None).reason == "SignalsLost"
    spec, history = scaling(scale_to_zero_after_seconds=10), History()
    for seconds in range(0, 60, 5):
        now = START + timedelta(seconds=seconds)
        situation = Situation(current=2, scaled_to_zero=False, queues=two(sample(at=now), None))
        decision = decide(spec, situation, history, now)
        assert decision.desired_replicas == 2
        history = decision.history


def test_pools_share_a_load_to_the_last_job() -> None:
    third = Fraction(1, 3)
    decision = decide_two(scaling(), 1, sample(90), sample(0), share=third)
    assert decision.desired_replicas == 3
    assert decision.message == "90 ready and 0 in flight, 30 of it for this pool at 10 a worker: 3 workers"
    # Each is woken by what is there: a third of a job is one.
    assert decide_two(scaling(), 0, sample(1), sample(0), share=third).desired_replicas == 1


@unhurried
@given(
    loads=st.lists(st.integers(0, 5_000), min_size=1, max_size=4),
    capacities=st.lists(st.integers(1, 1_000), min_size=1, max_size=5),
)
def test_pools_that_share_have_at_most_one_worker_more_each_than_one_pool_would(
    loads: list[int], capacities: list[int]
) -> None:
    spec = scaling(max_replicas=10_000)

    def workers(share: Fraction) -> int:
        seen = tuple(SeenQueue(name=str(at), sample=sample(load), share=share) for at, load in enumerate(loads))
        return decide(spec, Situation(current=1, scaled_to_zero=False, queues=seen), History(), START).desired_replicas

    together = sum(workers(Fraction(capacity, sum(capacities))) for capacity in capacities)
    alone = workers(Fraction(1))
    assert alone <= together <= alone + len(capacities)


# What can't be read for long


def test_a_fallback_lifts_what_has_been_unknown_for_so_many_intervals_from_zero_too() -> None:
    spec = scaling(fallback=Fallback(replicas=3, failure_threshold=2))
    awake, asleep = Story(spec, current=1), Story(spec, current=0, scaled_to_zero=True)
    assert [awake.step(5, None), awake.step(5, None), awake.step(5, None)] == [1, 1, 3]
    assert awake.reason == "Fallback"
    assert [asleep.step(5, None), asleep.step(5, None), asleep.step(5, None)] == [0, 0, 3]
    assert asleep.last is not None
    assert asleep.last.message == "the depth of the queue has been unknown for 10 s: fallback wants 3 workers"
    assert not asleep.scaled_to_zero


def test_a_fallback_never_takes_workers_away_nor_goes_beyond_the_most() -> None:
    spec = scaling(fallback=Fallback(replicas=3, failure_threshold=1))
    busy = Story(spec, current=7)
    assert [busy.step(5, None), busy.step(5, None)] == [7, 7]
    small = Story(scaling(max_replicas=2, fallback=Fallback(replicas=3, failure_threshold=1)), current=1)
    assert [small.step(5, None), small.step(5, None)] == [1, 2]


def test_a_reading_in_between_starts_the_fallback_anew_and_a_hands_zero_has_none() -> None:
    spec = scaling("HPA", fallback=Fallback(replicas=3, failure_threshold=2))
    story = Story(spec, current=1)
    assert [story.step(5, None), story.step(5, 1), story.step(5, None), story.step(5, None)] == [1, 1, 1, 1]
    assert story.step(5, None) == 3
    by_hand = Story(spec, current=0)
    assert [by_hand.step(5, None) for _ in range(5)] == [0] * 5


# Counts that may be behind, and what workers say beside them


def counted(ready: int = 0, in_flight: int = 0, *, empty_for: float | None = None, at: datetime = START) -> Sample:
    """An approximate count; `empty_for`: for how long all of two workers have polled in vain, None: not all have."""
    witness = Witness(asked=2, empty=1) if empty_for is None else Witness(asked=2, empty=2, empty_for_seconds=empty_for)
    depth = QueueDepth(ready=ready, in_flight=in_flight, is_approximate=True, witness=witness)
    return Sample(depth=depth, sampled_at=at, source=SampleSource.BACKEND)


@pytest.mark.parametrize("mode", ["Direct", "HPA"])
def test_a_count_of_nothing_that_workers_do_not_confirm_holds_the_number(mode: str) -> None:
    decision = decide_once(scaling(mode), 7, counted())
    assert (decision.desired_replicas, decision.reason, decision.wanted_replicas) == (7, "EmptinessUnconfirmed", 7)
    assert decision.message == (
        "0 ready and 0 in flight, but the count of the queue is approximate, and confirmed by 1 of 2 ready workers: "
        "holding 7 workers"
    )


@pytest.mark.parametrize("mode", ["Direct", "HPA"])
def test_a_count_of_nothing_that_all_workers_confirm_leads_to_zero_as_any_other(mode: str) -> None:
    story = Story(scaling(mode, scale_to_zero_after_seconds=60), current=7)
    numbers = [story.see(5, counted(empty_for=300, at=story.now + timedelta(seconds=5))) for _ in range(13)]
    assert numbers == [7] * 12 + [0]
    assert story.reason == "Idle"


@pytest.mark.parametrize("mode", ["Direct", "HPA"])
def test_a_pool_at_zero_needs_nobody_to_confirm_that_and_wakes_by_what_is_counted(mode: str) -> None:
    spec = scaling(mode)
    nobody = QueueDepth(is_approximate=True)
    asleep = decide_once(
        spec, 0, Sample(depth=nobody, sampled_at=START, source=SampleSource.BACKEND), scaled_to_zero=True
    )
    assert (asleep.desired_replicas, asleep.reason) == (0, "WaitingForJobs")
    assert decide_once(spec, 0, counted(1), scaled_to_zero=True).reason == "Woken"


def unwitnessed(at: datetime, ready: int = 0) -> Sample:
    """An approximate count, where no worker is ready."""
    return Sample(depth=QueueDepth(ready=ready, is_approximate=True), sampled_at=at, source=SampleSource.BACKEND)


@pytest.mark.parametrize("mode", ["Direct", "HPA"])
def test_workers_that_never_get_ready_are_not_held_for_ever_where_nothing_is_counted(mode: str) -> None:
    story = Story(scaling(mode, scale_to_zero_after_seconds=60), current=7)

    def see(ready: int = 0) -> int:
        return story.see(5, unwitnessed(story.now + timedelta(seconds=5), ready))

    # Counts may be a minute behind, and nobody takes jobs out: five minutes of nothing are proof, and then it is idle.
    assert [see() for _ in range(60)] == [7] * 60
    assert story.reason == "EmptinessUnconfirmed"
    # What is counted meanwhile begins it anew.
    see(ready=1)
    numbers = [see() for _ in range(80)]
    assert numbers.index(0) == 72, "300 s of nothing, and 60 s of idleness"


def test_while_that_is_measured_each_sample_is_looked_at() -> None:
    decision = decide_once(scaling(), 7, unwitnessed(START))
    assert decision.next_at == START + timedelta(seconds=5)


def test_what_was_not_counted_for_a_while_is_no_proof_for_workers_that_are_not_ready() -> None:
    story = Story(scaling(scale_to_zero_after_seconds=60), current=7)
    for _ in range(20):
        story.see(5, unwitnessed(story.now + timedelta(seconds=5)))
    assert story.see(600, unwitnessed(story.now + timedelta(seconds=600))) == 7


def test_what_workers_got_while_counts_said_nothing_starts_the_idle_clock_anew() -> None:
    story = Story(scaling(scale_to_zero_after_seconds=60), current=1)

    def see(empty_for: float | None) -> int:
        return story.see(5, counted(empty_for=empty_for, at=story.now + timedelta(seconds=5)))

    assert [see(300) for _ in range(11)] == [1] * 11
    # A job came and went between two counts: their polls have been empty for 20 s when the first is again.
    assert [see(None) for _ in range(4)] == [1] * 4
    numbers = [see(20 + 5 * step) for step in range(12)]
    assert numbers.index(0) == 8, "60 s after the poll began that was the first to come back empty"


def test_a_zero_that_nobody_confirms_among_queues_with_load_is_no_reason_to_hold() -> None:
    decision = decide_two(scaling(), 3, sample(50), counted())
    assert (decision.desired_replicas, decision.reason) == (5, "Load")
    held = decide_two(scaling(), 3, sample(0), counted())
    assert (held.desired_replicas, held.reason) == (3, "EmptinessUnconfirmed")
    assert "the count of queue bulk is approximate" in held.message


APPROXIMATE_STEPS = st.lists(
    st.tuples(st.floats(0.5, 90), st.integers(0, 40), st.integers(0, 20), st.none() | st.floats(0, 600)),
    min_size=1,
    max_size=25,
)


@unhurried
@given(steps=APPROXIMATE_STEPS, mode=st.sampled_from(["Direct", "HPA"]), current=st.integers(1, 20))
def test_a_count_alone_never_leads_to_zero_while_there_are_workers(
    steps: list[tuple[float, int, int, float | None]], mode: str, current: int
) -> None:
    story = Story(scaling(mode, scale_to_zero_after_seconds=30), current=current)
    known_empty_since: datetime | None = None
    for seconds, ready, in_flight, empty_for in steps:
        before, at = story.current, story.now + timedelta(seconds=seconds)
        number = story.see(seconds, counted(ready, in_flight, empty_for=empty_for, at=at))
        if ready or in_flight:
            known_empty_since = None
        elif empty_for is not None:
            known_empty_since = max(known_empty_since or at, at - timedelta(seconds=empty_for))
        if before and not number:
            assert empty_for is not None, "all workers said so"
            assert known_empty_since is not None
            assert at - known_empty_since >= timedelta(seconds=30), "and for as long as zero takes"


@unhurried
@given(
    in_flight=st.integers(0, 40),
    current=st.integers(1, 20),
    empty_for=st.none() | st.floats(0, 600),
    ready=st.integers(1, 300),
)
def test_doubt_never_leads_to_fewer_workers_nor_do_more_jobs(
    in_flight: int, current: int, empty_for: float | None, ready: int
) -> None:
    spec = scaling(max_replicas=30)
    confirmed = decide_once(spec, current, counted(0, in_flight, empty_for=600)).desired_replicas
    doubted = decide_once(spec, current, counted(0, in_flight, empty_for=empty_for)).desired_replicas
    more = decide_once(spec, current, counted(ready, in_flight, empty_for=empty_for)).desired_replicas
    assert doubted >= confirmed
    assert more >= confirmed
    assert (
        more >= decide_once(spec, current, counted(max(ready // 2, 1), in_flight, empty_for=empty_for)).desired_replicas
    )


@unhurried
@given(ready=st.integers(0, 500), more=st.integers(0, 500), in_flight=st.integers(0, 50))
def test_more_jobs_never_want_fewer_workers_by_an_approximate_count(ready: int, more: int, in_flight: int) -> None:
    spec = scaling(max_replicas=30)
    assert wanted(spec, counted(ready + more, in_flight)) >= wanted(spec, counted(ready, in_flight))


# When to decide anew


def ahead_seconds(decision: Decision, now: datetime = START) -> float | None:
    return None if decision.next_at is None else (decision.next_at - now).total_seconds()


def test_where_time_changes_nothing_there_is_no_next_time() -> None:
    assert decide_once(scaling(), 0, sample(0), scaled_to_zero=True).next_at is None
    assert decide_once(scaling(min_replicas=1), 1, sample(0)).next_at is None
    assert decide_once(scaling("HPA"), 3, sample(30)).next_at is None
    assert decide_once(scaling("Off"), 3, sample(30)).next_at is None
    assert decide_once(scaling(), 3, sample(30), paused=True).next_at is None
    assert decide_once(scaling(), 0, sample(30)).next_at is None


def test_zero_that_is_due_is_a_next_time() -> None:
    spec = scaling("HPA", scale_to_zero_after_seconds=3, sample_interval_seconds=60)
    assert ahead_seconds(decide_once(spec, 2, sample(0))) == 3


def test_the_end_of_a_window_is_a_next_time() -> None:
    story = Story(scaling(sample_interval_seconds=300), current=1)
    story.step(1, 50)
    story.step(20, 10)
    assert story.last is not None
    assert ahead_seconds(story.last, story.now) == 40


def test_a_fallback_that_is_due_is_a_next_time() -> None:
    spec = scaling(fallback=Fallback(replicas=3), sample_interval_seconds=20)
    assert ahead_seconds(decide_once(spec, 0, None, scaled_to_zero=True)) == 60


STEPS = st.lists(
    st.tuples(st.floats(0.5, 90), st.none() | st.integers(0, 300), st.integers(0, 50)), min_size=1, max_size=25
)


@unhurried
@given(steps=STEPS, mode=st.sampled_from(["Direct", "HPA", "Off"]), minimum=st.integers(0, 3))
def test_the_next_time_is_always_ahead(steps: list[tuple[float, int | None, int]], mode: str, minimum: int) -> None:
    story = Story(scaling(mode, min_replicas=minimum, fallback=Fallback(replicas=2)), current=2)
    for seconds, ready, in_flight in steps:
        story.step(seconds, ready, in_flight)
        assert story.last is not None
        assert story.last.next_at is None or story.last.next_at > story.now


@unhurried
@given(ready=st.integers(0, 400), in_flight=st.integers(0, 50), current=st.integers(1, 30), minimum=st.integers(0, 3))
def test_at_constant_load_the_number_settles_and_stays(ready: int, in_flight: int, current: int, minimum: int) -> None:
    story = Story(scaling(min_replicas=minimum, max_replicas=30), current=current)
    numbers = [story.step(5, ready, in_flight) for _ in range(60)]
    changes = sum(before != after for before, after in zip([current, *numbers], numbers, strict=False))
    assert changes <= 2, "to what the load wants, and from there to zero where it wants nothing"
    assert len(set(numbers[-30:])) == 1


@unhurried
@given(steps=STEPS, minimum=st.integers(0, 5), spread=st.integers(1, 5))
def test_whatever_happens_the_number_stays_within_its_bounds(
    steps: list[tuple[float, int | None, int]], minimum: int, spread: int
) -> None:
    spec = scaling(min_replicas=minimum, max_replicas=minimum + spread, fallback=Fallback(replicas=50))
    story = Story(spec)
    for seconds, ready, in_flight in steps:
        number = story.step(seconds, ready, in_flight)
        assert minimum <= number <= spec.max_replicas


@unhurried
@given(steps=STEPS, more=st.integers(0, 300))
def test_with_more_jobs_throughout_there_are_never_fewer_workers(
    steps: list[tuple[float, int | None, int]], more: int
) -> None:
    few, many = Story(scaling(max_replicas=50), current=1), Story(scaling(max_replicas=50), current=1)
    for seconds, ready, in_flight in steps:
        number = few.step(seconds, ready, in_flight)
        assert many.step(seconds, None if ready is None else ready + more, in_flight) >= number


@unhurried
@given(steps=STEPS)
def test_deciding_at_its_next_times_alone_forgets_no_zero(steps: list[tuple[float, int | None, int]]) -> None:
    story = Story(scaling(scale_to_zero_after_seconds=45), current=1)
    for seconds, ready, in_flight in steps:
        story.step(seconds, ready, in_flight)
    story.step(1, 0)
    waited = 0.0
    while story.current and waited < 600:
        assert story.last is not None
        assert story.last.next_at is not None
        seconds = (story.last.next_at - story.now).total_seconds()
        waited += seconds
        story.step(seconds, 0)
    assert story.current == 0
    assert waited <= 120
