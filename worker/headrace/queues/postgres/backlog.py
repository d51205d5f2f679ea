"""The operator's view: how much queues hold, of all schemas of a database over one session, and being told of new jobs.

The session goes past a pooler where a direct DSN says how, since only there it can LISTEN; where that way is closed, it
goes through the pooler, and does without. It is told as workers are (`headrace.queues.postgres.listener`): by a flag
that producers look for, so that they pay for nobody who does not want to know.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import asyncpg

from headrace.queues.errors import CountTooSlowError
from headrace.queues.postgres.compatibility import check_version
from headrace.queues.postgres.connection import CLOSE_TIMEOUT_SECONDS, CONNECT_TIMEOUT_SECONDS, Connector, is_pooled
from headrace.queues.postgres.errors import CLIENT_ERRORS, is_broken, our_errors
from headrace.queues.postgres.rows import depth_from
from headrace.queues.postgres.statements import queries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from headrace.queues.base import Depth
    from headrace.queues.postgres.connection import AnyConnection, Place

COUNT_SECONDS = 3.0
"""The operator counts every few seconds, and one session serves all queues: a slow answer is as good as none."""

_SHORT_SECONDS = 1.0
"""What is not counting is done at once, unless a migration has the tables locked."""

_PATIENCE_SECONDS = 2.0
"""How much longer than its limit a statement may take to be answered, before the session is given up."""

_STAND_IN_SECONDS = 60.0
"""How long a session through the pooler stands in for the direct one that could not be had."""

APPLICATION_NAME = "headrace-backlog"


class BacklogSession:
    """One session that counts queues in any schema of a database, as an async context manager.

    It is opened with the first question, and again after it was lost.

    Parameters
    ----------
    place
        The database; the schema is a question's.
    on_jobs
        Called with a schema and a queue's name when there may be new jobs in it; with a schema of None when nothing is
        told any more.
    """

    def __init__(self, place: Place, *, on_jobs: Callable[[str | None, str], None] = lambda *_: None) -> None:
        ways = [place] if place.direct_dsn is None else [place.direct(), place]
        self._connectors = [Connector(way, application_name=APPLICATION_NAME) for way in ways]
        self._on_jobs = on_jobs
        self._turn = asyncio.Lock()
        self._connection: AnyConnection | None = None
        self._stands_in_until = float("inf")
        self._hears = False
        self._checked: set[str] = set()
        """Schemas whose version fits."""
        self._channels: dict[str, tuple[str, str]] = {}
        """Schema and queue, by the channel on which they are told."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        connection = self._give_up()
        if connection is not None and not connection.is_closed():
            try:
                await connection.close(timeout=CLOSE_TIMEOUT_SECONDS)
            except CLIENT_ERRORS:
                connection.terminate()

    @property
    def is_open(self) -> bool:
        """Whether there is a session: what fails then is no matter of the database's."""
        return self._connection is not None and not self._connection.is_closed()

    async def depths(
        self, schema: str, queues: Sequence[str], *, limit_seconds: float = COUNT_SECONDS
    ) -> dict[str, Depth]:
        """The depths of these queues; a queue that does not exist is left out.

        Raises
        ------
        CountTooSlowError
            When it took longer than the limit.
        QueueError
            When there is no answer.
        """
        rows = await self._ask(schema, "depths", list(queues), limit_seconds=limit_seconds)
        return {row["name"]: depth_from(row) for row in rows}

    async def have_ready(self, schema: str, queues: Sequence[str]) -> dict[str, tuple[bool, bool]]:
        """Whether anything in these queues is ready, and whether they are paused."""
        rows = await self._ask(schema, "have_ready", list(queues), limit_seconds=_SHORT_SECONDS)
        return {row["name"]: (row["has_ready"], row["paused"]) for row in rows}

    async def listen(self, schema: str, queues: Sequence[str]) -> set[str]:
        """Be told of new jobs from now on; gives the queues for which that is so. What came before, look once more."""
        if not self._hears or self._connection is None:
            return set()
        connection = self._connection
        rows = await self._ask(schema, "want_news", list(queues), limit_seconds=_SHORT_SECONDS)
        async with self._turn:
            with self._errors(schema):
                for row in rows:
                    if row["channel"] not in self._channels:
                        self._channels[row["channel"]] = (schema, row["name"])
                        await connection.add_listener(row["channel"], self._on_notification)
        return {row["name"] for row in rows} if connection is self._connection else set()

    async def listen_no_more(self, schema: str, queues: Sequence[str]) -> None:
        """Be told no more: producers need not."""
        connection = self._connection
        unwanted = [channel for channel, place in self._channels.items() if place[0] == schema and place[1] in queues]
        if connection is None or not unwanted:
            return
        await self._ask(schema, "want_no_news", list(queues), limit_seconds=_SHORT_SECONDS)
        async with self._turn:
            with self._errors(schema):
                for channel in unwanted:
                    self._channels.pop(channel, None)
                    await connection.remove_listener(channel, self._on_notification)

    async def _ask(
        self, schema: str, query: str, *arguments: Any, limit_seconds: float = COUNT_SECONDS
    ) -> list[asyncpg.Record]:
        known = queries(schema)
        async with self._turn:
            with self._errors(schema):
                connection = await self._session()
                if schema not in self._checked:
                    (found,) = await self._run(connection, known["schema_version"], (), limit_seconds)
                    check_version(schema, found["version"], found["compatible_with"])
                    self._checked.add(schema)
                return await self._run(connection, known[query], arguments, limit_seconds)

    @contextmanager
    def _errors(self, schema: str) -> Iterator[None]:
        """Let nothing pass but `QueueError`, and keep no session that is lost."""
        with our_errors(schema):
            try:
                yield
            except asyncpg.QueryCanceledError:
                raise CountTooSlowError(f"schema {schema!r}: counting takes too long") from None
            except BaseException as error:
                if is_broken(error) or isinstance(error, asyncio.CancelledError):
                    self._lose()
                raise

    async def _run(
        self, connection: AnyConnection, sql: str, arguments: Sequence[Any], limit_seconds: float
    ) -> list[asyncpg.Record]:
        """One statement with a limit of its own, in a transaction: a pooler would tear them apart."""
        async with asyncio.timeout(limit_seconds + _PATIENCE_SECONDS):
            await connection.execute(f"BEGIN; SET LOCAL statement_timeout = {int(limit_seconds * 1000)}")
            try:
                rows = await connection.fetch(sql, *arguments)
            except asyncpg.PostgresError:
                if not connection.is_closed():
                    await connection.execute("ROLLBACK")
                raise
            await connection.execute("COMMIT")
            return rows

    async def _session(self) -> AnyConnection:
        if (
            self._connection is not None
            and not self._connection.is_closed()
            and time.monotonic() < self._stands_in_until
        ):
            return self._connection
        self._lose()
        error: Exception | None = None
        for place, connector in enumerate(self._connectors):
            try:
                connection = await connector.connect(CONNECT_TIMEOUT_SECONDS / len(self._connectors), prepares=False)
            except CLIENT_ERRORS as failure:
                error = failure
                continue
            self._connection = connection
            self._stands_in_until = time.monotonic() + _STAND_IN_SECONDS if place else float("inf")
            # Before anything else: LISTEN would stay in a session of the pooler's.
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                self._hears = not await is_pooled(connection)
            connection.add_termination_listener(self._on_end)
            return connection
        assert error is not None
        raise error

    def _give_up(self) -> AnyConnection | None:
        connection, self._connection = self._connection, None
        self._hears = False
        self._checked.clear()
        self._channels.clear()
        return connection

    def _lose(self) -> None:
        had_channels = bool(self._channels)
        connection = self._give_up()
        if connection is not None:
            connection.terminate()
        if had_channels:
            self._on_jobs(None, "")

    def _on_notification(self, connection: object, pid: int, channel: str, payload: object) -> None:  # noqa: ARG002
        place = self._channels.get(channel)
        if place is not None and connection is self._connection:
            self._on_jobs(*place)

    def _on_end(self, connection: object) -> None:
        if connection is self._connection:
            self._lose()


class PostgresBacklog:
    """The `Backlog` of one schema. Use it as an async context manager; it reconnects by itself."""

    def __init__(self, place: Place) -> None:
        self._schema = place.schema
        self._session = BacklogSession(place)

    async def __aenter__(self) -> Self:
        await self._session.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.__aexit__(kind, error, trace)

    async def depths(self, queues: Sequence[str]) -> dict[str, Depth]:
        """See `headrace.queues.base.Backlog`."""
        return await self._session.depths(self._schema, queues)

    async def have_ready(self, queues: Sequence[str]) -> dict[str, bool]:
        """See `headrace.queues.base.Backlog`."""
        found = await self._session.have_ready(self._schema, queues)
        return {name: has_ready for name, (has_ready, _) in found.items()}
