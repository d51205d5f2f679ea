"""What is found in messages as they come: jobs to run, and others that are too late, too early, or can't be read.

The service looks after its queues itself. So a round of housekeeping only reports what was found, and looks at the
queue's settings from time to time.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from msgspec import structs

from headrace.queues.base import Delivery, Maintained
from headrace.queues.clock import lease_clock
from headrace.queues.envelope import INVALID_ENVELOPE, MalformedMessage
from headrace.queues.errors import QueueError
from headrace.queues.settlement import DeadLetter, Release
from headrace.queues.sqs.calls import is_lost
from headrace.queues.sqs.holdings import Held
from headrace.queues.sqs.messages import DeadMark, incoming, malformed_letter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headrace.job import Job
    from headrace.queues.failure_counts import FailureCounts
    from headrace.queues.settlement import Settlement
    from headrace.queues.sqs.calls import Calls
    from headrace.queues.sqs.holdings import Holdings
    from headrace.queues.sqs.messages import Outgoing
    from headrace.queues.sqs.queue_settings import KnownQueue
    from headrace.queues.sqs.service_clock import ServiceClock
    from headrace.queues.sqs.settling import Settling

log = logging.getLogger(__name__)

EXPIRED = "Expired"
"""The reason for which a job that was not started in time is dead."""

_MANY_CHORES = 32
"""With so much to see to, no more is taken: else what is dead would come faster than it can be put away."""

# The service rounds, and its machines' clocks differ by as much.
_EARLY_SECONDS = 1.0


class Housekeeping:
    """Looks through what one queue object receives."""

    def __init__(
        self,
        calls: Calls,
        facts: KnownQueue,
        holdings: Holdings,
        settling: Settling,
        clock: ServiceClock,
        counts: FailureCounts | None,
        *,
        name: str,
    ) -> None:
        self._calls = calls
        self._name = name
        self._facts = facts
        self._holdings = holdings
        self._settling = settling
        self._clock = clock
        self._counts = counts
        self._expired = 0
        self._malformed = 0
        self._chores: set[asyncio.Task[None]] = set()

    async def maintain(self) -> Maintained:
        """See `headrace.queues.base.KeepsHouse`."""
        await self._facts.look_again()
        found = Maintained(expired=self._expired, malformed=self._malformed)
        self._expired = self._malformed = 0
        return found

    async def flushed(self) -> None:
        """Wait until nothing is under way."""
        if self._chores:
            await asyncio.wait(self._chores)

    @property
    def is_behind(self) -> bool:
        """Whether as much waits to be seen to as may."""
        return len(self._chores) >= _MANY_CHORES

    async def caught_up(self) -> None:
        """Wait until it is not behind."""
        while self.is_behind:
            await asyncio.wait(self._chores, return_when=asyncio.FIRST_COMPLETED)

    async def admit(
        self, messages: Sequence[dict[str, Any]], received_at: float, seconds: float
    ) -> tuple[list[Delivery], list[float]]:
        """Hold what is to run; see to the rest.

        Parameters
        ----------
        messages
            As ``ReceiveMessage`` gave them.
        received_at
            When they were at the earliest, by the clock that leases are trusted by.
        seconds
            For how long they are held from then on.

        Returns
        -------
        tuple[list[Delivery], list[float]]
            What is to run, and the ages of jobs that came: for how many seconds each has been due.
        """
        deliveries: list[Delivery] = []
        ages: list[float] = []
        again: list[tuple[int, Held, bool]] = []
        early: list[Settlement] = []
        late: list[Settlement] = []
        now = lease_clock()
        retention_seconds = self._facts.settings.message_retention_seconds
        self._learn(messages)
        there = self._clock.seconds()
        for message in messages:
            job = incoming(message, self._name)
            if isinstance(job, MalformedMessage):
                self._soon(self._give_up_malformed(message, job))
                continue
            delivery = Delivery(job=job, receipt=message["ReceiptHandle"])
            attributes = message.get("Attributes") or {}
            receives = int(attributes.get("ApproximateReceiveCount", 1))
            held = Held(delivery, message["MessageId"], receives, received_at, received_at + seconds)
            self._holdings.hold(held, now)
            sent_at = int(attributes.get("SentTimestamp", 0)) / 1000
            # Most wait for nothing: then both moments are one.
            due_at = sent_at if job.run_at is job.enqueued_at else _due_at(job, sent_at)
            if due_at - there > _EARLY_SECONDS:
                early.append(Release(delivery=delivery, delay_seconds=due_at - there))
                continue
            due_at = max(due_at, sent_at)
            may_be_late = job.attempt == 1 and (job.expires_at is not None or retention_seconds is not None)
            is_late = may_be_late and _is_expired(job, due_at, retention_seconds, there)
            if is_late and (receives == 1 or self._counts is None):
                late.append(_too_late(held))
                continue
            if receives > 1:
                again.append((len(deliveries), held, is_late))
            deliveries.append(delivery)
            ages.append(there - due_at)
        if again and self._counts is not None:
            try:
                late += await self._recount(deliveries, again)
            except BaseException:
                # Nobody will hear of these: no heartbeat shall hold them.
                for delivery in [*deliveries, *(settlement.delivery for settlement in (*early, *late))]:
                    self._holdings.drop(delivery)
                raise
        if early or late:
            self._soon(self._settle_aside([*early, *late]))
        return deliveries, ages

    def _learn(self, messages: Sequence[dict[str, Any]]) -> None:
        """What time it is there: one message tells, of those that were received for the first time."""
        for message in messages:
            attributes = message.get("Attributes") or {}
            first = attributes.get("ApproximateFirstReceiveTimestamp")
            if first is not None and attributes.get("ApproximateReceiveCount") == "1":
                self._clock.learn(int(first) / 1000)
                return

    async def _recount(self, deliveries: list[Delivery], again: Sequence[tuple[int, Held, bool]]) -> list[Settlement]:
        """Of what comes again, some have failed: that is counted beside the queue. What never did may be too late."""
        assert self._counts is not None
        try:
            failures = await self._counts.read([held.message_id for _, held, _ in again])
        except OSError as error:
            # What is late may have been started: then it is not.
            log.debug("failures not read queue=%s: %s", self._name, error)
            return []
        late: list[Settlement] = []
        for (place, held, is_late), count in zip(reversed(again), reversed(failures), strict=True):
            if count:
                held.has_failures = True
                job = structs.replace(held.delivery.job, attempt=held.delivery.job.attempt + count)
                deliveries[place] = held.delivery = structs.replace(held.delivery, job=job)
            elif is_late:
                late.append(_too_late(held))
                del deliveries[place]
        return late

    # What is not to run

    async def _settle_aside(self, settlements: Sequence[Settlement]) -> None:
        """Put back what is early, dead-letter what is late. Where that fails, it comes when its lease has run out."""
        try:
            settled = await self._settling.settle(settlements)
        except QueueError as error:
            log.debug("neither put back nor dead-lettered queue=%s: %s", self._name, error)
        else:
            self._expired += len(settled.dead_lettered)
        for settlement in settlements:
            self._holdings.drop(settlement.delivery)

    async def _give_up_malformed(self, message: dict[str, Any], malformed: MalformedMessage) -> None:
        # Nobody shall take a job's text for the log's.
        log.warning(
            "message can't be understood queue=%s id=%s: %r",
            *(self._name, message["MessageId"], malformed.error[:200]),
        )
        mark = DeadMark(reason=INVALID_ENVELOPE, at=datetime.now(UTC), source=self._calls.address.name)
        if await self._give_up(message["ReceiptHandle"], malformed_letter(message, mark)):
            self._malformed += 1

    async def _give_up(self, receipt: str, letter: Outgoing) -> bool:
        """Send it, then delete it. Where that fails, it comes again when its lease runs out."""
        if self._facts.settings.dead_letter_enabled:
            url = self._facts.dead_letter_url
            if url is None:
                self._facts.look_soon()
                return False
            (error,) = await self._calls.ten("SendMessageBatch", [letter.entry], url=url)
            if error is not None:
                log.debug("not dead-lettered queue=%s: %s", self._name, error)
                return False
        (error,) = await self._calls.ten("DeleteMessageBatch", [{"ReceiptHandle": receipt}])
        return error is None or is_lost(error)

    def _soon(self, chore: Any) -> None:
        task = asyncio.create_task(chore)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)


def _too_late(held: Held) -> DeadLetter:
    """It is dead, and no attempt was made of it."""
    held.delivery = structs.replace(held.delivery, job=structs.replace(held.delivery.job, attempt=0))
    return DeadLetter(delivery=held.delivery, reason=EXPIRED)


def _due_at(job: Job, sent_at: float) -> float:
    """When a job is due by the service's clock, in seconds of Unix time.

    Its own delay counts from when it was sent: then the clock of whoever sent it may be wrong. That of a retry is told
    in the service's time.
    """
    delay_seconds = (job.run_at - job.enqueued_at).total_seconds()
    return min(job.run_at.timestamp(), sent_at + delay_seconds) if delay_seconds > 0 else sent_at


def _is_expired(job: Job, due_at: float, retention_seconds: float | None, now: float) -> bool:
    if job.expires_at is not None:
        return job.expires_at.timestamp() <= now
    return retention_seconds is not None and due_at + retention_seconds <= now
