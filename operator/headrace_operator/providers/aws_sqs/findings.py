"""What is not as it should be of a queue that works, by its spec and its depth. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace_operator.core.model import Finding
from headrace_operator.providers.aws_sqs.limits import MOST_IN_FLIGHT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headrace_operator.core.model import QueueDepth
    from headrace_operator.core.spec import JobQueue

CONFIRM_ANNOTATION = "headrace.dev/confirm-dead-letter-retention"
"""Holds the number of days that is meant."""

RETENTION_SECONDS = 1_209_600.0
"""The longest for which SQS keeps a message: 14 days."""

_NEAR = 6 / 7
"""Of the retention: with 14 days, what is told has two days left."""

_FULL = 0.99
"""Of what may be in flight: it is counted approximately, and a condition must not come and go with each count."""

_DAY_SECONDS = 86_400.0


def is_confirmed(queue: JobQueue) -> bool:
    """Whether the annotation confirms a dead-letter retention that deletes older jobs at once."""
    days = queue.spec.dead_letter.retention_days
    return queue.metadata.annotations.get(CONFIRM_ANNOTATION, "").strip() == f"{days:g}"


def found(status: Mapping[str, Any], depth: QueueDepth | None) -> list[Finding]:
    """See `core.provider.Provider.findings`."""
    told = [] if depth is None else [_in_flight(depth), _age(status, depth)]
    return [finding for finding in told if finding is not None]


def _in_flight(depth: QueueDepth) -> Finding | None:
    if depth.in_flight < _FULL * MOST_IN_FLIGHT:
        return None
    return Finding(
        "InFlightLimitReached",
        f"about {MOST_IN_FLIGHT} jobs are in flight, and SQS lets no more out at a time: workers get none until some "
        "are finished; run fewer workers, or let each hold fewer (spec.maxConcurrentJobs of the JobWorkerPool)",
    )


def _age(status: Mapping[str, Any], depth: QueueDepth) -> Finding | None:
    retention_seconds = float(status.get("messageRetentionSeconds", RETENTION_SECONDS))
    age_seconds = depth.oldest_ready_age_seconds
    if not depth.ready or age_seconds < _NEAR * retention_seconds:
        return None
    return Finding(
        "RetentionNear",
        f"the oldest job has waited for {age_seconds / _DAY_SECONDS:.1f} days, and SQS drops it without a word after "
        f"{retention_seconds / _DAY_SECONDS:g}: run more workers, or move the jobs elsewhere",
    )
