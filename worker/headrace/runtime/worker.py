"""The worker: takes jobs into free slots, runs them, and stops in an order that loses nothing.

Jobs that have been taken wait in a buffer until a slot is free; how many, `Prefetch` says. While some run, the next are
taken and the last are reported, so that neither the backend nor this process waits for the other.

Stopping: no more jobs are taken, what was not started goes back, what runs may finish; then the outcomes are
reported, the lease is given back, and the connections are closed. Heartbeats go on until the last outcome is in.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from datetime import UTC, datetime
from functools import partial
from time import perf_counter, time
from typing import TYPE_CHECKING

from headrace.app import Context
from headrace.queues.base import HEARTBEAT_SECONDS, LEASE_SECONDS, QueueError
from headrace.runtime.lease import LeaseKeeper
from headrace.runtime.outcome import COMPLETED, Failed, GivenUp, Interrupted, Snoozed
from headrace.runtime.prefetch import Prefetch
from headrace.runtime.retry import RetryPolicy, unknown_name_delay_seconds
from headrace.runtime.settlement import DeadLetter, Discard, Release, Retry, Settler, described

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from typing import Any

    from headrace.job import NewJob
    from headrace.metrics import WorkerMetrics
    from headrace.queues.base import Delivery, Queue
    from headrace.runtime.handlers import Handler
    from headrace.runtime.outcome import Outcome

log = logging.getLogger(__name__)

STATS_SECONDS = 2.0
"""How old a published depth may be while there is something to do …"""
_IDLE_STATS_SECONDS = 5.0
# … and while there is not, or where counting is slow, how seldom it is done.
_STATS_LAST_SECONDS = 10.0

_MOMENT_SECONDS = 0.05

MAX_BATCH = 500
"""So many jobs are taken at a time: more would gain little, and be more suspects where this worker is killed."""

# Jobs that wait longer than this in the buffer are handed back.
_BUFFER_SECONDS = 2.0

# How often to look at how long jobs take: after so many, or so much work.
_PREFETCH_JOBS = 50
_PREFETCH_SECONDS = 0.1

_FIRST_OPEN_SECONDS = 0.5
_LAST_OPEN_SECONDS = 10.0

# Bounds at shutdown, within the 30 s that a pod's grace has beyond its drain timeout.
_RECEIVE_GRACE_SECONDS = 5.0
_CANCEL_GRACE_SECONDS = 5.0
_FLUSH_GRACE_SECONDS = 10.0


class Worker:
    """Runs the jobs of one queue until it is told to stop.

    Parameters
    ----------
    queue
        Not yet open; the worker waits for its backend.
    handler
        Runs the jobs.
    metrics
        What to publish.
    slots
        How many jobs run at a time.
    poll_interval_seconds
        How seldom an idle worker looks for jobs.
    job_timeout_seconds
        How long an attempt may run.
    drain_timeout_seconds
        How long a stopping worker lets its jobs run; what runs longer is stopped and handed back uncharged.
    retry
        How long a failed job waits.
    heartbeat_seconds, lease_seconds
        How the lease is kept; must be what the queue was made with.
    """

    def __init__(
        self,
        queue: Queue,
        handler: Handler,
        metrics: WorkerMetrics,
        *,
        slots: int = 10,
        poll_interval_seconds: float = 5.0,
        job_timeout_seconds: float = 1800.0,
        drain_timeout_seconds: float = 300.0,
        retry: RetryPolicy | None = None,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self._queue = queue
        self._handler = handler
        self._metrics = metrics
        self._slots = slots
        self._poll_interval_seconds = poll_interval_seconds
        self._job_timeout_seconds = job_timeout_seconds
        self._drain_timeout_seconds = drain_timeout_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._retry = retry or RetryPolicy()
        # Taken and not started, each with when it was taken.
        self._buffer: deque[tuple[float, Delivery]] = deque()
        # Started and not ended, in the order of their starts, each with when it must end.
        self._running: dict[asyncio.Task[None], tuple[Delivery, float]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._lost: set[asyncio.Task[None]] = set()
        self._timed_out: set[asyncio.Task[None]] = set()
        self._cancelled: set[asyncio.Task[None]] = set()
        self._prefetch = Prefetch(slots)
        self._ended_jobs = 0
        self._ended_seconds = 0.0
        self._lease_number = 0
        self._wants_more = asyncio.Event()
        self._stopping = asyncio.Event()
        self._hastened = asyncio.Event()
        self._settler = Settler(queue, metrics, is_idle=lambda: len(self._running) <= 1)
        self._keeper = LeaseKeeper(
            queue,
            on_lost=self._lease_lost,
            on_out_of_reach=self._hand_back_all,
            on_cancelled=self._cancel,
            heartbeat_seconds=heartbeat_seconds,
            lease_seconds=lease_seconds,
        )
        metrics.slots.set(slots)
        metrics.busy_slots.set_function(lambda: len(self._running))
        metrics.prefetched.set_function(lambda: len(self._buffer))

    @property
    def is_ready(self) -> bool:
        """Whether the backend answers."""
        return self._keeper.backend_answers

    def stop(self) -> None:
        """Drain; called again: don't wait for running jobs any longer."""
        if self._stopping.is_set():
            log.info("hastened queue=%s running=%d: handing back what runs", self._queue.name, len(self._running))
            self._hastened.set()
        else:
            log.info("draining queue=%s running=%d", self._queue.name, len(self._running))
            self._handler.drain()
            self._stopping.set()

    async def run(self) -> None:
        """Work until stopped. Raises only what is a fault of the worker's own."""
        try:
            if not await self._open():
                return
            try:
                await self._work()
            finally:
                await self._queue.__aexit__(None, None, None)
        finally:
            await self._handler.close()
        log.info("stopped queue=%s", self._queue.name)

    async def _open(self) -> bool:
        """Wait for the backend, as long as it takes; False when stopped before."""
        pause = _FIRST_OPEN_SECONDS
        while not self._stopping.is_set():
            try:
                await self._queue.__aenter__()
            except QueueError as error:
                log.warning("waiting for the backend queue=%s, again in %.1f s: %s", self._queue.name, pause, error)
                await self._rest(pause)
                pause = min(pause * 2, _LAST_OPEN_SECONDS)
            else:
                log.info("started queue=%s slots=%d", self._queue.name, self._slots)
                return True
        return False

    async def _work(self) -> None:
        # An error in any of these is a bug: the group ends the worker, loudly, and its jobs go back with the lease.
        try:
            async with asyncio.TaskGroup() as group:
                receiving = group.create_task(self._receive())
                background = [
                    group.create_task(self._keeper.run()),
                    group.create_task(self._settler.run()),
                    group.create_task(self._keep_house()),
                    group.create_task(self._publish_depth()),
                ]
                await self._stopping.wait()
                await self._drain(receiving)
                for task in background:
                    task.cancel()
        finally:
            for task in self._running:
                task.cancel()

    async def _drain(self, receiving: asyncio.Task[None]) -> None:
        self._hand_back_buffer()
        await asyncio.wait([receiving], timeout=_RECEIVE_GRACE_SECONDS)
        receiving.cancel()
        await self._await_jobs(self._drain_timeout_seconds)
        if self._running:
            log.warning("drain timed out queue=%s: handing %d jobs back", self._queue.name, len(self._running))
            self._hand_back_all()
            await asyncio.wait(self._running, timeout=_CANCEL_GRACE_SECONDS)
            for delivery, _ in self._running.values():  # Deaf to cancellation: they end with the process.
                self._settler.settle(Release(delivery=delivery))
        try:
            async with asyncio.timeout(_FLUSH_GRACE_SECONDS):
                await self._settler.flushed()
        except TimeoutError:
            log.warning("outcomes not reported in time queue=%s: those jobs run again", self._queue.name)

    async def _await_jobs(self, timeout_seconds: float) -> None:
        hastened = asyncio.create_task(self._hastened.wait())
        try:
            async with asyncio.timeout(timeout_seconds):
                while self._running and not self._hastened.is_set():
                    await asyncio.wait({*self._running, hastened}, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            pass
        finally:
            hastened.cancel()

    async def _receive(self) -> None:
        complained = False
        while not self._stopping.is_set():
            self._hand_back_stale()
            wanted = self._wanted()
            if not wanted:
                await self._until_more_is_wanted()
                continue
            lease_number = self._lease_number
            try:
                deliveries = await self._queue.receive(wanted)
            except QueueError as error:
                if not complained:
                    log.warning("can't receive queue=%s, trying again: %s", self._queue.name, error)
                complained = True
                await self._rest(min(1.0, self._poll_interval_seconds))
                continue
            complained = False
            if lease_number != self._lease_number:
                continue  # Leased under what was lost meanwhile: others have them.
            now = perf_counter()
            self._buffer.extend((now, delivery) for delivery in deliveries)
            if self._stopping.is_set() or not self._keeper.held.is_set():
                self._hand_back_buffer()
                continue
            self._fill_slots()
            if not deliveries:
                # Many idle workers should not look at the same moment.
                spread = random.uniform(0.8, 1.2)  # noqa: S311
                seconds = min(self._poll_interval_seconds, _BUFFER_SECONDS if self._buffer else float("inf"))
                await self._unless_stopped(self._queue.wait(seconds * spread))

    def _wanted(self) -> int:
        """How many jobs to take now."""
        if self._settler.is_stuck or not self._keeper.held.is_set():
            return 0
        prefetch = self._prefetch.jobs
        if len(self._buffer) > prefetch // 2:
            return 0
        free = self._slots - len(self._running) - self._handler.abandoned
        return max(0, min(free + prefetch - len(self._buffer), MAX_BATCH))

    async def _until_more_is_wanted(self) -> None:
        """Wait for a slot; looks up now and then, for what frees slots without saying so."""
        self._wants_more.clear()
        awaited = self._wants_more if self._keeper.held.is_set() else self._keeper.held
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_MOMENT_SECONDS):
                await awaited.wait()

    async def _unless_stopped(self, waiting: Coroutine[Any, Any, None]) -> None:
        """Await it, unless stopped."""
        tasks = [asyncio.ensure_future(waiting), asyncio.ensure_future(self._stopping.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if tasks[0].done() and not tasks[0].cancelled() and (error := tasks[0].exception()):
            raise error

    async def _rest(self, seconds: float) -> None:
        """Sleep, unless stopped."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    def _fill_slots(self) -> None:
        free = self._slots - len(self._running) - self._handler.abandoned
        while free > 0 and self._buffer:
            self._start(self._buffer.popleft()[1])
            free -= 1

    def _start(self, delivery: Delivery) -> None:
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._run_job(delivery))
        ends_at = loop.time() + self._job_timeout_seconds
        self._running[task] = (delivery, ends_at)
        task.add_done_callback(self._ended)
        if self._timer is None:
            self._timer = loop.call_at(ends_at, self._stop_overdue)

    def _stop_overdue(self) -> None:
        """Stop the jobs whose time is over. They have one time limit, so the oldest are the first."""
        loop = asyncio.get_running_loop()
        self._timer = None
        for task, (_, ends_at) in self._running.items():
            if ends_at > loop.time():
                self._timer = loop.call_at(ends_at, self._stop_overdue)
                break
            if task not in self._timed_out:
                self._timed_out.add(task)
                task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        delivery, _ = self._running.pop(task)
        if task.cancelled():
            # Here and not in the job's coroutine, which a cancellation may reach before it has begun.
            if task in self._cancelled:
                log.info("job cancelled %s", described(delivery.job))
                self._settler.settle(Discard(delivery=delivery))
            elif task in self._timed_out:
                self._settle(delivery, self._timeout(), self._job_timeout_seconds)
            elif task not in self._lost:
                self._settler.settle(Release(delivery=delivery))
        elif error := task.exception():
            log.error("a job ended outside of its handler queue=%s", self._queue.name, exc_info=error)
        for tasks in (self._lost, self._timed_out, self._cancelled):
            if tasks:
                tasks.discard(task)
        if self._buffer:
            self._fill_slots()
            if len(self._buffer) > self._prefetch.jobs // 2:
                return
        self._wants_more.set()

    def _timeout(self) -> Failed:
        return Failed(f"timed out after {self._job_timeout_seconds:g} s")

    async def _run_job(self, delivery: Delivery) -> None:
        job = delivery.job
        if not self._handler.knows(job.name):
            self._metrics.unknown_name.inc()
            age_seconds = (datetime.now(UTC) - job.enqueued_at).total_seconds()
            delay_seconds = unknown_name_delay_seconds(age_seconds, random.random())  # noqa: S311
            log.warning("unknown name, handed back uncharged, again in %.1f s %s", delay_seconds, described(job))
            self._settler.settle(Release(delivery=delivery, delay_seconds=delay_seconds))
            return
        self._metrics.queue_wait_time.observe(max(0.0, time() - job.run_at.timestamp()))
        if log.isEnabledFor(logging.DEBUG):
            log.debug("job started %s", described(job))
        outcome: Outcome
        started = perf_counter()
        try:
            outcome = await self._handler.run(job, partial(self._context, delivery))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            outcome = Failed("the handler cancelled itself")
        except Exception as error:  # noqa: BLE001 - a handler's own fault is one failed attempt
            outcome = Failed(f"{type(error).__name__}: {error}")
        self._settle(delivery, outcome, perf_counter() - started)

    def _settle(self, delivery: Delivery, outcome: Outcome, duration_seconds: float) -> None:
        self._metrics.duration.observe(duration_seconds)
        self._ended_jobs += 1
        self._ended_seconds += duration_seconds
        if self._ended_jobs >= _PREFETCH_JOBS or self._ended_seconds >= _PREFETCH_SECONDS:
            self._prefetch.observe(self._ended_jobs, self._ended_seconds)
            self._ended_jobs, self._ended_seconds = 0, 0.0
        job = delivery.job
        if outcome is COMPLETED:
            if log.isEnabledFor(logging.DEBUG):
                log.debug("job completed %s seconds=%.3f", described(job), duration_seconds)
            self._settler.complete(delivery)
        elif isinstance(outcome, Failed):
            log.warning("job failed %s seconds=%.3f: %s", described(job), duration_seconds, outcome.error)
            delay_seconds = outcome.delay_seconds
            if delay_seconds is None:
                delay_seconds = self._retry.delay_seconds(job.attempt, random.random())  # noqa: S311
            self._settler.settle(
                Retry(delivery=delivery, delay_seconds=delay_seconds, error=outcome.error, traceback=outcome.traceback)
            )
        elif isinstance(outcome, Snoozed):
            log.info("job snoozed %s, again in %.1f s", described(job), outcome.delay_seconds)
            self._settler.settle(Release(delivery=delivery, delay_seconds=outcome.delay_seconds))
        elif isinstance(outcome, Interrupted):
            log.info("job interrupted, handed back uncharged %s: %s", described(job), outcome.reason)
            self._settler.settle(Release(delivery=delivery))
        elif isinstance(outcome, GivenUp):
            log.warning("job given up %s seconds=%.3f: %s", described(job), duration_seconds, outcome.reason)
            self._settler.settle(
                DeadLetter(delivery=delivery, reason=outcome.reason, error=outcome.error, traceback=outcome.traceback)
            )

    async def _enqueue(self, jobs: Sequence[NewJob]) -> list[str]:
        ids = await self._queue.enqueue(jobs)
        self._metrics.enqueued.inc(len(ids))
        return ids

    def _context(self, delivery: Delivery) -> Context:
        return Context(
            job=delivery.job,
            enqueue=self._enqueue,
            complete=partial(self._complete_in, delivery),
            complete_sync=partial(self._complete_in_sync, delivery),
        )

    async def _complete_in(self, delivery: Delivery, connection: Any) -> None:
        await self._queue.complete_in(connection, delivery)

    def _complete_in_sync(self, delivery: Delivery, connection: Any) -> None:
        self._queue.complete_in_sync(connection, delivery)

    def _lease_lost(self) -> None:
        """Others have what was held: stop it all and say nothing of it."""
        self._metrics.lease_lost.inc()
        self._lease_number += 1
        self._buffer.clear()
        self._lost.update(self._running)
        for task in self._running:
            task.cancel()
        self._settler.forget()

    def _hand_back_all(self) -> None:
        """Stop everything; each job hands itself back uncharged."""
        self._hand_back_buffer()
        for task in self._running:
            task.cancel()

    def _hand_back_stale(self) -> None:
        """Jobs that wait long go back: these take longer than those before, and others may have a free slot."""
        if self._buffer and self._buffer[0][0] < perf_counter() - _BUFFER_SECONDS:
            log.debug("slots stay taken queue=%s: handing %d jobs back", self._queue.name, len(self._buffer))
            self._prefetch.observe(1, _BUFFER_SECONDS)
            self._hand_back_buffer()

    def _hand_back_buffer(self) -> None:
        while self._buffer:
            self._settler.settle(Release(delivery=self._buffer.popleft()[1]))

    def _cancel(self, job_ids: frozenset[str]) -> None:
        """Stop jobs that somebody has cancelled; they are gone once they have stopped."""
        for task, (delivery, _) in self._running.items():
            if delivery.job.id in job_ids and task not in self._cancelled:
                self._cancelled.add(task)
                task.cancel()
        for waiting in [waiting for waiting in self._buffer if waiting[1].job.id in job_ids]:
            self._buffer.remove(waiting)
            self._settler.settle(Discard(delivery=waiting[1]))

    async def _keep_house(self) -> None:
        while True:
            try:
                done = await self._queue.maintain()
            except QueueError as error:
                log.debug("no housekeeping queue=%s: %s", self._queue.name, error)
            else:
                self._metrics.rescued.inc(done.rescued)
                self._metrics.cancelled.inc(done.cancelled)
                self._metrics.failed.inc(done.expired + done.poisoned)
                if done.rescued or done.expired or done.poisoned:
                    log.warning(
                        "housekeeping queue=%s rescued=%d expired=%d poisoned=%d",
                        *(self._queue.name, done.rescued, done.expired, done.poisoned),
                    )
            await asyncio.sleep(self._heartbeat_seconds * random.uniform(0.8, 1.2))  # noqa: S311

    async def _publish_depth(self) -> None:
        while True:
            started = perf_counter()
            interval_seconds = STATS_SECONDS
            try:
                depth = await self._queue.depth(max_age_seconds=STATS_SECONDS)
            except QueueError as error:
                log.debug("no depth queue=%s: %s", self._queue.name, error)
            else:
                self._metrics.observe_depth(depth)
                if not depth.ready and not depth.in_flight:
                    interval_seconds = _IDLE_STATS_SECONDS
            # Where counting is slow, it is done less often.
            took_seconds = perf_counter() - started
            await asyncio.sleep(min(max(interval_seconds, 10 * took_seconds), _STATS_LAST_SECONDS))
