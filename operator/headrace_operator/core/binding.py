"""The Secret with which applications and workers connect, in the shape of the Service Binding specification.

Nothing here puts any part of a DSN into a message: what is wrong with it is said in our own words.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit, urlunsplit

from headrace_operator.core.labels import queue_labels
from headrace_operator.core.model import TransientError

if TYPE_CHECKING:
    from headrace_operator.core.model import Connection
    from headrace_operator.core.spec import JobQueue

_SCHEMES = ("postgresql", "postgres")
_DEFAULT_PORT = 5432
_FORM = "it must look like postgresql://user:password@host:5432/database"


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
        hosts, _ = _addresses(parts)
    except ValueError:
        # The cause would show the DSN.
        raise TransientError("InvalidConnection", f"{where} holds no DSN that can be read: {_FORM}") from None
    if parts.scheme not in _SCHEMES:
        raise TransientError("InvalidConnection", f"{where} holds no DSN with the scheme postgresql: {_FORM}")
    if not all(hosts) or not parts.path.strip("/"):
        raise TransientError("InvalidConnection", f"{where} holds a DSN without a host or without a database: {_FORM}")
    return dsn


def check_redis_url(secret: bytes, where: str) -> None:
    """See whether a Secret's key may hold the URL of a Redis; all the rest of it is the worker's to judge.

    Raises
    ------
    TransientError
        ``InvalidConnection``; the Secret may be mended at any time.
    """
    if not secret.strip().startswith((b"redis://", b"rediss://")):
        raise TransientError(
            "InvalidConnection",
            f"{where} holds no URL of a Redis: it must look like redis://user:password@host:6379/0, or rediss://…",
        )


def seen_from_elsewhere(dsn: str, namespace: str) -> str:
    """The DSN with the short names of Services qualified, which mean what they mean to the pods of `namespace`.

    The operator stands in another namespace, where `postgres` would be another Service, or none.
    """
    parts = urlsplit(dsn)
    credentials, at, places = parts.netloc.rpartition("@")
    if not places:
        return dsn
    qualified = ",".join(_qualified(place, namespace) for place in places.split(","))
    return urlunsplit(parts._replace(netloc=f"{credentials}{at}{qualified}"))


def _qualified(place: str, namespace: str) -> str:
    host, colon, port = place.partition(":")
    is_short_name = host and host != "localhost" and not set(host) & set(".[/%")
    return f"{host}.{namespace}.svc{colon}{port}" if is_short_name else place


def binding_secret(queue: JobQueue, connection: Connection) -> dict[str, Any]:
    """The binding Secret of a queue, to be applied. `connection` comes from `read_dsn`."""
    parts = urlsplit(connection.dsn)
    hosts, ports = _addresses(parts)
    entries = {
        "type": "postgresql",
        "provider": "headrace",
        "uri": connection.dsn,
        "direct-uri": connection.direct_dsn or "",
        "host": ",".join(hosts),
        "port": ",".join(ports),
        "database": unquote(parts.path.strip("/")),
        "username": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "schema": queue.spec.postgres.schema,
        "queue": queue.metadata.name,
        "ca.crt": connection.ca_certificates or "",
    }
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "servicebinding.io/postgresql",
        "metadata": {
            "namespace": queue.metadata.namespace,
            "name": queue.binding_name,
            "labels": queue_labels(queue.metadata.name),
            "ownerReferences": [queue.owner_reference],
        },
        "data": {name: base64.b64encode(value.encode()).decode() for name, value in entries.items() if value},
    }


def _addresses(parts: SplitResult) -> tuple[list[str], list[str]]:
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
