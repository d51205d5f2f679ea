"""Counting queues in SQS. Each count is a call that is billed, so it is said how often it may be.

The service's counts are its machines' together, and may be a minute behind: nothing counted is no proof of nothing
(https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_GetQueueAttributes.html). A job that waits
for its retry by being invisible is in flight by them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from headrace.queues.base import Depth
from headrace.queues.errors import QueueAccessError, QueueError, UnsupportedCapabilityError
from headrace.queues.sqs.calls import own_copy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from headrace.queues.base import Witnessed
    from headrace.queues.sqs.client import SqsClient

log = logging.getLogger(__name__)

DEAD_LETTERS_SECONDS = 30.0
"""How often dead letters are counted at most: nothing is scaled by them."""

COUNTS = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesDelayed",
    "ApproximateNumberOfMessagesNotVisible",
)
"""The attributes that a count reads."""


def depth_of(attributes: Mapping[str, str]) -> Depth:
    """How much a queue holds by its attributes; dead letters are counted elsewhere."""
    ready, delayed, in_flight = (max(0, int(attributes.get(name, 0))) for name in COUNTS)
    return Depth(ready=ready, delayed=delayed, in_flight=in_flight, is_approximate=True)


async def attributes_of(client: SqsClient, queue_url: str, *names: str) -> Mapping[str, str]:
    """These attributes of a queue, as far as it has them; raises `QueueError`."""
    answer = await client.call("GetQueueAttributes", {"QueueUrl": queue_url, "AttributeNames": list(names)})
    found: Mapping[str, str] = answer.get("Attributes") or {}
    return found


class DeadLetterCount:
    """How many dead letters there are: asked for at most every `DEAD_LETTERS_SECONDS`, and remembered."""

    def __init__(self) -> None:
        self.known = 0
        self._is_told = False
        self._due_at = float("-inf")

    async def count(self, client: SqsClient, queue_url: str, now: float) -> int:
        """As many as were found last. Where they can't be counted, the queue itself still can."""
        if now >= self._due_at:
            self._due_at = now + DEAD_LETTERS_SECONDS
            try:
                found = await attributes_of(client, queue_url, *COUNTS)
            except QueueError as error:
                if isinstance(error, QueueAccessError) and not self._is_told:
                    self._is_told = True
                    log.warning("dead letters can't be counted, there may be more than are told: %s", error)
                return self.known
            self._is_told = False
            depth = depth_of(found)
            self.known = depth.ready + depth.delayed + depth.in_flight
        return self.known


class Counting:
    """Counts one queue for one process, as often as it may.

    Parameters
    ----------
    client
        Gives who calls the service, and raises `QueueError` while nobody does.
    queue_url
        The queue.
    dead_letter_queue_url
        Gives where its dead letters are; None where they go nowhere, or that is not known.
    interval_seconds
        How often this process may count the queue; 0: never, since somebody else does.
    witnessed
        Tells what this process has seen of it: the service tells no ages.
    clock
        Monotonic seconds. Defaults to `time.monotonic`.
    """

    def __init__(
        self,
        client: Callable[[], SqsClient],
        queue_url: str,
        dead_letter_queue_url: Callable[[], str | None],
        *,
        interval_seconds: float,
        witnessed: Callable[[], Witnessed],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._queue_url = queue_url
        self._dead_letter_queue_url = dead_letter_queue_url
        self._interval_seconds = interval_seconds
        self._witnessed = witnessed
        self._clock = clock
        self._dead_letters = DeadLetterCount()
        self._turn = asyncio.Lock()
        self._counted: tuple[float, Depth] | None = None
        self._refused: tuple[float, QueueError] | None = None

    async def depth(self, max_age_seconds: float = 0.0) -> Depth:
        """See `headrace.queues.base.Counts`; the last count where there may be no other yet.

        Raises
        ------
        UnsupportedCapabilityError
            When this process may not count.
        QueueError
            When the service does not tell.
        """
        if not self._interval_seconds:
            raise UnsupportedCapabilityError(
                "this process does not count the queue: count_interval_seconds is 0, since somebody else counts it"
            )
        async with self._turn:
            good_for_seconds = max(self._interval_seconds, max_age_seconds)
            if self._counted is None or self._clock() - self._counted[0] >= good_for_seconds:
                self._counted = await self._counted_now()
            counted_at, depth = self._counted
        oldest_seconds = self._witnessed().oldest_age_seconds if depth.ready else 0.0
        return replace(depth, age_seconds=self._clock() - counted_at, oldest_ready_age_seconds=oldest_seconds)

    async def has_ready(self) -> bool:
        """See `headrace.queues.base.Counts`."""
        return (await self.depth()).ready > 0

    async def _counted_now(self) -> tuple[float, Depth]:
        now = self._clock()
        if self._refused is not None and now - self._refused[0] < self._interval_seconds:
            raise own_copy(self._refused[1])  # A refusal has its price, too.
        try:
            return now, await self._count()
        except QueueError as error:
            self._refused = now, error
            raise own_copy(error) from None

    async def _count(self) -> Depth:
        client = self._client()
        depth = depth_of(await attributes_of(client, self._queue_url, *COUNTS))
        dead_letter_queue_url = self._dead_letter_queue_url()
        if dead_letter_queue_url is None:
            return depth
        dead = await self._dead_letters.count(client, dead_letter_queue_url, self._clock())
        return replace(depth, dead_lettered=dead)
