"""Whether the database server has connections enough for all the workers that a pool may have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace_operator.core.model import ConnectionBudget
from headrace_operator.core.scaling import Limit
from headrace_operator.core.spec import ScalingMode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headrace_operator.core.model import Provisioned
    from headrace_operator.core.spec import JobWorkerPool


def postgres_status(provisioned: Provisioned) -> dict[str, Any]:
    """What a JobQueue's status says of its database."""
    budget = provisioned.budget
    numbers = {
        "schemaVersion": provisioned.schema_version,
        "maxConnections": budget and budget.max_connections,
        "connectionsPerWorker": budget and budget.connections_per_worker,
    }
    return {name: value for name, value in numbers.items() if value is not None}


def budget_of(queue: Mapping[str, Any]) -> ConnectionBudget | None:
    """The budget that a JobQueue's status tells."""
    postgres = (queue.get("status") or {}).get("postgres") or {}
    if "maxConnections" not in postgres or "connectionsPerWorker" not in postgres:
        return None
    return ConnectionBudget(
        max_connections=postgres["maxConnections"], connections_per_worker=postgres["connectionsPerWorker"]
    )


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
