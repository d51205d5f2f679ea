"""From a JobQueue and its Secrets to the place of its queue. Pure.

Nothing here puts any part of a DSN into a message: what is wrong with it is said in our own words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, parse_qsl, urlsplit, urlunsplit

from headrace_operator.core.model import TransientError
from headrace_operator.core.provider import SecretKey
from headrace_operator.providers.postgres.spec import postgres_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from headrace_operator.core.spec import JobQueue
    from headrace_operator.providers.postgres.spec import Postgres, PostgresConnection

_SCHEMES = ("postgresql", "postgres")
_DEFAULT_PORT = 5432
_FORM = "it must look like postgresql://user:password@host:5432/database"


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresBackend:
    """A database, as one user sees it: all queues in it are read by one connection."""

    dsn: str
    ca_certificates: str | None = None
    """PEM; given, the server's certificate and name are verified against it."""
    direct_dsn: str | None = None
    """Past a pooler, for LISTEN. None: the DSN itself."""

    def __repr__(self) -> str:
        return "PostgresBackend(…)"


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresPlace:
    """Where a queue lives: a schema in a database, and the queue's name in it. No DSN is shown by `repr`."""

    backend: PostgresBackend
    """As workers and applications see it."""
    admin_dsn: str | None = None
    """Of the user who owns the tables, for provisioning. None: the backend's own."""
    schema: str
    queue: str
    provider: str = "Postgres"

    @property
    def administration(self) -> tuple[str | None, PostgresBackend]:
        """See `core.provider.Place`."""
        return self.admin_dsn, self.backend

    @property
    def label(self) -> str:
        """See `core.provider.Place`."""
        return f"queue {self.queue} in schema {self.schema}"

    def __repr__(self) -> str:
        return f"PostgresPlace({self.label})"


def secret_keys(queue: JobQueue) -> Sequence[SecretKey]:
    """What the Secrets of a queue's connections must hold."""
    postgres = postgres_of(queue)
    connections = (postgres.connection, postgres.admin_connection, postgres.direct_connection)
    return [*(_dsn_key(connection) for connection in connections if connection is not None), *_ca_keys(postgres)]


def removal_secret_keys(queue: JobQueue) -> Sequence[SecretKey]:
    """The same for the one connection that removes: others may be gone before the queue."""
    postgres = postgres_of(queue)
    return [_dsn_key(postgres.admin_connection or postgres.connection), *_ca_keys(postgres)]


def place_of(
    queue: JobQueue, secrets: Mapping[SecretKey, bytes], seen_from_here: Callable[[str], str]
) -> PostgresPlace:
    """See `core.provider.Provider.place`."""
    postgres = postgres_of(queue)

    def here(connection: PostgresConnection | None) -> str | None:
        dsn = optional_dsn(connection, secrets)
        return None if dsn is None else with_hosts(dsn, seen_from_here)

    admin_dsn = here(postgres.admin_connection)
    dsn = here(postgres.connection) or admin_dsn
    assert dsn is not None, "one of them was read"
    return PostgresPlace(
        backend=PostgresBackend(
            dsn=dsn,
            ca_certificates=ca_certificates(postgres, secrets),
            direct_dsn=here(postgres.direct_connection),
        ),
        admin_dsn=admin_dsn,
        schema=postgres.schema,
        queue=queue.metadata.name,
    )


def optional_dsn(connection: PostgresConnection | None, secrets: Mapping[SecretKey, bytes]) -> str | None:
    """The DSN of a connection; None where it was not read."""
    if connection is None or (key := _dsn_key(connection)) not in secrets:
        return None
    return read_dsn(secrets[key], str(key))


def ca_certificates(postgres: Postgres, secrets: Mapping[SecretKey, bytes]) -> str | None:
    """The CA certificates to verify the server against."""
    return next((secrets[key].decode(errors="replace") for key in _ca_keys(postgres)), None)


def read_dsn(secret: bytes, where: str) -> str:
    """The DSN in a Secret's key, checked for its form.

    Parameters
    ----------
    where
        Names the Secret and its key in messages.

    Raises
    ------
    TransientError
        ``InvalidConnection``; the Secret may be mended at any time.
    """
    try:
        dsn = secret.decode().strip()
        parts = urlsplit(dsn)
        hosts, _ = addresses(parts)
    except ValueError:
        # The cause would show the DSN.
        raise TransientError("InvalidConnection", f"{where} holds no DSN that can be read: {_FORM}") from None
    if parts.scheme not in _SCHEMES:
        raise TransientError("InvalidConnection", f"{where} holds no DSN with the scheme postgresql: {_FORM}")
    if not all(hosts) or not parts.path.strip("/"):
        raise TransientError("InvalidConnection", f"{where} holds a DSN without a host or without a database: {_FORM}")
    return dsn


def addresses(parts: SplitResult) -> tuple[list[str], list[str]]:
    """Hosts and ports; PostgreSQL takes several, and takes them as parameters too."""
    parameters = dict(parse_qsl(parts.query))
    places = parts.netloc.rpartition("@")[2] or parameters.get("host", "")
    hosts, ports = [], []
    for place in places.split(","):
        # The brackets of IPv6 are understood by urlsplit alone.
        address = urlsplit(f"//{place}") if not place.startswith("/") else None
        hosts.append(place if address is None else address.hostname or "")
        port = None if address is None else address.port
        ports.append(str(port or parameters.get("port", _DEFAULT_PORT)))
    return hosts, ports


def with_hosts(dsn: str, renamed: Callable[[str], str]) -> str:
    """The DSN with other names for its hosts."""
    parts = urlsplit(dsn)
    credentials, at, places = parts.netloc.rpartition("@")
    if not places:
        return dsn
    return urlunsplit(
        parts._replace(netloc=f"{credentials}{at}{','.join(_renamed(place, renamed) for place in places.split(','))}")
    )


def _renamed(place: str, renamed: Callable[[str], str]) -> str:
    if place.startswith("["):
        return place
    host, colon, port = place.partition(":")
    return f"{renamed(host)}{colon}{port}"


def _dsn_key(connection: PostgresConnection) -> SecretKey:
    return SecretKey(connection.secret_ref.name, connection.secret_ref.key)


def _ca_keys(postgres: Postgres) -> list[SecretKey]:
    return [] if postgres.tls is None else [SecretKey(postgres.tls.ca_secret_ref.name, postgres.tls.ca_secret_ref.key)]
