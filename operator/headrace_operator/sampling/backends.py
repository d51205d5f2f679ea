"""Reads backends: one connection for each place, shared by all queues in it."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from headrace.queues.postgres import Place, PostgresBacklog

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from headrace.queues.base import Depth
    from headrace_operator.core.model import QueuePlace

UNUSED_SECONDS = 300.0
"""A place that nobody asked about for so long is closed: its queues are gone, or their workers publish again."""


class Backends:
    """The open backlogs, inside an `async with` block."""

    def __init__(self) -> None:
        self._readers: dict[Place, _Reader] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(reader.close() for reader in self._readers.values()))
        self._readers.clear()

    async def depth(self, place: QueuePlace) -> Depth | None:
        """What the backend says of the queue; None where it has no such queue.

        Raises
        ------
        QueueError
            When it does not say.
        """
        connection = place.connection
        key = Place(dsn=connection.dsn, ca_certificates=connection.ca_certificates, schema=place.schema)
        reader = self._readers.get(key)
        if reader is None:
            reader = self._readers[key] = _Reader(key)
        try:
            return await reader.depth(place.queue)
        finally:
            await self._close_unused()

    async def _close_unused(self) -> None:
        long_ago = time.monotonic() - UNUSED_SECONDS
        unused = [key for key, reader in self._readers.items() if reader.last_used < long_ago]
        for reader in [self._readers.pop(key) for key in unused]:
            await reader.close()


class _Reader:
    """One place. While a query is under way, further questions gather and are asked as one in the next."""

    def __init__(self, place: Place) -> None:
        self.last_used = time.monotonic()
        self._place = place
        self._backlog: PostgresBacklog | None = None
        self._open = AsyncExitStack()
        self._one_query = asyncio.Lock()
        self._gathering: tuple[set[str], asyncio.Task[dict[str, Depth]]] | None = None

    async def depth(self, queue: str) -> Depth | None:
        self.last_used = time.monotonic()
        if self._gathering is None:
            queues: set[str] = set()
            self._gathering = queues, asyncio.create_task(self._ask(queues), name="read-backlog")
        queues, answer = self._gathering
        queues.add(queue)
        # One who stops waiting must not stop the others.
        return (await asyncio.shield(answer)).get(queue)

    async def close(self) -> None:
        async with self._one_query:
            await self._open.aclose()

    async def _ask(self, queues: set[str]) -> dict[str, Depth]:
        async with self._one_query:
            # Who asks from here on is for the next query.
            self._gathering = None
            if self._backlog is None:
                self._backlog = await self._open.enter_async_context(PostgresBacklog(self._place))
            return await self._backlog.depths(sorted(queues))
