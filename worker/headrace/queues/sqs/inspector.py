"""What people ask of one queue in SQS. It shows no single jobs but dead ones, and can't be paused."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, get_args

from headrace.queues.errors import QueueAccessError, QueueError, QueueNotFoundError
from headrace.queues.inspection import FilterField, QueueRecord
from headrace.queues.sqs.calls import Calls
from headrace.queues.sqs.counting import COUNTS, depth_of
from headrace.queues.sqs.queue_settings import KnownQueue
from headrace.queues.sqs.redrive import LetterBox
from headrace.queues.sqs.tags import MAX_RETRIES, owner_in

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

    from headrace.queues.base import Depth, QueueSettings
    from headrace.queues.inspection import Change, JobFilter, JobRecord, Purge, Redrive
    from headrace.queues.sqs.place import SqsAddress

log = logging.getLogger(__name__)

_RETENTION = "MessageRetentionPeriod"
_DAY_SECONDS = 86_400

# Of a queue without our tags: they are in the settings of its workers, whatever these are.
_UNTAGGED = frozenset({"max_retries", "message_retention_seconds"})


class SqsInspector:
    """The `Inspector` of one queue, in the roles `Queues` and `DeadLetters`. Use it as an async context manager.

    Parameters
    ----------
    address
        Which queue.
    name
        What people call it: the name of its JobQueue. Defaults to its own.
    """

    def __init__(self, address: SqsAddress, *, name: str | None = None) -> None:
        self._address = address
        self._name = name or address.name
        self._calls = Calls(address)
        self._known = KnownQueue(self._calls)

    async def __aenter__(self) -> Self:
        await self._calls.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._calls.close()

    # Queues

    async def queues(self) -> list[QueueRecord]:
        """See `headrace.queues.inspection.Queues`."""
        return [await self.queue(self._name)]

    async def queue(self, name: str) -> QueueRecord:
        """See `headrace.queues.inspection.Queues`.

        How old the oldest job is, the service does not tell. Who may not read tags or the dead-letter queue gets what
        stands there as unknown.
        """
        self._check(name)
        depth = depth_of(await self._attributes(self._address.queue_url, *COUNTS))
        await self._known.look_up()
        tags = self._known.tags
        unknown = {"oldest_ready_age_seconds"} | (set() if MAX_RETRIES in tags else _UNTAGGED)
        settings = self._known.settings
        try:
            settings, depth = await self._with_dead_letters(settings, depth)
        except QueueError as error:
            log.info("queue=%s: its dead-letter queue can't be looked at: %s", name, error)
            unknown |= {"dead_lettered", "dead_letter_retention_days"}
        return QueueRecord(
            name=self._name, settings=settings, depth=depth, owner=owner_in(tags), unknown=frozenset(unknown)
        )

    async def _with_dead_letters(self, settings: QueueSettings, depth: Depth) -> tuple[QueueSettings, Depth]:
        if self._known.dead_letter_url is None and self._known.knows_dead_letters:
            return settings, depth
        attributes = await self._attributes(self._dead_letter_url(), *COUNTS, _RETENTION)
        dead = depth_of(attributes)
        retention_days = int(attributes.get(_RETENTION, 0)) / _DAY_SECONDS
        return (
            replace(settings, dead_letter_retention_days=retention_days or settings.dead_letter_retention_days),
            replace(depth, dead_lettered=dead.ready + dead.delayed + dead.in_flight),
        )

    async def _attributes(self, url: str, *names: str) -> Mapping[str, str]:
        answer = await self._calls.call("GetQueueAttributes", QueueUrl=url, AttributeNames=list(names))
        found: Mapping[str, str] = answer.get("Attributes") or {}
        return found

    # Dead jobs

    @property
    def filters(self) -> frozenset[FilterField]:
        """See `headrace.queues.inspection.DeadLetters`. All there are: letters are looked at one by one."""
        return frozenset(get_args(FilterField))

    async def letters(self, queue: str, which: JobFilter, *, limit: int = 100) -> list[JobRecord]:
        """See `headrace.queues.inspection.DeadLetters`. The first that are found, hidden from others meanwhile."""
        return await (await self._letter_box(queue)).letters(which, limit)

    async def redrive(self, queue: str, change: Redrive) -> int:
        """See `headrace.queues.inspection.DeadLetters`, and `headrace.queues.sqs.redrive`."""
        done = await (await self._letter_box(queue)).redrive(change)
        _note(queue, change, f"{done} dead jobs put back")
        return done

    async def purge(self, queue: str, change: Purge) -> int:
        """See `headrace.queues.inspection.DeadLetters`."""
        done = await (await self._letter_box(queue)).purge(change)
        _note(queue, change, f"{done} dead jobs removed")
        return done

    async def _letter_box(self, queue: str) -> LetterBox:
        self._check(queue)
        if self._known.dead_letter_url is None:
            await self._known.look_up()
        return LetterBox(self._calls, self._dead_letter_url(), self._name)

    def _dead_letter_url(self) -> str:
        if (url := self._known.dead_letter_url) is not None:
            return url
        if self._known.knows_dead_letters:
            raise QueueNotFoundError(
                f"queue {self._name} has no dead-letter queue: its redrive policy names none; give "
                "dead_letter_queue_url (AwsSqs.DeadLetterQueueUrl) where its workers have one"
            )
        raise QueueAccessError(
            f"which dead-letter queue is that of queue {self._name} can't be seen: allow sqs:GetQueueAttributes, or "
            "give dead_letter_queue_url (AwsSqs.DeadLetterQueueUrl)"
        )

    def _check(self, queue: str) -> None:
        if queue not in {self._name, self._address.name}:
            raise QueueNotFoundError(f"queue {queue}: this URL leads to queue {self._name}; give the URL of {queue}")


def _note(queue: str, change: Change, done: str) -> None:
    """Who did what, and why: for the logs. The service keeps no history."""
    log.info("queue %s: %s, by %s: %s", queue, done, change.by or "somebody", change.why or "no reason given")
