"""Sampling, as the rest of the operator knows it: whom to read, and what was read last."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from headrace_operator.core.model import SampleSource
from headrace_operator.sampling.following import Surroundings
from headrace_operator.sampling.reader import BackendReader
from headrace_operator.sampling.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence
    from types import TracebackType
    from typing import Self

    from headrace_operator.core.model import ObjectKey, Reading, WorkerPod
    from headrace_operator.core.provider import Place, Providers
    from headrace_operator.reconcile.observations import Observations
    from headrace_operator.reconcile.ports import Clock
    from headrace_operator.sampling.following import SamplingObserver

logger = logging.getLogger(__name__)

_RESTART_SECONDS = 1.0


class NoObserver:
    """Counts nothing."""

    def sampled(self, source: SampleSource, outcome: str, age_seconds: float | None) -> None:
        """See `SamplingObserver`."""

    def asked(self, outcome: str, seconds: float) -> None:
        """See `SamplingObserver`."""

    def backend_changed(self, before: str | None, after: str | None) -> None:
        """See `SamplingObserver`."""


class Sampler:
    """Fills `reconcile.ports.Sampling`, inside an `async with` block.

    Parameters
    ----------
    observations
        Where readings are written.
    pods_of
        The pods of all pools on a queue.
    interval_seconds
        How often a queue is to be read; None where none of its pools has workers.
    on_news
        Called with a queue of which something was read that a decision reads, and whether that is urgent: it can or
        can't start anything any more, or was lost, or found.
    observer
        Counts for metrics.
    """

    def __init__(
        self,
        clock: Clock,
        providers: Providers,
        observations: Observations,
        *,
        pods_of: Callable[[ObjectKey], Sequence[WorkerPod]],
        interval_seconds: Callable[[ObjectKey], float | None],
        on_news: Callable[[ObjectKey, bool], None],
        observer: SamplingObserver | None = None,
    ) -> None:
        self._observations = observations
        self._providers = providers
        self._on_news = on_news
        self._workers = Workers()
        self._surroundings = Surroundings(
            clock=clock,
            workers=self._workers,
            pods_of=pods_of,
            interval_seconds=interval_seconds,
            tell=self._tell,
            newest=observations.reading,
            observer=observer or NoObserver(),
        )
        self._open = AsyncExitStack()
        self._places: dict[ObjectKey, Place] = {}
        self._readers: dict[tuple[str, Hashable], BackendReader] = {}
        self._tasks: dict[BackendReader, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        await self._open.enter_async_context(self._workers)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = list(self._tasks.values())
        for reader in list(self._tasks):
            self._leave(reader)
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._open.aclose()

    def follow(self, queue: ObjectKey, place: Place) -> None:
        """See `reconcile.ports.Sampling`."""
        if self._places.get(queue) == place:
            return
        self.forget(queue)
        self._places[queue] = place
        backend = place.provider, place.backend
        reader = self._readers.get(backend)
        if reader is None:
            provider = self._providers[place.provider]
            reader = BackendReader(
                lambda on_news: provider.open_backlog(place.backend, on_news), self._surroundings, provider.pace
            )
            self._readers[backend] = reader
            task = asyncio.create_task(_keep_running(reader), name="read-backend")
            self._tasks[reader] = task
            task.add_done_callback(lambda _: self._tasks.pop(reader))
        reader.follow(queue, place)

    def forget(self, queue: ObjectKey) -> None:
        """See `reconcile.ports.Sampling`."""
        place = self._places.pop(queue, None)
        self._observations.forget_reading(queue)
        if place is None:
            return
        backend = place.provider, place.backend
        reader = self._readers[backend]
        reader.forget(queue)
        if reader.is_idle:
            del self._readers[backend]
            self._leave(reader)

    def reading(self, queue: ObjectKey) -> Reading | None:
        """See `reconcile.ports.Sampling`."""
        return self._observations.reading(queue)

    def _leave(self, reader: BackendReader) -> None:
        reader.is_left = True
        self._tasks[reader].cancel()

    def _tell(self, queue: ObjectKey, reading: Reading) -> None:
        before = self._observations.reading(queue)
        self._observations.remember_reading(queue, reading)
        is_urgent = _is_urgent(before, reading)
        if is_urgent or _matters(before, reading):
            self._on_news(queue, is_urgent)


def _is_urgent(before: Reading | None, after: Reading) -> bool:
    if before is None or (before.failure is None) != (after.failure is None):
        return True
    if before.current is None or after.current is None:
        return (before.failure and before.failure.message) != (after.failure and after.failure.message)
    known, depth = before.current.depth, after.current.depth
    return (bool(known.startable), known.paused) != (bool(depth.startable), depth.paused)


def _matters(before: Reading | None, after: Reading) -> bool:
    if before is None or before.current is None or after.current is None:
        return False
    known, depth = before.current.depth, after.current.depth
    told, tells = ((each.startable, each.load, each.is_known_empty) for each in (known, depth))
    return told != tells


async def _keep_running(reader: BackendReader) -> None:
    """One backend's trouble is no other's, not even a fault of ours."""
    while True:
        try:
            await reader.run()
        except Exception:
            logger.exception("A backend's reader failed")
            # What fails while it is being left hides that it was cancelled.
            if reader.is_left:
                return
            await asyncio.sleep(_RESTART_SECONDS)
