"""Queues in PostgreSQL (14 and later): tables shared by all queues of a schema, claimed with SKIP LOCKED.

``connection`` knows asyncpg's connections and errors, ``statements`` the SQL files; ``migrate``, ``queue``, ``backlog``
and ``provisioner`` stand on them. Only the listener needs a session of its own; for all else, a pooler in
transaction mode may stand in between.
"""

from __future__ import annotations

from headrace.queues.postgres.backlog import PostgresBacklog
from headrace.queues.postgres.connection import Place
from headrace.queues.postgres.provisioner import PostgresProvisioner
from headrace.queues.postgres.queue import CONNECTIONS_PER_WORKER, DIRECT_CONNECTIONS_PER_WORKER, PostgresQueue

__all__ = [
    "CONNECTIONS_PER_WORKER",
    "DIRECT_CONNECTIONS_PER_WORKER",
    "Place",
    "PostgresBacklog",
    "PostgresProvisioner",
    "PostgresQueue",
]
