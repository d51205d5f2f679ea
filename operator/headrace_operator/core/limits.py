"""What a spec asks for and a provider's backend can't do; the schema can't say it, since it knows no backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace_operator.core.model import PAUSED_ANNOTATION, RefusedError

if TYPE_CHECKING:
    from headrace_operator.core.spec import JobQueue, JobWorkerPool

_REASON = "UnsupportedByProvider"


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendLimits:
    """What a backend can do of all that a spec may ask for."""

    max_hold_seconds: float | None = None
    """The longest time for which a worker can hold a job. None: there is no limit."""
    max_retry_delay_seconds: float
    """The longest time for which a retry can wait."""
    can_pause: bool = True


def queue_refusal(queue: JobQueue, limits: BackendLimits) -> RefusedError | None:
    """Why this provider's backend can't hold such a queue; None where it can."""
    spec = queue.spec
    if queue.paused and not limits.can_pause:
        return RefusedError(
            _REASON,
            f"the annotation {PAUSED_ANNOTATION}: provider {spec.provider} has no queue that can be paused; "
            "take it away, and pause the queue's pools",
        )
    return _excess("visibilityTimeoutSeconds", spec.visibility_timeout_seconds, spec.provider, limits.max_hold_seconds)


def pool_refusal(pool: JobWorkerPool, provider: str, limits: BackendLimits) -> RefusedError | None:
    """Why workers can't run like this on that provider's queues; None where they can."""
    spec = pool.spec
    held_too_long = _excess("jobTimeoutSeconds", spec.job_timeout_seconds, provider, limits.max_hold_seconds)
    return held_too_long or _excess(
        "retry.maxDelaySeconds", spec.retry.max_delay_seconds, provider, limits.max_retry_delay_seconds
    )


def _excess(field: str, seconds: float, provider: str, limit: float | None) -> RefusedError | None:
    if limit is None or seconds <= limit:
        return None
    return RefusedError(_REASON, f"spec.{field} is {seconds:g}: provider {provider} takes {limit:g} at most; lower it")
