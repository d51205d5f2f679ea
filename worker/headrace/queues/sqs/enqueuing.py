"""Enqueuing: jobs become messages here, with ids of our own."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from headrace import trace_context
from headrace.queues.capabilities import refuse_unsupported
from headrace.queues.envelope import GROWTH_BYTES, job_id, made, refuse_oversized
from headrace.queues.errors import QueueNotFoundError
from headrace.queues.sqs.capabilities import CAPABILITIES, MAX_MESSAGE_BYTES
from headrace.queues.sqs.coalescer import Coalescer
from headrace.queues.sqs.messages import Outgoing, outgoing
from headrace.queues.sqs.queue_settings import named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headrace.job import NewJob
    from headrace.queues.base import Enqueued
    from headrace.queues.sqs.calls import Calls

_CHANCE_BYTES = 10


class Enqueuing:
    """Enqueues into one queue."""

    def __init__(self, calls: Calls, name: str) -> None:
        self._calls = calls
        self._name = name
        self._coalescer = Coalescer(self._send)

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        """See `headrace.queues.base.Queue`."""
        now = datetime.now(UTC)
        refuse_unsupported(jobs, CAPABILITIES, now=now)
        if not jobs:
            return []
        return await self._coalescer.enqueue(_messages(trace_context.carried(jobs), self._name, now))

    async def flushed(self) -> None:
        """Wait until nothing is under way."""
        await self._coalescer.flushed()

    def close(self) -> None:
        """Don't wait for that."""
        self._coalescer.close()

    async def _send(self, entries: list[dict[str, Any]]) -> dict[str, Any]:
        try:
            return await self._calls.call("SendMessageBatch", Entries=entries)
        except QueueNotFoundError as error:
            raise named(error, self._calls) from None


def _messages(jobs: Sequence[NewJob], queue: str, now: datetime) -> list[Outgoing]:
    chance = os.urandom(_CHANCE_BYTES * len(jobs))
    messages = []
    for place, new in enumerate(jobs):
        ours = chance[_CHANCE_BYTES * place : _CHANCE_BYTES * (place + 1)]
        job = made(new, queue=queue, id=job_id(now, ours), now=now)
        delay_seconds = (job.run_at - now).total_seconds() if job.run_at is not now else 0.0
        message = outgoing(job, delay_seconds=delay_seconds)
        if message.size_bytes + GROWTH_BYTES > MAX_MESSAGE_BYTES:
            refuse_oversized([job], MAX_MESSAGE_BYTES)
        messages.append(message)
    return messages
