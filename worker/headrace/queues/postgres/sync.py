"""Enqueue from synchronous code, such as Django and Flask: within a transaction of the caller's own, or by itself.

Needs neither asyncpg nor an event loop: `enqueue_in` works with what the application has, `PostgresProducer` with
psycopg.
"""

from __future__ import annotations

import os
import re
import select
import threading
import time
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from headrace.queues import DEFAULT_SCHEMA
from headrace.queues.batches import batches
from headrace.queues.capabilities import refuse_unsupported
from headrace.queues.errors import QueueAccessError, QueueError, QueueUnavailableError
from headrace.queues.postgres import transactions
from headrace.queues.postgres.capabilities import CAPABILITIES
from headrace.queues.postgres.patience import (
    PATIENCE_BYTES,
    NothingDoneError,
    Patience,
    as_callers_know_it,
    pauses,
    size_of,
)
from headrace.queues.postgres.statements import quoted, render

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from headrace.job import NewJob
    from headrace.queues.base import Enqueued

__all__ = ["PostgresProducer", "enqueue_in", "open_producer"]

CONNECT_TIMEOUT_SECONDS = 4
COMMAND_TIMEOUT_SECONDS = 30

# The server ends a statement in time. One that has not said so by then, suspended or behind a dead disk, never may.
_SILENCE_SECONDS = 5

# A server that vanished without a word is noticed in about this time.
_PEER_GONE_SECONDS = 20

# Both in one message, and so in one transaction and one round trip. The limit holds for this transaction alone: behind
# a pooler the session is somebody else's next.
_ENQUEUE = "SET LOCAL statement_timeout = {}; SELECT id, is_new FROM {schema}.enqueue_many({}, {})"

# The server has undone the statement: resources, conflicts, a lock or a statement that took too long, a start.
_UNDONE = ("53", "40", "55P03", "57014", "57P03")

_REFUSED = re.compile(r"authentication|pg_hba|password|role .* does not exist", re.IGNORECASE)


def enqueue_in(
    connection: Any, queue: str, jobs: Sequence[NewJob], *, schema: str = DEFAULT_SCHEMA, notify: bool = True
) -> list[Enqueued]:
    """Enqueue within the transaction that is open on the caller's own connection: both happen, or neither.

    Parameters
    ----------
    connection
        psycopg's ``Connection``, SQLAlchemy's ``Connection`` or ``Session``, or Django's ``django.db.connection``.
    queue
        The queue's name: that of its JobQueue.
    jobs
        What to enqueue, all or none.
    schema
        The schema that holds the queue. Defaults to ``headrace``.
    notify
        Whether workers that wait are told at the commit. False where the transaction will be prepared (two-phase
        commit), which PostgreSQL refuses after a notification: workers find the jobs by looking. Defaults to True.

    Returns
    -------
    list[Enqueued]
        What became of each, in order: its id, or that of the job which has its deduplication key.

    Raises
    ------
    UnsupportedCapabilityError
        When this is no such connection.
    QueueError
        When no transaction is open there, the queue does not exist, or a job is refused. What the driver raises (a lost
        connection, a deadlock) is passed on as it is. Roll back in either case.

    Examples
    --------
    >>> with transaction.atomic():
    ...     order.save()
    ...     enqueue_in(django.db.connection, "orders", [new_job("send-receipt", {"order": order.id})])
    """
    refuse_unsupported(jobs, CAPABILITIES)
    return transactions.enqueue_sync(connection, schema, queue, jobs, notify=notify)


class PostgresProducer:
    """Enqueues by itself: when `enqueue` returns, the jobs are durable.

    Made once a process and shared by its threads; connects when it is first needed, and again after a fork. Use it as a
    context manager, or call `close`.

    Parameters
    ----------
    dsn
        ``postgresql://USER:PASSWORD@HOST:PORT/DATABASE``, with libpq's parameters (``sslmode``, ``sslrootcert``, …).
    schema
        The schema that holds the queues. Defaults to ``headrace``.
    max_idle
        How many connections to keep open between calls. Defaults to 4; as many are opened as threads enqueue at once.
    patience_seconds
        How long a call waits for a database that is away. Defaults to 0: not at all.
    patience_bytes
        How much may wait, of all threads: payloads, and 1 KiB a job. Beyond it a call fails. Defaults to 64 MiB.

    Raises
    ------
    QueueError
        When psycopg is not installed.
    """

    def __init__(
        self,
        dsn: str,
        *,
        schema: str = DEFAULT_SCHEMA,
        max_idle: int = 4,
        patience_seconds: float = 0.0,
        patience_bytes: int = PATIENCE_BYTES,
    ) -> None:
        try:
            import psycopg  # noqa: PLC0415 - only who uses it pays for it
        except ImportError as error:
            raise QueueError(
                "headrace.sync.Producer needs psycopg: pip install 'headrace[sync]' 'psycopg[binary]'"
            ) from error
        quoted(schema)  # Complains now rather than later.
        self._psycopg: Any = psycopg
        self._dsn = dsn
        self._schema = schema
        self._max_idle = max_idle
        self._patience = Patience(seconds=patience_seconds, max_bytes=patience_bytes)
        self._waiting_bytes = 0
        self._idle: list[Any] = []
        self._inherited: list[Any] = []
        self._process = os.getpid()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that are idle. Enqueuing afterwards opens new ones."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def enqueue(self, queue: str, jobs: Sequence[NewJob]) -> list[Enqueued]:
        """Enqueue all of them or none; returns what became of each, in order, once they are durable.

        Raises
        ------
        QueueUnavailableError
            When the database can't be reached or does not answer in time; the jobs may or may not be there.
        QueueError
            When the queue does not exist, or a job is refused; nothing was enqueued.
        """
        refuse_unsupported(jobs, CAPABILITIES)
        if not jobs:
            return []
        patient_until = time.monotonic() + self._patience.seconds
        for pause in pauses():
            try:
                return self._enqueue(queue, jobs)
            except NothingDoneError as error:
                remaining = patient_until - time.monotonic()
                if remaining <= 0:
                    raise as_callers_know_it(error) from None
                with self._room_for(size_of(jobs)):
                    time.sleep(min(pause, remaining))
        raise AssertionError

    @contextmanager
    def _room_for(self, size: int) -> Iterator[None]:
        """Count what waits; raises where that is too much."""
        with self._lock:
            self._patience.check_room(self._waiting_bytes, size)
            self._waiting_bytes += size
        try:
            yield
        finally:
            with self._lock:
                self._waiting_bytes -= size

    def _enqueue(self, queue: str, jobs: Sequence[NewJob]) -> list[Enqueued]:
        psycopg = self._psycopg
        statements = list(batches(jobs, max_bytes=transactions.BATCH_BYTES))
        with self._connection() as connection:
            try:
                with connection.transaction() if len(statements) > 1 else nullcontext():
                    return [one for batch in statements for one in self._send(connection, queue, batch)]
            except TimeoutError:
                connection.close()
                raise QueueUnavailableError("the database did not answer in time") from None
            except psycopg.Error as error:
                if meant := transactions.translate(error, self._schema):
                    raise meant from None
                if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
                    connection.close()
                    raise NothingDoneError("the database is read-only, a standby perhaps") from None
                if (error.sqlstate or "").startswith(_UNDONE):
                    raise NothingDoneError(f"the database can't serve now: {_first_line(error)}") from None
                if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
                    raise QueueUnavailableError(f"the database can't serve now: {_first_line(error)}") from None
                raise QueueError(f"the database refused ({error.sqlstate}): {_first_line(error)}") from None

    def _send(self, connection: Any, queue: str, jobs: Sequence[NewJob]) -> list[Enqueued]:
        parts = [render(part, self._schema).replace("%", "%%") for part in _ENQUEUE.split("{}")]
        arguments = (str(COMMAND_TIMEOUT_SECONDS * 1000), queue, transactions.described(jobs))
        with self._psycopg.ClientCursor(connection) as cursor:
            cursor.execute("%s".join(parts), arguments)
            cursor.nextset()
            return transactions.enqueued_from(cursor.fetchall())

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        connection = self._take() or self._connect()
        try:
            yield connection
        finally:
            with self._lock:
                keep = not connection.closed and len(self._idle) < self._max_idle and self._process == os.getpid()
                if keep:
                    self._idle.append(connection)
            if not keep:
                connection.close()

    def _take(self) -> Any:
        """An idle connection that the server has not ended meanwhile."""
        while True:
            with self._lock:
                if self._process != os.getpid():
                    # Our parent's sessions: not ours to use, nor to end.
                    self._inherited, self._idle, self._process = self._idle, [], os.getpid()
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if _is_quiet(connection):
                return connection
            connection.close()

    def _connect(self) -> Any:
        psycopg = self._psycopg
        try:
            connection = psycopg.connect(
                self._dsn,
                autocommit=True,
                row_factory=psycopg.rows.tuple_row,
                # A pooler in transaction mode knows no prepared statements of ours.
                prepare_threshold=None,
                application_name="headrace-producer",
                connect_timeout=CONNECT_TIMEOUT_SECONDS,
                keepalives_idle=_PEER_GONE_SECONDS // 2,
                keepalives_interval=_PEER_GONE_SECONDS // 4,
                keepalives_count=2,
                tcp_user_timeout=_PEER_GONE_SECONDS * 1000,
            )
        except psycopg.OperationalError as error:
            said = _first_line(error)
            if _REFUSED.search(said):
                raise QueueAccessError(f"the database refuses the credentials: {said}") from None
            raise NothingDoneError(f"the database can't be reached: {said}") from None
        except psycopg.Error:
            # Its message may repeat the DSN, which holds the password.
            raise QueueAccessError(
                "the DSN is malformed: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, percent-encoded"
            ) from None
        wait = connection.wait
        connection.wait = lambda steps, *rest, **options: wait(_in_time(steps), *rest, **options)
        return connection


def _in_time(steps: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """The steps of a call of psycopg's, which are taken up now and then though nothing has come."""
    deadline = time.monotonic() + COMMAND_TIMEOUT_SECONDS + _SILENCE_SECONDS
    ready = None
    try:
        while True:
            ready = yield steps.send(ready)
            if not ready and time.monotonic() > deadline:
                raise TimeoutError
    except StopIteration as end:
        return end.value


def _is_quiet(connection: Any) -> bool:
    """Whether an idle connection is still open: the server says nothing until it is asked, but for its goodbye."""
    if connection.closed:
        return False
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return not poll.poll(0)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def open_producer(url: str, **options: Any) -> PostgresProducer:
    """See `headrace.queues.producer_from_url`."""
    return PostgresProducer(url, **options)
