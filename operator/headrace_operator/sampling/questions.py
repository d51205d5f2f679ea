"""Asks one backend, one question at a time over one connection; while it is away, more and more rarely."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from headrace_operator.core.model import OperatorError, QueueDepth, SampleSource, TransientError
from headrace_operator.core.provider import CountTooLongError
from headrace_operator.sampling.schedule import Breaker, Rests, is_idle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    from headrace_operator.core.model import ObjectKey
    from headrace_operator.core.provider import AnyBacklogReader, Place
    from headrace_operator.sampling.following import Following

    OpenBacklog = Callable[[Callable[[Place | None], None]], AbstractAsyncContextManager[AnyBacklogReader]]

logger = logging.getLogger(__name__)

BACKEND_RESTS = Rests(first_seconds=0.5, longest_seconds=30.0)
"""How long a backend is left alone that did not answer."""

_QUESTION_SECONDS = 20.0
"""After so long a question is given up, whatever the backend's reader promises of time limits."""

_RETRY_SECONDS = 0.1

_REFUSED_SECONDS = 5.0
"""How soon a backend that answers is asked again for a queue that it tells nothing of."""


_TAKES_TOO_LONG = TransientError("DepthUnknown", "counting it takes too long")


class Questions:
    """Asks for those that are wanted of one backend; `run` it in a task.

    Parameters
    ----------
    open_backlog
        Opens the backend; what it is given wants to be called with a place where there may be new jobs, and with None
        where nothing is told any more.
    counted
        Called with a queue, the depth that the backend told, and when it was asked.
    """

    def __init__(
        self,
        open_backlog: OpenBacklog,
        following: Following,
        counted: Callable[[ObjectKey, QueueDepth, datetime], None],
    ) -> None:
        self._open_backlog = open_backlog
        self._following = following
        self._counted = counted
        self._schedule = following.schedule
        self._around = following.around
        self._breaker = Breaker(BACKEND_RESTS)
        self._failure: OperatorError | None = None
        self._state: str | None = None

    def give_another_chance(self) -> None:
        """Something was mended, perhaps."""
        self._breaker.give_another_chance()

    async def run(self) -> None:
        """Ask, until cancelled."""
        try:
            while True:
                async with AsyncExitStack() as opened:
                    await self._ask_until_lost(opened)
        finally:
            self._be(None)

    async def _ask_until_lost(self, opened: AsyncExitStack) -> None:
        backlog: AnyBacklogReader | None = None
        while True:
            await self._until_to_be_asked()
            started = time.monotonic()
            try:
                if backlog is None:
                    backlog = await opened.enter_async_context(self._open_backlog(self._hear))
                await self._ask(backlog)
            except OperatorError as failure:
                self._lose(failure, started)
                return
            except TimeoutError:
                self._lose(TransientError("BackendUnreachable", "it did not answer in time"), started)
                return
            except Exception as error:
                # Whatever a tenant's backend says, the operator goes on, and so do the other backends.
                logger.exception("A backend could not be read")
                self._lose(TransientError("Unexpected", type(error).__name__), started)
                return
            self._around.observer.asked("succeeded", time.monotonic() - started)
            self._breaker.succeeded()
            self._failure = None
            self._be("Answering")

    async def _until_to_be_asked(self) -> None:
        """Wait. Of those that are wanted while the backend is left alone, it is told at once that it is away."""
        while True:
            await self._following.is_backend_wanted.wait()
            self._following.is_backend_wanted.clear()
            if self._breaker.lets_pass(time.monotonic()):
                return
            self._fail_wanted()

    def _lose(self, failure: OperatorError, started: float) -> None:
        now = time.monotonic()
        self._around.observer.asked("failed", now - started)
        self._failure = failure
        self._breaker.failed(now, random.random())  # noqa: S311
        self._be("Away")
        self._fail_wanted()
        self._hear(None)

    def _fail_wanted(self) -> None:
        assert self._failure is not None
        for queue in [*self._following.asked, *self._following.wanted]:
            self._following.tell_failure(queue, self._failure)
            self._following.postpone(queue, max(self._breaker.closed_until, time.monotonic() + _RETRY_SECONDS))

    async def _ask(self, backlog: AnyBacklogReader) -> None:
        """Count those that are wanted; what can't be counted in time must not hold up the others."""
        queues = self._following.ask_wanted()
        now = time.monotonic()
        countable = [queue for queue in queues if self._schedule.may_count(queue, now)]
        is_suspect_asked = False
        left = set(queues) - set(countable)
        for together in self._schedule.questions(countable):
            if self._schedule.is_suspect(together):
                if is_suspect_asked:
                    left.update(together)
                    continue
                is_suspect_asked = True
            left.update(await self._count(backlog, together))
        await self._probe(backlog, left)
        await self._listen(backlog, queues)

    async def _count(self, backlog: AnyBacklogReader, queues: Sequence[ObjectKey]) -> Sequence[ObjectKey]:
        """Ask for exact counts, by one question; gives those for which that took too long."""
        places = self._following.places(queues)
        asked_at = self._around.clock.now()
        async with asyncio.timeout(_QUESTION_SECONDS):
            answers = await backlog.depths(frozenset(places.values()))
        too_slow = []
        for queue, place in self._following.still(places).items():
            match answers[place]:
                case CountTooLongError():
                    too_slow.append(queue)
                case OperatorError() as failure:
                    self._following.tell_failure(queue, failure)
                    self._following.postpone(queue, time.monotonic() + _REFUSED_SECONDS)
                case depth:
                    self._schedule.counted(queue)
                    self._counted(queue, depth, asked_at)
        if too_slow:
            self._schedule.took_too_long(too_slow, time.monotonic(), random.random())  # noqa: S311
        return too_slow

    async def _probe(self, backlog: AnyBacklogReader, queues: Iterable[ObjectKey]) -> None:
        """Of queues that can't be counted now: whether there is anything to wake a worker for.

        That is no number to scale workers by that there are.
        """
        asleep: dict[ObjectKey, Place] = {}
        for queue, place in self._following.places(queues).items():
            if self._around.interval_seconds(queue) is None:
                asleep[queue] = place
            elif self._schedule.may_count(queue, now := time.monotonic()):
                self._following.postpone(queue, now)
            else:
                self._following.tell_failure(queue, _TAKES_TOO_LONG)
                self._following.postpone(queue, now + _REFUSED_SECONDS)
        if not asleep:
            return
        asked_at = self._around.clock.now()
        async with asyncio.timeout(_QUESTION_SECONDS):
            answers = await backlog.have_ready(frozenset(asleep.values()))
        for queue, place in self._following.still(asleep).items():
            match answers[place]:
                case OperatorError() as failure:
                    self._following.tell_failure(queue, failure)
                    self._following.postpone(queue, time.monotonic() + _REFUSED_SECONDS)
                    continue
                case has_ready:
                    depth = QueueDepth(ready=int(has_ready), is_lower_bound=True)
                    self._following.tell(queue, depth, asked_at, SampleSource.BACKEND)
            if self._schedule.may_count(queue, now := time.monotonic()):
                self._following.postpone(queue, now)

    async def _listen(self, backlog: AnyBacklogReader, queues: Iterable[ObjectKey]) -> None:
        """Be told of new jobs in queues without workers and without jobs; look once more at those that are new."""
        following = self._following
        wanted = {queue for queue in queues if queue in following and self._is_asleep(queue)}
        unwanted = following.listening & (set(queues) - wanted)
        wanted -= following.listening
        async with asyncio.timeout(_QUESTION_SECONDS):
            if following.left:
                left, following.left = frozenset(following.left), set()
                await backlog.listen_no_more(left)
            if unwanted:
                following.listening -= unwanted
                await backlog.listen_no_more(frozenset(following.places(unwanted).values()))
            if wanted:
                places = following.places(wanted)
                heard = await backlog.listen(frozenset(places.values()))
                for queue, place in following.still(places).items():
                    if place in heard:
                        following.listening.add(queue)
                        following.postpone(queue, time.monotonic())

    def _is_asleep(self, queue: ObjectKey) -> bool:
        newest = self._around.newest(queue)
        return (
            newest is not None
            and newest.current is not None
            and is_idle(newest.current.depth)
            and self._around.interval_seconds(queue) is None
        )

    def _hear(self, place: Place | None) -> None:
        """There may be new jobs at a place; None: of none will be told any more."""
        following = self._following
        if place is None:
            heard, following.listening = following.listening, set()
            following.left.clear()
        else:
            heard = {queue for queue in following.at(place) if queue in following.listening}
        for queue in heard:
            following.hear(queue)

    def _be(self, state: str | None) -> None:
        if state != self._state:
            self._around.observer.backend_changed(self._state, state)
            self._state = state
