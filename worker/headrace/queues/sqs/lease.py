"""Keeping what is held: a lease a job, extended ten at a time once half of it is over.

The service holds a message for `VISIBILITY_SECONDS` from each extension. A heartbeat leaves none with less than half of
that where it can, and tells as lost what it could not extend down to `LEASE_SECONDS`: so what is not told can be relied
on for that long, though no heartbeat should get through any more. Between the two there is time to try again.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from headrace.queues.base import KeptAlive
from headrace.queues.clock import lease_clock
from headrace.queues.errors import LeaseLostError, QueueError
from headrace.queues.sqs.calls import is_answer, is_lost, own_copy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headrace.queues.sqs.calls import Calls
    from headrace.queues.sqs.holdings import Held, Holdings
    from headrace.queues.sqs.queue_settings import KnownQueue

LEASE_SECONDS = 24.0
"""How long what is held can be relied on after a heartbeat."""

VISIBILITY_SECONDS = 60
"""How long the service holds it: a dead worker's jobs start again within that."""

_SHARE = VISIBILITY_SECONDS / LEASE_SECONDS


def visibility_of(lease_seconds: float) -> int:
    """For how many seconds the service is to hold what can be relied on for so long."""
    return math.ceil(lease_seconds * _SHARE)


class HeartbeatLease:
    """Extends what one queue object holds."""

    def __init__(self, calls: Calls, facts: KnownQueue, holdings: Holdings) -> None:
        self._calls = calls
        self._facts = facts
        self._holdings = holdings
        self._extending: dict[str, asyncio.Future[None]] = {}

    async def keep_alive(self) -> KeptAlive:
        """See `headrace.queues.base.Queue`. Where nothing is due, it calls nobody."""
        holdings = self._holdings
        if not holdings.has_heartbeats:
            holdings.has_heartbeats = True
            self._facts.tell_worker()
        due = holdings.due(lease_clock())
        gone: list[Held] = []
        if due:
            gone = await self._extend(due)
        elif self._calls.trouble is not None:
            # Nobody would find out that it is over.
            await self._facts.look_up()
        return KeptAlive(lost=holdings.lost(lease_clock(), gone))

    @property
    def is_extending(self) -> bool:
        """Whether anything is being extended."""
        return bool(self._extending)

    async def extended(self, held: Sequence[Held]) -> None:
        """Wait until none of these is being extended."""
        if waiting := {future for each in held if (future := self._extending.get(each.delivery.receipt)) is not None}:
            await asyncio.wait(waiting)

    async def keep_alive_aside(self) -> None:
        """See `headrace.queues.base.KeepsAliveAside`."""
        holdings, now = self._holdings, lease_clock()
        if len(holdings) and all(held.expires_at <= now for held in holdings):
            raise LeaseLostError("all that was held has run out before this heartbeat from beside the event loop")
        due = holdings.due(now, beside=True)
        if not due:
            return
        calls = self._calls.beside()
        await calls.open()
        try:
            errors = await _extend(calls, holdings, due)
        finally:
            await calls.close()
        unextended = [error for error in errors if error is not None and not is_lost(error)]
        if unextended:
            # What is lost the next heartbeat says; of what may be, nobody can rely on.
            raise unextended[0]

    async def _extend(self, due: Sequence[Held]) -> list[Held]:
        """Extend these; gives those that are ours no more. Raises where nothing had an answer."""
        ended = asyncio.get_running_loop().create_future()
        for held in due:
            held.use = "extending"
            self._extending[held.delivery.receipt] = ended
        try:
            errors = await _extend(self._calls, self._holdings, due)
        finally:
            for held in due:
                if held.use == "extending":  # Else somebody waits to settle it.
                    held.use = None
                self._extending.pop(held.delivery.receipt, None)
            ended.set_result(None)
        unanswered = [error for error in errors if error is not None and not is_answer(error)]
        if len(unanswered) == len(errors):
            raise own_copy(unanswered[0])
        return [held for held, error in zip(due, errors, strict=True) if is_lost(error)]


async def _extend(calls: Calls, holdings: Holdings, due: Sequence[Held]) -> list[QueueError | None]:
    now = lease_clock()
    seconds = [holdings.extension(held, now) for held in due]
    entries = [
        {"ReceiptHandle": held.delivery.receipt, "VisibilityTimeout": each}
        for held, each in zip(due, seconds, strict=True)
    ]
    errors = await calls.in_tens("ChangeMessageVisibilityBatch", entries, is_urgent=True)
    for held, each, error in zip(due, seconds, errors, strict=True):
        if error is None:
            holdings.extended(held, now + each)
    return errors
