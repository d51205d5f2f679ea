"""The verbs of a queue as tests say them: one settlement a delivery."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from headrace.queues.base import Counts
from headrace.queues.settlement import Complete, DeadLetter, Discard, Failure, Release, Retry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headrace.job import NewJob
    from headrace.queues.base import Delivery, Depth, Queue
    from headrace.queues.settlement import Settled


async def enqueue(queue: Queue, jobs: Sequence[NewJob]) -> list[str]:
    """Enqueue, and give the ids."""
    return [enqueued.id for enqueued in await queue.enqueue(jobs)]


async def complete(queue: Queue, deliveries: Sequence[Delivery]) -> Settled:
    return await queue.settle([Complete(delivery=delivery) for delivery in deliveries])


async def retry(
    queue: Queue, delivery: Delivery, *, delay_seconds: float = 0.0, error: str = "boom", traceback: str | None = None
) -> Settled:
    failure = Failure(error=error, traceback=traceback)
    return await queue.settle([Retry(delivery=delivery, delay_seconds=delay_seconds, failure=failure)])


async def release(queue: Queue, deliveries: Sequence[Delivery], *, delay_seconds: float = 0.0) -> Settled:
    return await queue.settle([Release(delivery=delivery, delay_seconds=delay_seconds) for delivery in deliveries])


async def dead_letter(
    queue: Queue, delivery: Delivery, *, reason: str, error: str | None = None, traceback: str | None = None
) -> Settled:
    failure = None if error is None else Failure(error=error, traceback=traceback)
    return await queue.settle([DeadLetter(delivery=delivery, reason=reason, failure=failure)])


async def discard(queue: Queue, delivery: Delivery) -> Settled:
    return await queue.settle([Discard(delivery=delivery)])


async def standing(queue: Queue) -> Depth:
    """How many jobs stand where, without times and totals."""
    assert isinstance(queue, Counts)
    return replace(await queue.depth(), counted_at=None, age_seconds=0.0, totals=None)
