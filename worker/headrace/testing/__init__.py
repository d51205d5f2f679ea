"""For tests of an application's jobs: a queue in memory, a real worker on it, and time that passes by itself.

`headrace.testing.pytest` has the fixtures.
"""

from __future__ import annotations

import asyncio
import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headrace.metrics import Metrics
from headrace.queues.base import QueueSettings
from headrace.queues.memory import MemoryQueue
from headrace.runtime.handlers.python import PythonHandler
from headrace.runtime.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from headrace.app import App, Context
    from headrace.job import Job, NewJob
    from headrace.queues.base import Enqueued
    from headrace.queues.inspection import FailedAttempt
    from headrace.queues.memory import EndedJob, MemoryBackend
    from headrace.runtime.outcome import Outcome

__all__ = ["LocalQueue", "Ran", "RunawayJobsError", "UnknownJobNameError"]

# Ended jobs stay to be looked at, whatever time passes.
_FOREVER_SECONDS = 10 * 366 * 86400.0
_MOMENT_SECONDS = 0.05


class UnknownJobNameError(LookupError):
    """A job was enqueued that the App does not declare: a worker would hand it back again and again."""


class RunawayJobsError(RuntimeError):
    """Jobs make jobs, or ask to be run again, without end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What became of the jobs that ended, in the order in which they were enqueued."""

    completed: tuple[EndedJob, ...]
    dead: tuple[EndedJob, ...]
    """Given up: `EndedJob.reason` says why, `EndedJob.error` what went wrong last."""
    seconds: float
    """How much time was let pass."""

    @property
    def failed(self) -> tuple[tuple[Job, FailedAttempt], ...]:
        """Each failed attempt of theirs, whether or not the job was completed later."""
        return tuple((ended.job, failure) for ended in (*self.completed, *self.dead) for failure in ended.failures)

    def raise_for_dead(self) -> None:
        """Raise AssertionError with what went wrong, where a job was given up."""
        if self.dead:
            raise AssertionError("\n\n".join(_told(ended) for ended in self.dead))


class LocalQueue(MemoryQueue):
    """A queue within this process, for code that takes a `Queue`; and a worker for it, when a test wants its jobs run.

    The worker is the real one: its jobs succeed, fail, are retried and given up as in production. Only time differs:
    the queue's clock jumps ahead to the next delay or retry as soon as nothing is left to do before it. The
    application's own clocks stay as they are.

    Parameters
    ----------
    backend
        Where it lives.
    name
        The queue's name.
    """

    def __init__(self, backend: MemoryBackend, name: str) -> None:
        super().__init__(backend, name)

    @property
    def now(self) -> datetime:
        """The time on the queue's clock."""
        return self._backend.now()

    def pass_time(self, seconds: float) -> None:
        """Let it be so much later."""
        self._backend.pass_time(seconds)

    def enqueue_sync(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        """As `enqueue`, from code that is not asynchronous."""
        return asyncio.run(self.enqueue(jobs))

    async def run_until_empty(
        self, app: App, *, concurrency: int = 1, job_timeout_seconds: float = 30.0, at_most_runs: int = 1000
    ) -> Ran:
        """Run all jobs, and those that they enqueue, to their end; delays and retries pass at once.

        Parameters
        ----------
        app
            The application.
        concurrency
            How many jobs run at a time. Defaults to one after another, in the queue's order.
        job_timeout_seconds
            How long an attempt may run, in real time. Defaults to 30.
        at_most_runs
            So many attempts. Defaults to 1000.

        Raises
        ------
        UnknownJobNameError
            When a job has a name that the App does not declare.
        RunawayJobsError
            When there is no end to them.
        """
        return await self._run(app, concurrency, job_timeout_seconds, at_most_runs, passes_time=True)

    async def run_due(
        self, app: App, *, concurrency: int = 1, job_timeout_seconds: float = 30.0, at_most_runs: int = 1000
    ) -> Ran:
        """As `run_until_empty`, but no time passes: delayed jobs and retries stay."""
        return await self._run(app, concurrency, job_timeout_seconds, at_most_runs, passes_time=False)

    def run_until_empty_sync(self, app: App, **options: Any) -> Ran:
        """As `run_until_empty`, from code that is not asynchronous."""
        return asyncio.run(self.run_until_empty(app, **options))

    def run_due_sync(self, app: App, **options: Any) -> Ran:
        """As `run_due`, from code that is not asynchronous."""
        return asyncio.run(self.run_due(app, **options))

    async def _run(
        self, app: App, concurrency: int, job_timeout_seconds: float, at_most_runs: int, *, passes_time: bool
    ) -> Ran:
        known = {ended.job.id for ended in (*self.finished_jobs, *self.dead_jobs)}
        handler = _CountingHandler(app, threads=concurrency)
        queue = MemoryQueue(self._backend, self.name, holder="headrace.testing")
        worker = Worker(
            queue,
            handler,
            Metrics().of("", self.name),
            slots=concurrency,
            job_timeout_seconds=job_timeout_seconds,
            drain_timeout_seconds=0,
        )
        working = asyncio.create_task(worker.run())
        passed = 0.0
        newest = 0
        try:
            while not working.done():
                newest = self._refuse_unknown(app, newest)
                if handler.runs > at_most_runs:
                    raise RunawayJobsError(
                        f"{handler.runs} attempts, and still no end: a job enqueues or snoozes itself for ever? Else "
                        "raise at_most_runs"
                    )
                await queue.maintain()
                depth = await queue.depth()
                if queue.settings.paused and not depth.in_flight:
                    break
                if depth.ready or depth.in_flight:
                    await self._backend.wait_for_change(_MOMENT_SECONDS)
                elif passes_time and depth.next_due_seconds is not None:
                    self.pass_time(depth.next_due_seconds)
                    passed += depth.next_due_seconds
                    # At once: the jump is none of the worker's, whose lease would seem to have run out.
                    await queue.keep_alive()
                else:
                    break
        finally:
            worker.stop()
            worker.stop()
            await working
        return Ran(
            completed=_new(known, (ended for ended in self.finished_jobs if ended.outcome == "completed")),
            dead=_new(known, self.dead_jobs),
            seconds=passed,
        )

    def _refuse_unknown(self, app: App, known: int) -> int:
        """Look at the jobs that came after the one of this number; gives the newest one's."""
        for number, entry in reversed(self._place.entries.items()):
            if number <= known:
                break
            if entry.job.name not in app.jobs:
                near = difflib.get_close_matches(entry.job.name, app.jobs, n=1)
                declared = ", ".join(map(repr, sorted(app.jobs))) or "nothing"
                hint = f"did you mean {near[0]!r}?" if near else f"it declares {declared}"
                raise UnknownJobNameError(f"the App declares no job {entry.job.name!r}: {hint}")
        return max(known, next(reversed(self._place.entries), 0))


class _CountingHandler(PythonHandler):
    runs = 0

    async def run(self, job: Job, context: Callable[[], Context]) -> Outcome:
        """See `Handler`."""
        self.runs += 1
        return await super().run(job, context)


def queue_settings(**settings: Any) -> QueueSettings:
    """A queue's settings, of which a test names those that matter to it; ended jobs stay to be looked at."""
    return QueueSettings(
        **{
            "completed_retention_seconds": _FOREVER_SECONDS,
            "dead_letter_retention_days": _FOREVER_SECONDS / 86400,
            **settings,
        }
    )


def _new(known: set[str], ended: Iterable[EndedJob]) -> tuple[EndedJob, ...]:
    return tuple(sorted((each for each in ended if each.job.id not in known), key=lambda each: int(each.job.id)))


def _told(ended: EndedJob) -> str:
    traceback = ended.failures[-1].failure.traceback if ended.failures else None
    return f"job {ended.job.name!r} was given up: {ended.reason}\n{traceback or ended.error or ''}".rstrip()
