"""Deleting messages; and first sending what takes their place: whoever dies in between leaves two, never none."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

from headrace.queues.clock import lease_clock
from headrace.queues.sqs.calls import is_lost
from headrace.queues.sqs.capabilities import MAX_MESSAGE_BYTES
from headrace.queues.sqs.place import MAX_MESSAGES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from headrace.queues.errors import QueueError
    from headrace.queues.settlement import Settlement
    from headrace.queues.sqs.calls import Calls
    from headrace.queues.sqs.holdings import Held
    from headrace.queues.sqs.messages import Outgoing


class Case(NamedTuple):
    """A settlement, and what it is about."""

    settlement: Settlement
    held: Held


class Replacing:
    """Deletes messages that one queue object holds. What went wrong is told by receipt."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def delete(self, cases: Sequence[Case]) -> dict[str, QueueError]:
        """Delete these."""
        if not cases:
            return {}
        entries: list[dict[str, Any]] = [{"ReceiptHandle": held.delivery.receipt} for _, held in cases]
        told = await self._calls.in_tens("DeleteMessageBatch", entries)
        now = lease_clock()
        return {
            held.delivery.receipt: error
            for (_, held), error in zip(cases, told, strict=True)
            # A message that is ours and is not there was deleted before, by a call whose answer was lost.
            if error is not None and not (is_lost(error) and now < held.expires_at)
        }

    async def replace(self, cases: Sequence[Case], letters: Sequence[Outgoing], url: str) -> dict[str, QueueError]:
        """Send one for each of these to a queue, and delete those for which that was done."""
        errors: dict[str, QueueError] = {}
        batches = list(_by_size(letters))
        told = await asyncio.gather(
            *[
                self._calls.ten("SendMessageBatch", [letters[place].entry for place in batch], url=url)
                for batch in batches
            ]
        )
        for batch, outcomes in zip(batches, told, strict=True):
            for place, error in zip(batch, outcomes, strict=True):
                held = cases[place].held
                if error is None:
                    held.is_sent = True
                else:
                    errors[held.delivery.receipt] = error
        return errors | await self.delete([case for case in cases if case.held.is_sent])


def _by_size(letters: Sequence[Outgoing]) -> Iterator[list[int]]:
    """The places of those that fit into one call."""
    batch: list[int] = []
    size = 0
    for place, letter in enumerate(letters):
        if batch and (len(batch) == MAX_MESSAGES or size + letter.size_bytes > MAX_MESSAGE_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(place)
        size += letter.size_bytes
    if batch:
        yield batch
