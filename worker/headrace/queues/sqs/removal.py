"""Remove a queue and its dead-letter queue: what bears its owner's tags, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.queues.base import Removed
from headrace.queues.sqs.attributes import held
from headrace.queues.sqs.errors import SqsQueueNotFoundError
from headrace.queues.sqs.observing import find, look, looked_at
from headrace.queues.sqs.spec import DEAD_LETTER_SUFFIX
from headrace.queues.sqs.tags import owner_in

if TYPE_CHECKING:
    from headrace.queues.base import Owner
    from headrace.queues.sqs.client import SqsClient
    from headrace.queues.sqs.observing import Observed
    from headrace.queues.sqs.recent import Recent
    from headrace.queues.sqs.spec import SqsQueueSpec


def names_to_remove(queue: str, spec: SqsQueueSpec) -> list[str]:
    """The queues that may have been made; the queue first, so that nothing is sent to a dead-letter queue that is gone.

    A dead-letter queue of ours that another has taken the place of is among them, and one that is used by its URL is
    not. Pure.
    """
    if spec.queue_url is not None:
        return []
    dead = queue + DEAD_LETTER_SUFFIX
    is_used = spec.dead_letter_queue_url is not None and spec.dead_letter_queue_url.endswith(f"/{dead}")
    return [queue, *([] if is_used else [dead])]


async def owned(client: SqsClient, names: list[str], owner: Owner, recent: Recent, now: float) -> list[Observed]:
    """Those of the queues that are there and bear the tags of this very owner."""
    found = await looked_at(*(_found(client, name, recent, now) for name in names))
    return [queue for queue in found if queue is not None and owner_in(queue.tags or {}) == owner]


async def _found(client: SqsClient, name: str, recent: Recent, now: float) -> Observed | None:
    url = await find(client, name)
    return None if url is None or recent.is_going(url, now) else await look(client, name, url, recent, now=now)


async def remove(client: SqsClient, queues: list[Observed]) -> Removed:
    """Remove these, with all that is in them. Safe to repeat when it was interrupted.

    What they hold is SQS's own count of a moment ago.
    """
    jobs = 0
    for queue in queues:
        jobs += held(queue.attributes)
        try:
            await client.call("DeleteQueue", {"QueueUrl": queue.url})
        except SqsQueueNotFoundError:
            continue
    return Removed(jobs=jobs)
