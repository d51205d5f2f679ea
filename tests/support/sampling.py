"""A sampler with what surrounds it: what is read is waited for, as looks are woken."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from headrace_operator.providers import PROVIDERS
from headrace_operator.reconcile.observations import Observations
from headrace_operator.sampling import Sampler

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from headrace_operator.core.model import ObjectKey, Reading, Sample, WorkerPod
    from headrace_operator.core.provider import Place, Providers
    from headrace_operator.sampling.following import SamplingObserver


class WallClock:
    """Fills `Clock`."""

    def now(self) -> datetime:
        return datetime.now(UTC)


class SamplerStage:
    """What a sampler reads, and from whom; `pods` and `intervals` are read with every sample."""

    def __init__(self, providers: Providers = PROVIDERS, observer: SamplingObserver | None = None) -> None:
        self.pods: dict[ObjectKey, list[WorkerPod]] = {}
        self.intervals: dict[ObjectKey, float | None] = {}
        """None, a pool at zero, where nothing is said."""
        self.news: list[tuple[ObjectKey, bool]] = []
        self.readings = 0
        self.clock = WallClock()
        self.observations = _Noted(self)
        self._told = asyncio.Event()
        self.sampler = Sampler(
            self.clock,
            providers,
            self.observations,
            pods_of=lambda queue: self.pods.get(queue, []),
            interval_seconds=self.intervals.get,
            on_news=lambda queue, is_urgent: self.news.append((queue, is_urgent)),
            observer=observer,
        )

    def note(self) -> None:
        self.readings += 1
        self._told.set()

    async def until(self, queue: ObjectKey, holds: Callable[[Reading], bool], *, within_seconds: float = 30) -> Reading:
        """The first reading of a queue for which this holds."""
        async with asyncio.timeout(within_seconds):
            while True:
                reading = self.sampler.reading(queue)
                if reading is not None and holds(reading):
                    return reading
                self._told.clear()
                await self._told.wait()

    async def next(self, queue: ObjectKey) -> Reading:
        """The first reading after the one there is."""
        known = self.sampler.reading(queue)
        return await self.until(queue, lambda reading: reading is not known)

    async def sample(self, queue: ObjectKey, place: Place, *, within_seconds: float = 30) -> Sample:
        """Follow a queue; its first sample."""
        self.sampler.follow(queue, place)
        reading = await self.until(queue, lambda reading: reading.sample is not None, within_seconds=within_seconds)
        assert reading.sample is not None
        return reading.sample

    async def failure(self, queue: ObjectKey, place: Place) -> str:
        """Follow a queue that can't be read; why."""
        self.sampler.follow(queue, place)
        reading = await self.until(queue, lambda reading: reading.failure is not None)
        assert reading.failure is not None
        return f"{reading.failure.reason}: {reading.failure.message}"


class _Noted(Observations):
    def __init__(self, stage: SamplerStage) -> None:
        super().__init__(stage.clock)
        self._stage = stage

    def remember_reading(self, queue: ObjectKey, reading: Reading) -> None:
        super().remember_reading(queue, reading)
        self._stage.note()


@asynccontextmanager
async def sampling(
    providers: Providers = PROVIDERS, observer: SamplingObserver | None = None
) -> AsyncIterator[SamplerStage]:
    """A sampler that works inside the block."""
    stage = SamplerStage(providers, observer)
    async with stage.sampler:
        yield stage
