"""The depth that workers publish among their metrics."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from headrace_operator.core.model import QueueDepth

if TYPE_CHECKING:
    from headrace_operator.core.model import ObjectKey

_DEPTH = "background_jobs_queue_depth"
_BLOCKED = "background_jobs_queue_blocked"
_DELAYED = "background_jobs_queue_delayed"
_IN_FLIGHT = "background_jobs_queue_in_flight"
_DEAD_LETTERED = "background_jobs_queue_dead_lettered"
_OLDEST_AGE = "background_jobs_queue_oldest_age_seconds"
_PAUSED = "background_jobs_queue_paused"
_IS_LOWER_BOUND = "background_jobs_queue_depth_is_lower_bound"
_SERIES = frozenset({_DEPTH, _BLOCKED, _DELAYED, _IN_FLIGHT, _DEAD_LETTERED, _OLDEST_AGE, _PAUSED, _IS_LOWER_BOUND})


def parse_depth(text: str, queue: ObjectKey) -> QueueDepth | None:
    """The queue's depth in a page of metrics; None unless it is there as a whole.

    Workers withdraw these series when their newest count is too old, so what is missing is unknown and never zero.
    """
    labels = {"namespace": queue.namespace, "queue": queue.name}
    try:
        found = {
            sample.name: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name in _SERIES and sample.labels == labels
        }
    except ValueError:
        return None
    if found.keys() != _SERIES or not all(math.isfinite(value) and value >= 0 for value in found.values()):
        return None
    return QueueDepth(
        ready=int(found[_DEPTH]),
        blocked=int(found[_BLOCKED]),
        delayed=int(found[_DELAYED]),
        in_flight=int(found[_IN_FLIGHT]),
        dead_lettered=int(found[_DEAD_LETTERED]),
        oldest_ready_age_seconds=found[_OLDEST_AGE],
        paused=bool(found[_PAUSED]),
        is_lower_bound=bool(found[_IS_LOWER_BOUND]),
    )
