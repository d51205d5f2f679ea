"""What the example's handlers wrote down, and what its queue holds."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg

from demo.summary import Run
from headrace.queues import from_url
from headrace.queues.base import Counts

if TYPE_CHECKING:
    from pathlib import Path

    from headrace.queues.base import Depth

_RUNS = "SELECT job_id, enqueued_at, started_at, finished_at FROM public.thumbnails"
_PICTURES = "SELECT job_id, image FROM public.thumbnails ORDER BY finished_at LIMIT $1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """The demo's PostgreSQL, as this machine reaches it."""

    dsn: str
    queue: str

    def runs(self) -> list[Run]:
        """Every run of every job."""
        return [Run(**row) for row in self._fetch(_RUNS)] if self._is_there() else []

    def completed(self) -> int:
        """How many jobs have run."""
        if not self._is_there():
            return 0
        return int(self._fetch("SELECT count(DISTINCT job_id) FROM public.thumbnails")[0][0])

    def depth(self) -> Depth:
        """What the queue holds now; its JobQueue tells what it held some seconds ago."""

        async def count() -> Depth:
            async with from_url(self.dsn, self.queue) as queue:
                assert isinstance(queue, Counts), "as PostgreSQL's are"
                return await queue.depth()

        return asyncio.run(count())

    def keep_pictures(self, folder: Path, limit: int) -> None:
        """Put the first pictures into a folder."""
        folder.mkdir(parents=True)
        for job_id, image in self._fetch(_PICTURES, limit):
            (folder / f"{job_id}.png").write_bytes(image)

    def _is_there(self) -> bool:
        """Whether a worker has come so far as to make its table."""
        return self._fetch("SELECT to_regclass('public.thumbnails')")[0][0] is not None

    def _fetch(self, query: str, *arguments: object) -> list[Any]:
        async def ask() -> list[Any]:
            connection = await asyncpg.connect(self.dsn)
            try:
                return list(await connection.fetch(query, *arguments))
            finally:
                await connection.close()

        return asyncio.run(ask())
