"""Queues in PostgreSQL (14 and later): tables shared by all queues of a schema, claimed with SKIP LOCKED.

``connection`` knows asyncpg's connections and errors, ``statements`` the SQL files; ``migrate``, ``queue``,
``backlog``, ``inspector``, ``provisioner`` and ``roles`` stand on them. Only the listener needs a session of its own;
for all else, a pooler in transaction mode may stand in between. ``transactions`` knows connections of the caller's own,
and needs no asyncpg.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.queues.postgres.backlog import PostgresBacklog
    from headrace.queues.postgres.connection import Place
    from headrace.queues.postgres.inspector import PostgresInspector
    from headrace.queues.postgres.provisioner import PostgresProvisioner
    from headrace.queues.postgres.queue import CONNECTIONS_PER_WORKER, DIRECT_CONNECTIONS_PER_WORKER, PostgresQueue
    from headrace.queues.postgres.roles import Grants, PostgresRoles

__all__ = [
    "CONNECTIONS_PER_WORKER",
    "DIRECT_CONNECTIONS_PER_WORKER",
    "Grants",
    "Place",
    "PostgresBacklog",
    "PostgresInspector",
    "PostgresProvisioner",
    "PostgresQueue",
    "PostgresRoles",
]

_HOMES = {
    "CONNECTIONS_PER_WORKER": "queue",
    "DIRECT_CONNECTIONS_PER_WORKER": "queue",
    "Grants": "roles",
    "Place": "connection",
    "PostgresBacklog": "backlog",
    "PostgresInspector": "inspector",
    "PostgresProvisioner": "provisioner",
    "PostgresQueue": "queue",
    "PostgresRoles": "roles",
}


def __getattr__(name: str) -> Any:
    """Import on demand: `transactions` alone shall work where asyncpg is not installed."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
