"""JobQueues in PostgreSQL, by the worker's own code: there is one definition of the tables."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from headrace.queues import BACKENDS
from headrace.queues.base import Owner, QueueSettings
from headrace.queues.errors import (
    PlaceTakenError,
    QueueAccessError,
    QueueError,
    QueueNotFoundError,
    QueueUnavailableError,
    SchemaVersionError,
)
from headrace.queues.postgres import (
    CONNECTIONS_PER_WORKER,
    DIRECT_CONNECTIONS_PER_WORKER,
    Place,
    PostgresProvisioner,
)
from headrace_operator.core.limits import BackendLimits
from headrace_operator.core.model import ConnectionBudget, OperatorError, Provisioned, RefusedError, TransientError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from headrace_operator.core.model import QueuePlace

_SCHEMES = {"Postgres": "postgresql"}
"""How the URLs of a provider's queues begin."""


class PostgresProvisioning:
    """Fills `reconcile.ports.Provisioning`. No message holds the DSN or a part of it that is secret."""

    def limits(self, provider: str) -> BackendLimits:
        """See `reconcile.ports.Provisioning`."""
        can = BACKENDS[_SCHEMES[provider]].capabilities
        return BackendLimits(
            max_hold_seconds=can.max_hold_seconds, max_delay_seconds=can.max_delay_seconds, can_pause=can.pausing
        )

    async def ensure(self, place: QueuePlace, owner: Mapping[str, Any], settings: Mapping[str, Any]) -> Provisioned:
        """See `reconcile.ports.Provisioning`."""
        connection = place.connection
        with _operator_errors(None if connection.admin_dsn is None else "adminConnection"):
            done = await _administrator(place).ensure(place.queue, QueueSettings(**settings), _owner(owner))
        max_connections, per_worker = done.facts["max_connections"], CONNECTIONS_PER_WORKER
        # Those of the owner of the tables are none of the workers' business.
        if connection.admin_dsn is not None:
            with _operator_errors("connection"):
                max_connections = await _provisioner(place, connection.dsn).allowed_connections()
        # How many the pooler keeps to the server is the pooler's business: what goes past it is what counts.
        if connection.direct_dsn is not None:
            with _operator_errors("directConnection"):
                max_connections = await _provisioner(place, connection.direct_dsn).allowed_connections()
            per_worker = DIRECT_CONNECTIONS_PER_WORKER
        return Provisioned(
            changed=done.changed,
            schema_version=done.facts["schema_version"],
            details=done.details,
            budget=None
            if max_connections is None
            else ConnectionBudget(max_connections=max_connections, connections_per_worker=per_worker),
        )

    async def remove(self, place: QueuePlace, owner: Mapping[str, Any]) -> bool:
        """See `reconcile.ports.Provisioning`."""
        with _operator_errors():
            return await _administrator(place).remove(place.queue, _owner(owner))


def _administrator(place: QueuePlace) -> PostgresProvisioner:
    return _provisioner(place, place.connection.admin_dsn or place.connection.dsn)


def _provisioner(place: QueuePlace, dsn: str) -> PostgresProvisioner:
    return PostgresProvisioner(Place(dsn=dsn, ca_certificates=place.connection.ca_certificates, schema=place.schema))


def _owner(manifest: Mapping[str, Any]) -> Owner:
    metadata = manifest["metadata"]
    return Owner(namespace=metadata["namespace"], name=metadata["name"], uid=metadata["uid"])


@contextmanager
def _operator_errors(connection: str | None = None) -> Iterator[None]:
    """Tell failures as reconciling knows them, with the connection's name where there are several."""
    try:
        yield
    except QueueError as error:
        raise _translate(error, "" if connection is None else f"{connection}: ") from None


def _translate(error: QueueError, where: str) -> OperatorError:
    """What to do is the user's to read in a condition; only a rival or a newer release can't heal by trying again."""
    message = f"{where}{error}"
    match error:
        case PlaceTakenError():
            return RefusedError("NameTaken", message)
        case SchemaVersionError():
            return RefusedError("SchemaTooNew", message)
        case QueueAccessError():
            return TransientError("CredentialsRefused", message)
        case QueueNotFoundError():
            return TransientError("DatabaseMissing", message)
        case QueueUnavailableError():
            return TransientError("BackendUnreachable", message)
        case _:
            return TransientError("ProvisioningFailed", message)
