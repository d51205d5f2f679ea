"""Makes, adjusts and removes queues in PostgreSQL."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from headrace.queues.base import Owner, QueueSettings
from headrace.queues.postgres import (
    CONNECTIONS_PER_WORKER,
    DIRECT_CONNECTIONS_PER_WORKER,
    Place,
    PostgresProvisioner,
    ProvisioningSession,
)
from headrace_operator.core.provider import Provisioned, Removed
from headrace_operator.providers.postgres.errors import operator_errors
from headrace_operator.providers.postgres.limits import ConnectionBudget
from headrace_operator.providers.postgres.status import postgres_status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from typing import Self

    from headrace_operator.core.provider import QueueOwner
    from headrace_operator.providers.postgres.place import PostgresPlace


class PostgresQueueProvisioner:
    """Fills `core.provider.QueueProvisioner`, inside an `async with` block: a session for each DSN."""

    def __init__(self) -> None:
        self._sessions: dict[Place, ProvisioningSession] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(session.close() for session in self._sessions.values()), return_exceptions=True)

    async def provision(
        self, place: PostgresPlace, owner: QueueOwner, settings: Mapping[str, Any], progress: Callable[[str], None]
    ) -> Provisioned:
        """See `core.provider.QueueProvisioner`."""
        with operator_errors(None if place.admin_dsn is None else "adminConnection"):
            done = await self._administrator(place, progress).ensure(
                place.queue, QueueSettings(**settings), _owner(owner), adopts_from=owner.adopts_from
            )
        max_connections, per_worker = done.facts["max_connections"], CONNECTIONS_PER_WORKER
        # Those of the owner of the tables are none of the workers' business.
        if place.admin_dsn is not None:
            with operator_errors("connection"):
                max_connections = await self._at(place, place.backend.dsn, progress).allowed_connections()
        # How many the pooler keeps to the server is the pooler's business: what goes past it is what counts.
        if place.backend.direct_dsn is not None:
            with operator_errors("directConnection"):
                max_connections = await self._at(place, place.backend.direct_dsn, progress).allowed_connections()
            per_worker = DIRECT_CONNECTIONS_PER_WORKER
        budget = None
        if max_connections is not None:
            budget = ConnectionBudget(max_connections=max_connections, connections_per_worker=per_worker)
        return Provisioned(
            changed=done.changed, details=done.details, status=postgres_status(done.facts["schema_version"], budget)
        )

    async def remove(self, place: PostgresPlace, owner: QueueOwner, progress: Callable[[str], None]) -> Removed | None:
        """See `core.provider.QueueProvisioner`."""
        with operator_errors():
            removed = await self._administrator(place, progress).remove(place.queue, _owner(owner))
        return None if removed is None else Removed(removed.jobs)

    def _administrator(self, place: PostgresPlace, progress: Callable[[str], None]) -> PostgresProvisioner:
        return self._at(place, place.admin_dsn or place.backend.dsn, progress)

    def _at(self, place: PostgresPlace, dsn: str, progress: Callable[[str], None]) -> PostgresProvisioner:
        database = Place(dsn=dsn, ca_certificates=place.backend.ca_certificates)
        session = self._sessions.setdefault(database, ProvisioningSession(database))
        schema = Place(dsn=dsn, ca_certificates=place.backend.ca_certificates, schema=place.schema)
        return PostgresProvisioner(schema, session=session, progress=progress)


def _owner(owner: QueueOwner) -> Owner:
    return Owner(namespace=owner.namespace, name=owner.name, uid=owner.uid, cluster=owner.cluster)
