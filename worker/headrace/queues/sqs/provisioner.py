"""Make, adjust and remove a queue and its dead-letter queue.

The facts of `Provisioned`: ``queue_url`` and ``queue_arn``; ``dead_letter_queue_url`` and ``dead_letter_queue_arn``,
None without one; ``is_adopted``, whether the queue is one that was there already (`SqsQueueSpec.queue_url`);
``message_retention_seconds``, after which SQS drops a job; ``unsupported``, a tuple of what the endpoint does not know,
attributes by their names, or ``tags``; and ``findings``, a tuple of `Finding`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from headrace.queues.base import Provisioned
from headrace.queues.sqs import attributes as wanted
from headrace.queues.sqs import findings, removal
from headrace.queues.sqs.adoption import dead_letter_queue_of, usable
from headrace.queues.sqs.managing import ManagedQueues
from headrace.queues.sqs.observing import looked_at
from headrace.queues.sqs.recent import Recent
from headrace.queues.sqs.spec import DEAD_LETTER_SUFFIX, RETENTION_SECONDS, SqsQueueSpec, check
from headrace.queues.sqs.tags import wanted_tags

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headrace.queues.base import Owner, QueueSettings, Removed
    from headrace.queues.sqs.client import SqsClient
    from headrace.queues.sqs.observing import Observed
    from headrace.queues.sqs.spec import Finding

TAGS_SECONDS = 240.0
"""How often a queue's tags are read at the most, while nothing is to be changed. An account may make only some calls a
second about tags (https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-queue-tags.html), and
has a thousand queues; what drifts is put right within 5 minutes."""
DEAD_LETTER_TAGS_SECONDS = 1500.0
"""Likewise of a dead-letter queue's: nobody reads settings from them."""

_PLAIN = SqsQueueSpec()


class SqsProvisioner:
    """The `Provisioner` of one region, account and endpoint.

    Parameters
    ----------
    client
        Whose credentials may do what ``headrace-operator iam operator`` lists.
    region
        The region that `client` speaks to, for messages.
    recent
        What was set a short while ago and may not show yet: one for all provisioners of an endpoint. None: one of its
        own.
    progress
        Is told what may take long, in a few words.
    clock
        Seconds that only grow.
    """

    def __init__(
        self,
        client: SqsClient,
        *,
        region: str = "",
        recent: Recent | None = None,
        progress: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._region = region
        self._recent = Recent() if recent is None else recent
        self._clock = clock
        self._queues = ManagedQueues(client, self._recent, progress=progress, clock=clock)

    async def ensure(
        self,
        queue: str,
        settings: QueueSettings,
        owner: Owner,
        spec: SqsQueueSpec = _PLAIN,
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
        check(queue, spec)
        wanted.check_settings(settings)
        if spec.queue_url is not None:
            return await self._use(spec.queue_url, settings, owner, spec)
        return await self._manage(queue, settings, owner, spec, adopts_from)

    async def remove(self, queue: str, owner: Owner, spec: SqsQueueSpec = _PLAIN) -> Removed | None:
        """See `headrace.queues.base.Provisioner`: what bears this very owner's tags, and was not given by its URL."""
        now = self._clock()
        found = await removal.owned(self._client, removal.names_to_remove(queue, spec), owner, self._recent, now)
        if not found:
            return None
        removed = await removal.remove(self._client, found)
        for gone in found:
            self._recent.note_deleted(gone.url, now)
        return removed

    async def _use(self, url: str, settings: QueueSettings, owner: Owner, spec: SqsQueueSpec) -> Provisioned:
        queue = await self._usable("queue_url", url, owner, spec)
        dead_letters = None
        if spec.dead_letter_queue_url is not None:
            dead_letters = await self._usable("dead_letter_queue_url", spec.dead_letter_queue_url, owner, spec)
        elif settings.dead_letter_enabled:
            dead_letters = await dead_letter_queue_of(self._client, queue, self._recent, self._clock())
        found = [
            *findings.of_adopted(queue.name, queue.attributes, _arn(dead_letters), settings),
            *_of_dead_letters(dead_letters, queue.arn),
        ]
        return Provisioned(
            changed=False,
            details=f"queue {queue.name} is used as it is",
            facts=_facts(queue, dead_letters, found)
            | {
                "is_adopted": True,
                "message_retention_seconds": _retention_seconds(queue),
                "unsupported": (),
            },
        )

    async def _usable(self, field: str, url: str, owner: Owner, spec: SqsQueueSpec) -> Observed:
        return await usable(
            self._client,
            field,
            url,
            owner,
            region=self._region,
            needs_tag=spec.adoption_needs_tag,
            recent=self._recent,
            now=self._clock(),
        )

    async def _manage(
        self, name: str, settings: QueueSettings, owner: Owner, spec: SqsQueueSpec, adopts_from: str
    ) -> Provisioned:
        tags = wanted_tags(owner, settings, spec.tags)
        has_own = settings.dead_letter_enabled and spec.dead_letter_queue_url is None
        dead_name = name + DEAD_LETTER_SUFFIX
        # What may be somebody else's is looked at before anything is made.
        queue, dead_letters = await looked_at(
            self._queues.there(name, tags_good_for_seconds=TAGS_SECONDS),
            self._queues.there(dead_name, tags_good_for_seconds=DEAD_LETTER_TAGS_SECONDS) if has_own else _nothing(),
        )
        done = [
            f"queue {there.name} adopted"
            for there in (queue, dead_letters)
            if there is not None and not self._queues.check_owned(there, owner, adopts_from)
        ]
        if spec.dead_letter_queue_url is not None and settings.dead_letter_enabled:
            dead_letters = await self._usable("dead_letter_queue_url", spec.dead_letter_queue_url, owner, spec)
        elif has_own and dead_letters is None:
            # Whose dead letters it takes is said once there is a queue: this one comes first.
            attributes = wanted.wanted_dead_letter_queue(settings, spec, source_arn="")
            dead_letters, is_new = await self._queues.make(dead_name, attributes, tags, owner, adopts_from)
            done += [f"dead-letter queue {dead_name} made"] if is_new else []
        of_queue = wanted.wanted_queue(settings, spec, dead_letter_arn=_arn(dead_letters))
        if queue is None:
            queue, is_new = await self._queues.make(name, of_queue, tags, owner, adopts_from)
            done += [f"queue {name} made"] if is_new else []
        put_right = await self._queues.adjust(queue, of_queue, tags, owner, adopts_from)
        if has_own and dead_letters is not None:
            of_dead = wanted.wanted_dead_letter_queue(settings, spec, source_arn=queue.arn)
            put_right += await self._queues.adjust(dead_letters, of_dead, tags, owner, adopts_from)
        # Of what was just made there is nothing more to tell.
        done = done or put_right
        managed = [queue, *([dead_letters] if has_own and dead_letters is not None else [])]
        found = [*findings.of_spec(settings, spec), *(one for there in managed for one in self._of_memory(there))]
        if not has_own:
            found += _of_dead_letters(dead_letters, queue.arn)
        return Provisioned(
            changed=bool(done),
            details=", ".join(done) or f"queue {name} is as wanted",
            facts=_facts(queue, dead_letters, found)
            | {
                "is_adopted": False,
                "message_retention_seconds": RETENTION_SECONDS,
                "unsupported": tuple(
                    sorted({what for there in managed for what in self._recent.of(there.url).refused})
                ),
            },
        )

    def _of_memory(self, queue: Observed) -> list[Finding]:
        """What of a queue of ours can't be as wanted, or does not stay so."""
        memory = self._recent.of(queue.url)
        return [
            *findings.of_refusals(queue.name, memory.refused),
            *findings.of_restless(queue.name, memory.attributes.restless()),
        ]


def _retention_seconds(queue: Observed) -> int:
    """For how long it keeps jobs; what is not told is what SQS has at the most."""
    return wanted.number(queue.attributes, "MessageRetentionPeriod", RETENTION_SECONDS)


def _arn(queue: Observed | None) -> str | None:
    return None if queue is None else queue.arn


async def _nothing() -> None:
    return None


def _of_dead_letters(queue: Observed | None, source_arn: str) -> list[Finding]:
    if queue is None:
        return []
    return list(findings.of_adopted_dead_letters(queue.name, queue.attributes, source_arn))


def _facts(queue: Observed, dead_letters: Observed | None, found: Sequence[Finding]) -> dict[str, Any]:
    return {
        "queue_url": queue.url,
        "queue_arn": queue.arn,
        "dead_letter_queue_url": dead_letters and dead_letters.url,
        "dead_letter_queue_arn": _arn(dead_letters),
        "findings": tuple(found),
    }
