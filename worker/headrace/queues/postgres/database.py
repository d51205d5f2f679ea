"""One schema of a database: named queries on lanes that all queues of its DSN share, failing in `QueueError` only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg

from headrace.queues.errors import QueueError
from headrace.queues.postgres import simple_protocol
from headrace.queues.postgres.compatibility import check_isolation, check_version, say_once
from headrace.queues.postgres.connection import COMMAND_TIMEOUT_SECONDS
from headrace.queues.postgres.errors import NotPreparedError, SchemaChangedError, our_errors
from headrace.queues.postgres.lanes import Lane, Lanes
from headrace.queues.postgres.statements import queries

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from headrace.queues.postgres.connection import AnyConnection, Place

_Answer = TypeVar("_Answer")


class Database:
    """Speaks in named queries. Lost sessions are replaced by the next call.

    Parameters
    ----------
    place
        The database and the schema.
    application_name
        What the sessions are called; those of another name are not shared. Defaults to ``headrace``.
    command_timeout_seconds
        How long a call may take. Defaults to `COMMAND_TIMEOUT_SECONDS`.
    """

    def __init__(
        self,
        place: Place,
        *,
        application_name: str = "headrace",
        command_timeout_seconds: float = COMMAND_TIMEOUT_SECONDS,
    ) -> None:
        self.place = place
        self._queries = queries(place.schema)
        self._application_name = application_name
        self._command_timeout_seconds = command_timeout_seconds
        self._lanes: Lanes | None = None

    @property
    def lanes(self) -> Lanes:
        """The sessions, shared with others.

        Raises
        ------
        QueueError
            When this is not open.
        """
        if self._lanes is None:
            raise QueueError("the queue is not open: use it as an async context manager")
        return self._lanes

    async def open(self) -> None:
        """Check that the schema is there, in a version that this code can work with."""
        if self._lanes is None:
            self._lanes = Lanes.shared(
                self.place, application_name=self._application_name, limit_seconds=self._command_timeout_seconds
            )
        (found,) = await self.fetch("schema_version")
        check_version(self.place.schema, found["version"], found["compatible_with"])
        check_isolation(found["isolation"])
        if not self.lanes.are_settings_known:  # They are the user's, whatever the schema.
            self.lanes.are_settings_known = True
            (settings,) = await self.fetch("server_settings")
            say_once(dict(settings))

    async def close(self) -> None:
        """Leave the sessions; whoever is the last ends them, in any case and within seconds."""
        lanes, self._lanes = self._lanes, None
        if lanes is not None:
            await lanes.close()

    async def fetch(self, query: str, *arguments: Any, urgent: bool = False) -> list[asyncpg.Record]:
        """Run a named query on the work lane.

        Parameters
        ----------
        query
            Its name.
        *arguments
            What stands for $1, $2 …
        urgent
            Come before others that wait for their turn.
        """
        return await self._fetch(self.lanes.work, query, arguments, urgent=urgent)

    async def fetch_value(self, query: str, *arguments: Any, urgent: bool = False) -> Any:
        """The first column of a named query's first row; None without one."""
        rows = await self.fetch(query, *arguments, urgent=urgent)
        return rows[0][0] if rows else None

    async def fetch_promptly(self, query: str, *arguments: Any, urgent: bool = False) -> list[asyncpg.Record]:
        """As `fetch`, on the prompt lane: for what is always short."""
        return await self._fetch(self.lanes.prompt, query, arguments, urgent=urgent)

    async def fetch_together(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[asyncpg.Record]:
        """Run several named queries, each with its arguments, as one; gives all their rows."""

        async def work(connection: AnyConnection) -> list[asyncpg.Record]:
            async with connection.transaction():
                return [
                    row
                    for query, arguments in calls
                    for row in await connection.fetch(self._queries[query], *arguments)
                ]

        return await self._run(self.lanes.work, work)

    async def _fetch(self, lane: Lane, query: str, arguments: Sequence[Any], *, urgent: bool) -> list[asyncpg.Record]:
        sql = self._queries[query]

        async def work(connection: AnyConnection) -> list[asyncpg.Record]:
            if lane.prepares:
                return await connection.fetch(sql, *arguments)
            known = lane.described.get(sql)
            if known is None:
                known = lane.described[sql] = await simple_protocol.described(connection, sql)
            return await simple_protocol.fetch(connection, known, arguments)

        return await self._run(lane, work, urgent=urgent)

    async def _run(
        self, lane: Lane, work: Callable[[AnyConnection], Awaitable[_Answer]], *, urgent: bool = False
    ) -> _Answer:
        try:
            with our_errors(self.place.schema):
                return await lane.run(work, urgent=urgent)
        except SchemaChangedError:
            pass
        except NotPreparedError:
            await lane.forget_preparing()
        with our_errors(self.place.schema):
            return await lane.run(work, urgent=urgent)
