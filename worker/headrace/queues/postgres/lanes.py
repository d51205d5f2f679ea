"""Sessions that all queues of a process share: one lane for what must be prompt, one for work.

A lane is one session, used by one statement at a time; it is opened on demand and replaced when it is lost. On the
prompt lane every statement is short (claims, heartbeats, LISTEN); on the work lane are those that may take longer
(outcomes, enqueues, housekeeping, counts). So a worker process has two sessions at the most, a producer one.
"""

from __future__ import annotations

import asyncio
import logging
import select
import time
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from headrace.queues.answer_limit import AnswerLimit
from headrace.queues.errors import QueueUnavailableError
from headrace.queues.postgres.connection import (
    CLOSE_TIMEOUT_SECONDS,
    COMMAND_TIMEOUT_SECONDS,
    CONNECT_TIMEOUT_SECONDS,
    Connector,
)
from headrace.queues.postgres.errors import CLIENT_ERRORS, is_broken, translate, was_never_sent
from headrace.queues.postgres.listener import Listener
from headrace.queues.postgres.patience import NothingDoneError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from headrace.queues.postgres.connection import AnyConnection, Place
    from headrace.queues.postgres.simple_protocol import DescribedStatement

log = logging.getLogger(__name__)

CONNECTIONS_PER_WORKER = 2
"""At most so many does one worker process hold, however many queues of one DSN it serves; who only enqueues holds 1."""

DIRECT_CONNECTIONS_PER_WORKER = 1
"""Of these, so many go past a pooler, where a direct DSN says how."""

PROMPT_TIMEOUT_SECONDS = 5.0
"""Within this, a statement on the prompt lane has its turn and its answer."""

# After any loss, a session of the same database is only trusted once it has answered, this soon.
_DOUBT_SECONDS = 1.0

# How long a session through the pooler stands in for the direct one that could not be had.
_STAND_IN_SECONDS = 30.0

_Answer = TypeVar("_Answer")


class Turns:
    """A lock for one at a time, first come, first served; but who is urgent comes before all others."""

    def __init__(self) -> None:
        self._is_taken = False
        self._urgent: deque[asyncio.Future[None]] = deque()
        self._patient: deque[asyncio.Future[None]] = deque()

    async def take(self, *, urgent: bool = False) -> None:
        """Wait for one's turn; end it with `end`."""
        if not self._is_taken:
            self._is_taken = True
            return
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._urgent if urgent else self._patient).append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self.end()  # It had become ours just now.
            raise

    def end(self) -> None:
        """Let the next have its turn."""
        for waiting in (self._urgent, self._patient):
            while waiting:
                following = waiting.popleft()
                if not following.done():
                    following.set_result(None)
                    return
        self._is_taken = False


class Lane:
    """One session.

    Parameters
    ----------
    connectors
        By which to connect, the best one first; what another has opened is given up again after a while.
    limit_seconds
        How long a call may take, from when it is asked for.
    """

    def __init__(self, connectors: Sequence[Connector], *, limit_seconds: float) -> None:
        self._connectors = connectors
        self._limit_seconds = limit_seconds
        self._turns = Turns()
        self._connection: AnyConnection | None = None
        self._poll = select.poll()
        self._is_in_doubt = False
        self._stands_in_until: float | None = None
        self.prepares = True
        """Whether what one statement prepares is there for the next: not so behind every pooler."""
        self.described: dict[str, DescribedStatement] = {}
        """Where nothing is prepared, what is known of the statements that were used."""
        self.on_lost: Callable[[], None] = lambda: None
        """Called when a session of ours turned out to be lost: others may be, too."""
        self.on_session: Callable[[], None] = lambda: None
        """Called when there is another session."""

    async def run(self, work: Callable[[AnyConnection], Awaitable[_Answer]], *, urgent: bool = False) -> _Answer:
        """Do something with the session, alone; what was never sent is sent again on another.

        Raises
        ------
        NothingDoneError
            When nothing was done: no turn, or no connection, was to be had in time.
        QueueUnavailableError
            When no answer came, or not in time.
        asyncpg.PostgresError
            What the server said, where the session is as good as before.
        """
        is_at_work = False
        try:
            async with AnswerLimit(self._limit_seconds):
                await self._turns.take(urgent=urgent)
                try:
                    for is_last in (False, True):
                        connection = await self._session()
                        is_at_work = True
                        try:
                            return await self._run_on(connection, work)
                        except Exception as error:
                            if not was_never_sent(error):
                                raise
                            is_at_work = False
                            if is_last:
                                raise NothingDoneError("the database ends every session") from None
                finally:
                    self._turns.end()
        except TimeoutError:
            if is_at_work:
                raise
            raise NothingDoneError("every connection is busy, with a slow or silent database") from None
        raise AssertionError

    async def _run_on(self, connection: AnyConnection, work: Callable[[AnyConnection], Awaitable[_Answer]]) -> _Answer:
        try:
            return await work(connection)
        except asyncio.CancelledError:
            # Else it would be waited for until the server has taken note, which a dead one never does.
            connection.terminate()
            self.on_lost()
            raise
        except Exception as error:
            if is_broken(error):
                connection.terminate()
                self.on_lost()
            raise

    def doubt(self) -> None:
        """Ask the session whether it is still there, before the next use."""
        self._is_in_doubt = True

    async def forget_preparing(self) -> None:
        """Go on without prepared statements, on a new session."""
        if self.prepares:
            self.prepares = False
            log.warning(
                "the connection pooler keeps no prepared statements, so that every statement is sent and parsed anew: "
                "set its max_prepared_statements (PgBouncer 1.21 and later)"
            )
        if self._connection is not None:
            self._connection.terminate()

    async def close(self) -> None:
        """End the session, in any case and within seconds; the next use opens another."""
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed():
            try:
                await connection.close(timeout=CLOSE_TIMEOUT_SECONDS)
            except CLIENT_ERRORS:
                connection.terminate()

    async def _session(self) -> AnyConnection:
        """The session, or another; for whoever has the turn."""
        connection = self._connection
        if connection is not None:
            if self._poll.poll(0):
                # Something has come that nobody has looked at: a notification, or the server's goodbye.
                for _ in range(4):
                    await asyncio.sleep(0)
            if self._is_in_doubt and not connection.is_closed():
                await self._verify(connection)
            if self._stands_in_until is not None and time.monotonic() > self._stands_in_until:
                return await self._connect()
            if not connection.is_closed():
                return connection
        return await self._connect()

    async def _verify(self, connection: AnyConnection) -> None:
        self._is_in_doubt = False
        try:
            async with asyncio.timeout(_DOUBT_SECONDS):
                await connection.execute("SELECT")
        except asyncio.CancelledError:
            connection.terminate()
            raise
        except CLIENT_ERRORS:
            connection.terminate()

    async def _connect(self) -> AnyConnection:
        connectors = self._connectors
        error: Exception | None = None
        for place, connector in enumerate(connectors):
            if place and self._connection is not None and not self._connection.is_closed():
                connection = self._connection  # That which stands in goes on doing so.
            else:
                try:
                    connection = await connector.connect(
                        CONNECT_TIMEOUT_SECONDS / len(connectors), prepares=self.prepares
                    )
                except CLIENT_ERRORS as failure:
                    error = failure
                    continue
            self._stands_in_until = time.monotonic() + _STAND_IN_SECONDS if place else None
            self._use(connection)
            return connection
        assert error is not None
        raise _connecting(error)

    def _use(self, connection: AnyConnection) -> None:
        before, self._connection = self._connection, connection
        self._is_in_doubt = False
        if before is connection:
            return
        if before is not None:
            before.terminate()
        transport: Any = connection._transport  # type: ignore[attr-defined]  # noqa: SLF001 - asyncpg does not tell
        self._poll = select.poll()
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        self.on_session()


def _connecting(error: Exception) -> Exception:
    """No connection: whatever was to be done, nothing was."""
    meant = translate(error, "")
    return NothingDoneError(*meant.args) if type(meant) is QueueUnavailableError else meant


class Lanes:
    """The lanes of one database, for all queues of this process whose place has the same DSN."""

    def __init__(self, place: Place, *, application_name: str, limit_seconds: float) -> None:
        through = Connector(place, application_name=application_name)
        self.work = Lane([through], limit_seconds=limit_seconds)
        straight = [] if place.direct_dsn is None else [Connector(place.direct(), application_name=application_name)]
        self.prompt = Lane([*straight, through], limit_seconds=min(limit_seconds, PROMPT_TIMEOUT_SECONDS))
        self.work.on_lost = self.prompt.doubt
        self.prompt.on_lost = self.work.doubt
        self.listener = Listener(self.prompt)
        self.are_settings_known = False
        """Whether somebody has looked at how the sessions are set up."""
        self._users = 0

    @classmethod
    def shared(
        cls, place: Place, *, application_name: str = "headrace", limit_seconds: float = COMMAND_TIMEOUT_SECONDS
    ) -> Lanes:
        """The lanes of this event loop to this database; `close` them once for each call."""
        of_loop = _SHARED.setdefault(asyncio.get_running_loop(), {})
        key = (place.dsn, place.direct_dsn, place.ca_certificates, application_name, limit_seconds)
        lanes = of_loop.get(key)
        if lanes is None:
            lanes = of_loop[key] = cls(place, application_name=application_name, limit_seconds=limit_seconds)
        lanes._users += 1
        return lanes

    async def close(self) -> None:
        """Leave; whoever is the last ends the sessions."""
        self._users -= 1
        if self._users:
            return
        of_loop = _SHARED.get(asyncio.get_running_loop(), {})
        for key in [key for key, lanes in of_loop.items() if lanes is self]:
            del of_loop[key]
        await asyncio.gather(self.prompt.close(), self.work.close())


_SHARED: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[object, ...], Lanes]] = WeakKeyDictionary()
