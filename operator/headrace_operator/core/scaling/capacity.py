"""What part of a queue's load is a pool's, where several pools work on it."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from headrace_operator.core.spec import ScalingMode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from headrace_operator.core.spec import JobWorkerPool


def share(pool: JobWorkerPool, others: Iterable[JobWorkerPool]) -> Fraction:
    """The pool's part of the capacity that it and the queue's other pools have together."""
    own = _capacity(pool)
    total = own + sum(_capacity(other) for other in others)
    return Fraction(own, total) if total else Fraction(1)


def _capacity(pool: JobWorkerPool) -> int:
    """How many jobs its workers run at a time, when there are as many of them as there may be."""
    spec = pool.spec
    if pool.metadata.deletion_timestamp is not None:
        return 0
    at_a_hands_zero = spec.replicas == 0 and not pool.is_marked_as_our_zero
    if at_a_hands_zero or pool.paused or spec.autoscaling.mode is ScalingMode.OFF:
        most = 1 if spec.replicas is None else spec.replicas
    else:
        most = spec.autoscaling.max_replicas
    return most * spec.max_concurrent_jobs
