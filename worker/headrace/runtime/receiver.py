"""Taking jobs from the queue: how many, when, and who of them may wait for a slot.

A worker holds at most what runs, what its `Prefetch` lets wait, and one batch of unreported outcomes, whatever becomes
of its jobs: where outcomes are reported more slowly than jobs end, fewer are taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from typing import TYPE_CHECKING, NamedTuple

from headrace.queues.errors import QueueError, SchemaVersionError
from headrace.queues.settlement import Complete, Release
from headrace.runtime.settler import FULL_BATCH

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

    from headrace.queues.base import Delivery, DeliveryKey, Queue
    from headrace.runtime.idempotency_guard import IdempotencyGuard
    from headrace.runtime.lease import LeaseKeeper
    from headrace.runtime.nudge import Nudge
    from headrace.runtime.settler import Settler
    from headrace.runtime.sharing import Share
    from headrace.runtime.slots import Slots

log = logging.getLogger(__name__)

MAX_BATCH = 500
"""So many jobs are taken at a time: more would gain little, and be more to lose where this worker is killed."""

MAX_WAITING_BYTES = 32 * 1024 * 1024
"""So large the payloads of what waits may be, for a slot or to be reported. With half of it, no more is taken: one
batch may bring the other half."""

# Asking anew costs a look at the queue: worth it where a wait would bring a small part of what there is room for.
_WORTH = 4

_FIRST_PAUSE_SECONDS = 0.05
_LAST_PAUSE_SECONDS = 1.0
# How often to see whether the idempotency store is back.
_AWAY_SECONDS = 1.0
# A queue that says nothing at once, such as one that is paused, is asked no more often than this.
_EMPTY_SECONDS = 0.5


class _Ask(NamedTuple):
    """What is asked of the queue."""

    limit: int
    worth: float
    """With room for so many it is worth asking anew."""
    without: frozenset[str]
    stop: asyncio.Event


class Receiver:
    """Receives into the slots.

    Parameters
    ----------
    queue
        From where.
    slots
        Where jobs run.
    settler
        Takes what is not to run.
    keeper
        Says whether what is received is held.
    guard
        Says what may run. None: no idempotency.
    nudge
        Says when to look whether there is more room.
    share
        Is told whether there are jobs.
    poll_interval_seconds
        How long one wait for jobs lasts.
    """

    def __init__(
        self,
        queue: Queue,
        slots: Slots,
        settler: Settler,
        keeper: LeaseKeeper,
        guard: IdempotencyGuard | None,
        nudge: Nudge,
        share: Share,
        *,
        poll_interval_seconds: float,
    ) -> None:
        self._queue = queue
        self._slots = slots
        self._settler = settler
        self._keeper = keeper
        self._guard = guard
        self._share = share
        self._poll_interval_seconds = poll_interval_seconds
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._asked: _Ask | None = None
        # On their way into the slots, but others' by now.
        self._lost: set[DeliveryKey] = set()
        nudge.taker = self._look_again

    def stop(self) -> None:
        """Take no more; what arrives from now on goes back."""
        self._stopping.set()
        self._look_again()

    def _look_again(self) -> None:
        """There may be room for more jobs, or others, or for none."""
        self._changed.set()
        asked = self._asked
        if asked is None or asked.stop.is_set():
            return
        wanted = self._wanted()
        # More would come than there is room for, much less, or not what there is room for.
        if wanted < asked.limit or wanted >= asked.worth or not asked.without <= self._slots.waiting.names.full():
            asked.stop.set()

    def lose(self, keys: AbstractSet[DeliveryKey]) -> None:
        """Others have these jobs; some may be on their way into the slots."""
        self._lost |= keys
        if self._asked is not None:
            self._asked.stop.set()

    async def run(self) -> None:
        """Receive, until stopped."""
        try:
            await self._run()
        finally:
            self._share.can_not_take()

    async def _run(self) -> None:
        pause = 0.0
        while not self._stopping.is_set():
            self._changed.clear()
            ask = self._ask()
            if ask is None:
                await self._changed.wait()
                continue
            self._lost.clear()
            try:
                deliveries = await self._received(ask)
            except QueueError as error:
                self._share.can_not_take()
                if isinstance(error, SchemaVersionError):
                    self._keeper.outgrown(error)
                if not pause:
                    log.warning("can't receive queue=%s, trying again: %s", self._queue.name, error)
                pause = min(max(2 * pause, _FIRST_PAUSE_SECONDS), _LAST_PAUSE_SECONDS)
                await self._rest(pause)
                continue
            pause = 0.0
            if deliveries or not ask.stop.is_set():
                self._share.found(len(deliveries))
            if deliveries:
                self._slots.waiting.names.asked(ask.without)
                await self._take(deliveries)
                if len(deliveries) < ask.limit:
                    await asyncio.sleep(0)  # These begin first: it is not likely that there are more.
            if self._guard is not None and self._guard.is_away:
                await self._rest(_AWAY_SECONDS)

    def _ask(self) -> _Ask | None:
        names = self._slots.waiting.names
        without = names.full()
        limit = self._wanted()
        if not limit:
            return None
        worth: float = _WORTH * limit
        if (most := names.most_wanted()) is not None and most < limit:
            limit, worth = most, float("inf")
        return _Ask(limit, worth, without, asyncio.Event())

    def _wanted(self) -> int:
        """How many jobs to take now."""
        if self._settler.is_stuck or not self._keeper.is_held or self._stopping.is_set():
            return 0
        slots, waiting, unreported = self._slots, self._slots.waiting, self._settler.unreported
        if waiting.payload_bytes + self._settler.unreported_bytes > MAX_WAITING_BYTES // 2:
            return 0
        room = slots.most + FULL_BATCH - slots.running - len(waiting) - unreported
        wanted = min(slots.wanted(), room, MAX_BATCH)
        # One is enough to find out whether the store is back.
        return min(wanted, 1) if self._guard is not None and self._guard.is_away else max(wanted, 0)

    async def _received(self, ask: _Ask) -> list[Delivery]:
        # Many idle workers should not look at the same moment.
        wait_seconds = self._poll_interval_seconds * random.uniform(0.8, 1.2)  # noqa: S311
        if self._share.keeps_others_waiting:
            wait_seconds = 0.0
        loop = asyncio.get_running_loop()
        started = loop.time()
        self._asked = ask
        try:
            deliveries = await self._queue.receive(
                ask.limit, wait_seconds=wait_seconds, stop=ask.stop, without=ask.without
            )
        finally:
            self._asked = None
        waited_seconds = loop.time() - started
        if not deliveries and not ask.stop.is_set() and waited_seconds < min(wait_seconds, _EMPTY_SECONDS):
            await self._rest(min(wait_seconds, _EMPTY_SECONDS) - waited_seconds)
        return deliveries

    async def _take(self, deliveries: Sequence[Delivery]) -> None:
        """Run those that may run, and settle the others."""
        if self._guard is not None:
            admission = await self._guard.admit(deliveries)
            self._settler.add([Complete(delivery=delivery) for delivery in admission.finished])
            self._settler.add(
                [Release(delivery=delivery, delay_seconds=delay_seconds) for delivery, delay_seconds in admission.later]
            )
            deliveries = admission.run
        if self._stopping.is_set() or not self._keeper.is_held:
            await self._give_back(deliveries)
        elif lost := [delivery for delivery in deliveries if delivery.key in self._lost]:
            self._slots.take([delivery for delivery in deliveries if delivery.key not in self._lost])
            await self._give_back(lost)
        else:
            self._slots.take(deliveries)

    async def _give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Run none of these. What is said of the lost is refused."""
        if self._guard is not None:
            await self._guard.release(deliveries)  # Before they can come again.
        self._settler.release(deliveries)

    async def _rest(self, seconds: float) -> None:
        """Sleep, unless stopped."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
