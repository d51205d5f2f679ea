"""Where queues in memory live."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING

from headrace.queues.base import Provisioned, Removed
from headrace.queues.errors import PlaceTakenError, QueueNotFoundError
from headrace.queues.memory import counting
from headrace.queues.memory.place import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headrace.queues.base import Depth, Owner, QueueSettings


def _utc_now() -> datetime:
    return datetime.now(UTC)


class MemoryBackend:
    """Where memory queues live: a `Provisioner` and a `Backlog` of its own.

    Parameters
    ----------
    clock
        The time, timezone-aware. Defaults to the wall clock.
    """

    def __init__(self, *, clock: Callable[[], datetime] = _utc_now) -> None:
        self._clock = clock
        self._passed = timedelta()
        self._waiters: set[asyncio.Event] = set()
        self.places: dict[str, Place] = {}
        self.numbers = itertools.count(1)

    def now(self) -> datetime:
        """The time here."""
        return self._clock() + self._passed

    def pass_time(self, seconds: float) -> None:
        """Let it be so much later: for tests of delays, retries and expiry that need not wait."""
        self._passed += timedelta(seconds=seconds)
        self.changed()

    def changed(self) -> None:
        """Wake who waits for jobs."""
        for waiter in self._waiters:
            waiter.set()

    async def wait_for_change(self, seconds: float, *, stop: asyncio.Event | None = None) -> None:
        """Return with the next change, once told to stop, and after these seconds in any case."""
        if stop is not None and stop.is_set():
            return
        changed = asyncio.Event()
        self._waiters.add(changed)
        waits = [asyncio.ensure_future(event.wait()) for event in (changed, stop) if event is not None]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._waiters.discard(changed)
            for wait in waits:
                wait.cancel()

    def place(self, queue: str) -> Place:
        """The queue of this name."""
        try:
            return self.places[queue]
        except KeyError:
            raise QueueNotFoundError(f"queue {queue!r} does not exist: `ensure` it first") from None

    def register(self, queue: str, settings: QueueSettings, owner: Owner) -> None:
        """Make a queue that does not exist."""
        self.places[queue] = Place(queue, settings, owner)

    async def ensure(self, queue: str, settings: QueueSettings, owner: Owner) -> Provisioned:
        """See `headrace.queues.base.Provisioner`."""
        place = self.places.get(queue)
        if place is None:
            self.register(queue, settings, owner)
            return Provisioned(changed=True, details=f"queue {queue} made", facts={})
        if (place.owner.namespace, place.owner.name) != (owner.namespace, owner.name):
            raise PlaceTakenError(f"queue {queue!r} belongs to {place.owner.namespace}/{place.owner.name}")
        has_changed = (place.settings, place.owner) != (settings, owner)
        place.settings, place.owner = settings, owner
        self.changed()
        return Provisioned(
            changed=has_changed,
            details=f"settings of queue {queue} changed" if has_changed else f"queue {queue} is as wanted",
            facts={},
        )

    async def remove(self, queue: str, owner: Owner) -> Removed | None:
        """See `headrace.queues.base.Provisioner`."""
        place = self.places.get(queue)
        if place is None or place.owner != owner:
            return None
        depth = counting.depth(place, self.now())
        del self.places[queue]
        self.changed()
        return Removed(jobs=depth.ready + depth.delayed + depth.blocked + depth.in_flight + depth.dead_lettered)

    async def depths(self, queues: Sequence[str]) -> dict[str, Depth]:
        """See `headrace.queues.base.Backlog`."""
        now = self.now()
        return {name: counting.depth(self.places[name], now) for name in queues if name in self.places}

    async def have_ready(self, queues: Sequence[str]) -> dict[str, bool]:
        """See `headrace.queues.base.Backlog`."""
        now = self.now()
        return {name: counting.has_ready(self.places[name], now) for name in queues if name in self.places}


@cache
def process_backend() -> MemoryBackend:
    """Where ``memory://`` leads to in this process."""
    return MemoryBackend()
