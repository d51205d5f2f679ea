"""A backend that can do no more than any broker: each part of the contract says what it needs beyond that.

It is the one in memory behind the port's bare `Queue`: no roles, no order, batches in parts, faults on request.
"""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import structs

from contract.queue.bench import LEASE_SECONDS, QUEUE
from contract.queue.needs import Offer
from contract.queue.suite import QueueContract
from headrace.queues.capabilities import Capabilities, refuse_unsupported
from headrace.queues.errors import PartlyEnqueuedError
from headrace.queues.memory import MemoryBackend, MemoryQueue
from headrace.queues.settlement import DeadLetter, Settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from types import TracebackType
    from typing import Self

    from headrace.job import NewJob
    from headrace.queues.base import Delivery, Enqueued, KeptAlive, QueueSettings
    from headrace.queues.inspection import Inspector
    from headrace.queues.settlement import Settlement

CAPABILITIES = Capabilities(
    ordered=False,
    priorities=False,
    groups=False,
    fairness=False,
    expiry=False,
    max_enqueue_delay_seconds=0.0,
    max_retry_delay_seconds=0.0,
    max_payload_bytes=200_000,
    deduplicates_unfinished=False,
    max_deduplication_window_seconds=0.0,
    attempts="deliveries",
    atomic_batches=False,
    fenced=False,
    cancellation=False,
    keeps_errors=False,
    pausing=False,
    skips_names=False,
    transactions=False,
)


class NarrowBench:
    def __init__(self) -> None:
        self.memory = self.provisioner = self.backlog = MemoryBackend()
        self.is_faulty = False

    @classmethod
    def offer(cls) -> Offer:
        return Offer(name="narrow", queue=cls().queue(), inspector=None, moves_time=False, takes_parts=True)

    def queue(self, name: str = QUEUE, *, lease_seconds: float = LEASE_SECONDS) -> NarrowQueue:
        return NarrowQueue(self, MemoryQueue(self.memory, name, lease_seconds=lease_seconds))

    @asynccontextmanager
    async def faulty(self) -> AsyncIterator[None]:
        self.is_faulty = True
        yield
        self.is_faulty = False

    async def inspector(self) -> Inspector:
        raise NotImplementedError("nothing that this backend offers asks for one")

    async def pass_time(self, seconds: float) -> None:
        raise NotImplementedError("its clock is the real one")


class NarrowQueue:
    """What `headrace.queues.base.Queue` asks for, and nothing else."""

    def __init__(self, bench: NarrowBench, memory: MemoryQueue) -> None:
        self._bench = bench
        self._memory = memory
        self._shuffled = random.Random(11)

    @property
    def name(self) -> str:
        return self._memory.name

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    @property
    def settings(self) -> QueueSettings:
        return self._memory.settings

    @property
    def lease_seconds(self) -> float:
        return self._memory.lease_seconds

    async def __aenter__(self) -> Self:
        await self._memory.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._memory.__aexit__(kind, error, trace)

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        refuse_unsupported(jobs, CAPABILITIES)
        done: dict[int, Enqueued] = {}
        failed: dict[int, str] = {}
        for place, job in enumerate(jobs):
            if self._bench.is_faulty and place % 2:
                failed[place] = "throttled"
            else:
                # A priority that nobody asked for makes the order any.
                priority = self._shuffled.choice((0, 1))
                (done[place],) = await self._memory.enqueue([structs.replace(job, priority=priority)])
        if failed:
            raise PartlyEnqueuedError(done, failed)
        return list(done.values())

    async def receive(self, limit: int, **how: Any) -> list[Delivery]:
        how.pop("without", None)
        # A broker finds by itself whose lease has run out.
        await self._memory.maintain()
        return [
            structs.replace(delivery, job=structs.replace(delivery.job, priority=0))
            for delivery in await self._memory.receive(limit, **how)
        ]

    async def settle(self, settlements: Sequence[Settlement]) -> Settled:
        left = [each for each in settlements if self._bench.is_faulty and isinstance(each, DeadLetter)]
        settled = await self._memory.settle([each for each in settlements if each not in left])
        return structs.replace(settled, unsettled=tuple(left), error="throttled" if left else "")

    async def keep_alive(self) -> KeptAlive:
        return await self._memory.keep_alive()


class TestNarrow(QueueContract):
    offer = NarrowBench.offer

    @pytest.fixture
    def bench(self) -> NarrowBench:
        return NarrowBench()
