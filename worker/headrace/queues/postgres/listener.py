"""Being told of new jobs: LISTEN on a session of its own, and a flag by which producers know that somebody listens.

A producer notifies only where a flag stands, so that nobody pays for notifications that nobody needs. The flag belongs
to the session: it goes when the session goes (`wait` in ``queries.sql`` clears what is left over), and is set again by
the next. A wake-up is never more than a hint. What makes it reliable is the order: the flag is set, then the queue is
looked at once more; a producer commits, then looks for flags. Whatever slips through (a transaction that was open all
the while) is found by polling.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

import asyncpg

from headrace.queues.base import QueueError
from headrace.queues.postgres.connection import CLIENT_ERRORS, Place, connect, is_pooled
from headrace.queues.postgres.statements import queries

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

CHANNEL = "headrace"

SELF_TEST_SECONDS = 30.0
"""How often the session proves that notifications still reach it."""
_ANSWER_SECONDS = 5.0
_FIRST_PAUSE_SECONDS = 0.5
_LAST_PAUSE_SECONDS = 30.0


class Listener:
    """Hears of new jobs in one queue. Reconnects by itself; while it can't, polling is all there is.

    Parameters
    ----------
    place
        The database; its direct DSN is used where it has one, since no session outlives a pooler's transaction.
    on_jobs
        Called when there may be new jobs.
    self_test_seconds
        How often to prove that notifications arrive. Defaults to `SELF_TEST_SECONDS`.
    """

    def __init__(
        self, place: Place, on_jobs: Callable[[], None], *, self_test_seconds: float = SELF_TEST_SECONDS
    ) -> None:
        self._place = place
        self._on_jobs = on_jobs
        self._self_test_seconds = self_test_seconds
        self._queries = queries(place.schema)
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._queue_id: int | None = None
        self._flagged_queue_id: int | None = None
        self._test_passed = asyncio.Event()
        self._ended = asyncio.Event()
        self._busy = asyncio.Lock()

    @property
    def is_up(self) -> bool:
        """Whether notifications reach this process, as far as is known."""
        return self._connection is not None

    async def want(self, queue_id: int) -> bool:
        """Ask to be told of jobs; True where this was news to the server: look at the queue once more, then wait."""
        self._queue_id = queue_id
        if self._flagged_queue_id == queue_id:
            return False
        return await self._run("wait", queue_id) and self._remember(queue_id)

    async def want_no_more(self) -> None:
        """There is enough to do: producers need not tell."""
        if self._flagged_queue_id is not None and await self._run("wait_no_more", self._flagged_queue_id):
            self._flagged_queue_id = None

    def _remember(self, queue_id: int) -> bool:
        self._flagged_queue_id = queue_id
        return True

    async def _run(self, query: str, queue_id: int) -> bool:
        """Run a query on the session; False where there is no session (any more)."""
        async with self._busy:
            connection = self._connection
            if connection is None:
                return False
            try:
                await connection.execute(self._queries[query], queue_id)
            except CLIENT_ERRORS:
                connection.terminate()
                return False
            return True

    async def run(self) -> None:
        """Listen, until cancelled."""
        pause = _FIRST_PAUSE_SECONDS
        while True:
            started = time.monotonic()
            try:
                await self._listen()
            except (QueueError, *CLIENT_ERRORS) as error:
                reason = str(error) or "no answer in time"
            else:
                reason = "the session ended"
            if time.monotonic() - started > self._self_test_seconds:
                pause = _FIRST_PAUSE_SECONDS
            log.warning("not told of new jobs, polling alone, again in %.1f s: %s", pause, reason)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LAST_PAUSE_SECONDS)

    async def _listen(self) -> None:
        """One session: listen, and prove again and again that it works."""
        async with connect(
            self._place.direct(), command_timeout_seconds=_ANSWER_SECONDS, application_name="headrace-listener"
        ) as connection:
            # Before anything else: LISTEN would stay in a session of the pooler's, and a statement with arguments could
            # find somebody else's in its place.
            if await is_pooled(connection):
                raise QueueError("notifications do not pass: behind a pooler, LISTEN needs a direct connection")
            self._ended.clear()
            connection.add_termination_listener(self._on_end)
            await connection.add_listener(CHANNEL, self._on_notification)
            try:
                await self._test(connection)
                self._connection = connection
                self._on_jobs()  # Whatever came while nobody listened.
                while not await _set_within(self._ended, self._self_test_seconds):
                    async with self._busy:
                        await self._test(connection)
            finally:
                self._connection = self._flagged_queue_id = None

    async def _test(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._test_passed.clear()
        await connection.execute("SELECT pg_notify($1, 'test/' || pg_backend_pid())", CHANNEL)
        if not await _set_within(self._test_passed, _ANSWER_SECONDS):
            raise QueueError("notifications do not arrive")

    def _on_notification(self, connection: Any, pid: int, channel: str, payload: object) -> None:  # noqa: ARG002
        if payload == f"{self._place.schema}/{self._queue_id}":
            self._on_jobs()
        elif payload == f"test/{pid}" and pid == connection.get_server_pid():
            self._test_passed.set()

    def _on_end(self, connection: Any) -> None:  # noqa: ARG002
        self._ended.set()


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
