"""HTTP servers that misbehave on purpose, and note what they get."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@dataclass(kw_only=True)
class Request:
    """A request as it came."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: int
    """Of which accepted connection, counted from 1."""

    def header(self, name: str) -> str | None:
        """The value of the only header of this name; None without one."""
        values = [value for other, value in self.headers if other.lower() == name.lower()]
        assert len(values) <= 1
        return values[0] if values else None


@dataclass(kw_only=True)
class RawServer:
    """What a server has seen."""

    port: int = 0
    accepted: int = 0
    requests: list[Request] = field(default_factory=list)
    closed_by_client: int = 0
    """Connections that the client closed while it was owed an answer."""

    @property
    def url(self) -> str:
        """Where to POST."""
        return f"http://127.0.0.1:{self.port}/jobs?kind=a%20b"


@asynccontextmanager
async def raw_server(
    answer: Callable[[Request, asyncio.StreamWriter], Awaitable[None]],
    *,
    port: int = 0,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[RawServer]:
    """Serve until the end of the block; `answer` writes what it likes, and may close the connection."""
    seen = RawServer()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.accepted += 1
        connection = seen.accepted
        try:
            while True:
                request = await _read(reader, connection)
                seen.requests.append(request)
                answering = asyncio.ensure_future(answer(request, writer))
                leaving = asyncio.ensure_future(_left(reader))
                await asyncio.wait([answering, leaving], return_when=asyncio.FIRST_COMPLETED)
                leaving.cancel()
                await asyncio.wait([leaving])
                if not answering.done() or isinstance(answering.exception(), ConnectionError):
                    seen.closed_by_client += 1
                    answering.cancel()
                    return
                await answering
                if writer.transport.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", port, ssl=tls)
    seen.port = server.sockets[0].getsockname()[1]
    try:
        yield seen
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def _read(reader: asyncio.StreamReader, connection: int) -> Request:
    head = await reader.readuntil(b"\r\n\r\n")
    # As bytes on the wire: what is not ASCII would show.
    line, *rest = head.decode("ascii").removesuffix("\r\n\r\n").split("\r\n")
    headers = [(name, value.strip()) for name, _, value in (field.partition(":") for field in rest)]
    length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
    return Request(line=line, headers=headers, body=await reader.readexactly(length), connection=connection)


async def _left(reader: asyncio.StreamReader) -> None:
    """Wait until the client has closed its end."""
    while not reader.at_eof() and reader.exception() is None:  # noqa: ASYNC110 - to read would take the next request
        await asyncio.sleep(0.01)
