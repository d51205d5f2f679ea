"""Jobs in a worker: those that wait for a slot, and those that run in one, to their outcomes.

Taken jobs wait until a slot is free; how many, `Prefetch` says. Of a name that may run only so often at a time, those
beyond wait apart, and let others pass. What waits long goes back: other workers may have a slot for it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter, deque
from datetime import UTC, datetime
from time import perf_counter, time
from typing import TYPE_CHECKING

from headrace import logs
from headrace.app import Context
from headrace.logs import described
from headrace.retry import RetryPolicy, unknown_name_delay_seconds
from headrace.runtime.outcome import COMPLETED, Completed, Failed, GivenUp, Interrupted, Snoozed
from headrace.runtime.prefetch import Prefetch
from headrace.runtime.settlement import DeadLetter, Discard, Release, Retry
from headrace.runtime.tracing import NO_TRACING, Tracer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
    from typing import Any

    from headrace.job import NewJob
    from headrace.metrics import QueueMetrics
    from headrace.queues.base import Delivery, Progress, Queue
    from headrace.runtime.handlers import Handler, Terms
    from headrace.runtime.outcome import Outcome
    from headrace.runtime.settlement import Settler

log = logging.getLogger(__name__)

MAX_BATCH = 500
"""So many jobs are taken at a time: more would gain little, and be more suspects where this worker is killed."""

# Jobs that wait longer than this are handed back; those that wait for their name's turn, not to return at once.
_WAIT_SECONDS = 2.0
_TURN_DELAY_SECONDS = 5.0

# How often to look at how long jobs take: after so many, or so much work.
_PREFETCH_JOBS = 50
_PREFETCH_SECONDS = 0.1


class _Attempt:
    """One job under way; to its handler, the other side of its `Context`."""

    __slots__ = ("_loop", "_slots", "delivery", "ends_at", "is_cancelled", "limit_seconds", "terms", "timer")

    def __init__(self, slots: Slots, delivery: Delivery, terms: Terms, limit_seconds: float, ends_at: float) -> None:
        self._slots = slots
        self._loop = asyncio.get_running_loop()
        self.delivery = delivery
        self.terms = terms
        self.limit_seconds = limit_seconds
        self.ends_at = ends_at
        self.timer: asyncio.TimerHandle | None = None
        self.is_cancelled = False

    def context(self) -> Context:
        return Context(self.delivery.job, self)

    def enqueue(self, jobs: Sequence[NewJob]) -> Awaitable[list[str]]:
        return self._slots.enqueue(jobs)

    def complete_in(self, connection: Any) -> Awaitable[None]:
        return self._slots.queue.complete_in(connection, self.delivery)

    def complete_in_sync(self, connection: Any) -> None:
        self._slots.queue.complete_in_sync(connection, self.delivery)

    def extend(self, seconds: float) -> None:
        self._loop.call_soon_threadsafe(self._slots.extend, self, seconds)

    def report(self, progress: Progress) -> None:
        self._loop.call_soon_threadsafe(self._slots.report, self.delivery, progress)


class Slots:
    """Where a worker's jobs run.

    Parameters
    ----------
    queue
        Whose jobs.
    handler
        Runs them.
    settler
        Takes their outcomes.
    metrics
        What to publish.
    may_start
        Whether what a taken job holds still stands: it is asked just before the job starts.
    count
        How many jobs run at a time.
    job_timeout_seconds
        How long an attempt may run, where its handler says nothing else.
    retry
        How long a failed job waits, where its handler says nothing else.
    tracer
        Follows the jobs' runs. Defaults to nothing.
    """

    def __init__(
        self,
        queue: Queue,
        handler: Handler,
        settler: Settler,
        metrics: QueueMetrics,
        *,
        may_start: Callable[[Delivery], bool],
        count: int,
        job_timeout_seconds: float,
        retry: RetryPolicy,
        tracer: Tracer = NO_TRACING,
    ) -> None:
        self.queue = queue
        self._handler = handler
        self._settler = settler
        self._metrics = metrics
        self._may_start = may_start
        self._count = count
        self._job_timeout_seconds = job_timeout_seconds
        self._retry = retry
        self._process = tracer.process
        # Taken and not started, each with when it was taken; apart, those whose name runs as often as it may.
        self._waiting: deque[tuple[float, Delivery]] = deque()
        self._kept: dict[str, deque[tuple[float, Delivery]]] = {}
        self._busy: Counter[str] = Counter()
        # Started and not ended, in the order of their starts.
        self._running: dict[asyncio.Task[None], _Attempt] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._lost: set[asyncio.Task[None]] = set()
        self._timed_out: set[asyncio.Task[None]] = set()
        self._cancelled: set[asyncio.Task[None]] = set()
        self._prefetch = Prefetch(count)
        self._ended_jobs = 0
        self._ended_seconds = 0.0
        self._progress: dict[tuple[str, str], tuple[Delivery, Progress]] = {}
        self.wants_more = asyncio.Event()
        """Set when there may be room for more."""
        metrics.slots.set(count)
        metrics.busy_slots.set_function(lambda: len(self._running))
        metrics.prefetched.set_function(lambda: self.waiting)

    @property
    def running(self) -> int:
        """How many jobs run."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """How many jobs wait here."""
        return len(self._waiting) + self._kept_jobs

    @property
    def _kept_jobs(self) -> int:
        return sum(map(len, self._kept.values())) if self._kept else 0

    @property
    def _free(self) -> int:
        return self._count - len(self._running) - self._handler.abandoned

    def wanted(self) -> int:
        """How many jobs to take now."""
        prefetch = self._prefetch.jobs
        # What waits for its name's turn must not keep others from free slots, nor fill the worker.
        if len(self._waiting) > prefetch // 2 or self._kept_jobs >= max(self._count, prefetch):
            return 0
        return max(0, min(self._free + prefetch - len(self._waiting), MAX_BATCH))

    def take(self, deliveries: Iterable[Delivery]) -> None:
        """Run them, as soon as there are slots."""
        now = perf_counter()
        self._waiting.extend((now, delivery) for delivery in deliveries)
        self._fill()

    async def ended(self, hastened: asyncio.Event, timeout_seconds: float) -> None:
        """Wait until nothing runs, at most so long, and not once it is hastened."""
        hastening = asyncio.create_task(hastened.wait())
        try:
            async with asyncio.timeout(timeout_seconds):
                while self._running and not hastened.is_set():
                    await asyncio.wait({*self._running, hastening}, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            pass
        finally:
            hastening.cancel()

    def abandon(self) -> None:
        """Hand back what is deaf to being stopped: it ends with the process."""
        for attempt in self._running.values():
            self._settler.settle(Release(delivery=attempt.delivery))

    def hand_back_waiting(self) -> None:
        """What has not been started goes back."""
        while self._waiting:
            self._settler.settle(Release(delivery=self._waiting.popleft()[1]))
        for kept in self._kept.values():
            for _, delivery in kept:
                self._settler.settle(Release(delivery=delivery))
        self._kept.clear()

    def hand_back_stale(self) -> None:
        """What has waited long goes back: these take longer than those before, and others may have a free slot."""
        too_old = perf_counter() - _WAIT_SECONDS
        if self._waiting and self._waiting[0][0] < too_old:
            log.debug("slots stay taken queue=%s: handing %d jobs back", self.queue.name, len(self._waiting))
            self._prefetch.observe(1, _WAIT_SECONDS)
            while self._waiting:
                self._settler.settle(Release(delivery=self._waiting.popleft()[1]))
        for name in [name for name, kept in self._kept.items() if kept[0][0] < too_old]:
            kept = self._kept.pop(name)
            log.debug("name=%s runs as often as it may queue=%s: handing %d back", name, self.queue.name, len(kept))
            for _, delivery in kept:
                self._settler.settle(Release(delivery=delivery, delay_seconds=_TURN_DELAY_SECONDS))

    def hand_back_all(self) -> None:
        """Stop everything; each job hands itself back uncharged."""
        self.hand_back_waiting()
        for task, attempt in self._running.items():
            _stop(task, attempt)

    def hand_back(self, job_ids: Collection[str]) -> None:
        """Their keys belong to others: stop these, each hands itself back uncharged; what waits goes back at once."""
        waiting = self._taken_out(job_ids)
        for delivery in waiting:
            self._settler.settle(Release(delivery=delivery))
        running = [entry for entry in self._running.items() if entry[1].delivery.job.id in job_ids]
        for task, attempt in running:
            _stop(task, attempt)
        if waiting or running:
            log.warning(
                "keys belong to others by now queue=%s: handing back what waits (%d) and what runs (%d)",
                *(self.queue.name, len(waiting), len(running)),
            )

    def lose_all(self) -> None:
        """Others have what was held: stop it all and say nothing of it."""
        self._waiting.clear()
        self._kept.clear()
        self._lost.update(self._running)
        for task, attempt in self._running.items():
            _stop(task, attempt)

    def cancel(self, job_ids: frozenset[str]) -> None:
        """Stop jobs that somebody has cancelled; they are gone once they have stopped."""
        for task, attempt in self._running.items():
            if attempt.delivery.job.id in job_ids and task not in self._cancelled:
                self._cancelled.add(task)
                _stop(task, attempt)
        for delivery in self._taken_out(job_ids):
            self._settler.settle(Discard(delivery=delivery))

    def _taken_out(self, job_ids: Collection[str]) -> list[Delivery]:
        """Those of these jobs that wait, which they do no longer."""
        taken: list[Delivery] = []
        for waiting in (self._waiting, *self._kept.values()):
            for entry in [entry for entry in waiting if entry[1].job.id in job_ids]:
                waiting.remove(entry)
                taken.append(entry[1])
        self._kept = {name: kept for name, kept in self._kept.items() if kept}
        return taken

    def _fill(self) -> None:
        free = self._free
        while free > 0 and self._waiting:
            entry = self._waiting.popleft()
            delivery = entry[1]
            if not self._may_start(delivery):
                # Its worker was paused, or out of reach, while it waited: it may be another's by now.
                self._settler.settle(Release(delivery=delivery))
                continue
            name = delivery.job.name
            terms = self._handler.terms(name)
            if terms is None:
                self._put_back_unknown(delivery)
                continue
            if terms.max_concurrent is not None:
                if self._busy[name] >= terms.max_concurrent:
                    self._kept.setdefault(name, deque()).append(entry)
                    continue
                self._busy[name] += 1
            self._start(delivery, terms)
            free -= 1

    def _put_back_unknown(self, delivery: Delivery) -> None:
        self._metrics.unknown_name.inc()
        age_seconds = (datetime.now(UTC) - delivery.job.enqueued_at).total_seconds()
        delay_seconds = unknown_name_delay_seconds(age_seconds, random.random())  # noqa: S311
        log.warning("unknown name, handed back uncharged, again in %.1f s %s", delay_seconds, described(delivery.job))
        self._settler.settle(Release(delivery=delivery, delay_seconds=delay_seconds))

    def _start(self, delivery: Delivery, terms: Terms) -> None:
        loop = asyncio.get_running_loop()
        own_limit = terms.timeout_seconds
        limit_seconds = self._job_timeout_seconds if own_limit is None else own_limit
        ends_at = loop.time() + limit_seconds
        attempt = _Attempt(self, delivery, terms, limit_seconds, ends_at)
        task = loop.create_task(self._run(attempt))
        self._running[task] = attempt
        task.add_done_callback(self._ended)
        if own_limit is not None:
            attempt.timer = loop.call_at(ends_at, self._time_out, task)
        elif self._timer is None:
            self._timer = loop.call_at(ends_at, self._stop_overdue)

    def extend(self, attempt: object, seconds: float) -> None:
        """Let an attempt run so long from now, if it still does."""
        loop = asyncio.get_running_loop()
        for task, running in self._running.items():
            if running is attempt:
                if running.timer is not None:
                    running.timer.cancel()
                running.limit_seconds += loop.time() + seconds - running.ends_at
                running.ends_at = loop.time() + seconds
                running.timer = loop.call_at(running.ends_at, self._time_out, task)
                return

    def report(self, delivery: Delivery, progress: Progress) -> None:
        """Remember how far a job is; `reports` has the newest word of each."""
        self._progress[delivery.lease, delivery.job.id] = (delivery, progress)

    def reports(self) -> list[tuple[Delivery, Progress]]:
        """What has been reported since the last call."""
        reports, self._progress = list(self._progress.values()), {}
        return reports

    def _stop_overdue(self) -> None:
        """Stop the jobs whose time is over. Those without a timer have one time limit, so the oldest are the first."""
        self._timer = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        for task, attempt in self._running.items():
            if attempt.timer is not None:
                continue
            if attempt.ends_at > now:
                self._timer = loop.call_at(attempt.ends_at, self._stop_overdue)
                break
            self._time_out(task)

    def _time_out(self, task: asyncio.Task[None]) -> None:
        if task not in self._timed_out and (attempt := self._running.get(task)):
            self._timed_out.add(task)
            _stop(task, attempt)

    def _ended(self, task: asyncio.Task[None]) -> None:
        attempt = self._running.pop(task)
        if attempt.timer is not None:
            attempt.timer.cancel()
        if task.cancelled():
            # Here and not in the job's coroutine, which a cancellation may reach before it has begun.
            if task in self._cancelled:
                log.info("job cancelled %s", described(attempt.delivery.job))
                self._settler.settle(Discard(delivery=attempt.delivery))
            elif task in self._timed_out:
                self._settle(attempt, Failed(f"timed out after {attempt.limit_seconds:g} s"), attempt.limit_seconds)
            elif task not in self._lost:
                self._settler.settle(Release(delivery=attempt.delivery))
        elif error := task.exception():
            log.error("a job ended outside of its handler queue=%s", self.queue.name, exc_info=error)
            # Unsettled it would be held as long as this worker lives.
            self._settle(attempt, Failed(f"it ended outside of its handler: {type(error).__name__}"), 0.0)
        for tasks in (self._lost, self._timed_out, self._cancelled):
            if tasks:
                tasks.discard(task)
        if attempt.terms.max_concurrent is not None:
            self._next_of_its_name(attempt.delivery.job.name)
        if self._waiting:
            self._fill()
            if len(self._waiting) > self._prefetch.jobs // 2:
                return
        self.wants_more.set()

    def _next_of_its_name(self, name: str) -> None:
        self._busy[name] -= 1
        if kept := self._kept.get(name):
            self._waiting.appendleft(kept.popleft())
            if not kept:
                del self._kept[name]

    async def _run(self, attempt: _Attempt) -> None:
        job = attempt.delivery.job
        logs.set_job(job)
        self._metrics.queue_wait_time.observe(max(0.0, time() - job.run_at.timestamp()))
        if log.isEnabledFor(logging.DEBUG):
            log.debug("job started %s", described(job))
        outcome: Outcome
        started = perf_counter()
        try:
            outcome = await self._process(job, self._handler.run(job, attempt.context))
        except asyncio.CancelledError:
            if attempt.is_cancelled:
                raise
            outcome = Failed("the handler cancelled itself")
        except Exception as error:  # noqa: BLE001 - a handler's own fault is one failed attempt
            outcome = Failed(f"{type(error).__name__}: {error}")
        if attempt.is_cancelled and isinstance(outcome, Failed) and asyncio.current_task() not in self._timed_out:
            # What a handler makes of being stopped is no failure of its own.
            log.info("job stopped %s: %s", described(job), outcome.error)
            raise asyncio.CancelledError
        self._settle(attempt, outcome, perf_counter() - started)

    def _settle(self, attempt: _Attempt, outcome: Outcome, duration_seconds: float) -> None:
        self._metrics.duration.observe(duration_seconds)
        self._ended_jobs += 1
        self._ended_seconds += duration_seconds
        if self._ended_jobs >= _PREFETCH_JOBS or self._ended_seconds >= _PREFETCH_SECONDS:
            self._prefetch.observe(self._ended_jobs, self._ended_seconds)
            self._ended_jobs, self._ended_seconds = 0, 0.0
        delivery = attempt.delivery
        job = delivery.job
        if outcome is COMPLETED:
            if log.isEnabledFor(logging.DEBUG):
                log.debug("job completed %s seconds=%.3f", described(job), duration_seconds)
            self._settler.complete(delivery)
            return
        match outcome:
            case Failed(error=error, traceback=traceback):
                log.warning("job failed %s seconds=%.3f: %s", described(job), duration_seconds, error)
                self._settler.settle(self._after_failure(attempt, outcome))
            case GivenUp(reason=reason, error=given_error, traceback=traceback):
                log.warning("job given up %s seconds=%.3f: %s", described(job), duration_seconds, reason)
                self._settler.settle(
                    DeadLetter(delivery=delivery, reason=reason, error=given_error, traceback=traceback)
                )
            case Snoozed(delay_seconds=delay_seconds):
                log.info("job snoozed %s, again in %.1f s", described(job), delay_seconds)
                self._settler.settle(Release(delivery=delivery, delay_seconds=delay_seconds))
            case Completed():
                self._settler.complete(delivery)
            case Interrupted(reason=reason):
                log.info("job interrupted, handed back uncharged %s: %s", described(job), reason)
                self._settler.settle(Release(delivery=delivery))

    def _after_failure(self, attempt: _Attempt, failure: Failed) -> Retry | DeadLetter:
        policy = attempt.terms.retry or self._retry
        number = attempt.delivery.job.attempt
        if policy.is_last(number):
            return DeadLetter(
                delivery=attempt.delivery,
                reason="RetriesExhausted",
                error=failure.error,
                traceback=failure.traceback,
            )
        delay_seconds = failure.delay_seconds
        if delay_seconds is None:
            delay_seconds = policy.delay_seconds(number, random.random())  # noqa: S311
        return Retry(
            delivery=attempt.delivery,
            delay_seconds=delay_seconds,
            error=failure.error,
            traceback=failure.traceback,
        )

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[str]:
        """Enqueue into the worker's own queue, and count it."""
        ids = await self.queue.enqueue(jobs)
        self._metrics.enqueued.inc(len(ids))
        return ids


def _stop(task: asyncio.Task[None], attempt: _Attempt) -> None:
    # A thread can only ask.
    attempt.is_cancelled = True
    task.cancel()
