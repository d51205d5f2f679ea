"""What is found in messages as they come: jobs to run, and others that are too late, too early, or can't be read.

The service looks after its queues itself. So a round of housekeeping only reports what was found, and looks at the
queue's settings from time to time.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from msgspec import structs

from headrace.queues.base import Delivery, Maintained
from headrace.queues.clock import lease_clock
from headrace.queues.envelope import INVALID_ENVELOPE, MalformedMessage
from headrace.queues.errors import QueueError
from headrace.queues.settlement import Release
from headrace.queues.sqs.calls import is_lost
from headrace.queues.sqs.holdings import Held
from headrace.queues.sqs.messages import DeadMark, dead_letter, incoming, malformed_letter, moment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headrace.job import Job
    from headrace.queues.failure_counts import FailureCounts
    from headrace.queues.sqs.calls import Calls
    from headrace.queues.sqs.holdings import Holdings
    from headrace.queues.sqs.messages import Outgoing
    from headrace.queues.sqs.queue_settings import KnownQueue
    from headrace.queues.sqs.service_clock import ServiceClock
    from headrace.queues.sqs.settling import Settling

log = logging.getLogger(__name__)

EXPIRED = "Expired"
"""The reason for which a job that was not started in time is dead."""

_NO_WAIT = timedelta()
# The service rounds, and its machines' clocks differ by as much.
_EARLY = timedelta(seconds=1)


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
            What is to run, and the age of each job of it: for how many seconds it has been due.
        """
        deliveries: list[Delivery] = []
        ages: list[float] = []
        again: list[tuple[int, Held]] = []
        now = lease_clock()
        retention = self._facts.settings.message_retention_seconds
        for message in messages:
            receives = int(message["Attributes"].get("ApproximateReceiveCount", 1))
            if receives == 1 and (first := message["Attributes"].get("ApproximateFirstReceiveTimestamp")):
                self._clock.learn(int(first) / 1000)
            job = incoming(message, self._name)
            if isinstance(job, MalformedMessage):
                self._soon(self._give_up_malformed(message, job))
                continue
            delivery = Delivery(job=job, receipt=message["ReceiptHandle"])
            held = Held(
                delivery, message_id=message["MessageId"], receives=receives, received_at=received_at, seconds=seconds
            )
            there = self._clock.now()
            sent_at = moment(message, "SentTimestamp")
            if (early := _due_at(job, sent_at) - there) > _EARLY:
                self._put_back(held, early, now)
                continue
            if job.attempt == 1 and _is_expired(job, sent_at, retention, there):
                self._soon(self._give_up_expired(delivery))
                continue
            self._holdings.hold(held, now)
            if receives > 1:
                again.append((len(deliveries), held))
            deliveries.append(delivery)
            ages.append((there - max(_due_at(job, sent_at), sent_at)).total_seconds())
        if again and self._counts is not None:
            await self._recount(deliveries, again)
        return deliveries, ages

    async def _recount(self, deliveries: list[Delivery], again: Sequence[tuple[int, Held]]) -> None:
        """Of what comes again, some have failed: that is counted beside the queue."""
        assert self._counts is not None
        try:
            failures = await self._counts.read([held.message_id for _, held in again])
        except OSError as error:
            log.debug("failures not read queue=%s: %s", self._name, error)
            return
        for (place, held), count in zip(again, failures, strict=True):
            if count:
                held.has_failures = True
                job = structs.replace(held.delivery.job, attempt=held.delivery.job.attempt + count)
                deliveries[place] = held.delivery = structs.replace(held.delivery, job=job)

    # What is not to run

    def _put_back(self, held: Held, wait: timedelta, now: float) -> None:
        self._holdings.hold(held, now)
        release = Release(delivery=held.delivery, delay_seconds=wait.total_seconds())
        self._soon(self._settle_early(release))

    async def _settle_early(self, release: Release) -> None:
        try:
            await self._settling.settle([release])
        except QueueError as error:
            # It comes again when its lease runs out, and is put back then.
            log.debug("not put back queue=%s: %s", self._name, error)
        self._holdings.drop(release.delivery)

    async def _give_up_expired(self, delivery: Delivery) -> None:
        source, attempts = self._calls.address.name, delivery.job.attempt - 1
        mark = DeadMark(reason=EXPIRED, at=datetime.now(UTC), source=source, attempts=attempts)
        if await self._give_up(delivery.receipt, dead_letter(delivery.job, mark)):
            self._expired += 1

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


def _due_at(job: Job, sent_at: datetime) -> datetime:
    """When a job is due by the service's clock.

    Its own delay counts from when it was sent: then the clock of whoever sent it may be wrong. That of a retry is told
    in the service's time.
    """
    delay = job.run_at - job.enqueued_at
    return min(job.run_at, sent_at + delay) if delay > _NO_WAIT else sent_at


def _is_expired(job: Job, sent_at: datetime, retention_seconds: float | None, now: datetime) -> bool:
    if job.expires_at is not None:
        return job.expires_at <= now
    if retention_seconds is None:
        return False
    return max(_due_at(job, sent_at), sent_at) + timedelta(seconds=retention_seconds) <= now
