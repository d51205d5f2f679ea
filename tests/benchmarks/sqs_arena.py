"""Where contestants on SQS are measured: an ElasticMQ that is warm, a new queue for each, perhaps a proxy."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import cast
from urllib.parse import urlsplit

from benchmarks.arena import Arena, BrokenError, Candidate, check
from benchmarks.contestants import sqs_server
from benchmarks.contestants.order import Order, Workload
from benchmarks.report import LIMIT, OURS
from support.elasticmq import ACCOUNT, running_elasticmq

# A JVM that is cold is two to three times slower than one that has done it all before.
_WARM_UP = Workload(jobs=20_000)
_WARM_UP_TIMES = 6
_WARMING = Candidate(contestant=LIMIT, module="sqs_by_hand", settings={"client": "signed", "callers": 16})

MODULES = {
    OURS: "sqs_ours",
    "sqs-workers": "sqs_workers",
    "taskiq-aio-sqs": "taskiq_on_sqs",
    "aiobotocore": "sqs_by_hand",
    LIMIT: "sqs_by_hand",
}
"""Who is measured, and by which module."""


class SqsArena:
    """Runs contestants.

    Parameters
    ----------
    arena
        Makes their processes.
    endpoint_url
        The server's.
    """

    def __init__(self, arena: Arena, endpoint_url: str) -> None:
        self._arena = arena
        self._endpoint_url = endpoint_url
        self._numbers = itertools.count(1)

    @classmethod
    @asynccontextmanager
    async def opened(cls, arena: Arena) -> AsyncIterator[SqsArena]:
        """A server, warm."""
        with running_elasticmq(memory_mib=1024) as server:
            opened = cls(arena, server.endpoint_url)
            for _ in range(_WARM_UP_TIMES):
                await opened.drain(_WARMING, _WARM_UP)
            yield opened

    async def drain(self, candidate: Candidate, workload: Workload, *, delay_seconds: float = 0.0) -> float:
        """Enqueue everything, then have it worked off; jobs a second.

        Parameters
        ----------
        delay_seconds
            What a proxy adds to each call of the worker; 0: there is none.
        """
        if delay_seconds:
            async with Delay(self._endpoint_url, delay_seconds).running() as proxy:
                return await self._drained(candidate, workload, proxy.endpoint_url)
        return await self._drained(candidate, workload, self._endpoint_url)

    async def calls(self, candidate: Candidate, workload: Workload) -> Counter[str]:
        """The calls by which everything is worked off, by operation."""
        async with Delay(self._endpoint_url, 0.0).running() as proxy:
            await self._drained(candidate, workload, proxy.endpoint_url)
            return proxy.calls

    async def enqueue(self, candidate: Candidate, workload: Workload) -> float:
        """Jobs a second, one a call, by many callers."""
        workload = candidate.share(workload)
        with self._queue() as queue_url:
            order = Order(
                verb="enqueue_concurrent",
                dsn=queue_url,
                url=self._endpoint_url,
                workload=workload,
                settings=candidate.settings,
            )
            async with self._arena.process(_named(candidate), order) as process:
                process.begin()
                report = await process.figures()
        if report["remaining"] != workload.jobs:
            raise BrokenError(f"{candidate}: {report['remaining']} jobs in the queue, {workload.jobs} enqueued")
        return float(workload.jobs / report["seconds"])

    async def _drained(self, candidate: Candidate, workload: Workload, endpoint_url: str) -> float:
        workload = candidate.share(workload)
        candidate = _named(candidate)
        with self._queue() as queue_url:
            order = Order(
                verb="fill", dsn=queue_url, url=self._endpoint_url, workload=workload, settings=candidate.settings
            )
            async with self._arena.process(candidate, order) as filling:
                filling.begin()
                await filling.heard()
            through = f"{endpoint_url}/{ACCOUNT}/{queue_url.rpartition('/')[2]}"
            [report] = await self._arena.together(candidate, replace(order, verb="drain", dsn=through), 1)
            left = sqs_server.count(self._endpoint_url, queue_url)
        check(candidate, report["numbers"], enqueued=workload.jobs, left=left)
        return float(workload.jobs / (report["completed_at"] - report["receiving_at"]))

    @contextmanager
    def _queue(self) -> Iterator[str]:
        name = f"bench-{next(self._numbers)}"
        attributes = {"VisibilityTimeout": "120"}
        made = sqs_server.call(self._endpoint_url, "CreateQueue", QueueName=name, Attributes=attributes)
        try:
            yield made["QueueUrl"]
        finally:
            sqs_server.call(self._endpoint_url, "DeleteQueue", QueueUrl=made["QueueUrl"])


def _named(candidate: Candidate) -> Candidate:
    return replace(candidate, module=candidate.module or MODULES[candidate.contestant])


class Delay:
    """A proxy that adds a time to each call, and counts calls. It looks at bytes alone: it must cost next to nothing.

    Parameters
    ----------
    endpoint_url
        Where to.
    seconds
        How much later an answer comes.
    """

    def __init__(self, endpoint_url: str, seconds: float) -> None:
        self.calls: Counter[str] = Counter()
        self.endpoint_url = ""
        target = urlsplit(endpoint_url)
        self._address = target.hostname or "", target.port or 80
        self._seconds = seconds

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Delay]:
        """Forward, until left."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _FromClient(self), "127.0.0.1", 0)
        self.endpoint_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()

    async def connect(self, client: _FromClient) -> asyncio.Transport:
        """A way to the server, for one client."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(lambda: _FromServer(client, self._seconds), *self._address)
        return transport


class _FromClient(asyncio.Protocol):
    _TARGET = re.compile(rb"(?i)x-amz-target: *AmazonSQS\.(\w+)\r\n")

    def __init__(self, proxy: Delay) -> None:
        self._proxy = proxy
        self._early: list[bytes] = []
        self._seen = b""
        self._server: asyncio.Transport | None = None
        self._connecting: asyncio.Task[None] | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._connecting = asyncio.ensure_future(self._connect())

    async def _connect(self) -> None:
        self._server = await self._proxy.connect(self)
        for data in self._early:
            self._server.write(data)

    def data_received(self, data: bytes) -> None:
        # A header may come in two pieces; what was counted is not looked at again.
        self._seen += data
        counted = 0
        for found in self._TARGET.finditer(self._seen):
            self._proxy.calls[found[1].decode()] += 1
            counted = found.end()
        self._seen = self._seen[counted:][-200:]
        if self._server is None:
            self._early.append(data)
        else:
            self._server.write(data)

    def connection_lost(self, _: Exception | None) -> None:
        if self._server is not None:
            self._server.close()


class _FromServer(asyncio.Protocol):
    def __init__(self, client: _FromClient, seconds: float) -> None:
        self._client = client
        self._seconds = seconds

    def data_received(self, data: bytes) -> None:
        assert self._client.transport is not None
        if self._seconds:
            asyncio.get_running_loop().call_later(self._seconds, self._client.transport.write, data)
        else:
            self._client.transport.write(data)

    def connection_lost(self, _: Exception | None) -> None:
        if self._client.transport is not None:
            asyncio.get_running_loop().call_later(self._seconds, self._client.transport.close)
