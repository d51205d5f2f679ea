"""What every contestant offers; `stage` measures all of them through it, in the same way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from benchmarks.contestants.ledger import Ledger


class MissingError(Exception):
    """The contestant lacks what the workload asks for; the message says what."""


class Producer(Protocol):
    """Enqueues; made ready to be called by many at once."""

    def prepare(self, numbers: Sequence[int]) -> Any:
        """What one call takes, for jobs of these numbers: made before the clock starts."""
        ...

    async def enqueue(self, prepared: Any) -> None:
        """Enqueue; returns once the jobs are durable."""
        ...


class Contestant(Protocol):
    """A queue and its worker, on the database of its order."""

    async def install(self) -> None:
        """Make the tables."""
        ...

    def producing(self) -> AbstractAsyncContextManager[Producer]:
        """A producer, connected."""
        ...

    def working(self, ledger: Ledger, *, waits: bool) -> AbstractAsyncContextManager[asyncio.Task[None]]:
        """A worker, started; stopped in its own orderly way at the end. Without `waits` it may end with the queue."""
        ...

    def counting(self) -> AbstractAsyncContextManager[Counter]:
        """A connection that counts."""
        ...


class Taker(Protocol):
    """A worker's requests for jobs by themselves."""

    async def hold(self, jobs: int) -> None:
        """Take so many as others would who hold them for good: a hundred workers."""
        ...

    async def take(self) -> Finish:
        """Take some; gives what completes them."""
        ...


class Finish(Protocol):
    """Completes what was taken."""

    async def __call__(self) -> None:
        """Returns once it is durable."""
        ...


class Taking(Contestant, Protocol):
    """A contestant whose requests for jobs can be told from the rest."""

    def taking(self) -> AbstractAsyncContextManager[Taker]:
        """Connected."""
        ...


class Startable(Contestant, Protocol):
    """A contestant with a command of its own."""

    def command(self) -> Sequence[str]:
        """What starts a worker whose jobs are those of `benchmarks.contestants.apps`."""
        ...


class Claimer(Protocol):
    """What `Contestant` is not: a store of idempotency's keys, on the Redis of its order."""

    def claiming(self) -> AbstractAsyncContextManager[Claim]:
        """Connected."""
        ...


class Claim(Protocol):
    """Claims keys."""

    async def __call__(self, keys: Sequence[str], tokens: Sequence[str]) -> int:
        """Claim all of them for 20 s; returns how many were free."""
        ...


class Counter(Protocol):
    """Counts what is not finished."""

    async def __call__(self) -> int:
        """How many jobs wait or run, by the database."""
        ...
