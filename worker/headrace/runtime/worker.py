"""The worker: takes jobs into free slots, and stops in an order that loses nothing.

While some jobs run, the next are taken and the last are reported, so that neither the backend nor this process waits
for the other. What becomes of a job within the worker, `slots` says.

Stopping: no more jobs are taken, what was not started goes back, what runs may finish; then the outcomes are
reported, the lease is given back, and the connections are closed. Heartbeats go on until the last outcome is in.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from time import perf_counter
from typing import TYPE_CHECKING

from headrace.queues.base import HEARTBEAT_SECONDS, LEASE_SECONDS, QueueError
from headrace.retry import RetryPolicy
from headrace.runtime.idempotency import IdempotencyGuard
from headrace.runtime.lease import LeaseKeeper
from headrace.runtime.settlement import Release, Settler
from headrace.runtime.slots import Slots
from headrace.runtime.tracing import NO_TRACING, Tracer

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from typing import Any

    from headrace.metrics import QueueMetrics
    from headrace.queues.base import Delivery, Queue
    from headrace.runtime.handlers import Handler
    from headrace.runtime.idempotency import Idempotency

log = logging.getLogger(__name__)

STATS_SECONDS = 2.0
"""How old a published depth may be while there is something to do …"""
_IDLE_STATS_SECONDS = 5.0
# … and while there is not, or where counting is slow, how seldom it is done.
_STATS_LAST_SECONDS = 10.0

_PROGRESS_SECONDS = 1.0

_MOMENT_SECONDS = 0.05
# How often to see whether the idempotency store is back.
_AWAY_SECONDS = 1.0
# An idle worker looks at what waits in it at least this often.
_LOOK_SECONDS = 2.0

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
    idempotency
        The store, opened, and how it is used. None: no idempotency.
    tracer
        Follows the jobs' runs. Defaults to nothing.
    heartbeat_seconds, lease_seconds
        How the lease is kept; must be what the queue was made with.
    """

    def __init__(
        self,
        queue: Queue,
        handler: Handler,
        metrics: QueueMetrics,
        *,
        slots: int = 10,
        poll_interval_seconds: float = 5.0,
        job_timeout_seconds: float = 1800.0,
        drain_timeout_seconds: float = 300.0,
        retry: RetryPolicy | None = None,
        idempotency: Idempotency | None = None,
        tracer: Tracer = NO_TRACING,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self._queue = queue
        self._handler = handler
        self._metrics = metrics
        self._poll_interval_seconds = poll_interval_seconds
        self._drain_timeout_seconds = drain_timeout_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._lease_number = 0
        self._stopping = asyncio.Event()
        self._hastened = asyncio.Event()
        self._guard = None
        if idempotency is not None:
            self._guard = IdempotencyGuard(
                idempotency,
                metrics,
                terms=handler.terms,
                on_lost=lambda job_ids: self._slots.hand_back(job_ids),  # noqa: PLW0108 - made in a moment
                heartbeat_seconds=heartbeat_seconds,
                lease_seconds=lease_seconds,
            )
        self._settler = Settler(queue, metrics, is_idle=lambda: self._slots.running <= 1, guard=self._guard)
        self._slots = Slots(
            queue,
            handler,
            self._settler,
            metrics,
            may_start=self._may_start,
            count=slots,
            job_timeout_seconds=job_timeout_seconds,
            retry=retry or RetryPolicy(),
            tracer=tracer,
        )
        metrics.listener_up.set_function(lambda: float(queue.is_listening))
        self._keeper = LeaseKeeper(
            queue,
            on_lost=self._lease_lost,
            on_out_of_reach=self._slots.hand_back_all,
            on_cancelled=self._slots.cancel,
            on_extended=metrics.lease_extensions.inc,
            heartbeat_seconds=heartbeat_seconds,
            lease_seconds=lease_seconds,
        )
        self._slot_count = slots

    @property
    def is_ready(self) -> bool:
        """Whether the backend answers."""
        return self._keeper.backend_answers

    @property
    def running(self) -> int:
        """How many jobs run; once `run` has ended, those that were handed back and are deaf to being stopped."""
        return self._slots.running

    def stop(self) -> None:
        """Drain; called again: don't wait for running jobs any longer."""
        if self._stopping.is_set():
            log.info("hastened queue=%s running=%d: handing back what runs", self._queue.name, self._slots.running)
            self._hastened.set()
        else:
            log.info("draining queue=%s running=%d", self._queue.name, self._slots.running)
            self._handler.drain()
            self._metrics.start_draining()
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
                log.info("started queue=%s slots=%d", self._queue.name, self._slot_count)
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
                    group.create_task(self._publish_progress()),
                ]
                if self._guard is not None:
                    background.append(group.create_task(self._guard.run()))
                await self._stopping.wait()
                await self._drain(receiving)
                for task in background:
                    task.cancel()
        finally:
            self._slots.hand_back_all()

    async def _drain(self, receiving: asyncio.Task[None]) -> None:
        self._slots.hand_back_waiting()
        await asyncio.wait([receiving], timeout=_RECEIVE_GRACE_SECONDS)
        receiving.cancel()
        await self._slots.ended(self._hastened, self._drain_timeout_seconds)
        if self._slots.running:
            log.warning("drain timed out queue=%s: handing %d jobs back", self._queue.name, self._slots.running)
            self._slots.hand_back_all()
            await self._slots.ended(asyncio.Event(), _CANCEL_GRACE_SECONDS)
            self._slots.abandon()
        try:
            async with asyncio.timeout(_FLUSH_GRACE_SECONDS):
                await self._settler.flushed()
        except TimeoutError:
            log.warning("outcomes not reported in time queue=%s: those jobs run again", self._queue.name)

    async def _receive(self) -> None:
        complained = False
        while not self._stopping.is_set():
            self._slots.hand_back_stale()
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
            is_empty = not deliveries
            if self._guard is not None and deliveries:
                deliveries = await self._admitted(self._guard, deliveries)
                if lease_number != self._lease_number:
                    # Claimed too late to be forgotten with the others; kept, they would lock their keys.
                    await self._guard.release(deliveries)
                    continue
            if self._stopping.is_set() or not self._keeper.held.is_set():
                self._settler.release(deliveries)
                continue
            self._slots.take(deliveries)
            if self._guard is not None and self._guard.is_away:
                await self._rest(_AWAY_SECONDS)
            elif is_empty:
                # Many idle workers should not look at the same moment.
                spread = random.uniform(0.8, 1.2)  # noqa: S311
                seconds = min(self._poll_interval_seconds, _LOOK_SECONDS if self._slots.waiting else float("inf"))
                await self._unless_stopped(self._queue.wait(seconds * spread))

    async def _admitted(self, guard: IdempotencyGuard, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Those that may run; the others are settled."""
        admission = await guard.admit(deliveries)
        for delivery in admission.finished:
            self._settler.complete(delivery)
        for delivery, delay_seconds in admission.later:
            self._settler.settle(Release(delivery=delivery, delay_seconds=delay_seconds))
        return admission.run

    def _may_start(self, delivery: Delivery) -> bool:
        """Whether the lease and the job's key can be relied on at this moment."""
        return self._keeper.is_trusted and (self._guard is None or self._guard.may_start(delivery))

    def _wanted(self) -> int:
        """How many jobs to take now."""
        if self._settler.is_stuck or not self._keeper.held.is_set():
            return 0
        wanted = self._slots.wanted()
        # One is enough to find out whether the store is back.
        return min(wanted, 1) if self._guard is not None and self._guard.is_away else wanted

    async def _until_more_is_wanted(self) -> None:
        """Wait for a slot; looks up now and then, for what frees slots without saying so."""
        wants_more = self._slots.wants_more
        wants_more.clear()
        awaited = wants_more if self._keeper.held.is_set() else self._keeper.held
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

    def _lease_lost(self) -> None:
        """Others have what was held: stop it all and say nothing of it."""
        self._metrics.lease_lost.inc()
        self._lease_number += 1
        self._slots.lose_all()
        self._settler.forget()

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

    async def _publish_progress(self) -> None:
        while True:
            await asyncio.sleep(_PROGRESS_SECONDS)
            if reports := self._slots.reports():
                try:
                    await self._queue.report_progress(reports)
                except QueueError as error:
                    log.debug("progress not published queue=%s: %s", self._queue.name, error)

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
