"""Whether the database server has connections enough for all the workers that a pool may have. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace_operator.core.scaling import Limit
from headrace_operator.core.spec import ScalingMode

if TYPE_CHECKING:
    from headrace_operator.core.spec import JobWorkerPool


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionBudget:
    """What a database server can take of workers."""

    max_connections: int
    """How many connections it allows ordinary users, all of them together."""
    connections_per_worker: int
    """How many of them a worker may hold."""


def shortage(pool: JobWorkerPool, replicas: int, budget: ConnectionBudget | None) -> Limit | None:
    """What to say where the pool may have more workers than can connect.

    Parameters
    ----------
    replicas
        The number of workers, which is what counts where nobody scales the pool.
    """
    if budget is None:
        return None
    scaling, per_worker = pool.spec.autoscaling, budget.connections_per_worker
    if scaling.mode is ScalingMode.OFF:
        most, field = replicas, "replicas"
    else:
        most, field = scaling.max_replicas, "autoscaling.maxReplicas"
    if most * per_worker <= budget.max_connections:
        return None
    fitting = budget.max_connections // per_worker
    ways_out = [
        f"lower spec.{field} to {fitting} or less" if fitting else "",
        "put a pooler before it (spec.postgres.directConnection of the JobQueue)" if per_worker > 1 else "",
        "raise max_connections, or the CONNECTION LIMIT of the user or the database",
    ]
    return Limit(
        "TooFewConnections",
        f"{most} workers may hold {most * per_worker} connections ({per_worker} each), and the database server allows "
        f"{budget.max_connections}: {', or '.join(way for way in ways_out if way)}",
    )
