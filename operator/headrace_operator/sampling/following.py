"""The queues of one backend: which they are, when each is to be read, and what is told of them."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from headrace_operator.core.model import Reading, Sample, SampleSource, TransientError
from headrace_operator.sampling.schedule import Schedule, period_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from headrace_operator.core.model import ObjectKey, OperatorError, QueueDepth, WorkerPod
    from headrace_operator.core.provider import Pace, Place
    from headrace_operator.reconcile.ports import Clock
    from headrace_operator.sampling.workers import Workers


class SamplingObserver(Protocol):
    """Counts what sampling does, for metrics."""

    def sampled(self, source: SampleSource, outcome: str, age_seconds: float | None) -> None:
        """A queue was read; its newest sample had reached this age by then, where there was one."""
        ...

    def asked(self, outcome: str, seconds: float) -> None:
        """A backend was asked, and took so long."""
        ...

    def backend_changed(self, before: str | None, after: str | None) -> None:
        """A backend is in another state: Answering, Away, or None where nothing is known or wanted of it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What every reader is given.

    Attributes
    ----------
    pods_of
        The pods of all pools on a queue.
    interval_seconds
        How often a queue is to be read; None where none of its pools has workers.
    tell
        Is called with each reading.
    newest
        The newest reading.
    """

    clock: Clock
    workers: Workers
    pods_of: Callable[[ObjectKey], Sequence[WorkerPod]]
    interval_seconds: Callable[[ObjectKey], float | None]
    tell: Callable[[ObjectKey, Reading], None]
    newest: Callable[[ObjectKey], Reading | None]
    observer: SamplingObserver


class Following:
    """The queues of one backend."""

    def __init__(self, around: Surroundings, pace: Pace) -> None:
        self.around = around
        self.pace = pace
        self.schedule = Schedule(pace)
        self.listening: set[ObjectKey] = set()
        """Of which the backend tells when there are new jobs."""
        self.left: set[Place] = set()
        """Places that were listened to, and in which nothing is followed any more."""
        self.wanted: dict[ObjectKey, None] = {}
        """Whom the backend is to be asked for, in order."""
        self.asked: dict[ObjectKey, None] = {}
        """Whom it was asked for, and has not told of."""
        self.is_backend_wanted = asyncio.Event()
        self._places: dict[ObjectKey, Place] = {}
        self._is_due = asyncio.Event()
        self._waits_until = math.inf

    def __contains__(self, queue: object) -> bool:
        return queue in self._places

    def __bool__(self) -> bool:
        return bool(self._places)

    def add(self, queue: ObjectKey, place: Place) -> None:
        """Read this queue, beginning now."""
        self._places[queue] = place
        self.schedule.follow(queue, time.monotonic())
        self._is_due.set()

    def remove(self, queue: ObjectKey) -> None:
        """Read it no more."""
        place = self._places.pop(queue, None)
        self.wanted.pop(queue, None)
        self.asked.pop(queue, None)
        if queue in self.listening and place is not None:
            self.left.add(place)
        self.listening.discard(queue)
        self.schedule.forget(queue)

    def begin_anew(self) -> None:
        """Whoever read is gone, with all that was under way."""
        for known in (self.wanted, self.asked, self.listening, self.left):
            known.clear()
        for queue in self._places:
            self.schedule.follow(queue, time.monotonic())

    def places(self, queues: Iterable[ObjectKey]) -> Mapping[ObjectKey, Place]:
        """Where those of the queues live that are still followed."""
        return {queue: self._places[queue] for queue in queues if queue in self._places}

    def still(self, places: Mapping[ObjectKey, Place]) -> Mapping[ObjectKey, Place]:
        """Those of `places` that have not been left since, be it for a while: what was asked before is too old."""
        return {queue: place for queue, place in places.items() if self._places.get(queue) is place}

    def at(self, place: Place) -> Iterable[ObjectKey]:
        """The queues that are said to live there."""
        return [queue for queue, known in self._places.items() if known == place]

    async def until_due(self) -> None:
        """Wait until a queue may be due."""
        self._waits_until = self.schedule.next_at()
        seconds = self._waits_until - time.monotonic()
        try:
            async with asyncio.timeout(None if math.isinf(seconds) else max(seconds, 0.0)):
                await self._is_due.wait()
        except TimeoutError:
            return
        finally:
            self._is_due.clear()

    def want_backend(self, queue: ObjectKey) -> None:
        """No worker tells: the backend is to be asked."""
        self.wanted[queue] = None
        self.is_backend_wanted.set()

    def ask_wanted(self) -> Sequence[ObjectKey]:
        """Whom the backend is asked for now. Who is wanted from here on is asked for once more: there may be news."""
        self.asked, self.wanted = self.wanted, {}
        return list(self.asked)

    def postpone(self, queue: ObjectKey, until: float) -> None:
        """It need not be tried before."""
        self.wanted.pop(queue, None)
        self.asked.pop(queue, None)
        self.schedule.postpone(queue, until)
        self._be_due(until)

    def hear(self, queue: ObjectKey) -> None:
        """There may be new jobs."""
        self._be_due(self.schedule.hear(queue, time.monotonic()))

    def tell(
        self,
        queue: ObjectKey,
        depth: QueueDepth,
        sampled_at: datetime,
        source: SampleSource,
        *,
        age_seconds: float = 0.0,
    ) -> None:
        """It was read."""
        if queue not in self._places:
            return
        self._observe(queue, source, "succeeded")
        period = period_seconds(
            self.pace, self.around.interval_seconds(queue), depth, is_listening=queue in self.listening
        )
        self.asked.pop(queue, None)
        self._be_due(self.schedule.read(queue, time.monotonic(), period_seconds=period, age_seconds=age_seconds))
        sample = Sample(depth=depth, sampled_at=sampled_at, source=source)
        self.around.tell(queue, Reading(sample=sample, failure=None, tried_at=self.around.clock.now()))

    def tell_failure(self, queue: ObjectKey, why: OperatorError) -> None:
        """It could not be read."""
        place = self._places.get(queue)
        if place is None:
            return
        self._observe(queue, SampleSource.BACKEND, "failed")
        newest = self.around.newest(queue)
        nobody = f"no worker publishes the depth of {place.label}, and the backend doesn't tell it"
        if not self.pace.workers_count:
            nobody = f"the backend doesn't tell the depth of {place.label}"
        failure = TransientError(why.reason, f"{nobody}: {why.message}")
        known = None if newest is None else newest.sample
        self.around.tell(queue, Reading(sample=known, failure=failure, tried_at=self.around.clock.now()))

    def _be_due(self, at: float) -> None:
        """Somebody is due then: so wait no longer."""
        if at < self._waits_until:
            self._is_due.set()

    def _observe(self, queue: ObjectKey, source: SampleSource, outcome: str) -> None:
        newest = self.around.newest(queue)
        age_seconds = None
        if newest is not None and newest.sample is not None:
            age_seconds = (self.around.clock.now() - newest.sample.sampled_at).total_seconds()
        self.around.observer.sampled(source, outcome, age_seconds)
