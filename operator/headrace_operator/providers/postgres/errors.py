"""The failures of queues in PostgreSQL, as reconciling knows them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from headrace.queues.errors import (
    CountTooSlowError,
    PlaceTakenError,
    QueueAccessError,
    QueueError,
    QueueNotFoundError,
    QueueUnavailableError,
    SchemaVersionError,
)
from headrace.queues.postgres.errors import KeyTakenForNowError
from headrace_operator.core.model import OperatorError, RefusedError, TransientError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def operator_errors(connection: str | None = None) -> Iterator[None]:
    """Tell failures as conditions do, with the connection's name where there are several."""
    try:
        yield
    except CountTooSlowError:
        raise
    except QueueError as error:
        raise _translate(error, "" if connection is None else f"{connection}: ") from None
    except TimeoutError:
        where = "" if connection is None else f"{connection}: "
        raise TransientError("BackendUnreachable", f"{where}the database did not answer in time") from None


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
        case KeyTakenForNowError():
            return TransientError("TablesInUse", message)
        case QueueUnavailableError():
            return TransientError("BackendUnreachable", message)
        case _:
            return TransientError("ProvisioningFailed", message)
