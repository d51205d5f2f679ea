"""The operator's view: how much the queues of one place hold, asked for by one client, a few queues at a time.

Each queue is a call of its own. One that is slow, denied or throttled is told as such, left alone for a while, and
costs the others nothing; a place where nobody answers at all is given up at once.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from headrace.queues.errors import CountTooSlowError, QueueError
from headrace.queues.sqs.client import open_client
from headrace.queues.sqs.counting import COUNTS, DeadLetterCount, attributes_of, depth_of
from headrace.queues.sqs.errors import SqsUnavailableError
from headrace.queues.sqs.observing import told_url

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from types import TracebackType
    from typing import Self

    from headrace.queues.base import Depth
    from headrace.queues.sqs.client import SqsClient
    from headrace.queues.sqs.place import ClientKind, Place

COUNT_SECONDS = 3.0
"""How long one queue may take: the operator counts every few seconds, and a slow answer is as good as none."""

ROUND_SECONDS = 8.0
"""How long all of them may take together."""

_AT_ONCE = 32
_GIVEN_UP_AFTER = 8
"""So many queues without an answer, and none with one: the place is away."""

_FIRST_REST_SECONDS = 5.0
_LONGEST_REST_SECONDS = 30.0
"""For so long a queue is left alone that the service refuses to count."""

_MOST_KNOWN = 10_000
"""Of so many queues is remembered what was found of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRef:
    """One queue of a place."""

    name: str
    queue_url: str | None = None
    """None: it is found by its name."""
    dead_letter_queue_url: str | None = None
    """None: it is found by the queue's redrive policy."""


@dataclass(slots=True, kw_only=True)
class _Known:
    """What is remembered of one queue."""

    queue_url: str | None
    dead_letter_queue_url: str | None
    redrive_policy: str = ""
    """As it was when the dead-letter queue was found by it."""
    dead_letters: DeadLetterCount = field(default_factory=DeadLetterCount)
    failures: int = 0
    """In a row."""
    rests_until: float = float("-inf")
    failure: QueueError | None = None
    was_asked: bool = False
    is_fine: bool = False
    """Whether it was counted when it was asked for last and an answer came."""

    def rest(self, now: float, failure: QueueError) -> None:
        """The service refuses: it would do so again."""
        self.failures += 1
        self.failure, self.is_fine = failure, False
        self.rests_until = now + min(_FIRST_REST_SECONDS * 2.0 ** min(self.failures - 1, 8), _LONGEST_REST_SECONDS)


class BacklogSession:
    """Counts queues of one place, as an async context manager.

    Parameters
    ----------
    place
        Where they are, and who asks.
    client
        Which client asks.
    clock
        Monotonic seconds. Defaults to `time.monotonic`.
    """

    def __init__(
        self, place: Place, *, client: ClientKind = "signed", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._place = place
        self._client_kind: ClientKind = client
        self._clock = clock
        self._stack = AsyncExitStack()
        self._client: SqsClient | None = None
        self._known: dict[QueueRef, _Known] = {}

    async def __aenter__(self) -> Self:
        self._client = await self._stack.enter_async_context(open_client(self._place, client=self._client_kind))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client = None
        await self._stack.aclose()

    async def depths(self, queues: Collection[QueueRef]) -> Mapping[QueueRef, Depth | QueueError]:
        """How much each of these queues holds, or why it can't be told: `CountTooSlowError` where there was no time.

        Raises
        ------
        QueueUnavailableError
            When nobody answers, whatever queue is asked for.
        """
        turns = asyncio.Semaphore(_AT_ONCE)
        asking = {asyncio.create_task(self._depth(queue, turns)): queue for queue in queues}
        found: dict[QueueRef, Depth | QueueError] = {}
        try:
            await self._gather(asking, found)
        finally:
            for task in asking:
                task.cancel()
        too_slow = CountTooSlowError(f"SQS did not answer within {ROUND_SECONDS:g} s")
        told = {queue: found.get(queue, too_slow) for queue in queues}
        silent = [answer for answer in told.values() if isinstance(answer, QueueError) and _is_silence(answer)]
        if silent and len(silent) == len(told) and not await self._does_any_other_answer(told.keys()):
            raise silent[0]
        return told

    async def _does_any_other_answer(self, queues: Collection[QueueRef]) -> bool:
        """Whether it is no matter of the place that none of these did: another queue tells, where there is one."""
        others = [queue for queue, known in self._known.items() if known.is_fine and queue not in queues]
        if not others:
            return False
        other = random.choice(others)  # noqa: S311
        return not _is_silence(await self._depth(other, asyncio.Semaphore(1)))

    async def _gather(
        self, asking: Mapping[asyncio.Task[Depth | QueueError], QueueRef], found: dict[QueueRef, Depth | QueueError]
    ) -> None:
        left = set(asking)
        until = self._clock() + ROUND_SECONDS
        is_anybody_there = False
        while left and (seconds := until - self._clock()) > 0:
            done, left = await asyncio.wait(left, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                answer = found[asking[task]] = task.result()
                is_anybody_there |= not _is_silence(answer)
            if not is_anybody_there and len(found) >= _GIVEN_UP_AFTER:
                return

    async def _depth(self, queue: QueueRef, turns: asyncio.Semaphore) -> Depth | QueueError:
        known = self._known.pop(queue, None) or _Known(
            queue_url=queue.queue_url, dead_letter_queue_url=queue.dead_letter_queue_url
        )
        self._known[queue] = known
        if len(self._known) > _MOST_KNOWN:
            del self._known[next(iter(self._known))]
        if known.failure is not None and self._clock() < known.rests_until:
            return known.failure
        async with turns:
            # What is asked for the first time has to be found, and the very first waits for credentials.
            seconds, known.was_asked = COUNT_SECONDS if known.was_asked else ROUND_SECONDS, True
            try:
                async with asyncio.timeout(seconds):
                    depth = await self._count(queue, known)
            except TimeoutError:
                return CountTooSlowError(f"SQS did not answer within {seconds:g} s")
            except QueueError as error:
                if not _is_silence(error):
                    known.rest(self._clock(), error)
                return error
        known.failures, known.failure, known.is_fine = 0, None, True
        return depth

    async def _count(self, queue: QueueRef, known: _Known) -> Depth:
        assert self._client is not None, "it is open"
        client = self._client
        if known.queue_url is None:
            known.queue_url = await _url_of(client, queue.name)
        names = (*COUNTS, "RedrivePolicy") if queue.dead_letter_queue_url is None else COUNTS
        found = await attributes_of(client, known.queue_url, *names)
        depth = depth_of(found)
        if known.redrive_policy != (policy := found.get("RedrivePolicy", "")):
            known.dead_letter_queue_url = await _dead_letter_url_of(client, policy)
            known.redrive_policy = policy
        if known.dead_letter_queue_url is None:
            return depth
        dead = await known.dead_letters.count(client, known.dead_letter_queue_url, self._clock())
        return replace(depth, dead_lettered=dead)


def _is_silence(answer: Depth | QueueError) -> bool:
    """Whether no answer came: it may be the place that is away, and not a matter of this queue's."""
    return isinstance(answer, CountTooSlowError) or (isinstance(answer, SqsUnavailableError) and answer.status is None)


async def _url_of(client: SqsClient, name: str, account: str | None = None) -> str:
    asked = {"QueueName": name} if account is None else {"QueueName": name, "QueueOwnerAWSAccountId": account}
    answer = await client.call("GetQueueUrl", asked)
    return told_url(answer)


async def _dead_letter_url_of(client: SqsClient, redrive_policy: str) -> str | None:
    """Where dead letters go by a queue's redrive policy; None where that can't be found."""
    try:
        arn = str(json.loads(redrive_policy)["deadLetterTargetArn"])
        account, name = arn.split(":")[-2:]
        return await _url_of(client, name, account)
    except (QueueError, ValueError, LookupError, TypeError):
        # The queue itself can be counted all the same.
        return None
