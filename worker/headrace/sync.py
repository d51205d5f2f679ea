"""Enqueue from synchronous code, such as Django and Flask: within a transaction of the caller's own, or by itself.

Needs neither asyncpg nor an event loop of the caller's: `enqueue_in` works with what the application has, `Producer`
with psycopg on PostgreSQL, and on SQS with what is installed for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace.queues import producer_from_url
from headrace.queues.postgres.sync import enqueue_in

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from headrace.job import NewJob
    from headrace.queues.base import Enqueued

__all__ = ["Producer", "enqueue_in"]


class Producer:
    """Enqueues by itself: when `enqueue` returns, the jobs are durable.

    Made once a process and shared by its threads; connects when it is first needed, and again after a fork. Use it as a
    context manager, or call `close`.

    Parameters
    ----------
    dsn
        ``postgresql://USER:PASSWORD@HOST:PORT/DATABASE``, with libpq's parameters (``sslmode``, ``sslrootcert``, …); or
        ``sqs://HOST/ACCOUNT/NAME``.
    **options
        Of PostgreSQL: ``schema`` (that holds the queues; defaults to ``headrace``), ``max_idle`` (how many connections
        to keep open between calls, 4; as many are opened as threads enqueue at once), ``patience_seconds`` (how long a
        call waits for a database that is away; defaults to 0: not at all) and ``patience_bytes`` (how much may wait, of
        all threads: payloads, and 1 KiB a job; beyond it a call fails; defaults to 64 MiB). Of SQS: those of
        `headrace.from_url` that say where the queue is and who asks, and ``queue``, the name that it goes by (defaults
        to the URL's last part).

    Raises
    ------
    QueueError
        When the URL names no backend, or one whose packages are not installed; when an option is not the backend's.
    UnsupportedCapabilityError
        When the backend has no synchronous producer.
    """

    def __init__(self, dsn: str, **options: Any) -> None:
        self._producer = producer_from_url(dsn, **options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that are idle. Enqueuing afterwards opens new ones."""
        self._producer.close()

    def enqueue(self, queue: str, jobs: Sequence[NewJob]) -> list[Enqueued]:
        """Enqueue jobs; returns what became of each, in order, once they are durable. On PostgreSQL all or none.

        Raises
        ------
        PartlyEnqueuedError
            When some jobs were enqueued and others not; never on PostgreSQL.
        QueueUnavailableError
            When the backend can't be reached or does not answer in time; the jobs may or may not be there.
        QueueError
            When the queue does not exist, or a job is refused; nothing was enqueued.
        """
        enqueued: list[Enqueued] = self._producer.enqueue(queue, jobs)
        return enqueued
