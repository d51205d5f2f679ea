"""Settling deliveries: what becomes of each message, in batches of ten.

A dead job is sent to the dead-letter queue, and one that is put back may have to be sent anew (`putting_back`).
Whatever is sent is sent before its message is deleted (`replacing`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from headrace.queues.clock import lease_clock
from headrace.queues.errors import QueueAccessError, QueueError, QueueNotFoundError
from headrace.queues.settlement import Complete, DeadLetter, Discard, Release, Retry, Settled
from headrace.queues.sqs.calls import is_lost, own_copy
from headrace.queues.sqs.messages import DeadMark, dead_letter
from headrace.queues.sqs.putting_back import PuttingBack
from headrace.queues.sqs.replacing import Case, Replacing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headrace.queues.failure_counts import FailureCounts
    from headrace.queues.settlement import Failure, Settlement
    from headrace.queues.sqs.calls import Calls
    from headrace.queues.sqs.holdings import Held, Holdings
    from headrace.queues.sqs.lease import HeartbeatLease
    from headrace.queues.sqs.messages import Outgoing
    from headrace.queues.sqs.queue_settings import KnownQueue
    from headrace.queues.sqs.service_clock import ServiceClock

log = logging.getLogger(__name__)

_ENDS = frozenset({Complete, Discard})

EXHAUSTED = "RetriesExhausted"
"""The reason for which a job out of attempts is dead."""


class Settling:
    """Settles what one queue object holds."""

    def __init__(
        self,
        calls: Calls,
        facts: KnownQueue,
        holdings: Holdings,
        lease: HeartbeatLease,
        clock: ServiceClock,
        counts: FailureCounts | None,
    ) -> None:
        self._calls = calls
        self._facts = facts
        self._holdings = holdings
        self._lease = lease
        self._counts = counts
        self._forgetting: set[asyncio.Task[None]] = set()
        self._replacing = Replacing(calls)
        self._putting_back = PuttingBack(calls, facts, self._replacing, clock, counts)

    async def settle(self, settlements: Sequence[Settlement]) -> Settled:
        """See `headrace.queues.base.Queue`."""
        cases, refused = self._cases(settlements)
        if not cases:
            return Settled(accepted=0, refused=tuple(refused))
        try:
            errors = await self._settle(cases)
        finally:
            for _, held in cases:
                held.use = None
        self._forget_failures(cases, errors)
        return self._settled(settlements, cases, refused, errors)

    async def put_back(self, several: Sequence[Held]) -> None:
        """Give these back at once, whatever comes of it: else they come again when their leases run out."""
        await self.settle([Release(delivery=held.delivery) for held in several])

    def _cases(self, settlements: Sequence[Settlement]) -> tuple[list[Case], list[Settlement]]:
        cases: list[Case] = []
        refused: list[Settlement] = []
        now = lease_clock()
        for settlement in settlements:
            held = self._holdings.get(settlement.delivery)
            if held is None or held.use == "settling":
                refused.append(settlement)
            elif held.expires_at <= now and not isinstance(settlement, Complete):
                # Somebody else has it, or will: only what is done need not be done again.
                self._holdings.drop(settlement.delivery)
                refused.append(settlement)
            else:
                held.use = "settling"
                cases.append(Case(settlement, held))
        return cases, refused

    async def _settle(self, cases: Sequence[Case]) -> dict[str, QueueError]:
        """What went wrong, by receipt."""
        if self._lease.is_extending:
            await self._lease.extended([held for _, held in cases])
        deletes: list[Case] = []
        others: list[Case] = []
        for case in cases:
            (deletes if case.held.is_sent or self._only_deletes(case) else others).append(case)
        if not others:
            return await self._replacing.delete(deletes)
        errors: dict[str, QueueError] = {}
        burials = [case for case in others if self._is_dead(case.settlement)]
        failures = [
            case for case in others if isinstance(case.settlement, Retry) and not self._is_dead(case.settlement)
        ]
        releases = [case for case in others if isinstance(case.settlement, Release)]
        for found in await asyncio.gather(
            self._replacing.delete(deletes),
            self._give_up(burials),
            self._putting_back.after_failures(failures),
            self._putting_back.uncharged(releases),
        ):
            errors |= found
        return errors

    def _only_deletes(self, case: Case) -> bool:
        settlement = case.settlement
        if type(settlement) in _ENDS:
            return True
        return self._is_dead(settlement) and not self._facts.settings.dead_letter_enabled

    def _is_dead(self, settlement: Settlement) -> bool:
        if isinstance(settlement, Retry):
            return settlement.delivery.job.attempt > self._facts.settings.max_retries
        return isinstance(settlement, DeadLetter)

    # What becomes of a message

    async def _give_up(self, cases: Sequence[Case]) -> dict[str, QueueError]:
        if not cases:
            return {}
        url = self._facts.dead_letter_url
        if url is None:
            self._facts.look_soon()
            error = QueueAccessError(
                f"queue {self._calls.address.name}: nobody knows its dead-letter queue: allow sqs:GetQueueAttributes, "
                "or give dead_letter_queue_url"
            )
            return await self._leave(cases, error)
        letters = [(case, self._letter(case.settlement)) for case in cases]
        fitting = [(case, letter) for case, letter in letters if letter.fits]
        buried = await self._replacing.replace([case for case, _ in fitting], [letter for _, letter in fitting], url)
        unwelcome = [
            case
            for case, _ in fitting
            if not case.held.is_sent
            and isinstance(buried.get(case.held.delivery.receipt), QueueNotFoundError | QueueAccessError)
        ]
        if unwelcome:
            refusals = [buried.pop(held.delivery.receipt) for _, held in unwelcome]
            buried |= await self._leave(unwelcome, refusals[0])
        if len(fitting) == len(cases):
            return buried
        large = [case for case, letter in letters if not letter.fits]
        log.warning(
            "queue=%s: %d messages of somebody else's are too large to be dead-lettered with a reason: they come again "
            "until the service gives them up",
            *(self._calls.address.name, len(large)),
        )
        return buried | await self._putting_back.hidden(large)

    async def _leave(self, cases: Sequence[Case], error: QueueError) -> dict[str, QueueError]:
        """Nobody can bury these before somebody mends that: they come again after a while, and others go on."""
        self._facts.look_soon()
        errors = await self._putting_back.hidden(cases)
        for _, held in cases:
            held.is_left = held.delivery.receipt not in errors
        if len(errors) < len(cases):
            log.warning(
                "queue=%s: %d jobs can't be dead-lettered and come again in a while: %s",
                *(self._calls.address.name, len(cases) - len(errors), error),
            )
        return errors

    def _letter(self, settlement: Settlement) -> Outgoing:
        job = settlement.delivery.job
        failure: Failure | None = None
        reason, attempts = EXHAUSTED, job.attempt
        if isinstance(settlement, Retry):
            failure = settlement.failure
        elif isinstance(settlement, DeadLetter):
            failure, reason = settlement.failure, settlement.reason
        source = self._calls.address.name
        return dead_letter(
            job, DeadMark(reason=reason, at=datetime.now(UTC), source=source, attempts=attempts, failure=failure)
        )

    def _forget_failures(self, cases: Sequence[Case], errors: dict[str, QueueError]) -> None:
        """Of messages that are gone: nobody waits for it."""
        if self._counts is None:
            return
        gone = [
            held.message_id
            for settlement, held in cases
            if held.has_failures
            and not held.is_left
            and held.delivery.receipt not in errors
            and (held.is_sent or isinstance(settlement, Complete | Discard | DeadLetter))
        ]
        if gone:
            task = asyncio.create_task(_forget(self._counts, gone))
            self._forgetting.add(task)
            task.add_done_callback(self._forgetting.discard)

    # What to say of it

    def _settled(
        self,
        settlements: Sequence[Settlement],
        cases: Sequence[Case],
        refused: list[Settlement],
        errors: dict[str, QueueError],
    ) -> Settled:
        dead = []
        unsettled: list[Settlement] = []
        first: QueueError | None = None
        for settlement, held in cases:
            error = errors.get(held.delivery.receipt) if errors else None
            if error is None:
                self._holdings.drop(held.delivery)
                if type(settlement) not in _ENDS and self._is_dead(settlement) and not held.is_left:
                    dead.append(settlement)
            elif is_lost(error) and held.is_sent:
                # What takes its place is there; this one is gone, or comes again.
                self._holdings.drop(held.delivery)
                if self._is_dead(settlement):
                    dead.append(settlement)
            elif is_lost(error):
                self._holdings.drop(held.delivery)
                refused.append(settlement)
            else:
                unsettled.append(settlement)
                first = first or error
        if first is not None and len(unsettled) == len(settlements):
            raise own_copy(first)
        return Settled(
            accepted=len(settlements) - len(refused) - len(unsettled),
            refused=tuple(refused),
            dead_lettered=tuple(dead),
            unsettled=tuple(unsettled),
            error="" if first is None else str(first),
        )


async def _forget(counts: FailureCounts, message_ids: Sequence[str]) -> None:
    with contextlib.suppress(OSError):  # They are forgotten in time.
        await counts.forget(message_ids)
