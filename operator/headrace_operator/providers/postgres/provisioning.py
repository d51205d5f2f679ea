"""Makes, adjusts and removes queues in PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace.queues.base import Owner, QueueSettings
from headrace.queues.postgres import (
    CONNECTIONS_PER_WORKER,
    DIRECT_CONNECTIONS_PER_WORKER,
    Place,
    PostgresProvisioner,
)
from headrace_operator.core.provider import Provisioned
from headrace_operator.providers.postgres.errors import operator_errors
from headrace_operator.providers.postgres.limits import ConnectionBudget
from headrace_operator.providers.postgres.status import postgres_status

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headrace_operator.core.provider import QueueOwner
    from headrace_operator.providers.postgres.place import PostgresPlace


async def provision(place: PostgresPlace, owner: QueueOwner, settings: Mapping[str, Any]) -> Provisioned:
    """See `core.provider.Provider.provision`."""
    with operator_errors(None if place.admin_dsn is None else "adminConnection"):
        done = await _administrator(place).ensure(place.queue, QueueSettings(**settings), _owner(owner))
    max_connections, per_worker = done.facts["max_connections"], CONNECTIONS_PER_WORKER
    # Those of the owner of the tables are none of the workers' business.
    if place.admin_dsn is not None:
        with operator_errors("connection"):
            max_connections = await _provisioner(place, place.backend.dsn).allowed_connections()
    # How many the pooler keeps to the server is the pooler's business: what goes past it is what counts.
    if place.backend.direct_dsn is not None:
        with operator_errors("directConnection"):
            max_connections = await _provisioner(place, place.backend.direct_dsn).allowed_connections()
        per_worker = DIRECT_CONNECTIONS_PER_WORKER
    budget = None
    if max_connections is not None:
        budget = ConnectionBudget(max_connections=max_connections, connections_per_worker=per_worker)
    return Provisioned(
        changed=done.changed, details=done.details, status=postgres_status(done.facts["schema_version"], budget)
    )


async def remove(place: PostgresPlace, owner: QueueOwner) -> bool:
    """See `core.provider.Provider.remove`."""
    with operator_errors():
        return await _administrator(place).remove(place.queue, _owner(owner)) is not None


def _administrator(place: PostgresPlace) -> PostgresProvisioner:
    return _provisioner(place, place.admin_dsn or place.backend.dsn)


def _provisioner(place: PostgresPlace, dsn: str) -> PostgresProvisioner:
    return PostgresProvisioner(Place(dsn=dsn, ca_certificates=place.backend.ca_certificates, schema=place.schema))


def _owner(owner: QueueOwner) -> Owner:
    return Owner(namespace=owner.namespace, name=owner.name, uid=owner.uid)
