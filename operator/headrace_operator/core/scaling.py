"""How many workers a pool should have, and why. One pure function; its answers are logged, recorded and shown as is.

Who writes which number (`JobWorkerPool.spec.replicas`): in mode Off the user; in mode HPA the HorizontalPodAutoscaler
from 1 up and this decision for 0 <-> n; in mode Direct this decision alone. So a decision that differs from the current
number is written, and one that equals it is somebody else's number, followed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from math import ceil
from typing import TYPE_CHECKING

from headrace_operator.core.spec import ScalingMode

if TYPE_CHECKING:
    from datetime import datetime

    from headrace_operator.core.model import QueueDepth, Sample
    from headrace_operator.core.spec import Autoscaling

SCALE_DOWN_WINDOW = timedelta(seconds=60)
"""A pool shrinks to the highest number that was wanted within this time; our HorizontalPodAutoscalers do the same."""

LONGEST_SILENCE = timedelta(seconds=30)
"""Idle before and after a longer gap between samples is not known to have been idle all the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """What the load wanted at a time."""

    at: datetime
    replicas: int


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What a decision leaves to the next one."""

    idle_since: datetime | None = None
    """The first of the uninterrupted samples with nothing that could start and nothing in flight."""
    idle_until: datetime | None = None
    """The last of them."""
    recommendations: tuple[Recommendation, ...] = ()
    """Those within `SCALE_DOWN_WINDOW` that no later one exceeds: highest, and oldest, first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """How things stand."""

    current: int | None
    """The pool's number of workers; None where nobody has set one yet."""
    scaled_to_zero: bool
    """Whether a current zero is the operator's own (the condition ScaledToZero, written before the number)."""
    sample: Sample | None
    """The newest reading; None where the last one failed."""
    paused: bool = False


@dataclass(frozen=True, slots=True)
class Limit:
    """The bound that holds a number which the load would have otherwise."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """How many workers there should be."""

    desired_replicas: int
    reason: str
    message: str
    history: History
    scaled_to_zero: bool = False
    """Whether the number is zero and the operator's, who will wake the pool."""
    limited: Limit | None = None


@dataclass(frozen=True, slots=True)
class _Answer:
    """A number and why, before it is known whose zero it is."""

    replicas: int
    reason: str
    message: str


def decide(spec: Autoscaling, situation: Situation, history: History, now: datetime) -> Decision:
    """Decide on the number of workers of one pool.

    Parameters
    ----------
    spec
        The pool's autoscaling.
    situation
        How things stand.
    history
        What the previous decision left; a new one after a restart, which only delays scaling down.
    now
        The time.
    """
    history = _watch_idleness(spec, history, situation.sample)
    if situation.sample is not None and spec.mode is ScalingMode.DIRECT:
        history = _remember(spec, situation.current, situation.sample, history, now)
    answer = _answer(spec, situation, history)
    return Decision(
        desired_replicas=answer.replicas,
        reason=answer.reason,
        message=answer.message,
        history=history,
        # A zero over another number is ours, one that was there before is whose it was.
        scaled_to_zero=answer.replicas == 0 and (situation.current != 0 or situation.scaled_to_zero),
        limited=_limit(spec, situation),
    )


def wanted_workers(spec: Autoscaling, depth: QueueDepth) -> int:
    """How many workers the load wants, within the bounds; at least 1, as zero is left to the idle clock."""
    return _within_bounds(spec, _workers_for(spec, depth))


def idle_seconds(history: History) -> float:
    """For how long the queue has been known to be idle."""
    if history.idle_since is None or history.idle_until is None:
        return 0.0
    return (history.idle_until - history.idle_since).total_seconds()


def _answer(spec: Autoscaling, situation: Situation, history: History) -> _Answer:
    current, sample = situation.current, situation.sample
    if situation.paused:
        held = _first_number(spec) if current is None else current
        return _Answer(held, "Paused", f"the annotation headrace.dev/paused holds the pool at {_workers(held)}")
    if spec.mode is ScalingMode.OFF:
        held = _first_number(spec) if current is None else current
        return _Answer(held, "ManualScaling", f"autoscaling is Off: {_workers(held)}, as set on the pool")
    if current == 0 and not situation.scaled_to_zero:
        return _Answer(0, "PausedAtZero", "scaled to zero by hand: scale the pool to another number to resume")
    if not current:
        return _from_zero(spec, sample)
    if sample is None:
        held = current if spec.mode is ScalingMode.HPA else _within_bounds(spec, current)
        return _Answer(held, "SignalsLost", f"the depth of the queue is unknown: holding {_workers(held)}")
    if spec.min_replicas == 0 and _is_idle_long_enough(spec, history):
        ready = f"the queue is paused with {sample.depth.ready} ready" if sample.depth.paused else "nothing ready"
        idle = f"{ready} and nothing in flight for {idle_seconds(history):.0f} s"
        return _Answer(0, "Idle", f"{idle}: from {_workers(current)} to zero")
    if spec.mode is ScalingMode.HPA:
        return _Answer(current, "HorizontalPodAutoscaler", f"the HorizontalPodAutoscaler wants {_workers(current)}")
    return _follow_load(spec, current, sample, history)


def _first_number(spec: Autoscaling) -> int:
    """What a pool starts with that nothing scales."""
    return 1 if spec.mode is ScalingMode.OFF else spec.min_replicas


def _from_zero(spec: Autoscaling, sample: Sample | None) -> _Answer:
    """The pool is at a zero of ours, or has no number yet."""
    if sample is not None and sample.depth.startable >= spec.activation_depth:
        woken = wanted_workers(spec, sample.depth)
        return _Answer(woken, "Woken", f"{_jobs(sample.depth)}: from zero to {_workers(woken)}")
    if spec.min_replicas:
        least = spec.min_replicas
        return _Answer(least, "MinReplicas", f"minReplicas wants {_workers(least)}, whatever the load")
    if sample is None:
        return _Answer(0, "SignalsLost", "the depth of the queue is unknown: holding 0 workers")
    if sample.depth.paused:
        return _Answer(0, "QueuePaused", f"{_jobs(sample.depth)}: at zero until the queue is resumed")
    return _Answer(
        0,
        "WaitingForJobs",
        f"{_jobs(sample.depth)}: at zero until {spec.activation_depth} ready",
    )


def _follow_load(spec: Autoscaling, current: int, sample: Sample, history: History) -> _Answer:
    """Up at once, down to the highest number wanted within the window."""
    wanted = wanted_workers(spec, sample.depth)
    load = f"{_jobs(sample.depth)} at {spec.target.queue_depth_per_replica} a worker"
    if wanted >= current:
        return _Answer(wanted, "Load", f"{load}: {_workers(wanted)}")
    window_highest = max((past.replicas for past in history.recommendations), default=wanted)
    held = _within_bounds(spec, min(current, window_highest))
    if held == wanted:
        return _Answer(wanted, "Load", f"{load}: {_workers(wanted)}")
    window_seconds = SCALE_DOWN_WINDOW.total_seconds()
    return _Answer(
        held, "Stabilizing", f"{load}, but {_workers(held)} were wanted within {window_seconds:.0f} s: {_workers(held)}"
    )


def _watch_idleness(spec: Autoscaling, history: History, sample: Sample | None) -> History:
    """Keep the idle clock: only work, or a long silence, starts it anew; a lost reading neither helps nor harms."""
    if sample is None:
        return history
    if sample.depth.load:
        return replace(history, idle_since=None, idle_until=None)
    silence = max(LONGEST_SILENCE, timedelta(seconds=3 * spec.sample_interval_seconds))
    known = history.idle_until is not None and sample.sampled_at - history.idle_until <= silence
    return replace(history, idle_since=history.idle_since if known else sample.sampled_at, idle_until=sample.sampled_at)


def _is_idle_long_enough(spec: Autoscaling, history: History) -> bool:
    return history.idle_since is not None and idle_seconds(history) >= spec.scale_to_zero_after_seconds


def _remember(spec: Autoscaling, current: int | None, sample: Sample, history: History, now: datetime) -> History:
    """Add what the load wants now, and forget what is past the window or exceeded."""
    recent = [past for past in history.recommendations if now - past.at < SCALE_DOWN_WINDOW]
    if not recent and current:
        # Nothing is known of the window (a restart, a silence): the current number may have been wanted in it.
        recent = [Recommendation(at=now, replicas=current)]
    wanted = wanted_workers(spec, sample.depth)
    higher = [past for past in recent if past.replicas > wanted]
    return replace(history, recommendations=(*higher, Recommendation(at=now, replicas=wanted)))


def _workers_for(spec: Autoscaling, depth: QueueDepth) -> int:
    return ceil(depth.load / spec.target.queue_depth_per_replica)


def _within_bounds(spec: Autoscaling, replicas: int) -> int:
    return min(max(replicas, spec.min_replicas, 1), spec.max_replicas)


def _limit(spec: Autoscaling, situation: Situation) -> Limit | None:
    held_at_zero = situation.current == 0 and not situation.scaled_to_zero
    if spec.mode is ScalingMode.OFF or situation.paused or situation.sample is None or held_at_zero:
        return None
    wanted = _workers_for(spec, situation.sample.depth)
    if wanted > spec.max_replicas:
        return Limit("TooManyReplicas", f"the load wants more workers than maxReplicas ({spec.max_replicas})")
    if wanted < spec.min_replicas:
        return Limit("TooFewReplicas", f"the load wants fewer workers than minReplicas ({spec.min_replicas})")
    return None


def _workers(number: int) -> str:
    return "1 worker" if number == 1 else f"{number} workers"


def _jobs(depth: QueueDepth) -> str:
    paused = ", the queue is paused" if depth.paused else ""
    least = "at least " if depth.is_lower_bound else ""
    return f"{least}{depth.ready} ready and {depth.in_flight} in flight{paused}"
