"""Where workers that kill themselves work: the same questions of each backend."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

from headrace.queues.base import Owner, QueueSettings
from headrace.queues.postgres import Place, PostgresProvisioner, PostgresQueue
from headrace.queues.sqs.client import open_client, shared_client
from headrace.queues.sqs.counting import COUNTS, attributes_of
from headrace.queues.sqs.place import SqsAddress, parse_url
from headrace.queues.sqs.provisioner import SqsProvisioner
from headrace.queues.sqs.queue import SqsQueue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from headrace.queues.base import Queue
    from headrace.queues.failure_counts import FailureCounts

LEASE_SECONDS = 1.0

_LOOKS = 3
_BETWEEN_LOOKS_SECONDS = 0.05


class MortalPlace(Protocol):
    """One backend."""

    async def make(self, queues: Sequence[str]) -> None:
        """Make these queues."""
        ...

    def queue(self, name: str, failure_counts: FailureCounts | None = None) -> Queue:
        """A worker's or a producer's view of one; not yet open."""
        ...

    def looking(self, name: str) -> AbstractAsyncContextManager[Callable[[], Awaitable[bool]]]:
        """Whether nothing is left in it, as often as one asks."""
        ...


class PostgresPlace:
    def __init__(self, dsn: str) -> None:
        self._place = Place(dsn=dsn)

    async def make(self, queues: Sequence[str]) -> None:
        provisioner = PostgresProvisioner(self._place)
        for queue in queues:
            await provisioner.ensure(queue, QueueSettings(), Owner(namespace="", name=queue, uid=""))

    def queue(self, name: str, failure_counts: FailureCounts | None = None) -> PostgresQueue:
        del failure_counts  # They are the queue's own.
        return PostgresQueue(self._place, name, lease_seconds=LEASE_SECONDS)

    @asynccontextmanager
    async def looking(self, name: str) -> AsyncIterator[Callable[[], Awaitable[bool]]]:
        async with self.queue(name) as queue:

            async def is_empty() -> bool:
                depth = await queue.depth()
                return not (depth.ready or depth.delayed or depth.in_flight)

            yield is_empty


class SqsPlace:
    """On a server whose counts are exact."""

    def __init__(self, url: str) -> None:
        self._url = url

    def _address(self, name: str) -> SqsAddress:
        return parse_url(
            self._url.replace("QUEUE", name),
            wait_time_seconds=1,
            access_key_id="AKIATEST",
            secret_access_key="not-a-secret",
        )

    async def make(self, queues: Sequence[str]) -> None:
        async with open_client(self._address("none").place) as client:
            provisioner = SqsProvisioner(client)
            for queue in queues:
                await provisioner.ensure(queue, QueueSettings(), Owner(namespace="shop", name=queue, uid="1"))

    def queue(self, name: str, failure_counts: FailureCounts | None = None) -> SqsQueue:
        return SqsQueue(self._address(name), name, lease_seconds=LEASE_SECONDS, failure_counts=failure_counts)

    @asynccontextmanager
    async def looking(self, name: str) -> AsyncIterator[Callable[[], Awaitable[bool]]]:
        address = self._address(name)
        # That of the worker itself: to make one takes as long as all of its jobs.
        async with shared_client(address.place) as client:

            async def is_empty() -> bool:
                # A message that is being received may be missing from one look, by the server's own order of counting.
                for _ in range(_LOOKS):
                    counts = await attributes_of(client, address.queue_url, *COUNTS)
                    if any(int(counts[count]) for count in COUNTS):
                        return False
                    await asyncio.sleep(_BETWEEN_LOOKS_SECONDS)
                return True

            yield is_empty


def place_at(url: str) -> MortalPlace:
    """By a database's DSN, or by a queue's URL in SQS, in which QUEUE stands for its name."""
    return SqsPlace(url) if url.startswith("sqs") else PostgresPlace(url)
