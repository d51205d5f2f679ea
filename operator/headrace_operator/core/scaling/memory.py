"""What one decision leaves to the next: since when queues have been idle or unknown, and what was wanted lately."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from headrace_operator.core.scaling.signals import Signals
    from headrace_operator.core.spec import Autoscaling

SCALE_DOWN_WINDOW = timedelta(seconds=60)
"""A pool shrinks to the highest number that was wanted within this time; our HorizontalPodAutoscalers do the same."""

LONGEST_SILENCE = timedelta(seconds=30)
"""Idle before and after a longer gap between samples is not known to have been idle all the time."""

UNWITNESSED_PROOF = timedelta(seconds=300)
"""Counts are a minute behind at the most, by AWS's own account: where nobody takes jobs out, nothing counted for so
long is nothing, and workers that never get ready need not be held for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PastNumber:
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
    unwitnessed_since: datetime | None = None
    """The first of the uninterrupted samples with nothing counted and no worker ready that could tell."""
    unwitnessed_until: datetime | None = None
    """The last of them."""
    unknown_since: datetime | None = None
    """Since when some queue of the pool can't be read."""
    recommendations: tuple[PastNumber, ...] = ()
    """Those within `SCALE_DOWN_WINDOW` that no later one exceeds: highest, and oldest, first."""

    @property
    def idle_seconds(self) -> float:
        """For how long the queues have been known to be idle."""
        if self.idle_since is None or self.idle_until is None:
            return 0.0
        return (self.idle_until - self.idle_since).total_seconds()


def settle(
    spec: Autoscaling, history: History, signals: Signals | None, current: int | None
) -> tuple[History, Signals | None]:
    """Take for certain what none of the workers that there are can confirm, once it was counted for long enough."""
    if signals is None or signals.unknown:
        return history, signals
    if not (current and signals.is_doubtful and signals.is_unwitnessed):
        return replace(history, unwitnessed_since=None, unwitnessed_until=None), signals
    until = history.unwitnessed_until
    known = until is not None and signals.sampled_at - until <= _silence(spec)
    since = (history.unwitnessed_since if known else None) or signals.sampled_at
    history = replace(history, unwitnessed_since=since, unwitnessed_until=signals.sampled_at)
    if signals.sampled_at - since < UNWITNESSED_PROOF:
        return history, signals
    return history, replace(signals, unconfirmed="")


def _silence(spec: Autoscaling) -> timedelta:
    return max(LONGEST_SILENCE, timedelta(seconds=3 * spec.sample_interval_seconds))


def watch(spec: Autoscaling, history: History, signals: Signals | None, now: datetime) -> History:
    """Keep both clocks: that of idleness, and that of what can't be read."""
    is_known = signals is not None and not signals.unknown
    unknown_since = None if is_known else history.unknown_since or now
    return replace(_watch_idleness(spec, history, signals), unknown_since=unknown_since)


def _watch_idleness(spec: Autoscaling, history: History, signals: Signals | None) -> History:
    """Only work, or a long silence, starts the clock anew; a lost or doubtful reading neither helps nor harms."""
    if signals is None:
        return history
    if not signals.is_workless:
        return replace(history, idle_since=None, idle_until=None)
    if signals.unknown or signals.unconfirmed:
        return history
    known = history.idle_until is not None and signals.sampled_at - history.idle_until <= _silence(spec)
    since = history.idle_since if known else signals.sampled_at
    if since is not None and signals.empty_since is not None:
        # Counts may have missed what workers have had since.
        since = max(since, signals.empty_since)
    return replace(history, idle_since=since, idle_until=signals.sampled_at)


def is_idle_long_enough(spec: Autoscaling, history: History) -> bool:
    """Whether zero is due."""
    return history.idle_since is not None and history.idle_seconds >= spec.scale_to_zero_after_seconds


def is_unknown_too_long(spec: Autoscaling, history: History, now: datetime) -> bool:
    """Whether the fallback is due."""
    due = fallback_at(spec, history)
    return due is not None and now >= due


def fallback_at(spec: Autoscaling, history: History) -> datetime | None:
    """When what can't be read is due to fall back, where the spec says so."""
    if spec.fallback is None or history.unknown_since is None:
        return None
    return history.unknown_since + timedelta(seconds=spec.fallback.failure_threshold * spec.sample_interval_seconds)


def remember(history: History, current: int | None, wanted: int, now: datetime) -> History:
    """Add what the load wants now, and forget what is past the window or exceeded."""
    recent = [past for past in history.recommendations if now - past.at < SCALE_DOWN_WINDOW]
    if not recent and current:
        # Nothing is known of the window (a restart, a silence): the current number may have been wanted in it.
        recent = [PastNumber(at=now, replicas=current)]
    higher = [past for past in recent if past.replicas > wanted]
    return replace(history, recommendations=(*higher, PastNumber(at=now, replicas=wanted)))
