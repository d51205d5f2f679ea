"""Our statements on connections of the caller's own, within the transaction that is open there, whatever the driver.

No driver is imported here: who hands over a connection of one has it loaded. What the drivers raise is passed on as it
is, since frameworks act on it (deadlocks, lost connections); only what the queue itself has to say becomes a
`QueueError`. In either case the server has ended the transaction, so that nothing stays half-written.
"""

from __future__ import annotations

import base64
import json
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from headrace import trace_context
from headrace.job import JSON_CONTENT_TYPE
from headrace.queues.base import Enqueued
from headrace.queues.batches import batches
from headrace.queues.errors import (
    LeaseLostError,
    QueueAccessError,
    QueueError,
    QueueNotFoundError,
    SchemaVersionError,
    UnsupportedCapabilityError,
)
from headrace.queues.postgres.statements import render

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from headrace.job import NewJob

ASYNC_KINDS = (
    "asyncpg's Connection, psycopg's AsyncConnection, SQLAlchemy's AsyncConnection or AsyncSession on PostgreSQL"
)
SYNC_KINDS = "psycopg's Connection, SQLAlchemy's Connection or Session on PostgreSQL, Django's django.db.connection"

# A statement with many jobs goes in several: the server takes JSON texts of up to 256 MB, and holds each in memory.
BATCH_BYTES = 4 * 1024 * 1024
"""Of payloads."""

# Parameters go as text, which every driver sends in the same way, whatever codecs a connection has been given. Each {}
# is the place of one.
_ENQUEUE = (
    "SELECT id, is_new FROM {schema}.enqueue_many(CAST({} AS text), CAST(CAST({} AS text) AS jsonb), "
    "CAST(CAST({} AS text) AS boolean))"
)
_COMPLETE = "SELECT {schema}.complete_in_transaction(" + ", ".join(["CAST(CAST({} AS text) AS bigint)"] * 3) + ")"

_Rows: TypeAlias = "list[Any]"
_Fetch: TypeAlias = "Callable[[_Statement], Awaitable[_Rows]]"
_FetchSync: TypeAlias = "Callable[[_Statement], _Rows]"


class _Statement:
    """A statement and its arguments, in the ways in which drivers want them."""

    def __init__(self, template: str, schema: str, *arguments: str) -> None:
        self._parts = [render(part, schema) for part in template.split("{}")]
        self.arguments = arguments

    def numbered(self) -> str:
        """As asyncpg wants it: ``$1``."""
        return self._joined(self._parts, [f"${place}" for place in self._places])

    def formatted(self) -> str:
        """As psycopg and Django want it: ``%s``."""
        return self._joined([part.replace("%", "%%") for part in self._parts], ["%s"] * len(self.arguments))

    def named(self) -> tuple[str, dict[str, str]]:
        """As SQLAlchemy's text() wants it: ``:a1``, and the arguments by name."""
        names = [f"a{place}" for place in self._places]
        text = self._joined([part.replace(":", r"\:") for part in self._parts], [f":{name}" for name in names])
        return text, dict(zip(names, self.arguments, strict=True))

    @property
    def _places(self) -> range:
        return range(1, len(self.arguments) + 1)

    @staticmethod
    def _joined(parts: list[str], marks: list[str]) -> str:
        return parts[0] + "".join(mark + part for mark, part in zip(marks, parts[1:], strict=True))


async def enqueue(connection: Any, schema: str, queue: str, jobs: Sequence[NewJob], *, notify: bool) -> list[Enqueued]:
    """Enqueue within the transaction that is open on an asynchronous connection.

    Raises
    ------
    UnsupportedCapabilityError
        When this is no such connection.
    QueueError
        When no transaction is open, the queue does not exist, or a job is refused.
    """
    fetch = _async(connection)
    enqueued: list[Enqueued] = []
    for batch in batches(jobs, max_bytes=BATCH_BYTES):
        statement = _enqueue_statement(schema, queue, batch, notify=notify)
        enqueued += enqueued_from(await _await(fetch(statement), schema))
    return enqueued


async def complete(connection: Any, schema: str, lease: int, claim: int, job_id: int) -> None:
    """Complete a job within the transaction that is open on an asynchronous connection.

    Raises
    ------
    UnsupportedCapabilityError
        When this is no such connection.
    LeaseLostError
        When the job is not held any more.
    QueueError
        When no transaction is open.
    """
    fetch = _async(connection)
    await _await(fetch(_complete_statement(schema, lease, claim, job_id)), schema)


def enqueue_sync(connection: Any, schema: str, queue: str, jobs: Sequence[NewJob], *, notify: bool) -> list[Enqueued]:
    """As `enqueue`, on a synchronous connection."""
    fetch = _sync(connection)
    enqueued: list[Enqueued] = []
    for batch in batches(jobs, max_bytes=BATCH_BYTES):
        enqueued += enqueued_from(_call(fetch, _enqueue_statement(schema, queue, batch, notify=notify), schema))
    return enqueued


def complete_sync(connection: Any, schema: str, lease: int, claim: int, job_id: int) -> None:
    """As `complete`, on a synchronous connection."""
    _call(_sync(connection), _complete_statement(schema, lease, claim, job_id), schema)


def enqueued_from(rows: Iterable[Any]) -> list[Enqueued]:
    """What the SQL function ``enqueue_many`` gives, as values."""
    return [Enqueued(id=str(row[0]), is_new=row[1]) for row in rows]


def described(jobs: Sequence[NewJob]) -> str:
    """Jobs as the SQL function ``enqueue_many`` takes them."""
    return json.dumps([_described(job) for job in trace_context.carried(jobs)])


def _described(job: NewJob) -> dict[str, object]:
    fields: dict[str, object] = {
        "name": job.name,
        "payload_base64": base64.b64encode(job.payload).decode("ascii"),
        "content_type": job.content_type if job.content_type != JSON_CONTENT_TYPE else None,
        "priority": job.priority or None,
        "delay_seconds": job.delay_seconds or None,
        "run_at": job.run_at.isoformat() if job.run_at else None,
        "expires_at": job.expires_at.isoformat() if job.expires_at else None,
        "message_group": job.group,
        "deduplication_key": job.deduplication_key,
        "deduplication_window_seconds": job.deduplication_window_seconds,
        "headers": dict(job.headers) or None,
        "extra": dict(job.extra) or None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _enqueue_statement(schema: str, queue: str, jobs: Sequence[NewJob], *, notify: bool) -> _Statement:
    return _Statement(_ENQUEUE, schema, queue, described(jobs), str(notify))


def _complete_statement(schema: str, lease: int, claim: int, job_id: int) -> _Statement:
    return _Statement(_COMPLETE, schema, str(lease), str(claim), str(job_id))


async def _await(answer: Awaitable[_Rows], schema: str) -> _Rows:
    try:
        return await answer
    except Exception as error:
        if meant := translate(error, schema):
            raise meant from error
        raise


def _call(fetch: _FetchSync, statement: _Statement, schema: str) -> _Rows:
    try:
        return fetch(statement)
    except Exception as error:
        if meant := translate(error, schema):
            raise meant from error
        raise


# Which connection is whose


def _is(connection: object, module: str, *names: str) -> bool:
    """Whether it is an instance of one of a module's classes; of a module that nobody has loaded there is none."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(connection, tuple(getattr(loaded, name) for name in names))


def _async(connection: Any) -> _Fetch:
    fetch: Callable[[Any, _Statement], Awaitable[_Rows]]
    if _is(connection, "asyncpg", "Connection"):
        fetch = _fetch_asyncpg
    elif _is(connection, "psycopg", "AsyncConnection"):
        fetch = _fetch_psycopg
    elif _is(connection, "sqlalchemy.ext.asyncio", "AsyncConnection", "AsyncSession", "async_scoped_session"):
        fetch = _fetch_sqlalchemy
    else:
        hint = "; from synchronous code, use headrace.sync and Context.complete_sync" if _known_sync(connection) else ""
        raise UnsupportedCapabilityError(_unknown(connection, ASYNC_KINDS) + hint)
    return partial(fetch, connection)


def _sync(connection: Any) -> _FetchSync:
    fetch = _known_sync(connection)
    if fetch is None:
        raise UnsupportedCapabilityError(_unknown(connection, SYNC_KINDS))
    return partial(fetch, connection)


def _known_sync(connection: Any) -> Callable[[Any, _Statement], _Rows] | None:
    if _is(connection, "psycopg", "Connection"):
        return _fetch_psycopg_sync
    if _is(connection, "sqlalchemy", "Connection") or _is(connection, "sqlalchemy.orm", "Session", "scoped_session"):
        return _fetch_sqlalchemy_sync
    if _is(connection, "django.utils.connection", "ConnectionProxy") or _is(
        connection, "django.db.backends.base.base", "BaseDatabaseWrapper"
    ):
        return _fetch_django
    return None


def _unknown(connection: object, kinds: str) -> str:
    kind = type(connection)
    return f"a {kind.__module__}.{kind.__qualname__} is no connection that can be used here: give {kinds}"


# How each of them is asked


async def _fetch_asyncpg(connection: Any, statement: _Statement) -> _Rows:
    _require_transaction(connection.is_in_transaction(), "async with connection.transaction():")
    return list(await connection.fetch(statement.numbered(), *statement.arguments))


async def _fetch_psycopg(connection: Any, statement: _Statement) -> _Rows:
    _require_transaction(_psycopg_has_transaction(connection), "async with connection.transaction():")
    async with connection.cursor(row_factory=sys.modules["psycopg.rows"].tuple_row) as cursor:
        await cursor.execute(statement.formatted(), statement.arguments)
        return list(await cursor.fetchall())


async def _fetch_sqlalchemy(connection: Any, statement: _Statement) -> _Rows:
    sqlalchemy = sys.modules["sqlalchemy"]
    if not _is(connection, "sqlalchemy.ext.asyncio", "AsyncConnection"):
        connection = await connection.connection()
    _require_postgres(connection.dialect.name)
    await connection.get_raw_connection()
    _require_transaction(_sqlalchemy_has_transaction(connection.sync_connection), _SQLALCHEMY_FIX)
    text, arguments = statement.named()
    return list(await connection.execute(sqlalchemy.text(text), arguments))


def _fetch_psycopg_sync(connection: Any, statement: _Statement) -> _Rows:
    _require_transaction(_psycopg_has_transaction(connection), "with connection.transaction():")
    with connection.cursor(row_factory=sys.modules["psycopg.rows"].tuple_row) as cursor:
        cursor.execute(statement.formatted(), statement.arguments)
        return list(cursor.fetchall())


def _fetch_sqlalchemy_sync(connection: Any, statement: _Statement) -> _Rows:
    sqlalchemy = sys.modules["sqlalchemy"]
    if not _is(connection, "sqlalchemy", "Connection"):
        connection = connection.connection()
    _require_postgres(connection.dialect.name)
    _require_transaction(_sqlalchemy_has_transaction(connection), _SQLALCHEMY_FIX)
    text, arguments = statement.named()
    return list(connection.execute(sqlalchemy.text(text), arguments))


def _fetch_django(connection: Any, statement: _Statement) -> _Rows:
    _require_postgres(connection.vendor)
    _require_transaction(not connection.get_autocommit(), "with transaction.atomic():")
    with connection.cursor() as cursor:
        cursor.execute(statement.formatted(), statement.arguments)
        return list(cursor.fetchall())


_SQLALCHEMY_FIX = 'an engine or a connection whose isolation_level is not "AUTOCOMMIT", and connection.begin()'


def _psycopg_has_transaction(connection: Any) -> bool:
    """Without autocommit, psycopg opens one by itself."""
    return not connection.autocommit or bool(connection.info.transaction_status)


def _sqlalchemy_has_transaction(connection: Any) -> bool:
    """SQLAlchemy opens one by itself, where its driver is not told to commit each statement."""
    return not getattr(connection.connection.dbapi_connection, "autocommit", False)


def _require_transaction(is_open: bool, fix: str) -> None:
    if not is_open:
        raise QueueError(f"no transaction is open on this connection: {fix}")


def _require_postgres(kind: str) -> None:
    if kind != "postgresql":
        raise UnsupportedCapabilityError(f"this is a connection to {kind}: give one to the queue's PostgreSQL database")


# What the server says


def translate(error: BaseException, schema: str) -> QueueError | None:
    """What the queue itself has to say, of any driver's error; None for all else."""
    said = _said(error)
    if said is None:
        return None
    state, message = said
    match state:
        case "JQ001":
            return LeaseLostError(message)
        case "42704":
            return QueueNotFoundError(message)
        case "3F000" | "42P01":
            return QueueNotFoundError(
                f"schema {schema!r} holds no queues: apply a JobQueue with that schema, or run `headrace migrate`"
            )
        case "42883":
            return SchemaVersionError(
                f"schema {schema!r} is older than this code ({message}): "
                "let the operator upgrade it, or run `headrace migrate`"
            )
        case "42501":
            return QueueAccessError(f"{message}: grant the right to this connection's user")
        case _ if state.startswith(("22", "54")):
            return QueueError(f"the database refused ({state}): {message}")
        case _:
            return None


def _said(error: BaseException) -> tuple[str, str] | None:
    """The server's code, and its message with the hint: of the driver's own error, below a framework's."""
    found = None
    link: BaseException | None = error
    while link is not None:
        if state := getattr(link, "sqlstate", None) or getattr(link, "pgcode", None):
            words = getattr(link, "diag", None)
            message = getattr(link, "message", None) or getattr(words, "message_primary", None) or str(link)
            hint = getattr(link, "hint", None) or getattr(words, "message_hint", None)
            found = str(state), f"{message}: {hint}" if hint else str(message)
        link = getattr(link, "orig", None) or link.__cause__
    return found
