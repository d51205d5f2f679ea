from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from contract.queue.bench import PATIENCE_SECONDS, Bench, counted, kept, made, standing, working
from contract.queue.needs import (
    COUNTING,
    DELAYS,
    GROUPS,
    HOUSEKEEPING,
    LATER,
    PRIORITIES,
    SKIPPING,
    UNCHARGED,
    Part,
    needs,
)
from headrace.job import NewJob
from headrace.queues.base import Depth, KeptAlive
from headrace.queues.settlement import Complete, DeadLetter, Discard, Failure, Release, Retry

if TYPE_CHECKING:
    from headrace.queues.base import Delivery, Queue
    from headrace.queues.settlement import Settlement

JOBS = 200
NAMES = ("resize", "mail", "bill")


class Ledger:
    """What workers saw, and what they should not have."""

    def __init__(self) -> None:
        self.ended: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._running: set[str] = set()
        self._groups: set[str] = set()
        self._newest: dict[str, int] = {}

    def received(self, delivery: Delivery, without: set[str]) -> None:
        job = delivery.job
        number = int(job.extra["number"])
        if job.name in without:
            self.wrong.append(f"{number} has a name that was left out")
        if job.id in self._running or self.ended[job.id]:
            self.wrong.append(f"{number} runs twice, or has ended")
        self._running.add(job.id)
        if job.group is not None:
            if job.group in self._groups:
                self.wrong.append(f"{number} runs beside another of its group")
            if number < self._newest.get(job.group, 0):
                self.wrong.append(f"{number} is too late in its group")
            self._groups.add(job.group)
            self._newest[job.group] = number

    def let_go(self, delivery: Delivery) -> None:
        """To be said before it is settled: from then on it may be another's."""
        self._running.discard(delivery.job.id)
        self._groups.discard(delivery.job.group or "")


@needs(GROUPS, PRIORITIES, DELAYS, SKIPPING, UNCHARGED, HOUSEKEEPING, COUNTING, LATER)
class TogetherContract(Part):
    """All that workers do, at once and in any mix."""

    @pytest.mark.parametrize("seed", [1, 2])
    async def test_whatever_workers_do_at_once_every_job_ends_once_and_groups_keep_their_order(
        self, bench: Bench, seed: int
    ) -> None:
        await made(bench, max_retries=3)
        chance, ledger = random.Random(seed), Ledger()

        async def produce(queue: Queue, producer: int) -> None:
            for number in range(producer, JOBS, 2):
                await queue.enqueue(
                    [
                        NewJob(
                            name=chance.choice(NAMES),
                            priority=chance.randrange(4),
                            group=chance.choice([None, f"group-{producer}"]),
                            delay_seconds=chance.choice([0, 0, 0.1]),
                            extra={"number": number},
                        )
                    ]
                )

        def some_end(delivery: Delivery) -> Settlement:
            delay_seconds = chance.choice([0, 0, 0.05])
            ways: list[Settlement] = [
                *[Complete(delivery=delivery, run_seconds=0.01)] * 4,
                *[Retry(delivery=delivery, delay_seconds=delay_seconds, failure=Failure(error="boom"))] * 2,
                *[Release(delivery=delivery, delay_seconds=delay_seconds)] * 2,
                DeadLetter(delivery=delivery, reason="GaveUp"),
                Discard(delivery=delivery),
            ]
            return chance.choice(ways)

        async def work(queue: Queue) -> None:
            held: list[Delivery] = []
            while ledger.ended.total() < JOBS:
                without = set(chance.sample(NAMES, chance.choice([0, 0, 1])))
                for delivery in await queue.receive(chance.choice([1, 5, 50]), wait_seconds=0.05, without=without):
                    ledger.received(delivery, without)
                    held.append(delivery)
                chance.shuffle(held)
                chosen = [some_end(held.pop()) for _ in range(chance.randint(0, len(held)))]
                for settlement in chosen:
                    ledger.let_go(settlement.delivery)
                settled = await queue.settle(chosen)
                assert (settled.accepted, settled.refused, settled.unsettled) == (len(chosen), (), ())
                ledger.ended.update(
                    settlement.delivery.job.id
                    for settlement in chosen
                    if isinstance(settlement, Complete | Discard) or settlement in settled.dead_lettered
                )
                assert await queue.keep_alive() == KeptAlive()
                await kept(queue)

        async with AsyncExitStack() as stack:
            workers = [await working(bench, stack, lease_seconds=2 * PATIENCE_SECONDS) for _ in range(3)]
            async with asyncio.timeout(4 * PATIENCE_SECONDS):
                await asyncio.gather(*map(work, workers), produce(workers[0], 0), produce(workers[1], 1))
            assert ledger.wrong == []
            assert len(ledger.ended) == ledger.ended.total() == JOBS
            totals = (await counted(workers[0])).totals
            assert totals is not None
            assert totals.arrived == JOBS
            assert await standing(workers[0]) == Depth(dead_lettered=totals.dead_lettered)
