"""The service as one queue object calls it: its client while it is open, batches of ten, and whether it answers."""

from __future__ import annotations

import asyncio
import copy
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from headrace.queues.errors import QueueAccessError, QueueError, QueueNotFoundError, QueueUnavailableError
from headrace.queues.sqs.client import open_client, shared_client
from headrace.queues.sqs.errors import InFlightLimitError, SqsError, SqsUnavailableError, ThrottledError, translated
from headrace.queues.sqs.place import MAX_MESSAGES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from headrace.queues.sqs.client import SqsClient
    from headrace.queues.sqs.place import SqsAddress

UNTOLD = "Untold"
"""Our own code for a message that an answer to a batch does not mention."""

MOST_CALLS = 16
"""So many batches of one queue object are under way at a time: with calls of 10 ms, 16,000 jobs a second."""

# What the service says of a receipt that is none any more, or whose message is in flight no more.
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ChangeMessageVisibility.html#API_ChangeMessageVisibility_Errors
_LOST = frozenset({"ReceiptHandleIsInvalid", "MessageNotInflight", "MessageNotInFlight"})
_LOST_WORDS = ("not available for visibility timeout change", "does not exist", "receipt handle has expired")


class Calls:
    """Calls the service for one queue object.

    Parameters
    ----------
    address
        Which queue, and by which client.
    """

    def __init__(self, address: SqsAddress) -> None:
        self.address = address
        self.url = address.queue_url
        self.trouble: QueueError | None = None
        """What went wrong with the last call about the queue as a whole; None while it answers."""
        self._client: SqsClient | None = None
        self._stack = AsyncExitStack()
        self._turns = asyncio.Semaphore(MOST_CALLS)
        self._urgent_turns = asyncio.Semaphore(MOST_CALLS)

    async def open(self) -> None:
        """Have a client, shared with other queues of this place."""
        kind = self.address.options.client
        self._client = await self._stack.enter_async_context(shared_client(self.address.place, client=kind))

    async def close(self) -> None:
        """Leave it to others."""
        self._client = None
        await self._stack.aclose()

    @property
    def client(self) -> SqsClient:
        """Who calls, while it is open."""
        if self._client is None:
            raise QueueError("the queue is not open: use it within `async with`")
        return self._client

    async def call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Call an operation on the queue; raises as `SqsClient.call`."""
        try:
            answer = await self.client.call(operation, {"QueueUrl": self.url, **parameters})
        except (ThrottledError, InFlightLimitError):
            # It answers, and wants to be asked less.
            self.trouble = None
            raise
        except (QueueUnavailableError, QueueAccessError, QueueNotFoundError) as error:
            self.trouble = error
            raise
        self.trouble = None
        return answer

    async def in_tens(
        self, operation: str, entries: Sequence[dict[str, Any]], *, url: str | None = None, is_urgent: bool = False
    ) -> list[QueueError | None]:
        """Call a batch operation for all entries, ten at a time, several calls at once.

        Parameters
        ----------
        operation
            Such as ``DeleteMessageBatch``.
        entries
            As it takes them; their ``Id`` is set here.
        url
            Another queue's. Defaults to this one's.
        is_urgent
            Whether it waits for nothing that is not: leases run out behind a thousand slow deletes.

        Returns
        -------
        list[QueueError | None]
            What became of each, in order: None where it was done. Nothing is raised: a call that fails is what became
            of all its entries.
        """
        if len(entries) <= MAX_MESSAGES:
            return await self.ten(operation, entries, url=url, is_urgent=is_urgent)
        tens = await asyncio.gather(*[self.ten(operation, ten, url=url, is_urgent=is_urgent) for ten in _tens(entries)])
        return [outcome for ten in tens for outcome in ten]

    async def ten(
        self, operation: str, entries: Sequence[dict[str, Any]], *, url: str | None = None, is_urgent: bool = False
    ) -> list[QueueError | None]:
        """One batch; as `in_tens`."""
        if not entries:
            return []
        for place, entry in enumerate(entries):
            entry["Id"] = str(place)
        try:
            async with self._urgent_turns if is_urgent else self._turns:
                if url is None or url == self.url:
                    answer = await self.call(operation, Entries=entries)
                else:
                    # Another queue's trouble is not this one's.
                    answer = await self._of(url, operation, entries)
        except QueueError as error:
            return [error] * len(entries)
        return outcomes(operation, answer, len(entries))

    async def _of(self, url: str, operation: str, entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return await self.client.call(operation, {"QueueUrl": url, "Entries": entries})

    def beside(self) -> CallsBeside:
        """The same queue by a client of one's own, for another thread's event loop."""
        return CallsBeside(self.address)


class CallsBeside(Calls):
    """The same, by a client that nobody else uses."""

    async def open(self) -> None:
        """Have a client of one's own."""
        kind = self.address.options.client
        self._client = await self._stack.enter_async_context(open_client(self.address.place, client=kind))


def outcomes(operation: str, answer: dict[str, Any], count: int) -> list[QueueError | None]:
    """What a batch call's answer says of each of so many entries, whose ids are their places."""
    failed = answer.get("Failed")
    done = answer.get("Successful") or ()
    if not failed and len(done) == count:
        return [None] * count
    told: list[QueueError | None] = [
        SqsUnavailableError(f"{operation}: the answer says nothing of this message", code=UNTOLD, operation=operation)
    ] * count
    places = {str(place): place for place in range(count)}
    for success in done:
        if (place := places.get(success.get("Id"))) is not None:
            told[place] = None
    for failure in failed or ():
        if (place := places.get(failure.get("Id"))) is not None:
            told[place] = _failure(operation, failure)
    return told


def own_copy(error: QueueError) -> QueueError:
    """An error for one more caller: its traceback grows as it is raised."""
    return copy.copy(error)


def may_help_again(error: QueueError | None) -> bool:
    """Whether it is worth trying again, without anybody mending anything."""
    return isinstance(error, QueueUnavailableError)


def is_answer(error: QueueError | None) -> bool:
    """Whether it is what an answer says of one message, and not what became of the whole call."""
    return isinstance(error, SqsError) and bool(error.code) and error.status is None


def is_lost(error: QueueError | None) -> bool:
    """Whether it says that a receipt is worth nothing any more."""
    if not isinstance(error, SqsError):
        return False
    return error.code in _LOST or (
        error.code == "InvalidParameterValue" and any(words in str(error) for words in _LOST_WORDS)
    )


def _failure(operation: str, failure: dict[str, Any]) -> QueueError:
    code, message = failure.get("Code", ""), failure.get("Message") or ""
    error = translated(code, message, operation=operation)
    if not failure.get("SenderFault") and type(error) is SqsError and not is_lost(error):
        return SqsUnavailableError(f"{operation} of SQS failed ({code}): {message}", code=code, operation=operation)
    return error


def _tens(entries: Sequence[dict[str, Any]]) -> Iterator[Sequence[dict[str, Any]]]:
    return (entries[start : start + MAX_MESSAGES] for start in range(0, len(entries), MAX_MESSAGES))
