"""A keyed work queue: what decides when an object is looked at.

One look at a time for each key, the newest state wins (a key added twice is looked at once), a bounded number of looks
together. Keys that share something (a namespace) have a bound of their own and take turns with others, so that no
tenant holds up the rest. A look that fails is repeated with backoff and stops nobody else's; one that succeeds says
when it wants to be repeated.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from headrace_operator.core.model import AwaitedError, PassingError, RefusedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Hashable

Key = TypeVar("Key", bound="Hashable")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How long to wait after failures in a row."""

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
    """Looks at a time. They mostly wait; a handful that wait for a dead server must not hold up the rest."""
    concurrency_per_share: int = 8
    """Of them, those at keys that share something."""
    timeout_seconds: float = 60.0
    """The longest look; whatever hangs for longer is given up, and tried again like any failure."""
    backoff: Backoff = field(default_factory=Backoff)
    """Short at its longest, so that what was mended heals soon."""
    refused_backoff: Backoff = field(default_factory=lambda: Backoff(longest_seconds=300.0))
    """For what heals by a change that is shown to us (`RefusedError`), and by little else."""
    awaited_backoff: Backoff = field(default_factory=lambda: Backoff(initial_seconds=30.0, longest_seconds=300.0))
    """For what asks for a look by itself when it may have healed (`AwaitedError`): rarely from the first."""
    spread: float = 0.1
    """By what part waits after failures differ, either way, so that those who failed together don't come together."""


class WorkQueue(Generic[Key]):
    """Looks at keys, one after another, by calling `look`.

    Parameters
    ----------
    look
        What to do with a key; returns after how many seconds to do it again, or None for never.
    observe
        Is told of every look: the key, how many seconds it took, and the error that ended it, for logs and metrics.
    share_of
        What a key has in common with others, who take turns with the rest as one.
    """

    def __init__(
        self,
        look: Callable[[Key], Awaitable[float | None]],
        observe: Callable[[Key, float, Exception | None], None],
        options: WorkQueueOptions = WorkQueueOptions(),
        *,
        share_of: Callable[[Key], str] = lambda _: "",
    ) -> None:
        self._look = look
        self._observe = observe
        self._options = options
        self._share_of = share_of
        self._waiting: dict[str, deque[Key]] = {}
        """Of each share the keys that wait, none of them empty; whose turn is next stands first."""
        self._queued: set[Key] = set()
        """Keys in `_waiting`."""
        self._active: dict[Key, asyncio.Task[float | None]] = {}
        self._active_by_share: Counter[str] = Counter()
        self._again: set[Key] = set()
        """Active keys that were added meanwhile: what the look has read may be old."""
        self._failures: dict[Key, int] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._group: asyncio.TaskGroup | None = None
        self._is_beginning = False
        self._last_progress_seconds = 0.0

    def add(self, key: Key, *, is_urgent: bool = False) -> None:
        """Look at the key as soon as possible; at one whose last look failed, after the shortest backoff.

        What a failed look does may come back as a change of its object: without the wait they would chase each other.

        Parameters
        ----------
        is_urgent
            Whether it comes before those of its share that wait: thousands do after a start, and somebody waits for it.
        """
        if key in self._active:
            self._again.add(key)
        elif key in self._failures:
            self._schedule(key, self._options.backoff.initial_seconds)
        else:
            self._cancel_timer(key)
            self._push(key)
            if is_urgent:
                line = self._waiting[self._share_of(key)]
                line.remove(key)
                line.appendleft(key)

    def add_within(self, key: Key, seconds: float) -> None:
        """Look at the key once so many seconds are over, or before, whatever becomes of a look under way."""
        if key not in self._queued:
            self._schedule(key, seconds)

    def waiting(self) -> int:
        """How many keys wait for their look."""
        return len(self._queued)

    def stuck_seconds(self) -> float:
        """For how long keys have waited with no look coming to its end; 0 where none waits."""
        return asyncio.get_running_loop().time() - self._last_progress_seconds if self._queued else 0.0

    def give_up_looks(self) -> None:
        """Cancel those under way; they are begun anew."""
        for task in list(self._active.values()):
            task.cancel()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look at keys inside the block; leaving it cancels the looks under way."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._last_progress_seconds = asyncio.get_running_loop().time()
            self._begin_looks()
            try:
                yield
            finally:
                self._group = None
                self.give_up_looks()
                for key in list(self._timers):
                    self._cancel_timer(key)

    def _begin_looks(self) -> None:
        """Begin as many as there is room for."""
        self._is_beginning = False
        while self._group is not None and len(self._active) < self._options.concurrency:
            share = self._next_share()
            if share is None:
                return
            # To the end of the line.
            keys = self._waiting.pop(share)
            key = keys.popleft()
            if keys:
                self._waiting[share] = keys
            self._queued.discard(key)
            self._cancel_timer(key)
            self._active_by_share[share] += 1
            look = self._active[key] = self._group.create_task(self._attempt(key), name=f"look-{key}")
            look.add_done_callback(partial(self._end, key, share))

    def _next_share(self) -> str | None:
        bound = self._options.concurrency_per_share
        return next((share for share in self._waiting if self._active_by_share[share] < bound), None)

    def _end(self, key: Key, share: str, look: asyncio.Task[float | None]) -> None:
        """A look has ended, or was cancelled, be it before it began."""
        del self._active[key]
        self._active_by_share[share] -= 1
        if not self._active_by_share[share]:
            del self._active_by_share[share]
        if self._group is None:
            return
        self._last_progress_seconds = asyncio.get_running_loop().time()
        if look.cancelled():
            # Given up, or cancelled by something within: whichever, the look is still owed.
            self._again.add(key)
        elif look.exception() is None and (delay_seconds := look.result()) is not None:
            self._schedule(key, delay_seconds)
        if key in self._again:
            self._again.discard(key)
            self.add(key)
        self._begin_looks()

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
            return self._patience_seconds(error, self._failures[key])
        self._failures.pop(key, None)
        self._observe(key, loop.time() - started, None)
        return delay_seconds

    def _patience_seconds(self, error: Exception, failures: int) -> float:
        """The wait after the `failures`-th failure in a row."""
        options = self._options
        backoff = options.backoff
        if isinstance(error, RefusedError):
            backoff = options.refused_backoff
        elif isinstance(error, AwaitedError):
            backoff = options.awaited_backoff
        least = (error.retry_after_seconds or 0.0) if isinstance(error, PassingError) else 0.0
        spread = random.uniform(1 - options.spread, 1 + options.spread)  # noqa: S311 - nobody guesses it
        return max(least, backoff.delay_seconds(failures) * spread)

    def _push(self, key: Key) -> None:
        if key in self._queued:
            return
        if not self._queued:
            self._last_progress_seconds = asyncio.get_running_loop().time()
        self._queued.add(key)
        self._waiting.setdefault(self._share_of(key), deque()).append(key)
        # Soon, and not at once: what is added in the same breath is looked at with it.
        if not self._is_beginning:
            self._is_beginning = True
            asyncio.get_running_loop().call_soon(self._begin_looks)

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
        if key in self._active:
            self._again.add(key)
        else:
            self._push(key)

    def _cancel_timer(self, key: Key) -> None:
        if timer := self._timers.pop(key, None):
            timer.cancel()
