"""Which jobs were handled, and when: written by every contestant's handler, so it must cost next to nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

clock = time.monotonic
"""One clock for all processes of this machine."""


class Ledger:
    """What one process did."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        """One entry each time that a job was run, in order: its number, or whatever the contestant knows it by."""
        self.receiving_at = 0.0
        """When the worker first asked for jobs."""
        self.marks: list[float] = []
        """When each awaited number of jobs had been handled."""
        self.times: list[float] | None = None
        """Given, when each job began."""
        self.alarm: asyncio.Event | None = None
        """Given, jobs sleep until it goes off."""
        self._failure = ""
        self._mark = 0
        self._reached = asyncio.Event()

    def handled(self, number: int) -> None:
        """A job runs."""
        self.numbers.append(number)
        if self.times is not None:
            self.times.append(clock())
        if len(self.numbers) == self._mark:
            self.marks.append(clock())
            self._reached.set()

    def failed(self, why: str) -> None:
        """A job failed: nothing can come of this any more."""
        self._failure = why
        self._reached.set()

    def expect(self, jobs: int) -> None:
        """Note the time when so many have been handled in all."""
        assert jobs > len(self.numbers), "it is too late to note that"
        self._mark = jobs
        self._reached.clear()

    async def reached(self, worker: asyncio.Task[None]) -> None:
        """Wait until as many as expected have been handled; raises what comes first: a failure, the worker's end."""
        waiting = asyncio.ensure_future(self._reached.wait())
        try:
            await asyncio.wait({waiting, worker}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if self._failure:
            raise RuntimeError(f"a job failed: {self._failure}")
        if not self._reached.is_set():
            await worker
            raise RuntimeError(f"the worker stopped after {len(self.numbers)} of {self._mark} jobs")

    def watch(self, owner: object, method: str) -> None:
        """Note when this method, by which the worker asks for jobs, is called for the first time."""
        original: Callable[..., object] = getattr(owner, method)

        def first_call(*arguments: object, **options: object) -> object:
            if not self.receiving_at:
                self.receiving_at = clock()
            setattr(owner, method, original)
            return original(*arguments, **options)

        setattr(owner, method, first_call)
