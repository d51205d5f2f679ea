"""The queue itself: one face for the rooms of this folder."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from headrace.queues.clock import lease_clock
from headrace.queues.errors import QueueError
from headrace.queues.sqs.calls import Calls
from headrace.queues.sqs.capabilities import CAPABILITIES
from headrace.queues.sqs.counting import Counting
from headrace.queues.sqs.enqueuing import Enqueuing
from headrace.queues.sqs.holdings import Holdings
from headrace.queues.sqs.housekeeping import Housekeeping
from headrace.queues.sqs.lease import LEASE_SECONDS, HeartbeatLease, visibility_of
from headrace.queues.sqs.place import MAX_MESSAGES
from headrace.queues.sqs.polls import QueuePolls
from headrace.queues.sqs.queue_settings import LOOK_SECONDS, KnownQueue
from headrace.queues.sqs.receiving import Receiving
from headrace.queues.sqs.service_clock import ServiceClock
from headrace.queues.sqs.settling import Settling
from headrace.queues.sqs.witness import Witness

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet
    from types import TracebackType
    from typing import Self

    from headrace.job import NewJob
    from headrace.queues.base import Delivery, Depth, Enqueued, KeptAlive, Maintained, QueueSettings, Witnessed
    from headrace.queues.capabilities import Capabilities
    from headrace.queues.failure_counts import FailureCounts
    from headrace.queues.settlement import Settled, Settlement
    from headrace.queues.sqs.place import SqsAddress

_FLUSH_SECONDS = 10.0
_PUT_BACK_SECONDS = 10.0


class SqsQueue:
    """A `Queue` in SQS: a standard one. Use it as an async context manager.

    Parameters
    ----------
    address
        Which queue, and how it is used.
    name
        The name that jobs are given as their queue's: that of its JobQueue.
    holder
        Of no use here: the service names nobody who holds a message.
    failure_counts
        Where failed attempts are counted. None: each message counts for itself, and is sent anew for that.
    lease_seconds
        How long what is held can be relied on after a heartbeat. Defaults to `LEASE_SECONDS`.
    look_seconds
        How often a worker looks at the queue's settings. Defaults to `LOOK_SECONDS`.
    """

    def __init__(
        self,
        address: SqsAddress,
        name: str,
        *,
        holder: str | None = None,  # noqa: ARG002 - every backend takes it
        failure_counts: FailureCounts | None = None,
        lease_seconds: float = LEASE_SECONDS,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._name = name
        self._lease_seconds = lease_seconds
        self._calls = calls = Calls(address)
        self._facts = facts = KnownQueue(calls, look_seconds=look_seconds)
        self._holdings = holdings = Holdings(
            lease_seconds=lease_seconds, visibility_seconds=visibility_of(lease_seconds)
        )
        self._witness = witness = Witness()
        clock = ServiceClock()
        self._enqueuing = Enqueuing(calls, name)
        self._lease = lease = HeartbeatLease(calls, facts, holdings)
        self._settling = settling = Settling(calls, facts, holdings, lease, clock, failure_counts)
        self._housekeeping = housekeeping = Housekeeping(
            *(calls, facts, holdings, settling, clock, failure_counts), name=name
        )
        self._polls = QueuePolls(calls, facts, holdings, housekeeping, settling, witness)
        self._receiving = Receiving(self._polls)
        self._counting = Counting(
            lambda: calls.client,
            calls.url,
            lambda: facts.dead_letter_url,
            interval_seconds=address.options.count_interval_seconds,
            witnessed=self.witnessed,
        )

    @property
    def name(self) -> str:
        """See `headrace.queues.base.Queue`."""
        return self._name

    @property
    def capabilities(self) -> Capabilities:
        """See `headrace.queues.base.Queue`."""
        return CAPABILITIES

    @property
    def settings(self) -> QueueSettings:
        """See `headrace.queues.base.Queue`."""
        return self._facts.settings

    @property
    def lease_seconds(self) -> float:
        """See `headrace.queues.base.Queue`. The service holds for longer: see `headrace.queues.sqs.lease`."""
        return self._lease_seconds

    async def __aenter__(self) -> Self:
        try:
            await self._calls.open()
            await self._facts.look_up()
        except BaseException:
            await self._calls.close()
            raise
        self._polls.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FLUSH_SECONDS):
                    await self._enqueuing.flushed()
            # A poll ends when the service ends it: what it brings would be held by nobody.
            await self._polls.end()
            # Where that fails, others wait until the leases run out.
            with contextlib.suppress(QueueError, TimeoutError):
                async with asyncio.timeout(_PUT_BACK_SECONDS):
                    await self._settling.put_back(list(self._holdings))
        finally:
            self._enqueuing.close()
            await self._calls.close()

    # Jobs in, jobs out

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        """See `headrace.queues.base.Queue`."""
        return await self._enqueuing.enqueue(jobs)

    async def receive(
        self,
        limit: int,
        *,
        wait_seconds: float = 0.0,
        stop: asyncio.Event | None = None,
        without: AbstractSet[str] = frozenset(),  # noqa: ARG002 - see Capabilities.skips_names
    ) -> list[Delivery]:
        """See `headrace.queues.base.Queue`. A cancelled call leaves its poll to the next one."""
        return await self._receiving.receive(limit, wait_seconds=wait_seconds, stop=stop)

    async def end_polls(self) -> None:
        """See `headrace.queues.base.Polls`."""
        await self._polls.end()

    async def settle(self, settlements: Sequence[Settlement]) -> Settled:
        """See `headrace.queues.base.Queue`."""
        return await self._settling.settle(settlements)

    @property
    def settled_together(self) -> int:
        """See `headrace.queues.base.SettlesApart`."""
        return MAX_MESSAGES

    # Lease and house

    async def keep_alive(self) -> KeptAlive:
        """See `headrace.queues.base.Queue`."""
        return await self._lease.keep_alive()

    async def keep_alive_aside(self) -> None:
        """See `headrace.queues.base.KeepsAliveAside`."""
        await self._lease.keep_alive_aside()

    async def maintain(self) -> Maintained:
        """See `headrace.queues.base.KeepsHouse`."""
        return await self._housekeeping.maintain()

    # Counting

    async def depth(self, *, max_age_seconds: float = 0.0) -> Depth:
        """See `headrace.queues.base.Counts`. Each count has its price: see `headrace.queues.sqs.counting`."""
        return await self._counting.depth(max_age_seconds)

    async def has_ready(self) -> bool:
        """See `headrace.queues.base.Counts`."""
        return await self._counting.has_ready()

    def witnessed(self) -> Witnessed:
        """See `headrace.queues.base.Witnesses`."""
        return self._witness.witnessed(lease_clock(), held=len(self._holdings))
