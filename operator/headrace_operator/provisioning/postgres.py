"""JobQueues in PostgreSQL, by the worker's own code: there is one definition of the tables."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from headrace.queues.base import (
    Owner,
    PlaceTakenError,
    QueueAccessError,
    QueueError,
    QueueNotFoundError,
    QueueSettings,
    QueueUnavailableError,
    SchemaVersionError,
)
from headrace.queues.postgres import Place, PostgresProvisioner
from headrace_operator.core.model import OperatorError, RefusedError, TransientError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from headrace_operator.core.model import QueuePlace


class PostgresProvisioning:
    """Fills `reconcile.ports.Provisioning`. No message holds the DSN or a part of it that is secret."""

    async def ensure(
        self, place: QueuePlace, owner: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> tuple[bool, int, str]:
        """See `reconcile.ports.Provisioning`."""
        with _operator_errors():
            done = await _provisioner(place).ensure(place.queue, QueueSettings(**settings), _owner(owner))
        return done.changed, done.schema_version, done.details

    async def remove(self, place: QueuePlace, owner: Mapping[str, Any]) -> bool:
        """See `reconcile.ports.Provisioning`."""
        with _operator_errors():
            return await _provisioner(place).remove(place.queue, _owner(owner))


def _provisioner(place: QueuePlace) -> PostgresProvisioner:
    connection = place.connection
    return PostgresProvisioner(
        Place(dsn=connection.dsn, ca_certificates=connection.ca_certificates, schema=place.schema)
    )


def _owner(manifest: Mapping[str, Any]) -> Owner:
    metadata = manifest["metadata"]
    return Owner(namespace=metadata["namespace"], name=metadata["name"], uid=metadata["uid"])


@contextmanager
def _operator_errors() -> Iterator[None]:
    try:
        yield
    except QueueError as error:
        raise _translate(error) from None


def _translate(error: QueueError) -> OperatorError:
    """What to do is the user's to read in a condition; only a rival or a newer release can't heal by trying again."""
    message = str(error)
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
