"""Ending rests: of idle workers by whoever enqueues, of a receiver by whatever may bring it a job."""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import TYPE_CHECKING

from headrace.queues.errors import QueueError

if TYPE_CHECKING:
    from headrace.queues.postgres.database import Database
    from headrace.queues.postgres.listener import Ear
    from headrace.queues.postgres.queue_row import QueueRow

# Producers tell idle workers at most so often.
_WAKE_SECONDS = 0.01

_FIRST_REST_SECONDS = 0.05
_LONGEST_REST_SECONDS = 3600.0
# For rests that are longer than this, it is worth asking when the next job is due.
_SHORT_REST_SECONDS = 1.0
# By so much longer a question may take to be asked than the look before it.
_MARGIN_SECONDS = 0.1


class Waker:
    """Tells idle workers of new jobs."""

    def __init__(self, database: Database, row: QueueRow) -> None:
        self._database = database
        self._row = row
        self._has_news = False
        self._told_at = -math.inf
        self._task: asyncio.Task[None] | None = None

    @property
    def may_tell(self) -> bool:
        """Whether whoever enqueues now may tell at the same time."""
        return self._task is None and self._pause_seconds <= 0

    def told(self) -> None:
        """Some have been told just now."""
        self._told_at = asyncio.get_running_loop().time()

    def news(self) -> None:
        """There are new jobs. After the commit: who sets its flag later looks later, too."""
        self._has_news = True
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def flushed(self) -> None:
        """Wait until all has been told."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def close(self) -> None:
        """Don't wait for that."""
        if self._task is not None:
            self._task.cancel()

    @property
    def _pause_seconds(self) -> float:
        return self._told_at + _WAKE_SECONDS - asyncio.get_running_loop().time()

    async def _run(self) -> None:
        try:
            while self._has_news:
                if (pause_seconds := self._pause_seconds) > 0:
                    await asyncio.sleep(pause_seconds)
                self._has_news = False
                with contextlib.suppress(QueueError):  # Whoever waits looks by itself, too.
                    await self._database.fetch("wake", self._row.id, urgent=True)
                self.told()
        finally:
            self._task = None


class Rest:
    """How long a receiver without jobs rests: a little longer each time."""

    def __init__(self, database: Database, row: QueueRow) -> None:
        self._database = database
        self._row = row
        self._may_have_jobs = asyncio.Event()
        self._seconds = _FIRST_REST_SECONDS
        self._looked_at = -math.inf
        self.ear: Ear | None = None
        """By which it is told of new jobs; None where it looks now and then alone."""

    @property
    def is_ended(self) -> bool:
        """Whether there may be new jobs since the last one."""
        return self._may_have_jobs.is_set()

    def end(self) -> None:
        """There may be new jobs."""
        self._may_have_jobs.set()

    def looks(self) -> None:
        """A look begins: what is due later is not seen by it."""
        self._looked_at = asyncio.get_running_loop().time()

    async def found(self, *, enough: bool) -> None:
        """A look has found jobs.

        Parameters
        ----------
        enough
            Whether as many as were wanted: nobody needs to tell of more.
        """
        self._seconds = _FIRST_REST_SECONDS
        if enough and self.ear is not None:
            await self.ear.want_no_more()

    async def take(self, seconds: float, *, longest_seconds: float, stop: asyncio.Event | None) -> None:
        """Rest until it is time for another look.

        Parameters
        ----------
        seconds
            For as long at most.
        longest_seconds
            How long one rest may be at most.
        stop
            Ends it as well.
        """
        ear = self.ear
        if ear is not None and not self._may_have_jobs.is_set() and await ear.want(self._row.id):
            return  # Newly announced: what came before that is found by looking once more.
        pause = min(seconds, longest_seconds, self._seconds)
        self._seconds = min(2 * self._seconds, _LONGEST_REST_SECONDS)
        if pause > _SHORT_REST_SECONDS:
            unseen_seconds = asyncio.get_running_loop().time() - self._looked_at + _MARGIN_SECONDS
            with contextlib.suppress(QueueError):
                rows = await self._database.fetch_promptly(
                    "next_due", self._row.id, min(unseen_seconds, _LONGEST_REST_SECONDS)
                )
                if rows and rows[0][0] is not None:
                    pause = min(pause, max(rows[0][0], _FIRST_REST_SECONDS))
        await self._ended_within(pause, stop)
        self._may_have_jobs.clear()

    async def _ended_within(self, seconds: float, stop: asyncio.Event | None) -> None:
        stopping = None if stop is None else asyncio.create_task(self._ended_by(stop))
        try:
            async with asyncio.timeout(seconds):
                await self._may_have_jobs.wait()
        except TimeoutError:
            pass
        finally:
            if stopping is not None:
                stopping.cancel()

    async def _ended_by(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self.end()
