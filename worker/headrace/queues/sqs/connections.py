"""Connections to one endpoint, for requests that are made by hand: POST, an answer, kept for the next one.

What a call of the service costs is mostly what is built around it. This is HTTP/1.1 with nothing around it: a request
is one write, an answer mostly one read. As many connections are open as there are calls at a time; none is shared, so a
call that waits holds nobody up. No redirect is followed, nothing is tried again: whoever asks knows better.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple, cast

if TYPE_CHECKING:
    import ssl

# The service ends a connection that was idle for 20 s.
_IDLE_SECONDS = 12.0
_MOST_HEAD_BYTES = 64 * 1024

_END = b"\r\n\r\n"
_MOST_BYTES = 32 * 1024 * 1024
"""Ten messages of the largest size, escaped, are less."""
_MOST_BYTES_WITHOUT_MESSAGES = 1024 * 1024
"""The longest of all else is a queue's attributes, with a policy among them."""


def most_bytes(operation: str) -> int:
    """How long the answer of an operation may be: an endpoint may be anybody's, and say more than there is room for."""
    return _MOST_BYTES if operation == "ReceiveMessage" else _MOST_BYTES_WITHOUT_MESSAGES


class NotHttpError(ConnectionError):
    """What answered does not speak HTTP, or says more than anybody should."""


class NotTakenError(TimeoutError):
    """Nobody took the connection in time: nothing was sent."""


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    """By their names in small letters."""
    body: bytes


class Connections:
    """Open connections to an endpoint, and new ones where all are in use.

    Parameters
    ----------
    host, port
        Where to.
    tls
        Whom to trust. None: plain HTTP.
    connect_seconds
        How long a connection may take to be taken.
    """

    def __init__(self, host: str, port: int, *, tls: ssl.SSLContext | None, connect_seconds: float) -> None:
        self._host = host
        self._port = port
        self._tls = tls
        self._connect_seconds = connect_seconds
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()

    async def post(self, request: bytes, *, seconds: float, most_bytes: int = _MOST_BYTES) -> Answer:
        """Send a whole request, head and body; its answer, in so many seconds, and of so many bytes at the most.

        Raises
        ------
        OSError
            When no connection came about, or it ended before the answer did: the request may have been heard.
            `NotTakenError` and `TimeoutError` where it took too long, ``ssl.SSLError`` where nobody is trusted.
        """
        connection = self._idle_one() or await self._connect()
        try:
            answer = await connection.ask(request, seconds, most_bytes)
        except BaseException:
            connection.abort()
            raise
        if connection.is_reusable:
            connection.idle_since = time.monotonic()
            self._idle.append(connection)
        else:
            connection.abort()
        return answer

    async def close(self) -> None:
        """End all connections."""
        self._idle.clear()
        ending = list(self._all)
        for connection in ending:
            connection.abort()
        for connection in ending:
            await connection.ended.wait()

    def _idle_one(self) -> _Connection | None:
        oldest = time.monotonic() - _IDLE_SECONDS
        while self._idle:
            connection = self._idle.pop()
            if connection.is_reusable and connection.idle_since > oldest:
                return connection
            connection.abort()
        return None

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_seconds):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self._all),
                    self._host,
                    self._port,
                    ssl=self._tls,
                    server_hostname=self._host if self._tls is not None else None,
                )
        except TimeoutError as error:
            raise NotTakenError(f"{self._host}:{self._port} takes no connection") from error
        return connection


class _Connection(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self, of_pool: set[_Connection]) -> None:
        self._of_pool = of_pool
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._received: bytes | bytearray = b""
        self._head: tuple[int, dict[str, str]] | None = None
        self._ends_with_connection = False
        self._most_bytes = _MOST_BYTES
        self.is_reusable = True
        """Whether another request can be sent."""
        self.idle_since = 0.0
        self.ended = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Those of uvloop are no subclass.
        self._transport = cast("asyncio.Transport", transport)
        self._of_pool.add(self)

    async def ask(self, request: bytes, seconds: float, most_bytes: int) -> Answer:
        """Send a request and wait for its answer."""
        loop = asyncio.get_running_loop()
        self._most_bytes = most_bytes
        self._answer = loop.create_future()
        self._timer = loop.call_later(seconds, self._fail, TimeoutError("no answer came in time"))
        assert self._transport is not None
        self._transport.write(request)
        try:
            return await self._answer
        finally:
            self._timer.cancel()
            self._answer = None

    def abort(self) -> None:
        """End it at once."""
        self.is_reusable = False
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            # Nobody asked: whatever it is, what comes after it can't be told from it.
            self.abort()
            return
        if self._received:
            self._received += data
        else:
            self._received = data
        try:
            self._read()
            if isinstance(self._received, bytes) and self._received:
                # More is to come, in many pieces perhaps.
                self._received = bytearray(self._received)
        except ValueError as error:
            self._fail(NotHttpError(f"what answered does not speak HTTP: {error}"))

    def eof_received(self) -> None:
        if self._ends_with_connection and self._head is not None:
            self._end(self._received)

    def connection_lost(self, error: Exception | None) -> None:
        self.is_reusable = False
        self._of_pool.discard(self)
        self._fail(error or ConnectionResetError("the connection was ended before the answer was"))
        self.ended.set()

    def _fail(self, error: Exception) -> None:
        self.is_reusable = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    def _read(self) -> None:
        """Read as far as what has come goes."""
        while self._head is None:
            end = self._received.find(_END)
            if end < 0:
                if len(self._received) > _MOST_HEAD_BYTES:
                    raise ValueError("a head without an end")
                return
            head = self._received[:end]
            self._received = self._received[end + len(_END) :]
            status, headers, is_kept = _understood(head)
            if status >= 200:  # Else another one follows.
                self._head = status, headers
                self.is_reusable = self.is_reusable and is_kept
        status, headers = self._head
        if "chunked" in headers.get("transfer-encoding", "").lower():
            if (body := _joined(self._received)) is not None:
                self._end(body)
        elif status in {204, 304}:
            self._end(b"")
        elif (length := headers.get("content-length")) is not None:
            if not length.isdecimal() or int(length) > self._most_bytes:
                raise ValueError(f"a body of {length[:20]} bytes")
            if len(self._received) >= int(length):
                self._end(self._received[: int(length)], self._received[int(length) :])
        else:
            self._ends_with_connection = True
            self.is_reusable = False
        if len(self._received) > self._most_bytes:
            raise ValueError("a body without an end")

    def _end(self, body: bytes | bytearray, rest: bytes | bytearray = b"") -> None:
        assert self._head is not None
        status, headers = self._head
        self._head, self._received = None, b""
        if rest:
            self.is_reusable = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Answer(status, headers, bytes(body)))


def _understood(head: bytes | bytearray) -> tuple[int, dict[str, str], bool]:
    """Status, headers, and whether the connection goes on."""
    first, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    status = rest[:3]
    if not version.startswith("HTTP/1.") or not (len(status) == 3 and status.isdecimal()):
        raise ValueError(f"{first[:80]!r}")
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise ValueError(f"{line[:80]!r}")
        headers[name.strip().lower()] = value.strip()
    is_kept = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
    return int(status), headers, is_kept


def _joined(received: bytes | bytearray) -> bytes | None:
    """A body that comes in chunks; None while it has not come to its end."""
    parts: list[bytes | bytearray] = []
    place = 0
    while True:
        end = received.find(b"\r\n", place)
        if end < 0:
            return None
        size = int(received[place:end].partition(b";")[0], 16)
        if size < 0:
            raise ValueError("a chunk of less than nothing")
        if size == 0:
            # Headers may follow; the end is an empty line.
            is_over = received[end : end + len(_END)] == _END or received.find(_END, end) >= 0
            return b"".join(parts) if is_over else None
        place = end + 2
        if len(received) < place + size + 2:
            return None
        parts.append(received[place : place + size])
        place += size + 2
