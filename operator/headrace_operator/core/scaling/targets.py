"""What each target of a spec wants. Each is asked, and says nothing where the spec doesn't name it."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import TYPE_CHECKING

from headrace_operator.core.scaling.model import Recommendation

if TYPE_CHECKING:
    from headrace_operator.core.scaling.signals import Signals
    from headrace_operator.core.spec import Target


def recommend(target: Target, signals: Signals) -> Recommendation:
    """The largest of what the spec's targets want."""
    answers = [answer for ask in _TARGETS if (answer := ask(target, signals)) is not None]
    return max(answers, key=lambda answer: answer.replicas)


def _queue_depth_per_replica(target: Target, signals: Signals) -> Recommendation | None:
    """So many jobs, ready or in flight, for each worker."""
    jobs = target.jobs_per_replica
    if jobs is None:
        return None
    return Recommendation(
        target="queueDepthPerReplica",
        replicas=ceil(signals.load / jobs),
        reason="Load",
        message=f"{signals} at {jobs} a worker",
    )


_TARGETS: tuple[Callable[[Target, Signals], Recommendation | None], ...] = (_queue_depth_per_replica,)
