"""``spec.postgres`` of a JobQueue. Defaults repeat the schema's."""

from __future__ import annotations

from headrace_operator.core.spec import CaReference, JobQueue, Part, parse_block


class DsnReference(Part, frozen=True, kw_only=True):
    """A Secret's key that holds a DSN."""

    name: str
    key: str = "dsn"


class PostgresConnection(Part, frozen=True, kw_only=True):
    """How to reach the database."""

    secret_ref: DsnReference


class PostgresTls(Part, frozen=True, kw_only=True):
    """How to verify the server."""

    ca_secret_ref: CaReference


class Postgres(Part, frozen=True, kw_only=True):
    """Where a queue lives with provider Postgres."""

    connection: PostgresConnection
    admin_connection: PostgresConnection | None = None
    direct_connection: PostgresConnection | None = None
    tls: PostgresTls | None = None
    schema: str = "headrace"
    completed_retention_seconds: float = 0


def postgres_of(queue: JobQueue) -> Postgres:
    """The provider's own block.

    Raises
    ------
    RefusedError
        ``InvalidSpec``, with the field and what is wrong with it.
    """
    return parse_block(queue, Postgres)
