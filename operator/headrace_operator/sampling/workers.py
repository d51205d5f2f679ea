"""Scrapes workers."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import aiohttp

from headrace_operator.sampling.published import parse_depth

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from headrace_operator.core.model import ObjectKey, QueueDepth, WorkerPod

logger = logging.getLogger(__name__)

_PODS_ASKED = 3
"""All pods of a pool publish the same count; a few are asked so that one that hangs costs nothing."""

_TIMEOUT = aiohttp.ClientTimeout(total=2.0)
"""A page of metrics comes from memory; a worker that needs longer is no source to wait for."""

_CONNECTIONS = 32
_PAGE_BYTES = 1024 * 1024
"""A worker's page is some tens of KiB; what runs in a pod is the user's, and must not fill our memory."""


class Workers:
    """Asks worker pods, inside an `async with` block."""

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            timeout=_TIMEOUT,
            connector=aiohttp.TCPConnector(limit=_CONNECTIONS),
            headers={"Accept": "text/plain"},
            # Pods are addressed directly: a proxy of the environment is not for them.
            trust_env=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def depth(self, queue: ObjectKey, pods: Sequence[WorkerPod]) -> QueueDepth | None:
        """What ready pods publish of the queue; None where none publishes a fresh count.

        They differ only by when each looked last. Of several answers the greatest load counts: a worker too many for a
        moment costs less than jobs that wait.
        """
        addresses = [pod.address for pod in pods if pod.ready and pod.address is not None][:_PODS_ASKED]
        pages = await asyncio.gather(*(self._page(address) for address in addresses))
        depths = [depth for page in pages if page is not None and (depth := parse_depth(page, queue)) is not None]
        return max(depths, key=lambda depth: (depth.load, depth.startable), default=None)

    async def _page(self, address: str) -> str | None:
        try:
            async with self._session.get(f"{address}/metrics", allow_redirects=False) as response:
                if response.status != 200:
                    return None
                return await _read(response)
        except (aiohttp.ClientError, TimeoutError) as error:
            logger.debug("No metrics from %s: %r", address, error)
            return None


async def _read(response: aiohttp.ClientResponse) -> str | None:
    page = bytearray()
    async for chunk in response.content.iter_chunked(64 * 1024):
        page += chunk
        if len(page) > _PAGE_BYTES:
            return None
    return page.decode(errors="replace")
