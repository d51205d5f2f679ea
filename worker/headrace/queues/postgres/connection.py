"""Connections to PostgreSQL: to which of several hosts, TLS, and dead peers."""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import socket
import ssl
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import asyncpg

from headrace.queues.errors import QueueAccessError
from headrace.queues.postgres.errors import CLIENT_ERRORS, our_errors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection

    AnyConnection = asyncpg.Connection[asyncpg.Record]
else:
    AnyConnection = asyncpg.Connection  # It is generic in its stubs alone.

CONNECT_TIMEOUT_SECONDS = 4.0
"""So that a server which takes connections and says nothing shows in a condition within 10 s."""
COMMAND_TIMEOUT_SECONDS = 30.0
"""A query that takes longer hangs: behind a dead server, or a lock that somebody forgot."""
CLOSE_TIMEOUT_SECONDS = 5.0

# A peer that vanished without a word (node loss, dropped NAT entry) is noticed in about this time, idle or not.
_PEER_GONE_SECONDS = 20

_CACHED_STATEMENTS = 100


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


class Connector:
    """Connects to the host of a DSN that was the last to answer, else to the next: none can use up all the time."""

    def __init__(self, place: Place, *, application_name: str) -> None:
        self._place = place
        self._application_name = application_name
        self._addresses = addresses(place.dsn)

    async def connect(self, seconds: float, *, prepares: bool = True) -> AnyConnection:
        """A new session, within so many seconds; raises what asyncpg does."""
        error: Exception | None = None
        for address in list(self._addresses):
            try:
                async with asyncio.timeout(seconds / len(self._addresses)):
                    connection: AnyConnection = await asyncpg.connect(
                        address,
                        ssl=tls(self._place),
                        timeout=seconds,
                        server_settings={"application_name": self._application_name},
                        connection_class=_Connection,
                        statement_cache_size=_CACHED_STATEMENTS if prepares else 0,
                    )
            except CLIENT_ERRORS as failure:
                error = failure
                self._addresses.append(self._addresses.pop(0))
            else:
                await _watch_peer(connection)
                return connection
        assert error is not None
        raise error


@asynccontextmanager
async def connect(
    place: Place, *, command_timeout_seconds: float, application_name: str = "headrace-migrate"
) -> AsyncIterator[AnyConnection]:
    """One connection, not of a pool; its errors are `QueueError` too.

    Behind a pooler a query with arguments must stand in a transaction.
    """
    with our_errors(place.schema):
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


class _Connection(AnyConnection):
    """Names prepared statements as no other process does, and knows arrays of the server's own types.

    A pooler that keeps none for its clients gives us sessions where others have prepared theirs. asyncpg counts from
    one in every process: under such a name, somebody else's query could be run.

    asyncpg asks every session anew what an array is, in three statements that take a server about 10 ms: a worker's
    start and a producer's first job would wait for them.
    """

    def _get_unique_id(self, prefix: str) -> str:
        return f"{prefix}_{_PROCESS}_{next(_STATEMENT_NUMBERS)}"

    async def _introspect_types(  # asyncpg's own
        self,
        typeoids: Collection[int],
        timeout: float | None,  # noqa: ASYNC109
    ) -> tuple[Any, Any]:
        if all(oid in ARRAYS for oid in typeoids):
            return [array_of(oid) for oid in typeoids], _NOTHING_PREPARED
        asked: tuple[Any, Any] = await super()._introspect_types(typeoids, timeout)  # type: ignore[misc]
        return asked


ARRAYS = {
    1000: ("bool", "boolean", 16),
    1001: ("bytea", "bytea", 17),
    1005: ("int2", "smallint", 21),
    1007: ("int4", "integer", 23),
    1016: ("int8", "bigint", 20),
    1022: ("float8", "double precision", 701),
    1185: ("timestamptz", "timestamp with time zone", 1184),
    3807: ("jsonb", "jsonb", 3802),
}
"""By number, which is the same on every server: the type of what it holds, in short and in words, and its number."""

# What asyncpg is to think that it was asked with: a statement that took no other's place.
_NOTHING_PREPARED = SimpleNamespace(name="none")


def array_of(oid: int) -> dict[str, Any]:
    """One of `ARRAYS`, as asyncpg's own query describes it."""
    name, element, element_oid = ARRAYS[oid]
    return {
        "oid": oid,
        "ns": "pg_catalog",
        "name": f"_{name}",
        "kind": b"b",
        "basetype": None,
        "elemtype": element_oid,
        "elemdelim": b",",
        "range_subtype": None,
        "attrtypoids": None,
        "attrnames": None,
        "basetype_name": None,
        "elemtype_name": element,
        "range_subtype_name": None,
    }


_PROCESS = secrets.token_hex(8)
_STATEMENT_NUMBERS = itertools.count()


async def is_pooled(connection: AnyConnection) -> bool:
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
