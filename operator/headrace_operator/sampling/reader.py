"""Reads all queues of one backend: its workers, and where none of a queue's tells, the backend itself.

Where the operator alone counts, it is the other way round: the backend is asked, and beside an approximate count the
workers, for what they have seen: all of them where nothing was counted, else a few.

Two tasks a backend, so that a question that takes long holds up neither the queues whose workers tell nor those of any
other backend.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from headrace_operator.core.model import SampleSource
from headrace_operator.sampling.following import Following
from headrace_operator.sampling.published import with_witness
from headrace_operator.sampling.questions import Questions
from headrace_operator.sampling.schedule import Breaker, Rests

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from headrace_operator.core.model import ObjectKey, QueueDepth
    from headrace_operator.core.provider import Pace, Place
    from headrace_operator.sampling.following import Surroundings
    from headrace_operator.sampling.questions import OpenBacklog

logger = logging.getLogger(__name__)

_SOME_WITNESSES = 3
"""So many workers are asked how old jobs are that they get, while there are any."""

_WORKER_RESTS = Rests(first_seconds=5.0, longest_seconds=60.0)
"""How long a queue's workers are left alone that did not answer: the backend tells meanwhile."""


@dataclass(slots=True)
class _Crew:
    """The workers of a queue, as sources."""

    addresses: frozenset[str] = frozenset()
    """As they were when they were asked last."""
    answered: str | None = None
    """Which of them answered last."""
    breaker: Breaker = field(default_factory=lambda: Breaker(_WORKER_RESTS))


class BackendReader:
    """One backend's reader; `run` it in a task. See `Questions` for the parameters."""

    def __init__(self, open_backlog: OpenBacklog, surroundings: Surroundings, pace: Pace) -> None:
        self._around = surroundings
        self._pace = pace
        self._following = Following(surroundings, pace)
        self._questions = Questions(open_backlog, self._following, self._backend_counted)
        self._group: asyncio.TaskGroup | None = None
        self._crews: dict[ObjectKey, _Crew] = {}
        self.is_left = False
        """Whether it is to end, however that goes."""

    @property
    def is_idle(self) -> bool:
        """Whether it follows nobody."""
        return not self._following

    def follow(self, queue: ObjectKey, place: Place) -> None:
        """Read this queue; a backend that was away is tried at once."""
        self._crews[queue] = _Crew()
        self._questions.give_another_chance()
        self._following.add(queue, place)

    def forget(self, queue: ObjectKey) -> None:
        """Read it no more."""
        self._crews.pop(queue, None)
        self._following.remove(queue)

    async def run(self) -> None:
        """Read, until cancelled."""
        self._following.begin_anew()
        # One group for all: were one to fail silently, its queue would never be due again.
        async with asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(self._read_who_is_due(group))
            group.create_task(self._questions.run())

    async def _read_who_is_due(self, group: asyncio.TaskGroup) -> None:
        while True:
            now = time.monotonic()
            for queue in self._following.schedule.take_due(now):
                addresses = self._workers_to_ask(queue, now) if self._pace.workers_count else ()
                if addresses:
                    group.create_task(self._ask_workers(queue, addresses), name=f"ask-workers-{queue}")
                else:
                    self._following.want_backend(queue)
            await self._following.until_due()

    def _workers_to_ask(self, queue: ObjectKey, now: float) -> Sequence[str]:
        crew = self._crews[queue]
        ready = [pod.address for pod in self._around.pods_of(queue) if pod.ready and pod.address is not None]
        if frozenset(ready) != crew.addresses:
            crew.addresses = frozenset(ready)
            crew.breaker.give_another_chance()
        if not crew.breaker.lets_pass(now):
            return ()
        return sorted(ready, key=lambda address: address != crew.answered)

    async def _ask_workers(self, queue: ObjectKey, addresses: Sequence[str]) -> None:
        crew = self._crews[queue]
        asked_at = self._around.clock.now()
        try:
            answer = await self._around.workers.depth(queue, addresses)
        except Exception:
            # Whatever a tenant's pods say, their queue must not be forgotten.
            logger.exception("Workers of %s could not be asked", queue)
            answer = None
        if self._crews.get(queue) is not crew:
            return
        if answer is None:
            crew.breaker.failed(time.monotonic(), random.random())  # noqa: S311
            self._following.want_backend(queue)
            return
        crew.breaker.succeeded()
        crew.answered, published = answer
        self._following.tell(
            queue,
            published.depth,
            asked_at - timedelta(seconds=published.age_seconds),
            SampleSource.WORKERS,
            age_seconds=published.age_seconds,
        )

    def _backend_counted(self, queue: ObjectKey, depth: QueueDepth, asked_at: datetime) -> None:
        """Tell it; what is approximate, once workers have said what they know of it."""
        ready = [pod for pod in self._around.pods_of(queue) if pod.ready]
        if not depth.is_approximate or not ready or self._around.interval_seconds(queue) is None:
            self._following.tell(queue, depth, asked_at, SampleSource.BACKEND)
            return
        addresses = self._workers_to_ask(queue, time.monotonic())
        if depth.load:
            addresses = random.sample(addresses, min(len(addresses), _SOME_WITNESSES))
        assert self._group is not None, "it is read"
        self._group.create_task(
            self._ask_witnesses(queue, depth, asked_at, addresses, ready=len(ready)), name=f"ask-witnesses-{queue}"
        )

    async def _ask_witnesses(
        self, queue: ObjectKey, depth: QueueDepth, asked_at: datetime, addresses: Sequence[str], *, ready: int
    ) -> None:
        crew = self._crews.get(queue)
        try:
            said = await self._around.workers.witnessed(queue, addresses)
        except Exception:
            # Whatever a tenant's pods say, their queue must not be forgotten.
            logger.exception("Workers of %s could not be asked what they have seen", queue)
            said = []
        if crew is None or self._crews.get(queue) is not crew:
            return
        if said:
            crew.breaker.succeeded()
        elif addresses:
            crew.breaker.failed(time.monotonic(), random.random())  # noqa: S311
        self._following.tell(queue, with_witness(depth, said, ready=ready), asked_at, SampleSource.BACKEND)
