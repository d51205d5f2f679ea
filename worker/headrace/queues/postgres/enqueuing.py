"""Enqueuing: which statement takes the jobs, and telling workers of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace import trace_context
from headrace.queues.batches import batches
from headrace.queues.capabilities import refuse_unsupported
from headrace.queues.postgres.capabilities import CAPABILITIES
from headrace.queues.postgres.coalescer import Coalescer
from headrace.queues.postgres.patience import Patience
from headrace.queues.postgres.rows import all_columns, is_plain, plain_columns
from headrace.queues.postgres.transactions import enqueued_from
from headrace.queues.postgres.wake_up import Waker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncpg import Record

    from headrace.job import NewJob
    from headrace.queues.base import Enqueued
    from headrace.queues.postgres.database import Database
    from headrace.queues.postgres.queue_row import QueueRow

# More goes in several statements, within one transaction: the server takes messages of up to 1 GB, and both sides hold
# what a statement says several times over.
_STATEMENT_BYTES = 16 * 1024 * 1024

# How long a statement waits for a deduplication key: another producer's statement is over by then.
_LOCK_TIMEOUT = "100ms"

# The column that says so, where a statement tells workers itself.
_IS_TOLD = 2


class Enqueuing:
    """Enqueues into one queue."""

    def __init__(self, database: Database, row: QueueRow, patience: Patience) -> None:
        self._database = database
        self._row = row
        self._waker = Waker(database, row)
        self._plain = Coalescer(self._send, patience=patience)
        # A key may be held by an application's open transaction: only who wants keys shall wait for it.
        self._keyed = Coalescer(self._send, patience=patience)

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        """See `headrace.queues.base.Queue`."""
        refuse_unsupported(jobs, CAPABILITIES)
        if not jobs:
            return []
        self._row.check()
        jobs = trace_context.carried(jobs)
        is_keyed = any(job.deduplication_key is not None for job in jobs)
        return await (self._keyed if is_keyed else self._plain).enqueue(jobs)

    async def flushed(self) -> None:
        """Wait until all is enqueued, and told."""
        await self._plain.flushed()
        await self._keyed.flushed()
        await self._waker.flushed()

    def close(self) -> None:
        """Don't wait for that."""
        self._plain.close()
        self._keyed.close()
        self._waker.close()

    async def _send(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        rows = await self._insert(jobs)
        if not rows:
            # The queue may have been removed and made again, under another number.
            await self._row.look_up()
            rows = await self._insert(jobs)
        if not rows:
            raise self._row.not_found()
        if len(rows[0]) > _IS_TOLD and rows[0][_IS_TOLD]:
            self._waker.told()
        else:  # Whoever did not wait before the commit may by now.
            self._waker.news()
        return enqueued_from(rows)

    async def _insert(self, jobs: Sequence[NewJob]) -> list[Record]:
        if sum([len(job.payload) for job in jobs]) <= _STATEMENT_BYTES:
            query, arguments = _insertion(jobs, tells=self._waker.may_tell)
            return await self._database.fetch(query, self._row.id, *arguments)
        insertions = [_insertion(batch, tells=False) for batch in batches(jobs, max_bytes=_STATEMENT_BYTES)]
        return await self._database.fetch_together(
            [(query, (self._row.id, *arguments)) for query, arguments in insertions]
        )


def _insertion(jobs: Sequence[NewJob], *, tells: bool) -> tuple[str, tuple[object, ...]]:
    """The query that enqueues them, and its arguments; where it can, it tells idle workers, too."""
    if all(map(is_plain, jobs)):
        return "enqueue", (*plain_columns(jobs), tells)
    if any(job.deduplication_key is not None for job in jobs):
        return "put_keyed", (*all_columns(jobs), _LOCK_TIMEOUT)
    return "put", all_columns(jobs)
