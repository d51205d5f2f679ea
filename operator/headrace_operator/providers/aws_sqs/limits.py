"""Whether SQS takes all that a pool's workers may hold. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace_operator.core.scaling import Limit
from headrace_operator.core.spec import ScalingMode

if TYPE_CHECKING:
    from headrace_operator.core.spec import JobWorkerPool

MOST_IN_FLIGHT = 120_000
"""Messages of a standard queue that may be received and not yet deleted; then polls bring nothing, without an error.

See https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-queues.html
"""


def excess(pool: JobWorkerPool, replicas: int) -> Limit | None:
    """What to say where a pool's workers may hold more jobs than one queue lets out.

    Parameters
    ----------
    replicas
        The number of workers, which is what counts where nobody scales the pool.
    """
    scaling, each = pool.spec.autoscaling, pool.spec.max_concurrent_jobs
    is_fixed = scaling.mode is ScalingMode.OFF
    most, field = (replicas, "replicas") if is_fixed else (scaling.max_replicas, "autoscaling.maxReplicas")
    if most * each <= MOST_IN_FLIGHT:
        return None
    return Limit(
        "InFlightLimit",
        f"{most} workers may hold {most * each} jobs ({each} each), and SQS lets {MOST_IN_FLIGHT} of a queue out at a "
        f"time: lower spec.{field} to {MOST_IN_FLIGHT // each} or less, or spec.maxConcurrentJobs",
    )
