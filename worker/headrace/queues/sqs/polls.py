"""Polls of the service, which belong to the queue object and not to the call of receive that they were begun for.

A poll can't be taken back: what it brings is held, whether or not anybody waits for it. So there is one at a time while
the queue is empty, which waits for as long as it may, and more only while each brings as much as it was asked for. What
comes while nobody wants it waits here for a moment, and is then put back.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING

from headrace.queues.clock import lease_clock
from headrace.queues.errors import QueueError
from headrace.queues.sqs.calls import MOST_CALLS, own_copy
from headrace.queues.sqs.messages import SYSTEM_ATTRIBUTES

if TYPE_CHECKING:
    from headrace.queues.base import Delivery
    from headrace.queues.sqs.calls import Calls
    from headrace.queues.sqs.holdings import Held, Holdings
    from headrace.queues.sqs.housekeeping import Housekeeping
    from headrace.queues.sqs.queue_settings import KnownQueue
    from headrace.queues.sqs.settling import Settling
    from headrace.queues.sqs.witness import Witness

log = logging.getLogger(__name__)

BESIDE_SECONDS = 1
"""How long a poll waits that is begun beside others: all of the service's machines are asked, and no longer."""

UNWANTED_SECONDS = 2.0
"""How long what nobody wants is kept: other workers may have a slot for it."""

PAUSE_SECONDS = 1.0
"""How long none is begun after one that came back empty far too early: the service is to wait for messages, so that
polls need no pauses."""

MOST_BYTES = 16 * 1024 * 1024
"""So much several polls may bring at a time, by the size of what came last."""

ANSWER_SECONDS = 5.0
"""For how long beyond its own time a poll is waited for in the end: what it brings comes again by itself."""

# A poll may wait for this part of what its messages are held for: they are counted as held since it began.
_SHARE = 3


class QueuePolls:
    """The polls of one queue object, and what they brought that nobody has been given yet."""

    def __init__(
        self,
        calls: Calls,
        facts: KnownQueue,
        holdings: Holdings,
        housekeeping: Housekeeping,
        settling: Settling,
        witness: Witness,
    ) -> None:
        self._calls = calls
        self._facts = facts
        self._holdings = holdings
        self._housekeeping = housekeeping
        self._settling = settling
        self._witness = witness
        self._options = calls.address.options
        self._under_way: dict[asyncio.Task[None], int] = {}
        self._asked = 0
        self._breadth = 1
        self._arrived: deque[Delivery] = deque()
        self._waiters: dict[asyncio.Future[None], int] = {}
        self._wanted = 0
        self._patience_seconds = 0.0
        self._error: BaseException | None = None
        self._message_bytes = 0.0
        self._pause: asyncio.TimerHandle | None = None
        self._stale_timer: asyncio.TimerHandle | None = None
        self._chores: set[asyncio.Task[None]] = set()
        self.are_ended = False
        """Whether no poll is begun any more."""

    def open(self) -> None:
        """Begin polls again, once there is somebody who wants what they bring."""
        self.are_ended = False

    # What came

    def take(self, limit: int) -> list[Delivery]:
        """What has come, so many at the most, as far as it is still held."""
        arrived = self._arrived
        if len(arrived) <= limit:
            taken = list(arrived)
            arrived.clear()
        else:
            taken = [arrived.popleft() for _ in range(limit)]
        if not arrived and self._stale_timer is not None:
            self._stale_timer.cancel()
            self._stale_timer = None
        # While it waited here, a heartbeat may have told it as lost.
        return [delivery for delivery in taken if self._holdings.get(delivery) is not None]

    def raise_error(self) -> None:
        """Raise what a poll failed with, to whoever waits for one: once."""
        error, self._error = self._error, None
        if error is not None:
            raise own_copy(error) if isinstance(error, QueueError) else error

    # Waiting

    def want(self, waiter: asyncio.Future[None], limit: int, *, patience_seconds: float) -> None:
        """Whoever waits wants so many: begin as many polls as that is worth, and wake it when one has ended."""
        self._waiters[waiter] = limit
        self._wanted += limit
        self._patience_seconds = patience_seconds
        self._begin(self._wanted)

    def go_on(self, limit: int) -> None:
        """Whoever was just given what had come wants so many more: while polls come back full, others begin.

        Else the service would stand still for as long as what came begins.
        """
        if self._breadth > 1:
            self._begin(self._wanted + limit)

    def unwant(self, waiter: asyncio.Future[None]) -> None:
        """It waits no more."""
        self._wanted -= self._waiters.pop(waiter)
        if self._arrived and not self._waiters:
            self._see_to_unwanted()

    async def look(self, limit: int) -> None:
        """One look, without waiting for what is not there."""
        if self.are_ended:
            return
        task = self._start(min(limit, self._options.max_number_of_messages), 0)
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error

    async def end(self) -> None:
        """Begin no more, and put back what those under way bring, and what nobody has been given."""
        self.are_ended = True
        for waiter in self._waiters:
            _wake(waiter)
        if self._under_way:
            longest_seconds = self._options.wait_time_seconds + ANSWER_SECONDS
            _, late = await asyncio.wait(self._under_way, timeout=longest_seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._put_back_unwanted()
        if self._chores:
            await asyncio.wait(self._chores)
        await self._housekeeping.flushed()

    def _begin(self, wanted: int) -> None:
        most = self._options.max_number_of_messages
        while not self.are_ended and self._pause is None and len(self._under_way) < self._breadth:
            missing = wanted - len(self._arrived) - self._asked
            # A poll costs the same whether it is asked for one job or for ten.
            if missing <= 0 or (self._under_way and (missing < most or self._is_much(self._asked + most))):
                return
            _ = self._start(min(missing, most), self._wait_seconds(self._patience_seconds))

    def _is_much(self, count: int) -> bool:
        """Whether so many messages, as large as the last ones, are more than is wanted here at a time."""
        return count * self._message_bytes > MOST_BYTES

    def _wait_seconds(self, patience_seconds: float) -> int:
        """How long a poll waits for a first message."""
        if self._under_way:
            longest: float = BESIDE_SECONDS
        elif self._holdings.has_heartbeats:
            longest = self._options.wait_time_seconds
        else:
            # Who is no worker may want to leave soon.
            longest = max(1.0, patience_seconds)
        # Without any wait, a few of the service's machines are asked, and again at once.
        return max(1, int(min(longest, self._options.wait_time_seconds, self._held_seconds() / _SHARE)))

    def _held_seconds(self) -> float:
        """For how long the service holds what a poll brings."""
        holdings = self._holdings
        if holdings.has_heartbeats:
            return holdings.visibility_seconds
        return self._facts.settings.visibility_timeout_seconds

    # One poll

    def _start(self, count: int, wait_seconds: int) -> asyncio.Task[None]:
        task = asyncio.create_task(self._poll(count, wait_seconds))
        self._under_way[task] = count
        self._asked += count
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._asked -= self._under_way.pop(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # What is no error of the queue's is a fault of ours, and ends whoever waits.
            self._error = error
        if not self._waiters:
            # It was nobody's any more: the next one finds out for itself.
            self._error = None
            if self._arrived:
                self._see_to_unwanted()
        for waiter in self._waiters:
            _wake(waiter)

    def _rest(self) -> None:
        """Begin no poll for a while."""
        if self._pause is None:
            self._pause = asyncio.get_running_loop().call_later(PAUSE_SECONDS, self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        for waiter in self._waiters:
            _wake(waiter)

    async def _poll(self, count: int, wait_seconds: int) -> None:
        await self._housekeeping.caught_up()
        if self.are_ended:
            return
        parameters = {
            "MaxNumberOfMessages": count,
            "WaitTimeSeconds": wait_seconds,
            "MessageAttributeNames": ["All"],
            "MessageSystemAttributeNames": list(SYSTEM_ATTRIBUTES),
        }
        held_seconds = self._held_seconds()
        if self._holdings.has_heartbeats:
            parameters["VisibilityTimeout"] = held_seconds
        began = lease_clock()
        try:
            answer = await self._calls.call("ReceiveMessage", **parameters)
        except QueueError:
            self._breadth = 1
            self._witness.poll_failed(lease_clock())
            raise
        messages = answer.get("Messages") or []
        if messages:
            deliveries, ages = await self._housekeeping.admit(messages, began, held_seconds)
            self._arrived += deliveries
            self._witness.poll_ended(began, lease_clock(), ages)
            self._message_bytes = sum([len(message["Body"]) for message in messages]) / len(messages)
        elif wait_seconds:
            self._witness.poll_ended(began, lease_clock(), ())
            if lease_clock() - began < wait_seconds / 2:
                self._rest()
        self._adapt(len(messages), count)

    def _adapt(self, got: int, count: int) -> None:
        if not got or self._housekeeping.is_behind:
            self._breadth = 1
        elif got == count:
            self._breadth = min(2 * self._breadth, MOST_CALLS)
        elif 2 * got < count:
            self._breadth = max(1, self._breadth - 1)

    # What nobody wants

    def _see_to_unwanted(self) -> None:
        if self.are_ended:
            self._put_back_unwanted()
        elif self._stale_timer is None:
            loop = asyncio.get_running_loop()
            self._stale_timer = loop.call_later(UNWANTED_SECONDS, self._put_back_unwanted)

    def _put_back_unwanted(self) -> None:
        if self._stale_timer is not None:
            self._stale_timer.cancel()
            self._stale_timer = None
        if self._waiters and not self.are_ended:
            return
        unwanted = [held for delivery in self._arrived if (held := self._holdings.get(delivery)) is not None]
        self._arrived.clear()
        if unwanted:
            task = asyncio.create_task(self._put_back(unwanted))
            self._chores.add(task)
            task.add_done_callback(self._chores.discard)

    async def _put_back(self, unwanted: list[Held]) -> None:
        try:
            await self._settling.put_back(unwanted)
        except QueueError as error:
            # They come again when their leases run out.
            log.debug("not put back queue=%s: %s", self._calls.address.name, error)
        for held in unwanted:
            self._holdings.drop(held.delivery)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
