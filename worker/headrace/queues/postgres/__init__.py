"""Queues in PostgreSQL (14 and later): tables shared by all queues of a schema, claimed with SKIP LOCKED.

From the bottom up: ``errors`` and ``connection`` know asyncpg, ``statements`` the SQL files; ``lanes`` are the sessions
that all queues of a process share, with ``listener`` on one of them, ``database`` speaks in named queries over them.
`PostgresQueue` (``queue``) is the face of some rooms: ``enqueuing`` (with ``coalescer``), ``receiving``, ``settling``,
``lease``, ``housekeeping``, ``counting``; two of them are pure: ``holdings`` (what is held) and ``frontier`` (where to
look next). ``migrate``, ``backlog``, ``inspector``, ``provisioner`` and ``roles`` are for the operator and for people.
``transactions`` and ``sync`` know connections of the caller's own, and need no asyncpg.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from headrace.queues.errors import QueueError
from headrace.queues.postgres.patience import PATIENCE_BYTES, Patience

if TYPE_CHECKING:
    from headrace.queues.base import Queue
    from headrace.queues.inspection import Inspector
    from headrace.queues.postgres.backlog import BacklogSession, PostgresBacklog
    from headrace.queues.postgres.connection import Place
    from headrace.queues.postgres.inspector import PostgresInspector
    from headrace.queues.postgres.lanes import CONNECTIONS_PER_WORKER, DIRECT_CONNECTIONS_PER_WORKER
    from headrace.queues.postgres.provisioner import PostgresProvisioner, ProvisioningSession
    from headrace.queues.postgres.queue import PostgresQueue
    from headrace.queues.postgres.roles import Grants, PostgresRoles

__all__ = [
    "CONNECTIONS_PER_WORKER",
    "DIRECT_CONNECTIONS_PER_WORKER",
    "BacklogSession",
    "Grants",
    "Place",
    "PostgresBacklog",
    "PostgresInspector",
    "PostgresProvisioner",
    "PostgresQueue",
    "PostgresRoles",
    "ProvisioningSession",
    "open_inspector",
    "open_queue",
]

_HOMES = {
    "BacklogSession": "backlog",
    "CONNECTIONS_PER_WORKER": "lanes",
    "DIRECT_CONNECTIONS_PER_WORKER": "lanes",
    "Grants": "roles",
    "Place": "connection",
    "PostgresBacklog": "backlog",
    "PostgresInspector": "inspector",
    "PostgresProvisioner": "provisioner",
    "PostgresQueue": "queue",
    "PostgresRoles": "roles",
    "ProvisioningSession": "provisioner",
}


def open_queue(
    url: str,
    queue: str,
    *,
    holder: str | None = None,
    schema: str = "headrace",
    ca_certificates: str | None = None,
    listens: bool = False,
    direct_url: str | None = None,
    patience_seconds: float = 0.0,
    patience_bytes: int = PATIENCE_BYTES,
) -> Queue:
    """See `headrace.queues.from_url`.

    Raises
    ------
    QueueError
        When the schema's name is none, or the direct URL leads to no PostgreSQL.
    """
    from headrace.queues.postgres.connection import Place  # noqa: PLC0415 - needs asyncpg
    from headrace.queues.postgres.queue import PostgresQueue  # noqa: PLC0415

    if direct_url is not None:
        _require_postgres(direct_url, "the direct URL")
    place = Place(
        dsn=url,
        ca_certificates=ca_certificates,
        schema=schema,
        direct_dsn=direct_url if listens else None,
    )
    patience = Patience(seconds=patience_seconds, max_bytes=patience_bytes)
    return PostgresQueue(place, queue, holder=holder, listens=listens, patience=patience)


def open_inspector(url: str, *, schema: str = "headrace", ca_certificates: str | None = None) -> Inspector:
    """See `headrace.queues.inspector_from_url`."""
    from headrace.queues.postgres.connection import Place  # noqa: PLC0415 - needs asyncpg
    from headrace.queues.postgres.inspector import PostgresInspector  # noqa: PLC0415

    return PostgresInspector(Place(dsn=url, ca_certificates=ca_certificates, schema=schema))


def _require_postgres(url: str, what: str) -> None:
    """Refuse what leads to no PostgreSQL. It is not repeated: it may hold a password."""
    try:
        scheme = urlsplit(url).scheme
    except ValueError:
        scheme = ""
    if scheme not in {"postgres", "postgresql"}:
        raise QueueError(f"{what} leads to no PostgreSQL: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE")


def __getattr__(name: str) -> Any:
    """Import on demand: `transactions` alone shall work where asyncpg is not installed."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
