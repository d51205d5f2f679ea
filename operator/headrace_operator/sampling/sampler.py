"""Samples: workers first, else the backend; remembered, and read once for all who ask at the same time."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import TYPE_CHECKING

from headrace_operator.core.model import ObjectKey, OperatorError, QueueDepth, Sample, SampleSource, TransientError
from headrace_operator.core.provider import Place
from headrace_operator.sampling.backends import Backends
from headrace_operator.sampling.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from headrace_operator.core.model import WorkerPod
    from headrace_operator.core.provider import Providers
    from headrace_operator.reconcile.ports import Clock

    _Subject = tuple[ObjectKey, Place]
    """A queue in its place: a sample of the database that the queue was in before is none of it."""

_REMEMBERED = timedelta(minutes=5)
"""Longer than anybody's `max_age_seconds`: what is older belongs to queues that are gone."""


class Sampler:
    """Fills `reconcile.ports.Sampling`, inside an `async with` block."""

    def __init__(self, clock: Clock, providers: Providers) -> None:
        self._clock = clock
        self._workers = Workers()
        self._backends = Backends(providers)
        self._open = AsyncExitStack()
        self._newest: OrderedDict[_Subject, Sample] = OrderedDict()
        self._readings: dict[_Subject, asyncio.Task[Sample]] = {}

    async def __aenter__(self) -> Self:
        await self._open.enter_async_context(self._workers)
        await self._open.enter_async_context(self._backends)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        readings = list(self._readings.values())
        for reading in readings:
            reading.cancel()
        await asyncio.gather(*readings, return_exceptions=True)
        await self._open.aclose()

    async def sample(
        self, queue: ObjectKey, place: Place, pods: Sequence[WorkerPod], *, max_age_seconds: float
    ) -> Sample:
        """See `reconcile.ports.Sampling`."""
        subject = (queue, place)
        newest = self._newest.get(subject)
        if newest is not None and self._clock.now() - newest.sampled_at <= timedelta(seconds=max_age_seconds):
            return newest
        reading = self._readings.get(subject)
        if reading is None:
            reading = asyncio.create_task(self._read(queue, place, pods), name=f"sample-{queue}")
            self._readings[subject] = reading
            reading.add_done_callback(lambda done: self._finish(subject, done))
        # One who stops waiting must not stop the others.
        return await asyncio.shield(reading)

    def _finish(self, subject: _Subject, reading: asyncio.Task[Sample]) -> None:
        del self._readings[subject]
        if reading.cancelled() or reading.exception() is not None:
            return
        sample = reading.result()
        self._newest[subject] = sample
        self._newest.move_to_end(subject)
        while next(iter(self._newest.values())).sampled_at < sample.sampled_at - _REMEMBERED:
            self._newest.popitem(last=False)

    async def _read(self, queue: ObjectKey, place: Place, pods: Sequence[WorkerPod]) -> Sample:
        # A sample is as old as the question, however long the answer took.
        asked_at = self._clock.now()
        published = await self._workers.depth(queue, pods)
        if published is not None:
            return Sample(depth=published, sampled_at=asked_at, source=SampleSource.WORKERS)
        asked_at = self._clock.now()
        depth = await self._read_backend(place)
        return Sample(depth=depth, sampled_at=asked_at, source=SampleSource.BACKEND)

    async def _read_backend(self, place: Place) -> QueueDepth:
        try:
            depth = await self._backends.depth(place)
        except OperatorError as error:
            raise _unknown(place, error.message) from None
        if depth is None:
            raise _unknown(place, "there is no such queue")
        return depth


def _unknown(place: Place, why: str) -> TransientError:
    return TransientError(
        "DepthUnknown", f"no worker publishes the depth of {place.label}, and the backend doesn't tell it: {why}"
    )
