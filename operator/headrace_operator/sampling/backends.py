"""Reads backends: one reader for each, shared by all queues in it."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType
    from typing import Self

    from headrace_operator.core.model import QueueDepth
    from headrace_operator.core.provider import AnyBacklogReader, Place, Providers

UNUSED_SECONDS = 300.0
"""A backend that nobody asked about for so long is closed: its queues are gone, or their workers publish again."""


class Backends:
    """The open backlogs, inside an `async with` block."""

    def __init__(self, providers: Providers) -> None:
        self._providers = providers
        self._readers: dict[Hashable, _Reader] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(reader.close() for reader in self._readers.values()))
        self._readers.clear()

    async def depth(self, place: Place) -> QueueDepth | None:
        """What the backend says of the queue; None where it has no such queue.

        Raises
        ------
        OperatorError
            When it does not say.
        """
        key = (place.provider, place.backend)
        reader = self._readers.get(key)
        if reader is None:
            provider = self._providers[place.provider]
            reader = self._readers[key] = _Reader(lambda: provider.open_backlog(place.backend))
        try:
            return await reader.depth(place)
        finally:
            await self._close_unused()

    async def _close_unused(self) -> None:
        long_ago = time.monotonic() - UNUSED_SECONDS
        unused = [key for key, reader in self._readers.items() if reader.last_used < long_ago]
        for reader in [self._readers.pop(key) for key in unused]:
            await reader.close()


class _Reader:
    """One backend. While a question is under way, further ones gather and are asked as one in the next."""

    def __init__(self, opened: Callable[[], AbstractAsyncContextManager[AnyBacklogReader]]) -> None:
        self.last_used = time.monotonic()
        self._opened = opened
        self._backlog: AnyBacklogReader | None = None
        self._open = AsyncExitStack()
        self._one_question = asyncio.Lock()
        self._gathering: tuple[set[Place], asyncio.Task[Mapping[Place, QueueDepth]]] | None = None

    async def depth(self, place: Place) -> QueueDepth | None:
        self.last_used = time.monotonic()
        if self._gathering is None:
            places: set[Place] = set()
            self._gathering = places, asyncio.create_task(self._ask(places), name="read-backlog")
        places, answer = self._gathering
        places.add(place)
        # One who stops waiting must not stop the others.
        return (await asyncio.shield(answer)).get(place)

    async def close(self) -> None:
        async with self._one_question:
            await self._open.aclose()

    async def _ask(self, places: set[Place]) -> Mapping[Place, QueueDepth]:
        async with self._one_question:
            # Who asks from here on is for the next question.
            self._gathering = None
            if self._backlog is None:
                self._backlog = await self._open.enter_async_context(self._opened())
            return await self._backlog.depths(places)
