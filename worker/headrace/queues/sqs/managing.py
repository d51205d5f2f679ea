"""The queues that are ours: make them, put them right, and see that they are nobody else's."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from headrace.queues.sqs import attributes as wanted
from headrace.queues.sqs.changing import create, set_attributes, set_tags
from headrace.queues.sqs.errors import QueueDeletedRecentlyError, SqsError
from headrace.queues.sqs.observing import find, look, look_at_tags
from headrace.queues.sqs.ownership import check_owned
from headrace.queues.sqs.place import QUEUE_DELETED_SECONDS
from headrace.queues.sqs.tags import TagChanges, owner_in, tag_changes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from headrace.queues.base import Owner
    from headrace.queues.sqs.client import SqsClient
    from headrace.queues.sqs.observing import Observed
    from headrace.queues.sqs.recent import Recent

# A queue can be used a second after it was made: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_CreateQueue.html
_PAUSES_SECONDS = (0.2, 0.5, 1.0, 2.0)


class ManagedQueues:
    """Queues by their names, of one place. See `headrace.queues.sqs.provisioner`."""

    def __init__(
        self, client: SqsClient, recent: Recent, *, progress: Callable[[str], None], clock: Callable[[], float]
    ) -> None:
        self._client = client
        self._recent = recent
        self._progress = progress
        self._clock = clock

    def check_owned(self, queue: Observed, owner: Owner, adopts_from: str) -> bool:
        """Whether it is this owner's; raises where it can't become so."""
        if queue.tags is None:
            # Nothing can prove it, and a finding says so.
            return True
        told = queue.tags
        if owner_in(told) is None:
            # They may be on their way: a rival's would be seen.
            told = self._recent.of(queue.url).tags.overlaid(told, self._clock())
        return check_owned(queue.name, told, owner, adopts_from=adopts_from)

    async def there(self, name: str, *, tags_good_for_seconds: float) -> Observed | None:
        """The queue of this name, whosoever it is; with tags that may be so old."""
        url = await find(self._client, name)
        now = self._clock()
        if url is None or self._recent.is_going(url, now):
            return None
        return await look(self._client, name, url, self._recent, now=now, tags_good_for_seconds=tags_good_for_seconds)

    async def make(
        self, name: str, attributes: Mapping[str, str], tags: Mapping[str, str], owner: Owner, adopts_from: str
    ) -> tuple[Observed, bool]:
        """Make a queue, or find the one that somebody else has made meanwhile: gives whether it is new."""
        now = self._clock()
        try:
            made = await create(self._client, name, wanted.to_create(attributes), tags)
        except QueueDeletedRecentlyError as error:
            raise self._told_when(name, error) from None
        if made is None:
            queue = await self._shown(name)
            self.check_owned(queue, owner, adopts_from)
            return queue, False
        url, sent = made
        self._recent.note_made(url)
        memory = self._recent.of(url)
        memory.tags.note(tags, now)
        queue = await self._shown(name)
        if queue.tags == {}:
            # They are on their way, or the endpoint leaves them out where it makes queues.
            await set_tags(self._client, queue.url, tag_changes({}, tags), memory, now)
        self.check_owned(queue, owner, adopts_from)
        key = {"KmsMasterKeyId": sent.pop("KmsMasterKeyId")} if "KmsMasterKeyId" in sent else {}
        memory.attributes.note(sent, now)
        if not key.items() <= queue.attributes.items():
            # Where an endpoint leaves it out in silence it refuses it alone: no job is to be stored in the clear.
            await set_attributes(self._client, queue.url, key, memory, now)
        return queue, True

    async def _shown(self, name: str) -> Observed:
        """What was just made, once it can be seen."""
        for pause_seconds in (*_PAUSES_SECONDS, None):
            url = await find(self._client, name)
            queue = None if url is None else await look(self._client, name, url, self._recent, now=self._clock())
            if queue is not None:
                return queue
            if pause_seconds is not None:
                self._progress(f"waiting for queue {name}, which was just made, to be seen")
                await asyncio.sleep(pause_seconds)
        raise SqsError(
            f"queue {name} is there by CreateQueue and not by GetQueueUrl: either it shows in a moment, or the "
            "credentials may not call sqs:GetQueueUrl and sqs:GetQueueAttributes on it"
        )

    def _told_when(self, name: str, error: QueueDeletedRecentlyError) -> QueueDeletedRecentlyError:
        """With the time that is left, as far as this process can know it."""
        left = max(1.0, self._recent.seconds_until_free(name, self._clock()))
        told = QueueDeletedRecentlyError(
            f"queue {name} was deleted less than {QUEUE_DELETED_SECONDS:g} s ago, and SQS keeps its name for so long, "
            f"which is {left:.0f} s more",
            code=error.code,
            status=error.status,
            operation=error.operation,
        )
        told.retry_after_seconds = left
        return told

    async def adjust(
        self,
        queue: Observed,
        attributes: Mapping[str, str],
        tags: Mapping[str, str],
        owner: Owner,
        adopts_from: str,
    ) -> list[str]:
        """Set what is otherwise than wanted; gives what was done."""
        memory, now = self._recent.of(queue.url), self._clock()
        differing = self._differing(queue, attributes)
        drifted = {name for name, value in differing.items() if memory.attributes.was_set_to(name, value)}
        if queue.are_tags_remembered and (differing or self._differing_tags(queue, tags)):
            # Nothing is changed that may be somebody else's by now.
            queue = await look_at_tags(self._client, queue, self._recent, now=now)
            self.check_owned(queue, owner, adopts_from)
        changed = await set_attributes(self._client, queue.url, differing, memory, now)
        told = await set_tags(self._client, queue.url, self._differing_tags(queue, tags), memory, now)
        return [
            *_listed([name for name in changed if name not in drifted], f"of queue {queue.name} set"),
            *_listed(
                [name for name in changed if name in drifted],
                f"of queue {queue.name} put right, which something else had changed",
            ),
            *([f"tags of queue {queue.name} set ({', '.join(told)})"] if told else []),
        ]

    def _differing(self, queue: Observed, attributes: Mapping[str, str]) -> dict[str, str]:
        """What must be set, but for what may not show yet, and for what the endpoint does not know."""
        memory = self._recent.of(queue.url)
        for name in attributes.keys() - wanted.changes(queue.attributes, attributes).keys():
            memory.attributes.confirm(name)
        differing = wanted.changes(memory.attributes.overlaid(queue.attributes, self._clock()), attributes)
        unknown = (wanted.ALWAYS_SHOWN | wanted.OPTIONAL) - queue.attributes.keys()
        for name in differing.keys() & unknown:
            if memory.attributes.was_never_seen(name):
                # Accepted, and not kept.
                memory.refuse(name, differing[name])
        return {name: value for name, value in differing.items() if not memory.refuses(name, value)}

    def _differing_tags(self, queue: Observed, tags: Mapping[str, str]) -> TagChanges:
        if queue.tags is None:
            return TagChanges(tag={}, untag=())
        return tag_changes(self._recent.of(queue.url).tags.overlaid(queue.tags, self._clock()), tags)


def _listed(names: Sequence[str], what: str) -> list[str]:
    return [f"{', '.join(names)} {what}"] if names else []
