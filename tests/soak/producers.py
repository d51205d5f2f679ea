"""Producers of every kind. Each keeps account of what it asked for, and of what was answered."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from headrace import NewJob, new_job
from headrace.queues.base import Queue
from headrace.queues.errors import QueueUnavailableError
from soak.verdict import MAX_RETRIES, Asked

GROUPS = 6
KEYS = 4
STORM = 200
"""So many jobs fail at once, as when a dependency is down."""
# So many of the last idempotency keys may come once more, when they have long been finished.
REMEMBERED = 300


class Producers:
    """Enqueue until told to stop, at about the rate given.

    Parameters
    ----------
    queue
        Open.
    chance
        Decides what the jobs are like.
    jobs_per_second
        Of all producers together, about.
    """

    def __init__(self, queue: Queue, chance: random.Random, *, jobs_per_second: float) -> None:
        self.asked: list[Asked] = []
        self._queue = queue
        self._chance = chance
        self._numbers = itertools.count(1)
        self._recent: deque[str] = deque(maxlen=REMEMBERED)
        self._pause_seconds = 1 / jobs_per_second
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Enqueue no more."""
        self._stopped.set()

    async def run(self) -> None:
        """Produce, until stopped."""
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(self._keep(self._single, share=0.1))
            group.create_task(self._keep(self._many, share=0.2, size=15))
            group.create_task(self._keep(self._delayed, share=0.05))
            group.create_task(self._keep(self._storm, share=0.15, size=STORM))
            for _ in range(2):
                group.create_task(self._keep(self._shared, share=0.1, size=4))
            for name in range(GROUPS):
                group.create_task(self._keep(lambda name=name: self._grouped(name), share=0.1 / GROUPS, size=1))
            for name in range(KEYS):
                group.create_task(self._keep(lambda name=name: self._keyed(name), share=0.1 / KEYS))

    async def _keep(self, produce: Any, *, share: float, size: int = 1) -> None:
        while not self._stopped.is_set():
            await produce()
            pause = self._pause_seconds * size / share * self._chance.uniform(0.5, 1.5)
            try:
                async with asyncio.timeout(pause):
                    await self._stopped.wait()
            except TimeoutError:
                pass

    async def _single(self) -> None:
        await self._ask([self._like(priority=self._chance.choice([0, 0, 0, 5, 10]))])

    async def _many(self) -> None:
        await self._ask([self._like(priority=self._chance.choice([0, 3])) for _ in range(self._chance.randint(5, 25))])

    async def _storm(self) -> None:
        await self._ask([self._like(fails_at_once=True) for _ in range(STORM)])

    async def _delayed(self) -> None:
        await self._ask([self._like(delay_seconds=self._chance.uniform(0.1, 8))])

    async def _grouped(self, name: int) -> None:
        delay_seconds = self._chance.choice([0.0] * 9 + [2.0])
        priority = self._chance.choice([0, 10])
        job = self._like(group=f"tenant-{name}", delay_seconds=delay_seconds, priority=priority)
        await self._ask([job, *(self._like(group=f"tenant-{name}") for _ in range(self._chance.choice([0, 0, 3])))])

    async def _shared(self) -> None:
        """Two or three jobs of one idempotency key, at once or one after the other; then one of an earlier key."""
        key = f"order-{next(self._numbers)}"
        count = self._chance.choice([2, 3])
        apart_seconds = self._chance.choice([0.0, 0.0, 0.3, 6.0])
        jobs = [
            self._like(idempotency_key=key, delay_seconds=number * self._chance.uniform(0, apart_seconds))
            for number in range(count)
        ]
        if self._chance.random() < 0.5:
            await self._ask(jobs)
        else:
            for job in jobs:
                await self._ask([job])
        if self._recent:
            await self._ask([self._like(idempotency_key=self._chance.choice(self._recent))])
        self._recent.append(key)

    async def _keyed(self, name: int) -> None:
        await self._ask([self._like(key=f"report-{name}")])

    def _like(
        self,
        *,
        priority: int = 0,
        delay_seconds: float = 0.0,
        group: str | None = None,
        key: str | None = None,
        idempotency_key: str | None = None,
        fails_at_once: bool = False,
    ) -> tuple[Asked, NewJob]:
        token = str(next(self._numbers))
        fate = self._chance.random()
        asked = Asked(
            token=token,
            called_at=0.0,
            answered_at=None,
            key=key,
            idempotency_key=idempotency_key,
            group=group,
            delay_seconds=delay_seconds,
            failures=MAX_RETRIES + 1 if fate < 0.005 else 1 if fate < 0.03 or fails_at_once else 0,
            hopeless=fate > 0.995,
        )
        long = self._chance.uniform(0.1, 1.5) if group is None or self._chance.random() < 0.1 else 0.0
        seconds = self._chance.choice([0.0, 0.0, 0.001, 0.01, 0.03, long])
        name = self._chance.choices(["work", "work-in-thread", "work-in-process", "work-of-tomorrow"], [87, 8, 2, 3])[0]
        if name == "work-of-tomorrow" and group is not None:
            # A group waits for its head, up to a minute each time that a worker knows no such name.
            name = "work"
        if fails_at_once:
            name, seconds = self._chance.choice(["work", "work-in-thread"]), 0.0
        elif name == "work-in-thread" and self._chance.random() < 0.02:
            seconds = self._chance.uniform(4, 9)
        payload = {
            "token": token,
            "seconds": seconds,
            "failures": asked.failures,
            "hopeless": asked.hopeless,
            "hangs": name == "work-in-process" and asked.failures == 1,
        }
        job = new_job(
            name,
            payload,
            priority=priority,
            delay_seconds=delay_seconds,
            group=group,
            deduplication_key=key,
            idempotency_key=idempotency_key,
        )
        return asked, job

    async def _ask(self, wanted: Sequence[tuple[Asked, NewJob]]) -> None:
        called_at = time.monotonic()
        ids: Sequence[str | None]
        try:
            ids = [enqueued.id for enqueued in await self._queue.enqueue([job for _, job in wanted])]
        except QueueUnavailableError:
            answered_at = None
            ids = [None] * len(wanted)
            await asyncio.sleep(0.2)
        else:
            answered_at = time.monotonic()
        self.asked += [
            replace(asked, called_at=called_at, answered_at=answered_at, job_id=job_id)
            for (asked, _), job_id in zip(wanted, ids, strict=True)
        ]
