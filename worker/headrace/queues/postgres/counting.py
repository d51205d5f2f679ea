"""Counting one queue, and sharing the count with its other workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.queues.errors import QueueUnavailableError
from headrace.queues.postgres.rows import depth_from

if TYPE_CHECKING:
    from headrace.queues.base import Depth
    from headrace.queues.postgres.database import Database
    from headrace.queues.postgres.queue_row import QueueRow


class Counting:
    """Counts for one queue object."""

    def __init__(self, database: Database, row: QueueRow) -> None:
        self._database = database
        self._row = row

    async def depth(self, max_age_seconds: float) -> Depth:
        """See `headrace.queues.base.Counts`."""
        if max_age_seconds <= 0:
            rows = await self._database.fetch("depths", [self._row.name])
            if not rows:
                raise self._row.not_found()
            return depth_from(rows[0])
        rows = await self._database.fetch("count_and_share", self._row.id, max_age_seconds)
        if not rows:
            raise QueueUnavailableError(f"no worker has counted queue {self._row.name!r} yet")
        return depth_from(rows[0])

    async def has_ready(self) -> bool:
        """See `headrace.queues.base.Counts`."""
        rows = await self._database.fetch("has_ready", self._row.id)
        return bool(rows[0][0])
