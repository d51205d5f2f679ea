"""What applications and workers connect with. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from headrace_operator.core.binding import QueueBinding
from headrace_operator.providers.postgres.place import addresses, ca_certificates, optional_dsn
from headrace_operator.providers.postgres.spec import postgres_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headrace_operator.core.provider import SecretKey
    from headrace_operator.core.spec import JobQueue


def binding_of(queue: JobQueue, secrets: Mapping[SecretKey, bytes]) -> QueueBinding:
    """See `core.provider.Provider.binding`; the user that owns the tables is none of it."""
    postgres = postgres_of(queue)
    dsn = optional_dsn(postgres.connection, secrets)
    assert dsn is not None, "it was read"
    parts = urlsplit(dsn)
    hosts, ports = addresses(parts)
    return QueueBinding(
        type="postgresql",
        entries={
            "uri": dsn,
            "direct-uri": optional_dsn(postgres.direct_connection, secrets) or "",
            "host": ",".join(hosts),
            "port": ",".join(ports),
            "database": unquote(parts.path.strip("/")),
            "username": unquote(parts.username or ""),
            "password": unquote(parts.password or ""),
            "schema": postgres.schema,
            "ca.crt": ca_certificates(postgres, secrets) or "",
        },
    )
