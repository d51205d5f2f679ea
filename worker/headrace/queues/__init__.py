"""Queues: the ports in `base`, one module or package per backend. Imports of the worker only ``headrace.job``."""

from __future__ import annotations

import importlib
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from headrace.queues.base import Owner, QueueError, QueueSettings

if TYPE_CHECKING:
    from headrace.queues.base import Inspector, Queue
    from headrace.queues.memory import MemoryBackend

DEFAULT_SCHEMA = "headrace"


def from_url(
    url: str,
    queue: str,
    *,
    schema: str = DEFAULT_SCHEMA,
    ca_certificates: str | None = None,
    holder: str | None = None,
    listens: bool = False,
    direct_url: str | None = None,
) -> Queue:
    """A queue, not yet opened: ``async with from_url(…) as queue``.

    Parameters
    ----------
    url
        ``postgresql://…``, or ``memory://`` for a queue within this process.
    queue
        The queue's name: that of its JobQueue.
    schema
        The schema that holds the queue (Postgres). Defaults to ``headrace``.
    ca_certificates
        PEM; given, the server is verified against it.
    holder
        What stands beside the leases of a worker, for people to read. Defaults to host name and process id.
    listens
        Whether waiting for jobs is cut short by new ones, on a connection of its own (Postgres: LISTEN; a queue within
        this process is always told). Defaults to looking now and then alone.
    direct_url
        Past a connection pooler, where `url` leads to one: what is listened on. Defaults to `url`.

    Raises
    ------
    QueueError
        When the URL names no backend, or one whose packages are not installed; when the direct one is of another kind.
    """
    scheme = _scheme(url, "the queue's URL")
    if direct_url is not None and _scheme(direct_url, "the direct URL") not in ("postgresql", "postgres"):
        raise QueueError("the direct URL leads to no PostgreSQL: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
    match scheme:
        case "postgresql" | "postgres":
            require_postgres()
            from headrace.queues.postgres import Place, PostgresQueue  # noqa: PLC0415 - only who uses it pays for it

            place = Place(dsn=url, schema=schema, ca_certificates=ca_certificates, direct_dsn=direct_url)
            return PostgresQueue(place, queue, holder=holder, listens=listens)
        case "memory":
            from headrace.queues.memory import MemoryQueue  # noqa: PLC0415 - as above

            backend = process_backend()
            if queue not in backend.places:
                backend.register(queue, QueueSettings(), Owner(namespace="", name=queue, uid=""))
            return MemoryQueue(backend, queue, holder=holder)
        case _:
            raise _unknown(scheme)


def inspector_from_url(url: str, *, schema: str = DEFAULT_SCHEMA, ca_certificates: str | None = None) -> Inspector:
    """What people ask of the queues in one place, not yet opened; the parameters are those of `from_url`.

    Raises
    ------
    QueueError
        When the URL names no backend, or one whose packages are not installed.
    """
    scheme = _scheme(url, "the queues' URL")
    match scheme:
        case "postgresql" | "postgres":
            require_postgres()
            from headrace.queues.postgres import Place, PostgresInspector  # noqa: PLC0415 - only who uses it pays for it

            return PostgresInspector(Place(dsn=url, schema=schema, ca_certificates=ca_certificates))
        case "memory":
            from headrace.queues.memory import MemoryInspector  # noqa: PLC0415 - as above

            return MemoryInspector(process_backend())
        case _:
            raise _unknown(scheme)


def _unknown(scheme: str) -> QueueError:
    # The URL itself may hold a password.
    return QueueError(f"no queue backend for {scheme or 'a URL without a scheme'}: use postgresql:// or memory://")


def _scheme(url: str, what: str) -> str:
    try:
        return urlsplit(url).scheme
    except ValueError:
        raise QueueError(f"{what} is malformed: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE") from None


def require_postgres() -> None:
    """See that queues in Postgres can be imported.

    Raises
    ------
    QueueError
        When their packages are not installed.
    """
    try:
        importlib.import_module("asyncpg")
    except ModuleNotFoundError as error:
        raise QueueError("queues in Postgres need asyncpg: pip install 'headrace[postgres]'") from error


@cache
def process_backend() -> MemoryBackend:
    """Where ``memory://`` leads to in this process."""
    from headrace.queues.memory import MemoryBackend  # noqa: PLC0415 - as above

    return MemoryBackend()
