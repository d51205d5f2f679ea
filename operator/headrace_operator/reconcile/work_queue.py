"""A keyed work queue: what decides when an object is looked at.

One look at a time for each key, the newest state wins (a key added twice is looked at once), a bounded number of looks
together, first come first served. A look that fails is repeated with backoff and stops nobody else's; one that succeeds
says when it wants to be repeated.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Hashable

Key = TypeVar("Key", bound="Hashable")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How long to wait after failures in a row; short at its longest, so that what was mended heals soon."""

    initial_seconds: float = 0.5
    multiplier: float = 2.0
    longest_seconds: float = 5.0

    def delay_seconds(self, failures: int) -> float:
        """The wait after the `failures`-th failure in a row."""
        # The exponent is bounded: a thousand failures must not overflow.
        return min(self.initial_seconds * self.multiplier ** min(failures - 1, 32), self.longest_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkQueueOptions:
    """How a work queue works."""

    concurrency: int = 32
    """Looks at a time. They mostly wait; a handful that wait for a dead database must not hold up the rest."""
    timeout_seconds: float = 60.0
    """The longest look; whatever hangs for longer is given up, and tried again like any failure."""
    backoff: Backoff = field(default_factory=Backoff)


class WorkQueue(Generic[Key]):
    """Looks at keys, one after another, by calling `look`.

    Parameters
    ----------
    look
        What to do with a key; returns after how many seconds to do it again, or None for never.
    observe
        Is told of every look: the key, how many seconds it took, and the error that ended it, for logs and metrics.
    """

    def __init__(
        self,
        look: Callable[[Key], Awaitable[float | None]],
        observe: Callable[[Key, float, Exception | None], None],
        options: WorkQueueOptions = WorkQueueOptions(),
    ) -> None:
        self._look = look
        self._observe = observe
        self._options = options
        self._waiting: deque[Key] = deque()
        self._queued: set[Key] = set()
        """Keys in `_waiting`."""
        self._active: set[Key] = set()
        self._again: set[Key] = set()
        """Active keys that were added meanwhile: what the look has read may be old."""
        self._failures: dict[Key, int] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._available = asyncio.Semaphore(0)
        self._last_progress_seconds = 0.0

    def add(self, key: Key) -> None:
        """Look at the key as soon as possible; at one whose last look failed, after the shortest backoff.

        What a failed look writes into the object's status comes back as a change of it: without the wait the two would
        chase each other.
        """
        if key in self._active:
            self._again.add(key)
        elif key in self._failures:
            self._schedule(key, self._options.backoff.initial_seconds)
        else:
            self._cancel_timer(key)
            self._push(key)

    def stuck_seconds(self) -> float:
        """For how long keys have waited with no look coming to its end; 0 where none waits."""
        return asyncio.get_running_loop().time() - self._last_progress_seconds if self._waiting else 0.0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look at keys inside the block; leaving it cancels the looks under way."""
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._work(), name=f"look-{number}") for number in range(self._options.concurrency)
            ]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                for key in list(self._timers):
                    self._cancel_timer(key)

    async def _work(self) -> None:
        while True:
            await self._available.acquire()
            key = self._waiting.popleft()
            self._queued.discard(key)
            self._cancel_timer(key)
            self._active.add(key)
            try:
                delay_seconds = await self._attempt(key)
            finally:
                self._active.discard(key)
            self._last_progress_seconds = asyncio.get_running_loop().time()
            if delay_seconds is not None:
                self._schedule(key, delay_seconds)
            if key in self._again:
                self._again.discard(key)
                self.add(key)

    async def _attempt(self, key: Key) -> float | None:
        """Look once; returns after how many seconds to look again."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            async with asyncio.timeout(self._options.timeout_seconds):
                delay_seconds = await self._look(key)
        except Exception as error:  # noqa: BLE001 - whatever one object does, the others go on
            self._failures[key] = self._failures.get(key, 0) + 1
            self._observe(key, loop.time() - started, error)
            return self._options.backoff.delay_seconds(self._failures[key])
        self._failures.pop(key, None)
        self._observe(key, loop.time() - started, None)
        return delay_seconds

    def _push(self, key: Key) -> None:
        if key in self._queued:
            return
        if not self._waiting:
            self._last_progress_seconds = asyncio.get_running_loop().time()
        self._queued.add(key)
        self._waiting.append(key)
        self._available.release()

    def _schedule(self, key: Key, delay_seconds: float) -> None:
        """Look at the key then, or earlier where that was scheduled before."""
        loop = asyncio.get_running_loop()
        scheduled = self._timers.get(key)
        if scheduled is not None and scheduled.when() <= loop.time() + delay_seconds:
            return
        self._cancel_timer(key)
        self._timers[key] = loop.call_later(delay_seconds, self._due, key)

    def _due(self, key: Key) -> None:
        del self._timers[key]
        self._push(key)

    def _cancel_timer(self, key: Key) -> None:
        if timer := self._timers.pop(key, None):
            timer.cancel()
