"""Workers that are none: pods that no node runs, and the page that each would serve. One process plays all of them."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from headrace_operator.core.deployment import METRICS_PORT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

_HOSTILE_BYTES = 1024 * 1024


def address(number: int) -> str:
    """A loopback address of the pod's own: all of 127/8 is this machine."""
    return f"127.1.{number // 250}.{number % 250 + 1}"


@asynccontextmanager
async def pages(namespaces_and_queues: Sequence[tuple[str, str]], hostile: int = 0) -> AsyncIterator[None]:
    """Serve ``/depth`` for a worker of each queue, with numbers that change; after them, for so many hostile ones."""
    made = [partial(_page, namespace, queue) for namespace, queue in namespaces_and_queues]
    bodies: list[Callable[[], bytes]] = [*made, *[partial(bytes, _HOSTILE_BYTES)] * hostile]
    servers = []
    try:
        for number, body in enumerate(bodies):
            servers.append(await _serve(number, body))
        yield
    finally:
        for server in servers:
            server.close()


async def _serve(number: int, make: Callable[[], bytes]) -> asyncio.Server:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                body = make()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
                writer.write(body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    return await asyncio.start_server(answer, address(number), METRICS_PORT)


def _page(namespace: str, queue: str) -> bytes:
    """As `headrace.health` writes it: some jobs in flight, and others that wait."""
    line = {
        "namespace": namespace,
        "queue": queue,
        "age_seconds": 1.0,
        "ready": random.randrange(5),
        "blocked": 0,
        "delayed": 0,
        "in_flight": random.randrange(1, 5),
        "in_flight_seconds": 1.0,
        "dead_lettered": 0,
        "oldest_ready_age_seconds": 0.5,
        "next_due_seconds": None,
        "paused": False,
        "is_lower_bound": False,
        "arrived": 1000,
        "completed": 900,
        "failed": 0,
        "service_seconds": 0.5,
    }
    return json.dumps([line]).encode()
