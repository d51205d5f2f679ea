"""Receiving: what polls have brought, and waiting for it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headrace.queues.base import Delivery
    from headrace.queues.sqs.polls import QueuePolls


class Receiving:
    """Receives for one queue object; several calls at once share its polls."""

    def __init__(self, polls: QueuePolls) -> None:
        self._polls = polls

    async def receive(self, limit: int, *, wait_seconds: float, stop: asyncio.Event | None) -> list[Delivery]:
        """See `headrace.queues.base.Queue`."""
        polls = self._polls
        if limit <= 0:
            return []
        if deliveries := polls.take(limit):
            self._go_on(limit - len(deliveries), stop)
            return deliveries
        clock = asyncio.get_running_loop().time
        deadline = clock() + wait_seconds
        if wait_seconds <= 0:
            await polls.look(limit)
            return polls.take(limit)
        while not deliveries:
            remaining = deadline - clock()
            if remaining <= 0 or polls.are_ended or (stop is not None and stop.is_set()):
                break
            await self._wait(limit, remaining, stop)
            deliveries = polls.take(limit)
            if not deliveries:
                polls.raise_error()
        if deliveries:
            self._go_on(limit - len(deliveries), stop)
        return deliveries

    def _go_on(self, limit: int, stop: asyncio.Event | None) -> None:
        if stop is None or not stop.is_set():
            self._polls.go_on(limit)

    async def _wait(self, limit: int, seconds: float, stop: asyncio.Event | None) -> None:
        """Until a poll has ended, the time is over, or the caller is told to stop."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()

        def wake(_: object = None) -> None:
            if not waiter.done():
                waiter.set_result(None)

        timer = loop.call_later(seconds, wake)
        stopping = None if stop is None else asyncio.ensure_future(stop.wait())
        if stopping is not None:
            stopping.add_done_callback(wake)
        self._polls.want(waiter, limit, patience_seconds=seconds)
        try:
            await waiter
        finally:
            self._polls.unwant(waiter)
            timer.cancel()
            if stopping is not None:
                stopping.cancel()
