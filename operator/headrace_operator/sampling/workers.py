"""Asks workers, so that none of a tenant's pods, however slow or many, costs another tenant anything."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING

import aiohttp

from headrace_operator.sampling.published import PAGE_BYTES, parse_depth, parse_witnessed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from headrace_operator.core.model import ObjectKey
    from headrace_operator.sampling.published import PublishedDepth, PublishedWitness

logger = logging.getLogger(__name__)

FRESH_SECONDS = 15.0
"""An older count is as good as none: the backend is asked."""

_PODS_ASKED = 3
"""All pods of a queue publish the same count, so one is enough; more are asked where that one has none."""

_PAGE_TIMEOUT = aiohttp.ClientTimeout(total=1.0)
"""The page comes from memory; a worker that needs longer is no source to wait for."""

_TOTAL_SECONDS = 2.0
"""How long all pods of a queue may take together, waiting for the namespace's turn included."""

_ALL_SECONDS = 5.0
"""How long all pods of a queue may take together where each of them counts."""

_PAGES_PER_NAMESPACE = 8
"""How many pods of a namespace are asked at a time."""


class Workers:
    """Asks worker pods, inside an `async with` block."""

    def __init__(self) -> None:
        self._turns: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(_PAGES_PER_NAMESPACE))
        """By namespace."""
        self._asked: dict[str, int] = defaultdict(int)
        """How many questions of a namespace are under way."""

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            timeout=_PAGE_TIMEOUT,
            # What bounds them is ours: a limit of the connector's would be one for all namespaces.
            connector=aiohttp.TCPConnector(limit=0),
            # A few bytes may unfold to gigabytes.
            auto_decompress=False,
            # Pods are addressed directly: a proxy of the environment is not for them.
            trust_env=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def depth(self, queue: ObjectKey, addresses: Sequence[str]) -> tuple[str, PublishedDepth] | None:
        """The first fresh count of the queue that a worker publishes, with its address; None where a few don't."""
        with self._turns_in(queue.namespace) as turns:
            try:
                async with asyncio.timeout(_TOTAL_SECONDS), turns:
                    for address in addresses[:_PODS_ASKED]:
                        page = await self._page(address)
                        published = None if page is None else parse_depth(page, queue)
                        if published is not None and published.age_seconds <= FRESH_SECONDS:
                            return address, published
            except TimeoutError:
                logger.debug("No worker told the depth of %s in time", queue)
        return None

    async def witnessed(self, queue: ObjectKey, addresses: Sequence[str]) -> list[PublishedWitness]:
        """What each of these workers has seen of the queue; nothing of those that don't say so in time."""
        said: list[PublishedWitness] = []

        async def ask(address: str, turns: asyncio.Semaphore) -> None:
            async with turns:
                page = await self._page(address)
            if page is not None and (witness := parse_witnessed(page, queue)) is not None:
                said.append(witness)

        with self._turns_in(queue.namespace) as turns:
            try:
                async with asyncio.timeout(_ALL_SECONDS), asyncio.TaskGroup() as group:
                    for address in addresses:
                        group.create_task(ask(address, turns))
            except TimeoutError:
                logger.debug("Not all workers told in time what they have seen of %s", queue)
        return said

    @contextmanager
    def _turns_in(self, namespace: str) -> Iterator[asyncio.Semaphore]:
        """Who asks pods of a namespace, waits for a turn there."""
        self._asked[namespace] += 1
        try:
            yield self._turns[namespace]
        finally:
            self._asked[namespace] -= 1
            if not self._asked[namespace]:
                del self._asked[namespace], self._turns[namespace]

    async def _page(self, address: str) -> bytes | None:
        try:
            async with self._session.get(f"{address}/depth", allow_redirects=False) as response:
                if response.status != 200:
                    return None
                return await _read(response)
        except (aiohttp.ClientError, TimeoutError) as error:
            logger.debug("No depth from %s: %r", address, error)
            return None


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    page = bytearray()
    async for chunk in response.content.iter_chunked(PAGE_BYTES):
        page += chunk
        if len(page) > PAGE_BYTES:
            return None
    return bytes(page)
