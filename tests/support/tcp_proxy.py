"""A TCP proxy that can fall silent, as a network does: connections stay open, and nothing comes through any more."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from support.postgres import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def _open() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass
class _Way:
    """One connection; an event that is not set holds its direction up."""

    requests: asyncio.Event = field(default_factory=_open)
    answers: asyncio.Event = field(default_factory=_open)


class TcpProxy:
    """Forwards to a port on loopback."""

    def __init__(self, target_port: int) -> None:
        self.port = free_port()
        self._target_port = target_port
        self._ways: list[_Way] = []
        self._is_silent_to_new_ones = False
        self._holds_something = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def silence(self, *, new_ones_too: bool = False) -> None:
        """Let nothing through any more on the connections there are; new ones work, unless they are silent too."""
        self._is_silent_to_new_ones = new_ones_too
        self._holds_something.clear()
        for way in self._ways:
            way.requests.clear()
            way.answers.clear()

    def hold_answers(self) -> None:
        """Let only requests through, on the connections there are."""
        for way in self._ways:
            way.answers.clear()

    async def something_held(self) -> None:
        """Wait until something came that is not let through."""
        await self._holds_something.wait()

    def resume(self) -> None:
        """Let everything through, also what was held up."""
        self._is_silent_to_new_ones = False
        for way in self._ways:
            way.requests.set()
            way.answers.set()

    def cut(self) -> None:
        """Break off the connections there are; what was held up is lost."""
        self._ways.clear()
        for task in self._tasks:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        way = _Way()
        self._ways.append(way)
        if self._is_silent_to_new_ones:
            way.requests.clear()
            way.answers.clear()
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with suppress(OSError, asyncio.CancelledError):
            await way.requests.wait()
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._target_port)
            copying = [
                asyncio.create_task(self._copy(reader, to_server, way.requests)),
                asyncio.create_task(self._copy(from_server, writer, way.answers)),
            ]
            try:
                await asyncio.wait(copying, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for copy in copying:
                    copy.cancel()
                to_server.transport.abort()
        writer.transport.abort()

    async def _copy(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, passing: asyncio.Event) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                if not passing.is_set():
                    self._holds_something.set()
                await passing.wait()
                sink.write(data)
                await sink.drain()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[TcpProxy]:
        """Forward, until left."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        try:
            yield self
        finally:
            server.close()
            for task in list(self._tasks):
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)
