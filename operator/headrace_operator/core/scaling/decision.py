"""The pipeline: from how things stand to a number, and why. Its words are logged, recorded and shown as they are.

Who writes which number (`JobWorkerPool.spec.replicas`): in mode Off the user; in mode HPA the HorizontalPodAutoscaler
from 1 up and this decision for 0 <-> n; in mode Direct this decision alone. So a decision that differs from the current
number is written, and one that equals it is somebody else's number, followed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from headrace_operator.core.scaling import bounds, memory
from headrace_operator.core.scaling.memory import SCALE_DOWN_WINDOW
from headrace_operator.core.scaling.model import Decision
from headrace_operator.core.scaling.signals import add_up, unknown_queues
from headrace_operator.core.scaling.targets import recommend
from headrace_operator.core.scaling.words import workers
from headrace_operator.core.spec import ScalingMode

if TYPE_CHECKING:
    from datetime import datetime

    from headrace_operator.core.scaling.memory import History
    from headrace_operator.core.scaling.model import Limit, Recommendation, Situation
    from headrace_operator.core.scaling.signals import Signals
    from headrace_operator.core.spec import Autoscaling


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What the load wants."""

    because: Recommendation
    """The largest."""
    replicas: int
    """Within the bounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """All that the answer follows from."""

    spec: Autoscaling
    situation: Situation
    signals: Signals | None
    """None: nothing is known of any queue."""
    wanted: _Wanted | None
    """None likewise."""
    history: History
    now: datetime

    @property
    def unknown(self) -> str:
        """Which queues could not be read, in words; empty where all were."""
        return unknown_queues(self.situation.queues)

    @property
    def fallback_replicas(self) -> int:
        """The fewest workers while a queue can't be read; 0 where that is not due, or the spec names none."""
        if self.spec.fallback is None or not memory.is_unknown_too_long(self.spec, self.history, self.now):
            return 0
        return min(self.spec.fallback.replicas, self.spec.max_replicas)


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
    history, signals = memory.settle(spec, history, add_up(situation.queues), situation.current)
    wanted = None if signals is None else _want(spec, situation, signals)
    history = memory.watch(spec, history, signals, now)
    if wanted is not None and spec.mode is ScalingMode.DIRECT:
        history = memory.remember(history, situation.current, wanted.replicas, now)
    case = _Case(spec=spec, situation=situation, signals=signals, wanted=wanted, history=history, now=now)
    answer = next(answer for rule in _RULES if (answer := rule(case)) is not None)
    return Decision(
        desired_replicas=answer.replicas,
        reason=answer.reason,
        message=answer.message,
        history=history,
        # A zero over another number is ours, one that was there before is whose it was.
        scaled_to_zero=answer.replicas == 0 and (situation.current != 0 or situation.scaled_to_zero),
        wanted_replicas=None if wanted is None else wanted.replicas,
        limited=_limit(case),
        next_at=_next_at(case, answer),
    )


def _want(spec: Autoscaling, situation: Situation, signals: Signals) -> _Wanted:
    """The largest recommendation, within the bounds. While what there is is unknown or doubtful, no fewer workers."""
    because = recommend(spec.target, signals)
    least = situation.current or 0 if signals.unknown or signals.is_doubtful else 0
    return _Wanted(because=because, replicas=bounds.within_bounds(spec, max(because.replicas, least)))


# The rules, in this order: who comes first has the word.


def _the_annotation_holds(case: _Case) -> _Answer | None:
    if not case.situation.paused:
        return None
    held = case.situation.current
    if held is None:
        held = bounds.floor(case.spec) if case.spec.mode is ScalingMode.OFF else case.spec.min_replicas
    return _Answer(held, "Paused", f"the annotation headrace.dev/paused holds the pool at {workers(held)}")


def _the_user_decides(case: _Case) -> _Answer | None:
    if case.spec.mode is not ScalingMode.OFF:
        return None
    if case.situation.current == 0 and case.situation.scaled_to_zero:
        woken = bounds.floor(case.spec)  # Nobody else would wake it.
        return _Answer(woken, "ManualScaling", f"autoscaling is Off: from the operator's zero to {workers(woken)}")
    held = bounds.floor(case.spec) if case.situation.current is None else case.situation.current
    return _Answer(held, "ManualScaling", f"autoscaling is Off: {workers(held)}, as set on the pool")


def _a_hands_zero_stays(case: _Case) -> _Answer | None:
    if case.situation.current != 0 or case.situation.scaled_to_zero:
        return None
    return _Answer(0, "PausedAtZero", "scaled to zero by hand: scale the pool to another number to resume")


def _wake(case: _Case) -> _Answer | None:
    """The pool is at a zero of ours, or has no number yet."""
    spec, signals, wanted = case.spec, case.signals, case.wanted
    if case.situation.current:
        return None
    if signals is not None and wanted is not None and signals.startable >= spec.activation_depth:
        return _Answer(wanted.replicas, "Woken", f"{signals}: from zero to {workers(wanted.replicas)}")
    if case.fallback_replicas > spec.min_replicas:
        return _fall_back(case)
    if spec.min_replicas:
        least = spec.min_replicas
        return _Answer(least, "MinReplicas", f"minReplicas wants {workers(least)}, whatever the load")
    if case.unknown or signals is None:
        return _Answer(0, "SignalsLost", f"the depth of {case.unknown} is unknown: holding 0 workers")
    if signals.is_paused:
        return _Answer(0, "QueuePaused", f"{signals}: at zero until {signals.paused} is resumed")
    return _Answer(0, "WaitingForJobs", f"{signals}: at zero until {spec.activation_depth} ready")


def _hold_what_is_unknown(case: _Case) -> _Answer | None:
    """What can't be read may be load: the number may grow meanwhile, and does not shrink."""
    current = case.situation.current or 0
    if not case.unknown or (case.wanted is not None and case.wanted.replicas > current):
        return None
    if case.fallback_replicas > current:
        return _fall_back(case)
    held = current if case.spec.mode is ScalingMode.HPA else bounds.within_bounds(case.spec, current)
    return _Answer(held, "SignalsLost", f"the depth of {case.unknown} is unknown: holding {workers(held)}")


def _hold_what_is_unconfirmed(case: _Case) -> _Answer | None:
    """A count that may be behind is no proof of nothing to do, while there are workers who could tell."""
    signals = case.signals
    if signals is None or not signals.is_doubtful:
        return None
    current = case.situation.current or 0
    held = current if case.spec.mode is ScalingMode.HPA else bounds.within_bounds(case.spec, current)
    return _Answer(held, "EmptinessUnconfirmed", f"{signals}, but {signals.unconfirmed}: holding {workers(held)}")


def _sleep(case: _Case) -> _Answer | None:
    signals = case.signals
    is_due = case.spec.min_replicas == 0 and memory.is_idle_long_enough(case.spec, case.history)
    if signals is None or case.unknown or not is_due:
        return None
    ready = f"{signals.paused} is paused with {signals.ready} ready" if signals.paused else "nothing ready"
    idle = f"{ready} and nothing in flight for {case.history.idle_seconds:.0f} s"
    return _Answer(0, "Idle", f"{idle}: from {workers(case.situation.current or 0)} to zero")


def _the_autoscaler_decides(case: _Case) -> _Answer | None:
    current = case.situation.current
    if case.spec.mode is not ScalingMode.HPA or current is None:
        return None
    return _Answer(current, "HorizontalPodAutoscaler", f"the HorizontalPodAutoscaler wants {workers(current)}")


def _follow_the_load(case: _Case) -> _Answer | None:
    """Up at once, down to the highest number wanted within the window."""
    current, wanted = case.situation.current or 0, case.wanted
    if wanted is None:
        return None
    load = wanted.because.message
    window_highest = max((past.replicas for past in case.history.recommendations), default=wanted.replicas)
    held = bounds.within_bounds(case.spec, min(current, window_highest))
    if wanted.replicas >= current or held == wanted.replicas:
        return _Answer(wanted.replicas, wanted.because.reason, f"{load}: {workers(wanted.replicas)}")
    window_seconds = SCALE_DOWN_WINDOW.total_seconds()
    return _Answer(
        held, "Stabilizing", f"{load}, but {workers(held)} were wanted within {window_seconds:.0f} s: {workers(held)}"
    )


_RULES: tuple[Callable[[_Case], _Answer | None], ...] = (
    _the_annotation_holds,
    _the_user_decides,
    _a_hands_zero_stays,
    _wake,
    _hold_what_is_unknown,
    _hold_what_is_unconfirmed,
    _sleep,
    _the_autoscaler_decides,
    _follow_the_load,
)


def _fall_back(case: _Case) -> _Answer:
    assert case.history.unknown_since is not None, "the fallback is due"
    seconds, replicas = (case.now - case.history.unknown_since).total_seconds(), case.fallback_replicas
    unknown = f"the depth of {case.unknown} has been unknown for {seconds:.0f} s"
    return _Answer(replicas, "Fallback", f"{unknown}: fallback wants {workers(replicas)}")


def _is_held_by_hand(case: _Case) -> bool:
    at_a_hands_zero = case.situation.current == 0 and not case.situation.scaled_to_zero
    return case.situation.paused or case.spec.mode is ScalingMode.OFF or at_a_hands_zero


def _limit(case: _Case) -> Limit | None:
    if case.wanted is None or _is_held_by_hand(case):
        return None
    return bounds.limit(case.spec, case.wanted.because.replicas)


def _next_at(case: _Case, answer: _Answer) -> datetime | None:
    """When time alone may change the number; and while something is measured over time, the next sample of it."""
    if _is_held_by_hand(case):
        return None
    spec, history, wanted = case.spec, case.history, case.wanted
    next_sample = case.now + timedelta(seconds=spec.sample_interval_seconds)
    moments = [memory.fallback_at(spec, history)]
    if answer.replicas and spec.min_replicas == 0 and history.idle_since is not None:
        moments += [history.idle_since + timedelta(seconds=spec.scale_to_zero_after_seconds), next_sample]
    if answer.replicas and history.unwitnessed_since is not None:
        moments.append(next_sample)
    if answer.replicas and spec.mode is ScalingMode.DIRECT and wanted is not None:
        higher = [past for past in history.recommendations if past.replicas > wanted.replicas]
        moments += [past.at + SCALE_DOWN_WINDOW for past in higher]
        if wanted.replicas > bounds.floor(spec):
            moments.append(next_sample)
    return min((moment for moment in moments if moment is not None and moment > case.now), default=None)
