"""A server that takes jobs over HTTP and does nothing, at as little cost as there is in this language."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast
from urllib.parse import urlsplit

from benchmarks.contestants.order import Order

_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)
_ID = re.compile(rb"\r\nheadrace-job-id: (\d+)\r\n", re.IGNORECASE)
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class HttpServer:
    """Knows which jobs it was sent."""

    def __init__(self, order: Order) -> None:
        self._url = order.url
        self.numbers: list[int] = []

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Listen."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Connection(self.numbers), *address(self._url))
        try:
            yield
        finally:
            server.close()


class _Connection(asyncio.Protocol):
    """One client's, kept for one request after another."""

    def __init__(self, numbers: list[int]) -> None:
        self._numbers = numbers
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Those of uvloop are no subclass.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._received += data
        while (end := self._received.find(_END) + len(_END)) >= len(_END):
            length, job = _LENGTH.search(self._received, 0, end), _ID.search(self._received, 0, end)
            assert length is not None, "a request's body has a length"
            assert job is not None, "a request is a job"
            end += int(length[1])
            if len(self._received) < end:
                return
            self._received = self._received[end:]
            self._numbers.append(int(job[1]))
            self._transport.write(_ANSWER)


def address(url: str) -> tuple[str, int]:
    """Host and port."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def create(order: Order) -> HttpServer:
    """The server of this module."""
    return HttpServer(order)
