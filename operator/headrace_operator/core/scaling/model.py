"""The values that a decision is made from, and what it is."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from headrace_operator.core.model import Sample
    from headrace_operator.core.scaling.memory import History


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenQueue:
    """One of the pool's queues, as the pool sees it."""

    name: str
    sample: Sample | None
    """The newest reading; None where the last one failed, or is too old."""
    share: Fraction = Fraction(1)
    """What part of the load is this pool's, above 0 and up to 1; the rest is for other pools on the queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """How things stand."""

    current: int | None
    """The pool's number of workers; None where nobody has set one yet."""
    scaled_to_zero: bool
    """Whether a current zero is the operator's own: its mark is written with the number, and goes with it."""
    queues: tuple[SeenQueue, ...]
    """At least one."""
    paused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """What one target wants."""

    target: str
    """The field of `autoscaling.target` that it follows from."""
    replicas: int
    """Before any bound."""
    reason: str
    message: str


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
    wanted_replicas: int | None = None
    """What the load wants at this moment, within the bounds and 1 or more: what a HorizontalPodAutoscaler follows.
    None where the load is unknown."""
    limited: Limit | None = None
    next_at: datetime | None = None
    """When to decide anew though nothing happens: later than now. None: only what happens can change the number."""
