"""What the contract's tests stand on: one backend under test, and words for what they do to it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal, Protocol

import pytest

from headrace.queues.base import Counts, Depth, KeepsHouse, Owner, QueueSettings
from headrace.queues.inspection import (
    Cancel,
    DeadLetters,
    JobFilter,
    Jobs,
    Pause,
    Pauses,
    Purge,
    RecoverStuck,
    Redrive,
    RetryNow,
    Stuck,
    require,
)
from headrace.queues.settlement import Complete, DeadLetter, Discard, Failure, Release, Retry
from support.verbs import dead_letter, enqueue

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager, AsyncExitStack

    from contract.queue.needs import Offer
    from headrace.job import NewJob
    from headrace.queues.base import Backlog, Delivery, Maintained, Provisioner, Queue
    from headrace.queues.inspection import Inspector, JobRecord
    from headrace.queues.settlement import Settled, Settlement

QUEUE = "orders"
OWNER = Owner(namespace="shop", name=QUEUE, uid="1")
LEASE_SECONDS = 5.0
PATIENCE_SECONDS = 30.0


class Bench(Protocol):
    """One backend under test."""

    @property
    def provisioner(self) -> Provisioner: ...

    @property
    def backlog(self) -> Backlog: ...

    @classmethod
    def offer(cls) -> Offer:
        """What the backend declares; nothing is connected."""
        ...

    def queue(self, name: str = QUEUE, *, lease_seconds: float = LEASE_SECONDS) -> Queue:
        """One more worker's or producer's own view of a queue; not yet open."""
        ...

    async def inspector(self) -> Inspector:
        """What people use, open; it is closed with the bench."""
        ...

    async def pass_time(self, seconds: float) -> None:
        """Let everything in the backend be older by so much: only where the bench's offer `moves_time`."""
        ...


class FaultyBench(Bench, Protocol):
    """One whose backend can be made to take a part of a call: only where its offer `takes_parts`."""

    def faulty(self) -> AbstractAsyncContextManager[None]:
        """Meanwhile it takes of each call a part: every other job, or all settlements but dead letters."""
        ...


async def made(bench: Bench, **settings: object) -> None:
    await bench.provisioner.ensure(QUEUE, QueueSettings(**settings), OWNER)  # type: ignore[arg-type]


# What people do


async def jobs_of(bench: Bench) -> Jobs:
    return require(await bench.inspector(), Jobs)


async def cancel(bench: Bench, job_id: str) -> Literal["cancelled", "requested"] | None:
    return await (await jobs_of(bench)).cancel(QUEUE, Cancel(job_id=job_id))


async def pause(bench: Bench, *, paused: bool) -> None:
    pauses = require(await bench.inspector(), Pauses)
    await pauses.pause(QUEUE, Pause(paused=paused))


async def dead(bench: Bench) -> list[JobRecord]:
    """The dead-letter queue, oldest first."""
    return (await (await jobs_of(bench)).jobs(QUEUE, JobFilter(state="dead"), limit=1000))[::-1]


async def finished(bench: Bench) -> list[tuple[str, str, int]]:
    """The history of finished jobs, oldest first: name, how they ended, failed attempts."""
    records = await (await jobs_of(bench)).jobs(QUEUE, JobFilter(), limit=1000)
    return [
        (record.job.name, record.state, record.job.attempt)
        for record in records[::-1]
        if record.state in {"completed", "cancelled"}
    ]


async def record_of(bench: Bench, job_id: str) -> JobRecord:
    record = await (await jobs_of(bench)).job(QUEUE, job_id)
    assert record is not None
    return record


async def listed(bench: Bench, which: JobFilter | None = None, *, limit: int = 100) -> list[str]:
    records = await (await jobs_of(bench)).jobs(QUEUE, which or JobFilter(), limit=limit)
    return [record.job.name for record in records]


async def retry_now(bench: Bench, job_id: str) -> bool:
    return await (await jobs_of(bench)).retry_now(QUEUE, RetryNow(job_id=job_id))


async def redrive(bench: Bench, which: JobFilter | None = None) -> int:
    letters = require(await bench.inspector(), DeadLetters)
    return await letters.redrive(QUEUE, Redrive(which=which or JobFilter()))


async def purge(bench: Bench, which: JobFilter | None = None) -> int:
    letters = require(await bench.inspector(), DeadLetters)
    return await letters.purge(QUEUE, Purge(which=which or JobFilter()))


async def recover_stuck(bench: Bench, older_than_seconds: float) -> list[str]:
    stuck = require(await bench.inspector(), Stuck)
    return await stuck.recover_stuck(QUEUE, RecoverStuck(older_than_seconds=older_than_seconds))


def errors(record: JobRecord) -> list[str]:
    """What went wrong in its attempts, oldest first."""
    return [failed.failure.error for failed in record.failures]


# What workers do

VERBS: dict[str, Callable[[Delivery], Settlement]] = {
    "complete": lambda delivery: Complete(delivery=delivery),
    "retry": lambda delivery: Retry(delivery=delivery, delay_seconds=0, failure=Failure(error="boom")),
    "release": lambda delivery: Release(delivery=delivery),
    "dead_letter": lambda delivery: DeadLetter(delivery=delivery, reason="Unreadable"),
    "discard": lambda delivery: Discard(delivery=delivery),
}
every_verb = pytest.mark.parametrize("verb", VERBS)
ends = pytest.mark.parametrize("verb", ["complete", "dead_letter", "discard"])


async def settle(queue: Queue, delivery: Delivery, verb: str) -> Settled:
    return await queue.settle([VERBS[verb](delivery)])


def refused(settled: Settled) -> list[Delivery]:
    """Of which deliveries nothing came about."""
    return [settlement.delivery for settlement in settled.refused]


def names(deliveries: list[Delivery]) -> list[str]:
    return [delivery.job.name for delivery in deliveries]


async def received_one(queue: Queue) -> Delivery:
    (delivery,) = await queue.receive(10)
    return delivery


async def arrival(queue: Queue, limit: int = 10) -> list[Delivery]:
    """What comes in the end; the clock may be the real one."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            await maintain(queue)
            if deliveries := await queue.receive(limit, wait_seconds=0.5):
                return deliveries


async def arrivals(queue: Queue, count: int) -> list[Delivery]:
    """So many jobs, in as many batches as they come in."""
    deliveries: list[Delivery] = []
    while len(deliveries) < count:
        deliveries += await arrival(queue, count - len(deliveries))
    return deliveries


async def maintain(queue: Queue) -> None:
    """Keep house, where the backend does not do it by itself."""
    if isinstance(queue, KeepsHouse):
        await queue.maintain()


async def kept(queue: Queue) -> Maintained:
    """What one round of housekeeping did."""
    assert isinstance(queue, KeepsHouse)
    return await queue.maintain()


async def counted(queue: Queue) -> Depth:
    assert isinstance(queue, Counts)
    return await queue.depth()


async def standing(queue: Queue) -> Depth:
    """How many jobs stand where, without times and totals."""
    return stripped(await counted(queue))


def stripped(depth: Depth) -> Depth:
    return Depth(
        ready=depth.ready,
        delayed=depth.delayed,
        blocked=depth.blocked,
        in_flight=depth.in_flight,
        dead_lettered=depth.dead_lettered,
    )


async def working(bench: Bench, stack: AsyncExitStack, *, lease_seconds: float = LEASE_SECONDS) -> Queue:
    """A worker with heartbeats."""
    queue = await stack.enter_async_context(bench.queue(lease_seconds=lease_seconds))
    await queue.keep_alive()
    return queue


async def killed(queue: Queue, *jobs: NewJob, reason: str = "Broken") -> list[str]:
    """Enqueue these jobs, and let them die."""
    ids = await enqueue(queue, jobs)
    while deliveries := await queue.receive(100):
        for delivery in deliveries:
            await dead_letter(queue, delivery, reason=reason, error="disk on fire", traceback="Traceback: …")
    return ids


async def after_the_death_of(bench: Bench, *workers: Queue, witness: Queue) -> Maintained:
    """Let workers fall silent for longer than a lease; another one finds out, and they start anew."""
    await bench.pass_time(LEASE_SECONDS + 1)
    await witness.keep_alive()
    maintained = await kept(witness)
    for worker in workers:
        assert (await worker.keep_alive()).lost
        await kept(worker)
    return maintained


async def twice_lost(bench: Bench, dying: Queue, witness: Queue, *jobs: NewJob) -> list[str]:
    """Enqueue these jobs; two workers are lost while they hold them all: each is a suspect then."""
    ids = await enqueue(dying, jobs)
    for _ in range(2):
        assert len(await dying.receive(len(jobs))) == len(jobs)
        await after_the_death_of(bench, dying, witness=witness)
    return ids
