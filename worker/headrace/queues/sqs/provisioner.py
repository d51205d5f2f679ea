"""Make, adjust and remove a queue and its dead-letter queue.

The facts of `Provisioned`: ``queue_url`` and ``queue_arn``; ``dead_letter_queue_url`` and ``dead_letter_queue_arn``,
None without one; ``is_adopted``, whether the queue is one that was there already (`SqsQueueSpec.queue_url`); and
``findings``, a tuple of `Finding`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from headrace.queues.sqs.recent import Recent
from headrace.queues.sqs.spec import SqsQueueSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from headrace.queues.base import Owner, Provisioned, QueueSettings, Removed


class SqsProvisioner:
    """The `Provisioner` of one region, account and endpoint.

    Parameters
    ----------
    client
        Whose credentials may do what ``headrace-operator iam operator`` lists.
    region
        The region that `client` speaks to, for messages.
    recent
        What was set a short while ago and may not show yet: one for all provisioners of a process. None: one of its
        own.
    progress
        Is told what may take long, in a few words.
    clock
        Seconds that only grow.
    """

    def __init__(
        self,
        client: Any,
        *,
        region: str = "",
        recent: Recent | None = None,
        progress: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._region = region
        self._recent = recent or Recent()
        self._progress = progress
        self._clock = clock

    async def ensure(
        self,
        queue: str,
        settings: QueueSettings,
        owner: Owner,
        spec: SqsQueueSpec = SqsQueueSpec(),  # noqa: B008 - a frozen value
        *,
        adopts_from: str = "",
    ) -> Provisioned:
        """See `headrace.queues.base.Provisioner`.

        Parameters
        ----------
        queue
            The queue's name in SQS; the dead-letter queue's has ``-dead`` behind it.
        spec
            What else it is to be.
        adopts_from
            The uid of an owner of the same name in another cluster, from which it is taken over.

        Raises
        ------
        SqsSpecError
            When what is asked for can't be; ``field`` says which field.
        PlaceTakenError
            When a queue of this name belongs to somebody else, or to nobody; the message has the ways out.
        QueueNotFoundError
            When the queue to use by its URL is not there.
        QueueError
            As `headrace.queues.sqs.errors` has them.
        """
        raise NotImplementedError

    async def remove(self, queue: str, owner: Owner, spec: SqsQueueSpec = SqsQueueSpec()) -> Removed | None:  # noqa: B008
        """See `headrace.queues.base.Provisioner`: what bears this very owner's tags, and was not given by its URL."""
        raise NotImplementedError
