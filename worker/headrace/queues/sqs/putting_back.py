"""Putting jobs back: after a failure, or uncharged.

What a job is put back with can't be written into its message. So a failed job is counted beside the queue, where there
is a store for it, and its message becomes visible again after the delay; without a store it is sent anew under its id,
with one attempt more, and its message is deleted.
"""

from __future__ import annotations

import asyncio
import math
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from msgspec import structs

from headrace.queues.clock import lease_clock
from headrace.queues.settlement import Release, Retry
from headrace.queues.sqs.calls import is_answer, is_lost, may_help_again
from headrace.queues.sqs.capabilities import MAX_VISIBILITY_SECONDS
from headrace.queues.sqs.errors import ThrottledError
from headrace.queues.sqs.messages import outgoing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headrace.queues.errors import QueueError
    from headrace.queues.failure_counts import FailureCounts
    from headrace.queues.settlement import Settlement
    from headrace.queues.sqs.calls import Calls
    from headrace.queues.sqs.holdings import Held
    from headrace.queues.sqs.queue_settings import KnownQueue
    from headrace.queues.sqs.replacing import Case, Replacing
    from headrace.queues.sqs.service_clock import ServiceClock


_HIDDEN_SECONDS = 900


class PuttingBack:
    """Puts back what one queue object holds. What went wrong is told by receipt."""

    def __init__(
        self, calls: Calls, facts: KnownQueue, replacing: Replacing, clock: ServiceClock, counts: FailureCounts | None
    ) -> None:
        self._calls = calls
        self._facts = facts
        self._replacing = replacing
        self._clock = clock
        self._counts = counts

    async def after_failures(self, cases: Sequence[Case]) -> dict[str, QueueError]:
        """These have failed, and have attempts left."""
        if not cases:
            return {}
        counted: list[Case] = []
        anew: list[Case] = []
        for case in cases:
            is_to_count = self._counts is not None and not self._is_worn(case.held)
            (counted if case.held.is_counted or is_to_count else anew).append(case)
        uncounted = [case for case in counted if not case.held.is_counted]
        if uncounted and self._counts is not None:
            try:
                await self._counts.add([held.message_id for _, held in uncounted])
            except OSError:
                # Then each message counts for itself.
                anew += uncounted
                counted = [case for case in counted if case.held.is_counted]
            else:
                for _, held in uncounted:
                    held.is_counted = held.has_failures = True
        changed, sent = await asyncio.gather(self._change(counted), self._send_anew(anew, attempts=1))
        return changed | sent

    async def uncharged(self, cases: Sequence[Case]) -> dict[str, QueueError]:
        """Nothing is held against these."""
        if not cases:
            return {}
        worn = [case for case in cases if self._is_worn(case.held)]
        others = [case for case in cases if not self._is_worn(case.held)]
        changed, sent = await asyncio.gather(self._change(others), self._send_anew(worn, attempts=0))
        return changed | sent

    async def hidden(self, cases: Sequence[Case]) -> dict[str, QueueError]:
        """These are dead and can't be sent on: they come again after a while, until the service gives them up."""
        return await self._change(cases, at_least_seconds=_HIDDEN_SECONDS)

    def _is_worn(self, held: Held) -> bool:
        """Whether it was received half as often as the service takes: a new message is received for the first time.

        What is put back has killed no worker, and no service shall give it up.
        """
        most = self._facts.max_receive_count
        return most is not None and held.receives * 2 >= most

    async def _change(self, cases: Sequence[Case], *, at_least_seconds: int = 0) -> dict[str, QueueError]:
        """Let these be visible again after their delays."""
        now = lease_clock()
        # One that was asked for before may have come about. Where somebody may have the job since, it is left alone:
        # it comes back when its lease runs out, at the latest.
        changing = [case for case in cases if not case.held.asked_until <= now or math.isinf(case.held.asked_until)]
        seconds = [
            min(max(_delay_seconds(case.settlement), at_least_seconds), max(0, int(case.held.wall_at - now)))
            for case in changing
        ]
        entries = [
            {"ReceiptHandle": case.held.delivery.receipt, "VisibilityTimeout": each}
            for case, each in zip(changing, seconds, strict=True)
        ]
        told = await self._calls.in_tens("ChangeMessageVisibilityBatch", entries)
        errors = {}
        for case, each, error in zip(changing, seconds, told, strict=True):
            if error is None or (is_lost(error) and not math.isinf(case.held.asked_until)):
                continue
            errors[case.held.delivery.receipt] = error
            if may_help_again(error) and not (is_answer(error) or isinstance(error, ThrottledError)):
                case.held.asked_until = now + each
        return errors

    async def _send_anew(self, cases: Sequence[Case], *, attempts: int) -> dict[str, QueueError]:
        """Send these under their ids, to be received for the first time, and delete their messages."""
        if not cases:
            return {}
        anew = []
        for settlement, _ in cases:
            delay_seconds = float(_delay_seconds(settlement))
            job = settlement.delivery.job
            changes: dict[str, Any] = {"attempt": job.attempt + attempts}
            if delay_seconds:
                changes["run_at"] = self._clock.now() + timedelta(seconds=delay_seconds)
            elif job.run_at > self._clock.now():
                delay_seconds = (job.run_at - self._clock.now()).total_seconds()
            anew.append(outgoing(structs.replace(job, **changes), delay_seconds=delay_seconds))
        fitting = [place for place, message in enumerate(anew) if message.fits]
        if len(fitting) == len(anew):
            return await self._replacing.replace(cases, anew, self._calls.url)
        # Somebody else's, as large as messages may be: it goes back as it is, uncharged, until the service gives it up.
        large = [case for case, message in zip(cases, anew, strict=True) if not message.fits]
        sent = await self._replacing.replace(
            [cases[place] for place in fitting], [anew[place] for place in fitting], self._calls.url
        )
        return sent | await self._change(large)


def _delay_seconds(settlement: Settlement) -> int:
    seconds = settlement.delay_seconds if isinstance(settlement, Retry | Release) else 0.0
    return math.ceil(min(max(seconds, 0.0), MAX_VISIBILITY_SECONDS))
