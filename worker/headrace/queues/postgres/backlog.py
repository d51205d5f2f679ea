"""The operator's view: depths of many queues in one round trip, reading only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.queues.postgres.database import Database
from headrace.queues.postgres.rows import depth_from

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from headrace.queues.base import Depth
    from headrace.queues.postgres.connection import Place

# The operator reads every few seconds; a slow answer is as good as none.
_COMMAND_TIMEOUT_SECONDS = 10.0


class PostgresBacklog:
    """The `Backlog` of one schema. Use it as an async context manager; it reconnects by itself."""

    def __init__(self, place: Place) -> None:
        self._database = Database(
            place,
            application_name="headrace-backlog",
            command_timeout_seconds=_COMMAND_TIMEOUT_SECONDS,
        )

    async def __aenter__(self) -> Self:
        try:
            await self._database.open()
        except BaseException:
            await self._database.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._database.close()

    async def depths(self, queues: Sequence[str]) -> dict[str, Depth]:
        """See `headrace.queues.base.Backlog`."""
        rows = await self._database.fetch("depths", list(queues))
        return {row["name"]: depth_from(row) for row in rows}

    async def have_ready(self, queues: Sequence[str]) -> dict[str, bool]:
        """See `headrace.queues.base.Backlog`."""
        rows = await self._database.fetch("have_ready", list(queues))
        return {row["name"]: row["has_ready"] for row in rows}
