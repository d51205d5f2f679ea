"""Going through a dead-letter queue once.

SQS can show a message only by receiving it, and gives it to nobody else meanwhile. So a walk hides what it has seen
until it ends, since it would meet the same letters again and again, and then lets all of it go at once. Killed before
that, what it hid is back within `HOLD_SECONDS`. Its receives count against no limit: a dead-letter queue has no redrive
policy.

What comes after it has begun is left alone: a job that is put back and dies again would be put back for ever, and one
that nobody has seen yet would be purged.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from headrace.queues.errors import QueueError
from headrace.queues.sqs.place import MAX_MESSAGES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from headrace.queues.sqs.calls import Calls

log = logging.getLogger(__name__)

HOLD_SECONDS = 600

MOST_HELD = 100_000
"""The service lets 120,000 be in flight, and others may look as well."""

_MOST_AT_ONCE = 8
"""So many receives at a time: a queue of a million takes some minutes."""

# A look that waits asks all machines of the service: it comes back empty only where there is nothing to see.
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-short-and-long-polling.html
_WAIT_SECONDS = 1

# Where looks bring only what was seen before, so many in a row say that there is nothing else.
_LAST_LOOKS = 3


class TooManyLettersError(QueueError):
    """More dead letters are there than can be looked at in one go."""


class Walk:
    """A walk through one dead-letter queue. Use it as an async context manager: at its end all is visible again.

    Parameters
    ----------
    calls
        By which the service is called, open.
    url
        The dead-letter queue's.
    """

    def __init__(self, calls: Calls, url: str) -> None:
        self._calls = calls
        self._url = url
        self._receipts: dict[str, str] = {}
        """Of what it hides, by the message's id."""
        self._looks: set[asyncio.Task[list[dict[str, Any]]]] = set()
        self._at_once = 1
        self._until_ms: float | None = None
        """What was sent later, by the service's clock, came later than the walk."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._looks:
            # What they bring would be hidden without anybody's knowing.
            await asyncio.wait(self._looks)
            self._note(self._looks)
        entries = [{"ReceiptHandle": receipt, "VisibilityTimeout": 0} for receipt in self._receipts.values()]
        outcomes = await self._calls.in_tens("ChangeMessageVisibilityBatch", entries, url=self._url)
        failed = [outcome for outcome in outcomes if outcome is not None]
        if failed:
            log.warning(
                "%s dead letters that were looked at stay hidden for up to %s s: %s",
                len(failed),
                HOLD_SECONDS,
                failed[0],
            )

    async def more(self, most: int) -> list[dict[str, Any]]:
        """Letters that were not seen before, some at a time; none where there are no others.

        Parameters
        ----------
        most
            How many at the most.

        Raises
        ------
        TooManyLettersError
            When as many are hidden as may be.
        QueueError
            What went wrong with a look.
        """
        if len(self._receipts) > MOST_HELD:
            raise TooManyLettersError(
                f"more than {MOST_HELD} dead letters were looked at and left: SQS lets nobody see more at once"
            )
        for _ in range(_LAST_LOOKS):
            wanted = [min(MAX_MESSAGES, most - start) for start in range(0, most, MAX_MESSAGES)][: self._at_once]
            self._looks = {asyncio.create_task(self._look(number)) for number in wanted}
            await asyncio.wait(self._looks)
            looks, self._looks = self._looks, set()
            brought, unseen = self._note(looks)
            if self._until_ms is None and brought:
                self._until_ms = _now_ms(unseen)
            unseen = [message for message in unseen if _sent_ms(message) <= (self._until_ms or 0)]
            for look in looks:
                if (error := look.exception()) is not None:
                    raise error
            # A look brings fewer than there are, as often as not.
            self._at_once = min(2 * self._at_once, _MOST_AT_ONCE) if 2 * brought >= sum(wanted) else 1
            if unseen or not brought:
                return unseen
        return []

    async def delete(self, message_ids: Sequence[str]) -> list[QueueError | None]:
        """Delete letters that it has shown, for good; what became of each."""
        entries = [{"ReceiptHandle": self._receipts[message_id]} for message_id in message_ids]
        outcomes = await self._calls.in_tens("DeleteMessageBatch", entries, url=self._url)
        for message_id, outcome in zip(message_ids, outcomes, strict=True):
            if outcome is None:
                del self._receipts[message_id]
        return outcomes

    async def _look(self, number: int) -> list[dict[str, Any]]:
        answer = await self._calls.call(
            "ReceiveMessage",
            QueueUrl=self._url,
            MaxNumberOfMessages=number,
            VisibilityTimeout=HOLD_SECONDS,
            WaitTimeSeconds=_WAIT_SECONDS,
            AttributeNames=["All"],
            MessageAttributeNames=["All"],
        )
        found: list[dict[str, Any]] = answer.get("Messages") or []
        return found

    def _note(self, looks: Iterable[asyncio.Task[list[dict[str, Any]]]]) -> tuple[int, list[dict[str, Any]]]:
        """How many were brought, and those that were not seen before; all of it is hidden now."""
        brought, unseen = 0, []
        for look in looks:
            if look.exception() is not None:
                continue
            for message in look.result():
                brought += 1
                if message["MessageId"] not in self._receipts:
                    unseen.append(message)
                self._receipts[message["MessageId"]] = message["ReceiptHandle"]
        return brought, unseen


def _sent_ms(message: Mapping[str, Any]) -> int:
    return int(message.get("Attributes", {}).get("SentTimestamp", 0))


def _now_ms(messages: Sequence[Mapping[str, Any]]) -> float:
    """The service's time, by messages that it has just given; else the time here, but no earlier than what was sent."""
    first = [
        int(message.get("Attributes", {}).get("ApproximateFirstReceiveTimestamp", 0))
        for message in messages
        if message.get("Attributes", {}).get("ApproximateReceiveCount") == "1"
    ]
    return max(first) if any(first) else max(time.time() * 1000, *(_sent_ms(message) for message in messages))
