"""Connections to PostgreSQL: TLS, pool, time limits, and every client error turned into a `QueueError`.

Nothing here puts the DSN into a message: it holds the password.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import secrets
import socket
import ssl
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import asyncpg

from headrace.queues.base import (
    PlaceTakenError,
    QueueAccessError,
    QueueError,
    QueueNotFoundError,
    QueueUnavailableError,
    SchemaVersionError,
)
from headrace.queues.postgres.statements import code_version, queries

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    _AnyConnection = asyncpg.Connection[asyncpg.Record]
else:
    _AnyConnection = asyncpg.Connection  # It is generic in its stubs alone.

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_SECONDS = 4.0
"""So that a server which takes connections and says nothing shows in a condition within 10 s."""
COMMAND_TIMEOUT_SECONDS = 30.0
"""A query that takes longer hangs: behind a dead server, or a lock that somebody forgot."""
CLOSE_TIMEOUT_SECONDS = 5.0

# A peer that vanished without a word (node loss, dropped NAT entry) is noticed in about this time, idle or not.
_PEER_GONE_SECONDS = 20

# After these a connection is of no use, though it may not know yet. (InternalClientError is how asyncpg may say that
# the server ended a pooled connection just before it was used. A read-only server was a primary when we connected.)
_BROKEN = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.ReadOnlySQLTransactionError,
    OSError,
    TimeoutError,
)
CLIENT_ERRORS = (*_BROKEN, asyncpg.PostgresError, ValueError, OverflowError)
"""All that a call of the client library's may fail with, however healthy we are."""


class _NotPreparedError(QueueUnavailableError):
    """A pooler gave us a session that our statement was not prepared in. It was not run."""


class _SchemaChangedError(QueueUnavailableError):
    """A migration changed the rows of a table under a function that was at work with them. It was not run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where queues live: a database and a schema in it."""

    dsn: str = field(repr=False)
    ca_certificates: str | None = field(default=None, repr=False)
    """PEM; given, the server's certificate and host name are verified against it, whatever the DSN says."""
    schema: str = "headrace"
    direct_dsn: str | None = field(default=None, repr=False)
    """Past a connection pooler, for LISTEN. None: the DSN itself is direct."""

    def direct(self) -> Place:
        """The same place, reached directly."""
        return self if self.direct_dsn is None else replace(self, dsn=self.direct_dsn, direct_dsn=None)


class Database:
    """A pool of connections that speaks in named queries and fails in `QueueError` only.

    Lost connections are replaced by the next call. One of the connections is kept for what must not wait.
    """

    def __init__(
        self,
        place: Place,
        *,
        max_connections: int,
        application_name: str = "headrace",
        command_timeout_seconds: float = COMMAND_TIMEOUT_SECONDS,
    ) -> None:
        self.place = place
        self._queries = queries(place.schema)
        self._max_connections = max_connections
        self._patient = asyncio.Semaphore(max(1, max_connections - 1))
        self._application_name = application_name
        self._command_timeout_seconds = command_timeout_seconds
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._addresses = addresses(place.dsn)
        self._prepares = True

    async def open(self) -> None:
        """Make the pool and check that the schema is there, in a version that this code can work with."""
        if self._pool is None:
            with _errors(self.place):
                self._pool = await asyncpg.create_pool(
                    self.place.dsn,
                    min_size=0,
                    max_size=self._max_connections,
                    **self._connect_arguments(),
                    connect=self._connect,
                    connection_class=_Connection,
                    # We leave no session state behind; the default would cost a round trip a query.
                    reset=_leave_as_is,
                )
        rows = await self.fetch("schema_version")
        check_version(self.place.schema, rows[0]["version"], rows[0]["compatible_with"])
        _check_isolation(rows[0]["isolation"])

    async def close(self) -> None:
        """Close the connections, in any case and within seconds."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            await asyncio.wait_for(pool.close(), CLOSE_TIMEOUT_SECONDS)
        except CLIENT_ERRORS:
            pool.terminate()

    async def fetch(self, query: str, *arguments: Any, urgent: bool = False) -> list[asyncpg.Record]:
        """Run a named query on its own.

        Parameters
        ----------
        query
            Its name.
        *arguments
            What stands for $1, $2 …
        urgent
            Don't wait for others that are under way. For one caller at a time.
        """
        try:
            return await self._fetch(query, arguments, urgent=urgent)
        except (_NotPreparedError, _SchemaChangedError):
            return await self._fetch(query, arguments, urgent=urgent)

    async def _fetch(self, query: str, arguments: Sequence[Any], *, urgent: bool) -> list[asyncpg.Record]:
        async with self._connection(urgent=urgent) as connection:
            if self._prepares:
                rows: list[asyncpg.Record] = await connection.fetch(self._queries[query], *arguments)
            else:
                # What is parsed in one session must not be run in another: a pooler leaves us ours for a transaction.
                # By hand: a cancelled transaction() waits for the server to roll back, which a dead one never does.
                await connection.execute("BEGIN")
                try:
                    rows = await connection.fetch(self._queries[query], *arguments)
                except asyncpg.PostgresError as error:
                    if not isinstance(error, _BROKEN):
                        await connection.execute("ROLLBACK")
                    raise
                await connection.execute("COMMIT")
            return rows

    async def fetch_value(self, query: str, *arguments: Any, urgent: bool = False) -> Any:
        """The first column of a named query's first row; None without one."""
        rows = await self.fetch(query, *arguments, urgent=urgent)
        return rows[0][0] if rows else None

    async def fetch_together(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[asyncpg.Record]:
        """Run several named queries, each with its arguments, as one; gives all their rows."""
        try:
            return await self._fetch_together(calls)
        except (_NotPreparedError, _SchemaChangedError):
            return await self._fetch_together(calls)

    async def _fetch_together(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[asyncpg.Record]:
        async with self._connection() as connection, connection.transaction():
            return [
                row for query, arguments in calls for row in await connection.fetch(self._queries[query], *arguments)
            ]

    @asynccontextmanager
    async def _connection(
        self, *, urgent: bool = False
    ) -> AsyncIterator[asyncpg.pool.PoolConnectionProxy[asyncpg.Record]]:
        if self._pool is None:
            raise QueueError("the queue is not open: use it as an async context manager")
        if not urgent:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                    await self._patient.acquire()
            except TimeoutError:
                raise QueueUnavailableError("every connection is busy, with a slow or silent database") from None
        try:
            with _errors(self.place):
                async with self._pool.acquire(timeout=CONNECT_TIMEOUT_SECONDS) as connection:
                    try:
                        yield connection
                    except asyncio.CancelledError:
                        # Else it would be waited for until the server has taken note, which a dead one never does.
                        _terminate(connection)
                        raise
                    except _BROKEN:
                        _terminate(connection)
                        self._drop_idle()
                        raise
        except _NotPreparedError:
            await self._stop_preparing()
            raise
        finally:
            if not urgent:
                self._patient.release()

    def _drop_idle(self) -> None:
        """Don't let the next calls find out one by one what has become of the other connections."""
        if self._pool is not None:
            pool: Any = self._pool
            for holder in pool._holders:  # noqa: SLF001 - expire_connections() would wait for each of them
                if holder.is_idle():
                    holder.terminate()

    async def _connect(self, *_dsn: Any, **options: Any) -> asyncpg.Connection[asyncpg.Record]:
        """Connect to the host that was the last to answer, else to the next: none of them can use up all the time."""
        error: Exception | None = None
        for address in list(self._addresses):
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS / len(self._addresses)):
                    connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(address, **options)
            except CLIENT_ERRORS as failure:
                error = failure
                self._addresses.append(self._addresses.pop(0))
            else:
                await _watch_peer(connection)
                return connection
        assert error is not None
        raise error

    def _connect_arguments(self) -> dict[str, Any]:
        return {
            "ssl": tls(self.place),
            "timeout": CONNECT_TIMEOUT_SECONDS,
            "command_timeout": self._command_timeout_seconds,
            "server_settings": {"application_name": self._application_name},
        }

    async def _stop_preparing(self) -> None:
        """Go on without prepared statements, on new connections."""
        if self._pool is None or not self._prepares:
            return
        self._prepares = False
        log.warning(
            "the connection pooler keeps no prepared statements, so that every query takes four round trips: "
            "set its max_prepared_statements (PgBouncer 1.21 and later)"
        )
        self._pool.set_connect_args(self.place.dsn, **self._connect_arguments(), statement_cache_size=0)
        await self._pool.expire_connections()


def _terminate(connection: asyncpg.pool.PoolConnectionProxy[asyncpg.Record]) -> None:
    with suppress(asyncpg.InterfaceError):  # Its end was noticed by the pool before.
        connection.terminate()


@asynccontextmanager
async def connect(
    place: Place, *, command_timeout_seconds: float, application_name: str = "headrace-migrate"
) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """One connection, not of a pool; its errors are `QueueError` too.

    Behind a pooler a query with arguments must stand in a transaction.
    """
    with _errors(place):
        connection = await asyncpg.connect(
            place.dsn,
            ssl=tls(place),
            timeout=CONNECT_TIMEOUT_SECONDS,
            command_timeout=command_timeout_seconds,
            server_settings={"application_name": application_name},
            statement_cache_size=0,
        )
        try:
            await _watch_peer(connection)
            yield connection
        finally:
            await connection.close(timeout=CLOSE_TIMEOUT_SECONDS)


def addresses(dsn: str) -> list[str]:
    """One DSN for each host that a DSN names.

    asyncpg takes several, but gives them one time limit together: a host that is gone without a word uses it up.
    """
    try:
        parts = urlsplit(dsn)
    except ValueError:
        return [dsn]
    user, at, listed = parts.netloc.rpartition("@")
    options = dict(parse_qsl(parts.query))
    hosts = listed.split(",")
    if not listed:
        ports = options.pop("port", "").split(",")
        hosts = [
            quote(host, safe="[]:") + (f":{port}" if port else "")
            for host, port in zip(
                options.pop("host", "").split(","), itertools.chain(ports, itertools.repeat(ports[-1])), strict=False
            )
        ]
    if len(hosts) < 2:
        return [dsn]
    return [urlunsplit(parts._replace(netloc=f"{user}{at}{host}", query=urlencode(options))) for host in hosts]


def tls(place: Place) -> ssl.SSLContext | None:
    """Verify against the CA where one is given; else the DSN's own sslmode holds."""
    if place.ca_certificates is None:
        return None
    try:
        return ssl.create_default_context(cadata=place.ca_certificates)
    except (ssl.SSLError, ValueError) as error:
        raise QueueAccessError(f"the CA certificate is no PEM certificate: {error}") from None


def check_version(schema: str, version: int, compatible_with: int) -> None:
    """Raise `SchemaVersionError` where code and schema are too far apart."""
    known = code_version()
    if version < known:
        raise SchemaVersionError(
            f"schema {schema!r} has version {version}, this code needs {known}: "
            "let the operator upgrade it, or run `headrace migrate`"
        )
    if known < compatible_with:
        raise SchemaVersionError(
            f"schema {schema!r} has version {version}, which needs code that knows {compatible_with} or later, "
            f"and this code knows {known}: upgrade this program"
        )


def _check_isolation(isolation: str) -> None:
    """Raise where a look under a lock would not be the newest. We can't set it: a pooler's sessions are not ours."""
    if isolation in {"repeatable read", "serializable"}:
        raise QueueError(
            f"transactions of this user are {isolation} by default, under which two workers would get one job: "
            "ALTER ROLE … IN DATABASE … SET default_transaction_isolation = 'read committed'"
        )


class _Connection(_AnyConnection):
    """Names prepared statements as no other process does.

    A pooler that keeps none for its clients gives us sessions where others have prepared theirs. asyncpg counts from
    one in every process: under such a name, somebody else's query could be run.
    """

    def _get_unique_id(self, prefix: str) -> str:
        return f"{prefix}_{_PROCESS}_{next(_STATEMENT_NUMBERS)}"


_PROCESS = secrets.token_hex(8)
_STATEMENT_NUMBERS = itertools.count()


async def is_pooled(connection: asyncpg.Connection[asyncpg.Record]) -> bool:
    """Whether a pooler stands between: the session that answers is not the one that the connection was told of."""
    # Without arguments, it is the one kind of query that no pooler tears apart; its answer is a count.
    return await connection.execute(f"SELECT WHERE pg_backend_pid() = {connection.get_server_pid()}") == "SELECT 0"


async def _watch_peer(connection: Any) -> None:
    """Let the kernel notice a dead peer; asyncpg offers no setting for it."""
    transport_socket = connection._transport.get_extra_info("socket")  # noqa: SLF001
    if transport_socket is None or transport_socket.family == getattr(socket, "AF_UNIX", None):
        return
    # uvloop's stand-in for a socket refuses setsockopt; a duplicate of the descriptor sets the same options.
    with socket.socket(fileno=os.dup(transport_socket.fileno())) as duplicate:
        duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            duplicate.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _PEER_GONE_SECONDS // 2)
            duplicate.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PEER_GONE_SECONDS // 4)
            duplicate.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2)
            duplicate.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _PEER_GONE_SECONDS * 1000)


async def _leave_as_is(_connection: Any) -> None:
    """Reset nothing."""


@contextmanager
def _errors(place: Place) -> Iterator[None]:
    try:
        yield
    except CLIENT_ERRORS as error:
        # The cause is cut off: some of asyncpg's own messages repeat parts of the DSN.
        raise translate(error, place.schema) from None


def translate(error: BaseException, schema: str) -> QueueError:
    """Name what went wrong in our words, with the fix where there is one."""
    match error:
        case QueueError():
            return error
        case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
            return QueueAccessError(f"the database refuses the credentials: {error}; mend user and password in the DSN")
        case asyncpg.InvalidSQLStatementNameError():
            return _NotPreparedError("the connection pooler keeps no prepared statements: trying again without")
        case asyncpg.DatatypeMismatchError():
            return _SchemaChangedError(f"schema {schema!r} is being changed: {error}")
        case asyncpg.InsufficientPrivilegeError():
            return QueueAccessError(f"{error}: grant the right to the DSN's user, or use another user")
        case asyncpg.InvalidCatalogNameError():
            return QueueNotFoundError(f"{error}: create it, or mend the DSN")
        case asyncpg.UndefinedTableError() | asyncpg.InvalidSchemaNameError():
            return QueueNotFoundError(
                f"schema {schema!r} holds no queues: apply a JobQueue with that schema, or run `headrace migrate`"
            )
        case asyncpg.DuplicateTableError() | asyncpg.DuplicateFunctionError():
            return PlaceTakenError(
                f"schema {schema!r} holds other tables or functions of these names ({error}): choose another schema"
            )
        case asyncpg.UndefinedColumnError():
            return SchemaVersionError(f"schema {schema!r} was made by another version: {error}")
        case asyncpg.ReadOnlySQLTransactionError():
            return QueueUnavailableError("the database is read-only, a standby perhaps: waiting for a primary")
        case (
            asyncpg.PostgresConnectionError()
            | asyncpg.OperatorInterventionError()
            | asyncpg.InsufficientResourcesError()
            | asyncpg.TransactionRollbackError()
            | asyncpg.LockNotAvailableError()
        ):
            return QueueUnavailableError(f"the database can't serve now: {error}")
        case asyncpg.PostgresError():
            return QueueError(f"the database refused ({error.sqlstate}): {error}")
        case asyncpg.ClientConfigurationError() if "root certificate" in str(error):
            return QueueAccessError(f"TLS with the database: {error}; name the file by sslrootcert in the DSN")
        case asyncpg.ClientConfigurationError():
            return _malformed()
        case socket.gaierror():
            return QueueUnavailableError("the DSN's host name can't be resolved: mend it, or wait for DNS")
        case ssl.SSLError():
            return QueueAccessError(f"TLS with the database failed: {error}; mend the CA certificate or the host name")
        case TimeoutError():
            return QueueUnavailableError("the database did not answer in time")
        case OSError() | asyncpg.InterfaceError() | asyncpg.InternalClientError():
            return QueueUnavailableError(f"the database can't be reached: {str(error) or type(error).__name__}")
        case _:
            return _malformed()


def _malformed() -> QueueError:
    # None of the client's own words: they may repeat parts of the DSN.
    return QueueAccessError(
        "the DSN is malformed: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, percent-encoded"
    )
