"""What client library and server say, in our words: every error is a `QueueError`, with the fix if there is one.

Nothing here repeats the DSN: it holds the password.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING

import asyncpg

from headrace.queues.errors import (
    PlaceTakenError,
    QueueAccessError,
    QueueError,
    QueueNotFoundError,
    QueueUnavailableError,
    SchemaVersionError,
)
from headrace.queues.postgres.patience import NothingDoneError

if TYPE_CHECKING:
    from collections.abc import Iterator

BROKEN = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InternalClientError,
    asyncpg.ReadOnlySQLTransactionError,
    OSError,
    TimeoutError,
)
"""After these a connection is of no use, though it may not know yet. (A read-only server was a primary when we
connected.) But see `is_broken`."""

CLIENT_ERRORS = (*BROKEN, asyncpg.InterfaceError, asyncpg.PostgresError, ValueError, OverflowError)
"""All that a call of the client library's may fail with, however healthy we are."""


class KeyTakenForNowError(NothingDoneError):
    """Somebody's open transaction holds what the statement needs, and it was not to wait."""


class NotPreparedError(NothingDoneError):
    """A pooler gave us a session that our statement was not prepared in."""


class SchemaChangedError(NothingDoneError):
    """A migration changed the rows of a table under a function that was at work with them."""


def is_broken(error: BaseException) -> bool:
    """Whether the connection is of no use after this."""
    match error:
        case asyncpg.QueryCanceledError():
            return False  # By a statement_timeout of the server's, say: the session is as good as before.
        case asyncpg.InterfaceError() if isinstance(error, ValueError):
            return False  # What we asked for was wrong, and was never sent.
        case _:
            return isinstance(error, (*BROKEN, asyncpg.InterfaceError))


def was_never_sent(error: BaseException) -> bool:
    """Whether a connection had ended before the statement left. Neither says anything else of asyncpg's."""
    return (type(error) is asyncpg.InternalClientError and str(error).startswith("cannot switch to state")) or (
        type(error) is asyncpg.InterfaceError and "closed" in str(error)
    )


@contextmanager
def our_errors(schema: str) -> Iterator[None]:
    """Let nothing pass but `QueueError`."""
    try:
        yield
    except CLIENT_ERRORS as error:
        # The cause is cut off: some of asyncpg's own messages repeat parts of the DSN.
        raise translate(error, schema) from None


def translate(error: BaseException, schema: str) -> QueueError:
    """Name what went wrong in our words, with the fix where there is one."""
    match error:
        case QueueError():
            return error
        case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
            return QueueAccessError(f"the database refuses the credentials: {error}; mend user and password in the DSN")
        case asyncpg.InvalidSQLStatementNameError():
            return NotPreparedError("the connection pooler keeps no prepared statements: trying again without")
        case asyncpg.DatatypeMismatchError():
            return SchemaChangedError(f"schema {schema!r} is being changed: {error}")
        case asyncpg.InsufficientPrivilegeError():
            return QueueAccessError(f"{error}: grant the right to the DSN's user, or use another user")
        case asyncpg.UndefinedObjectError():
            return QueueNotFoundError(f"{error}: apply its JobQueue again, or run `headrace migrate`")
        case asyncpg.InvalidCatalogNameError():
            return QueueNotFoundError(f"{error}: create it, or mend the DSN")
        case asyncpg.UndefinedTableError() | asyncpg.InvalidSchemaNameError():
            return QueueNotFoundError(
                f"schema {schema!r} holds no queues: apply a JobQueue with that schema, or run `headrace migrate`"
            )
        case asyncpg.DuplicateTableError() | asyncpg.DuplicateFunctionError():
            return PlaceTakenError(
                f"schema {schema!r} holds other tables or functions of these names ({error}): choose another schema"
            )
        case asyncpg.UndefinedColumnError() | asyncpg.UndefinedFunctionError():
            return SchemaVersionError(f"schema {schema!r} was made by another version: {error}")
        case asyncpg.ReadOnlySQLTransactionError():
            return NothingDoneError("the database is read-only, a standby perhaps: waiting for a primary")
        case asyncpg.LockNotAvailableError():
            return KeyTakenForNowError(f"the database can't serve now: {error}")
        case (
            asyncpg.CannotConnectNowError()
            | asyncpg.QueryCanceledError()
            | asyncpg.InsufficientResourcesError()
            | asyncpg.TransactionRollbackError()
        ):
            return NothingDoneError(f"the database can't serve now: {error}")
        case asyncpg.PostgresConnectionError() | asyncpg.OperatorInterventionError():
            return QueueUnavailableError(f"the database can't serve now: {error}")
        case asyncpg.PostgresError():
            return QueueError(f"the database refused ({error.sqlstate}): {error}")
        case asyncpg.ClientConfigurationError() if "root certificate" in str(error):
            return QueueAccessError(f"TLS with the database: {error}; name the file by sslrootcert in the DSN")
        case asyncpg.ClientConfigurationError():
            return _malformed()
        case asyncpg.InterfaceError() if isinstance(error, ValueError):
            return QueueError(f"a value can't be sent to the database: {error}")
        case socket.gaierror():
            return QueueUnavailableError("the DSN's host name can't be resolved: mend it, or wait for DNS")
        case ssl.SSLError():
            return QueueAccessError(f"TLS with the database failed: {error}; mend the CA certificate or the host name")
        case TimeoutError():
            return QueueUnavailableError("the database did not answer in time")
        case OSError() | asyncpg.InterfaceError() | asyncpg.InternalClientError():
            return QueueUnavailableError(f"the database can't be reached: {str(error) or type(error).__name__}")
        case _:
            return _malformed()


def _malformed() -> QueueError:
    # None of the client's own words: they may repeat parts of the DSN.
    return QueueAccessError(
        "the DSN is malformed: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, percent-encoded"
    )
