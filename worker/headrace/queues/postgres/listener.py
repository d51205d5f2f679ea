"""Being told of new jobs: LISTEN on the prompt lane's session, and a flag by which producers know of us.

A producer notifies only where a flag stands, so that nobody pays for notifications that nobody needs. The flag belongs
to the session: it goes when the session goes (`wait` in ``queries/`` clears what is left over), and is set again by
the next. A wake-up is never more than a hint. What makes it reliable is the order: the flag is set, then the queue is
looked at once more; a producer commits, then looks for flags. Whatever slips through (a transaction that was open all
the while) is found by polling.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import TYPE_CHECKING

from headrace.queues.errors import QueueError
from headrace.queues.postgres.connection import is_pooled
from headrace.queues.postgres.errors import our_errors
from headrace.queues.postgres.statements import queries

if TYPE_CHECKING:
    from collections.abc import Callable

    from headrace.queues.postgres.connection import AnyConnection
    from headrace.queues.postgres.lanes import Lane

log = logging.getLogger(__name__)

SELF_TEST_SECONDS = 30.0
"""How often the session proves that notifications still reach it."""
_ANSWER_SECONDS = 2.0
_FIRST_PAUSE_SECONDS = 0.5
_LAST_PAUSE_SECONDS = 30.0


class Ear:
    """One queue object's part in a `Listener`.

    Parameters
    ----------
    listener
        Shared with others.
    schema
        Where the queue is.
    on_jobs
        Called when there may be new jobs.
    """

    def __init__(self, listener: Listener, schema: str, on_jobs: Callable[[], None]) -> None:
        self._listener = listener
        self._on_jobs = on_jobs
        self.schema = schema
        self.queue_id: int | None = None
        self.channel: str | None = None
        """Where new jobs of the queue are told, once that is known."""
        self.is_flagged = False

    @property
    def is_up(self) -> bool:
        """Whether notifications reach this process, as far as is known."""
        return self._listener.is_up

    async def want(self, queue_id: int) -> bool:
        """Ask to be told of jobs; True where this was news to the server: look at the queue once more, then wait."""
        if self.queue_id != queue_id:
            self.queue_id, self.channel, self.is_flagged = queue_id, None, False
        if self.is_flagged or not await self._listener.run(self, "wait"):
            return False
        self.is_flagged = True
        return True

    async def want_no_more(self) -> None:
        """There is enough to do: producers need not tell."""
        if self.is_flagged:
            self.is_flagged = False
            if not self._listener.is_wanted(self):
                await self._listener.run(self, "wait_no_more")

    def told(self) -> None:
        """There may be new jobs."""
        self._on_jobs()

    async def close(self) -> None:
        """Listen no more."""
        await self._listener.leave(self)


class Listener:
    """Hears of new jobs for all queues of a process. Reattaches by itself; while it can't, polling is all there is.

    Parameters
    ----------
    lane
        The prompt one.
    self_test_seconds
        How often to prove that notifications arrive. Defaults to `SELF_TEST_SECONDS`.
    """

    def __init__(self, lane: Lane, *, self_test_seconds: float = SELF_TEST_SECONDS) -> None:
        self._lane = lane
        self._self_test_seconds = self_test_seconds
        self._ears: set[Ear] = set()
        self._channels: set[str] = set()
        self._session: AnyConnection | None = None
        self._test_channel = f"headrace_test_{secrets.token_hex(8)}"
        self._test_passed = asyncio.Event()
        self._stir = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.pause_seconds = _FIRST_PAUSE_SECONDS
        """How long it rests after it could not listen; but no longer than until anything else gets a session."""
        lane.on_session = self._stir.set

    @property
    def is_up(self) -> bool:
        """Whether notifications reach this process, as far as is known."""
        return self._session is not None and not self._session.is_closed()

    def join(self, schema: str, on_jobs: Callable[[], None]) -> Ear:
        """Listen for one queue object, until its ear is closed."""
        ear = Ear(self, schema, on_jobs)
        self._ears.add(ear)
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return ear

    async def leave(self, ear: Ear) -> None:
        """See `Ear.close`."""
        self._ears.discard(ear)
        if ear.is_flagged and not self.is_wanted(ear):
            await self.run(ear, "wait_no_more")
        if not self._ears and self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            await asyncio.wait([task])

    def is_wanted(self, ear: Ear) -> bool:
        """Whether anybody else here wants to be told of the same queue's jobs."""
        return any(
            other.is_flagged
            for other in self._ears
            if other is not ear and (other.schema, other.queue_id) == (ear.schema, ear.queue_id)
        )

    async def run(self, ear: Ear, query: str) -> bool:
        """Set or clear a flag; False where no session listens (any more)."""
        queue_id = ear.queue_id
        if not self.is_up or queue_id is None:
            return False

        async def work(connection: AnyConnection) -> bool:
            if connection is not self._session:
                return False
            known = queries(ear.schema)
            if ear.channel is None:
                ear.channel = await connection.fetchval(known["channel"], queue_id)
            await self._listen(connection, ear.channel)
            await connection.execute(known[query], queue_id)
            return True

        try:
            with our_errors(ear.schema):
                return await self._lane.run(work)
        except QueueError:
            return False

    async def _run(self) -> None:
        """Listen, until cancelled."""
        while True:
            try:
                with our_errors(""):
                    await self._lane.run(self._attach, urgent=True)
            except QueueError as error:
                self._session = None
                log.warning("not told of new jobs, polling alone, again in %.1f s: %s", self.pause_seconds, error)
                self._stir.clear()
                await _set_within(self._stir, self.pause_seconds)
                self.pause_seconds = min(self.pause_seconds * 2, _LAST_PAUSE_SECONDS)
            else:
                self.pause_seconds = _FIRST_PAUSE_SECONDS
                self._stir.clear()
                if self.is_up:
                    await _set_within(self._stir, self._self_test_seconds)

    async def _attach(self, connection: AnyConnection) -> None:
        """See that this session listens, and hears."""
        if connection is self._session:
            await self._test(connection)
            return
        # Before anything else: LISTEN would stay in a session of the pooler's, and a statement with arguments could
        # find somebody else's in its place.
        if await is_pooled(connection):
            raise QueueError("notifications do not pass: behind a pooler, LISTEN needs a direct connection")
        self._channels = set()
        for ear in self._ears:
            ear.is_flagged = False
        connection.add_termination_listener(self._on_end)
        await self._listen(connection, self._test_channel)
        for ear in self._ears:
            await self._listen(connection, ear.channel)
        await self._test(connection)
        self._session = connection
        for ear in self._ears:
            ear.told()  # Whatever came while nobody listened.

    async def _listen(self, connection: AnyConnection, channel: str | None) -> None:
        if channel is not None and channel not in self._channels:
            await connection.add_listener(channel, self._on_notification)
            self._channels.add(channel)

    async def _test(self, connection: AnyConnection) -> None:
        self._test_passed.clear()
        await connection.execute(f"NOTIFY {self._test_channel}")
        if not await _set_within(self._test_passed, _ANSWER_SECONDS):
            raise QueueError("notifications do not arrive")

    def _on_notification(self, connection: object, pid: int, channel: str, payload: object) -> None:  # noqa: ARG002
        if channel == self._test_channel:
            self._test_passed.set()
        for ear in self._ears:
            if ear.channel == channel:
                ear.told()

    def _on_end(self, connection: object) -> None:
        if connection is self._session:
            self._session = None
            self._stir.set()


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
