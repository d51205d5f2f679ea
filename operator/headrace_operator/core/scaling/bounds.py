"""Floors and ceilings of a number of workers, whatever the load."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace_operator.core.scaling.model import Limit

if TYPE_CHECKING:
    from headrace_operator.core.spec import Autoscaling


def floor(spec: Autoscaling) -> int:
    """The fewest workers of a pool that isn't at zero: zero is left to the idle clock."""
    return max(1, spec.min_replicas)


def within_bounds(spec: Autoscaling, replicas: int) -> int:
    """As many of these workers as the spec allows, and no fewer."""
    return min(max(replicas, floor(spec)), spec.max_replicas)


def limit(spec: Autoscaling, wanted: int) -> Limit | None:
    """The bound that holds what the load wants."""
    if wanted > spec.max_replicas:
        return Limit("TooManyReplicas", f"the load wants more workers than maxReplicas ({spec.max_replicas})")
    if wanted < spec.min_replicas:
        return Limit("TooFewReplicas", f"the load wants fewer workers than minReplicas ({spec.min_replicas})")
    return None
