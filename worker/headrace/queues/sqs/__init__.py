"""Queues in Amazon SQS, and wherever its protocol is spoken: standard ones, with a dead-letter queue beside each.

From the bottom up: ``place`` says where a queue is and ``capabilities`` what it can do, neither with a client library.
``rights`` knows which IAM action an operation needs, ``errors`` says in our words what the service answers. ``client``
is the port that all other rooms call the service by: ``boto`` fills it with aioboto3, ``signed`` sends what is called
for every job by hand, with the signatures of ``signing``, and leaves all else to ``boto``.
``attributes``, ``tags``, ``ownership``, ``findings`` and ``recent`` decide what becomes of a queue that is made here;
``observing``, ``changing``, ``managing``, ``adoption`` and ``removal`` do it for `SqsProvisioner` (``provisioner``).
`SqsQueue` (``queue``) is what workers and producers use, `SqsInspector` (``inspector``) what people ask.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from headrace.queues.sqs.place import parse_url

if TYPE_CHECKING:
    from headrace.queues.base import Queue
    from headrace.queues.inspection import Inspector

__all__ = ["open_inspector", "open_queue"]


def open_queue(
    url: str, queue: str, *, holder: str | None = None, failure_counts: object = None, **options: Any
) -> Queue:
    """See `headrace.queues.from_url`.

    Raises
    ------
    QueueError
        When the URL is none of SQS, names no region, or an option is out of bounds.
    """
    address = parse_url(url, **options)
    opened: Queue = _room("queue").SqsQueue(address, queue, holder=holder, failure_counts=failure_counts)
    return opened


def open_inspector(url: str, *, queue: str | None = None, **options: Any) -> Inspector:
    """See `headrace.queues.inspector_from_url`."""
    opened: Inspector = _room("inspector").SqsInspector(parse_url(url, **options), name=queue)
    return opened


def _room(name: str) -> Any:
    """Import on demand: what is known of an address and of capabilities needs no client library."""
    return importlib.import_module(f"{__name__}.{name}")
