"""The worker: takes jobs into free slots, runs them, and stops in an order that loses nothing.

Stopping: no more jobs are taken, what was not started goes back, what runs may finish; then the outcomes are
reported, the lease is given back, and the connections are closed. Heartbeats go on until the last outcome is in.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from datetime import UTC, datetime
from time import perf_counter
from typing import TYPE_CHECKING

from headrace.app import Context
from headrace.queues.base import HEARTBEAT_SECONDS, LEASE_SECONDS, QueueError
from headrace.runtime.lease import LeaseKeeper
from headrace.runtime.outcome import Completed, Failed, GivenUp
from headrace.runtime.retry import RetryPolicy, unknown_name_delay_seconds
from headrace.runtime.settlement import DeadLetter, Release, Retry, Settler, described

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headrace.job import NewJob
    from headrace.metrics import WorkerMetrics
    from headrace.queues.base import Delivery, Queue
    from headrace.runtime.handlers import Handler

log = logging.getLogger(__name__)

STATS_SECONDS = 2.0
_STATS_LAST_SECONDS = 10.0

FIRST_POLL_SECONDS = 0.05
"""How soon an idle worker looks again; doubles up to its poll interval."""

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
        self._running: dict[asyncio.Task[None], Delivery] = {}
        self._lost: set[asyncio.Task[None]] = set()
        self._lease_number = 0
        self._slot_freed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._hastened = asyncio.Event()
        self._settler = Settler(queue, metrics, is_idle=lambda: len(self._running) <= 1)
        self._keeper = LeaseKeeper(
            queue,
            on_lost=self._lease_lost,
            on_out_of_reach=self._hand_back_all,
            heartbeat_seconds=heartbeat_seconds,
            lease_seconds=lease_seconds,
        )
        metrics.slots.set(slots)

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
            self._handler.close()
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
        await asyncio.wait([receiving], timeout=_RECEIVE_GRACE_SECONDS)
        receiving.cancel()
        await self._await_jobs(self._drain_timeout_seconds)
        if self._running:
            log.warning("drain timed out queue=%s: handing %d jobs back", self._queue.name, len(self._running))
            self._hand_back_all()
            await asyncio.wait(self._running, timeout=_CANCEL_GRACE_SECONDS)
            for delivery in self._running.values():  # Deaf to cancellation: they end with the process.
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
        pause = FIRST_POLL_SECONDS
        complained = False
        while not self._stopping.is_set():
            free = self._slots - len(self._running) - self._handler.abandoned
            if free <= 0 or self._settler.is_stuck or not self._keeper.held.is_set():
                await self._slot_or_moment()
                continue
            lease_number = self._lease_number
            try:
                deliveries = await self._queue.receive(free)
            except QueueError as error:
                if not complained:
                    log.warning("can't receive queue=%s, trying again: %s", self._queue.name, error)
                complained = True
                await self._rest(min(1.0, self._poll_interval_seconds))
                continue
            complained = False
            if lease_number != self._lease_number:
                continue  # Leased under what was lost meanwhile: others have them.
            if self._stopping.is_set() or not self._keeper.held.is_set():
                for delivery in deliveries:
                    self._settler.settle(Release(delivery=delivery))
                continue
            for delivery in deliveries:
                self._start(delivery)
            if len(deliveries) == free:
                continue
            pause = FIRST_POLL_SECONDS if deliveries else min(pause * 2, self._poll_interval_seconds)
            # Many idle workers should not look at the same moment.
            await self._rest(pause * random.uniform(0.8, 1.2))  # noqa: S311

    async def _slot_or_moment(self) -> None:
        """Wait for a slot; looks up now and then, for what frees slots without saying so."""
        self._slot_freed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_POLL_SECONDS):
                await self._slot_freed.wait()

    async def _rest(self, seconds: float) -> None:
        """Sleep, unless stopped."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    def _start(self, delivery: Delivery) -> None:
        task = asyncio.create_task(self._run_job(delivery))
        self._running[task] = delivery
        self._metrics.busy_slots.inc()
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        delivery = self._running.pop(task)
        # Here and not in the job's coroutine, which a cancellation may reach before it has begun.
        if task.cancelled() and task not in self._lost:
            self._settler.settle(Release(delivery=delivery))
        self._lost.discard(task)
        self._metrics.busy_slots.dec()
        self._slot_freed.set()
        if not task.cancelled() and (error := task.exception()):
            log.error("a job ended outside of its handler queue=%s", self._queue.name, exc_info=error)

    async def _run_job(self, delivery: Delivery) -> None:
        job = delivery.job
        waited_seconds = (datetime.now(UTC) - job.run_at).total_seconds()
        if not self._handler.knows(job.name):
            self._metrics.unknown_name.inc()
            age_seconds = (datetime.now(UTC) - job.enqueued_at).total_seconds()
            delay_seconds = unknown_name_delay_seconds(age_seconds, random.random())  # noqa: S311
            log.warning("unknown name, handed back uncharged, again in %.1f s %s", delay_seconds, described(job))
            self._settler.settle(Release(delivery=delivery, delay_seconds=delay_seconds))
            return
        self._metrics.queue_wait_time.observe(max(0.0, waited_seconds))
        if log.isEnabledFor(logging.DEBUG):
            log.debug("job started %s", described(job))
        started = perf_counter()
        try:
            limit = asyncio.timeout(self._job_timeout_seconds)
            try:
                async with limit:
                    outcome = await self._handler.run(Context(job=job, enqueue=self._enqueue))
            except TimeoutError:
                if not limit.expired():
                    raise  # The handler's own.
                outcome = Failed(f"timed out after {self._job_timeout_seconds:g} s")
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            outcome = Failed("the handler cancelled itself")
        except Exception as error:  # noqa: BLE001 - a handler's own fault is one failed attempt
            outcome = Failed(f"{type(error).__name__}: {error}")
        duration_seconds = perf_counter() - started
        self._metrics.duration.observe(duration_seconds)
        self._settle(delivery, outcome, duration_seconds)

    def _settle(self, delivery: Delivery, outcome: Completed | Failed | GivenUp, duration_seconds: float) -> None:
        job = delivery.job
        match outcome:
            case Completed():
                if log.isEnabledFor(logging.DEBUG):
                    log.debug("job completed %s seconds=%.3f", described(job), duration_seconds)
                self._settler.complete(delivery)
            case Failed(error):
                log.warning("job failed %s seconds=%.3f: %s", described(job), duration_seconds, error)
                delay_seconds = self._retry.delay_seconds(job.attempt, random.random())  # noqa: S311
                self._settler.settle(Retry(delivery=delivery, delay_seconds=delay_seconds, error=error))
            case GivenUp(reason):
                log.warning("job given up %s seconds=%.3f: %s", described(job), duration_seconds, reason)
                self._settler.settle(DeadLetter(delivery=delivery, reason=reason))

    async def _enqueue(self, jobs: Sequence[NewJob]) -> list[str]:
        ids = await self._queue.enqueue(jobs)
        self._metrics.enqueued.inc(len(ids))
        return ids

    def _lease_lost(self) -> None:
        """Others have what was held: stop it all and say nothing of it."""
        self._metrics.lease_lost.inc()
        self._lease_number += 1
        self._lost.update(self._running)
        for task in self._running:
            task.cancel()
        self._settler.forget()

    def _hand_back_all(self) -> None:
        """Stop everything; each job hands itself back uncharged."""
        for task in self._running:
            task.cancel()

    async def _keep_house(self) -> None:
        while True:
            try:
                done = await self._queue.maintain()
            except QueueError as error:
                log.debug("no housekeeping queue=%s: %s", self._queue.name, error)
            else:
                self._metrics.rescued.inc(done.rescued)
                self._metrics.failed.inc(done.expired)
                if done.rescued or done.expired:
                    log.warning(
                        "housekeeping queue=%s rescued=%d expired=%d", self._queue.name, done.rescued, done.expired
                    )
            await asyncio.sleep(self._heartbeat_seconds * random.uniform(0.8, 1.2))  # noqa: S311

    async def _publish_depth(self) -> None:
        while True:
            started = perf_counter()
            try:
                self._metrics.observe_depth(await self._queue.depth(max_age_seconds=STATS_SECONDS))
            except QueueError as error:
                log.debug("no depth queue=%s: %s", self._queue.name, error)
            # Where counting is slow, it is done less often.
            took_seconds = perf_counter() - started
            await asyncio.sleep(min(max(STATS_SECONDS, 10 * took_seconds), _STATS_LAST_SECONDS))
