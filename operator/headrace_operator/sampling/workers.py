"""Asks workers, so that none of a tenant's pods, however slow or many, costs another tenant anything."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from typing import TYPE_CHECKING

import aiohttp

from headrace_operator.sampling.published import PAGE_BYTES, parse_depth

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from headrace_operator.core.model import ObjectKey
    from headrace_operator.sampling.published import PublishedDepth

logger = logging.getLogger(__name__)

FRESH_SECONDS = 15.0
"""An older count is as good as none: the backend is asked."""

_PODS_ASKED = 3
"""All pods of a queue publish the same count, so one is enough; more are asked where that one has none."""

_PAGE_TIMEOUT = aiohttp.ClientTimeout(total=1.0)
"""The page comes from memory; a worker that needs longer is no source to wait for."""

_TOTAL_SECONDS = 2.0
"""How long all pods of a queue may take together, waiting for the namespace's turn included."""

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
        self._asked[queue.namespace] += 1
        try:
            async with asyncio.timeout(_TOTAL_SECONDS), self._turns[queue.namespace]:
                for address in addresses[:_PODS_ASKED]:
                    page = await self._page(address)
                    published = None if page is None else parse_depth(page, queue)
                    if published is not None and published.age_seconds <= FRESH_SECONDS:
                        return address, published
        except TimeoutError:
            logger.debug("No worker told the depth of %s in time", queue)
        finally:
            self._asked[queue.namespace] -= 1
            if not self._asked[queue.namespace]:
                del self._asked[queue.namespace], self._turns[queue.namespace]
        return None

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
