"""``status.postgres`` of a JobQueue. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace_operator.providers.postgres.limits import ConnectionBudget

if TYPE_CHECKING:
    from collections.abc import Mapping


def postgres_status(schema_version: int, budget: ConnectionBudget | None) -> dict[str, Any]:
    """What a JobQueue's status says of its database."""
    numbers = {
        "schemaVersion": schema_version,
        "maxConnections": budget and budget.max_connections,
        "connectionsPerWorker": budget and budget.connections_per_worker,
    }
    return {name: value for name, value in numbers.items() if value is not None}


def budget_of(status: Mapping[str, Any]) -> ConnectionBudget | None:
    """The budget that the status tells."""
    if "maxConnections" not in status or "connectionsPerWorker" not in status:
        return None
    return ConnectionBudget(
        max_connections=status["maxConnections"], connections_per_worker=status["connectionsPerWorker"]
    )
