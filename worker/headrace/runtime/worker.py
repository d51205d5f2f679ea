"""The worker: takes jobs into free slots, and stops in an order that loses nothing.

While some jobs run, the next are taken and the last are reported, so that neither the backend nor this process waits
for the other. `receiver` takes them, `slots` runs them, `settler` reports what becomes of them; here they meet.

Stopping: no more jobs are taken, what was not started goes back, what runs may finish; then the outcomes are
reported, the lease is given back, and the connections are closed. Heartbeats go on until the last outcome is in. Who
has time tells the worker beforehand to take nothing more: by the time it is stopped, nothing is left to wait for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from headrace.health import STUCK_AFTER_SECONDS
from headrace.queues.base import (
    HEARTBEAT_SECONDS,
    KeepsAliveAside,
    Listens,
    Witnesses,
)
from headrace.queues.errors import QueueError
from headrace.retry import RetryPolicy
from headrace.runtime import chores
from headrace.runtime.attempt import Fate
from headrace.runtime.idempotency_guard import IdempotencyGuard
from headrace.runtime.job_log import SAY_SECONDS, JobLog
from headrace.runtime.lease import Aside, LeaseKeeper
from headrace.runtime.nudge import Nudge
from headrace.runtime.receiver import Receiver
from headrace.runtime.settler import Settler
from headrace.runtime.sharing import SharedSlots
from headrace.runtime.slots import Slots
from headrace.runtime.tracer import NO_TRACING, Tracer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from collections.abc import Set as AbstractSet
    from typing import Any

    from headrace.metrics import QueueMetrics
    from headrace.queues.base import DeliveryKey, Queue
    from headrace.runtime.handlers import Handler
    from headrace.runtime.idempotency_guard import Idempotency
    from headrace.runtime.sharing import Share

log = logging.getLogger(__name__)

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
        How many jobs run at a time: a number, or the worker's share of slots that several have together.
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
    heartbeat_seconds
        How often the lease is extended.
    stuck_after_seconds
        How long the event loop may stand before the lease is let go of.
    before_abandoning
        Awaited before what is deaf to being stopped is handed back, since its process ends. None: the process goes on,
        and the worker waits until nothing runs any more, however long that takes.
    """

    def __init__(
        self,
        queue: Queue,
        handler: Handler,
        metrics: QueueMetrics,
        *,
        slots: int | Share = 10,
        poll_interval_seconds: float = 5.0,
        job_timeout_seconds: float = 1800.0,
        drain_timeout_seconds: float = 300.0,
        retry: RetryPolicy | None = None,
        idempotency: Idempotency | None = None,
        tracer: Tracer = NO_TRACING,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        stuck_after_seconds: float = STUCK_AFTER_SECONDS,
        before_abandoning: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._queue = queue
        self._handler = handler
        self._metrics = metrics
        self._drain_timeout_seconds = drain_timeout_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._stuck_after_seconds = stuck_after_seconds
        self._before_abandoning = before_abandoning
        self._takes_no_more = False
        self._stopping = asyncio.Event()
        self._hastened = asyncio.Event()
        self._job_log = JobLog(queue.name)
        self._nudge = Nudge()
        self._guard = None
        if idempotency is not None:
            self._guard = IdempotencyGuard(idempotency, metrics, terms=handler.terms, lease_seconds=queue.lease_seconds)
        self._keeper = LeaseKeeper(queue, self, heartbeat_seconds=heartbeat_seconds)
        self._settler = Settler(queue, metrics, self._job_log, nudge=self._nudge, guard=self._guard)
        self._share = SharedSlots(slots).share() if isinstance(slots, int) else slots
        self._slots = Slots(
            queue,
            handler,
            self._settler,
            metrics,
            self._job_log,
            is_trusted=lambda: self._keeper.is_trusted,
            may_start=None if self._guard is None else self._guard.may_start,
            nudge=self._nudge,
            share=self._share,
            job_timeout_seconds=job_timeout_seconds,
            retry=retry or RetryPolicy(),
            tracer=tracer,
        )
        self._receiver = Receiver(
            queue,
            self._slots,
            self._settler,
            self._keeper,
            self._guard,
            self._nudge,
            self._share,
            poll_interval_seconds=poll_interval_seconds,
        )
        if isinstance(queue, Listens):
            metrics.listener_up.set_function(lambda: float(queue.is_listening))
        if isinstance(queue, Witnesses):
            metrics.witnessed = queue.witnessed

    @property
    def is_ready(self) -> bool:
        """Whether the backend answers, and the worker has not been told to take nothing more."""
        return self._keeper.backend_answers and not self._takes_no_more

    @property
    def running(self) -> int:
        """How many jobs run; once `run` has ended, those that were handed back and are deaf to being stopped."""
        return self._slots.running

    def take_no_more(self) -> None:
        """Take no more jobs, and go on otherwise: what runs may run for as long as it likes, until `stop`."""
        if self._takes_no_more or self._stopping.is_set():
            return
        log.info("taking nothing more queue=%s running=%d", self._queue.name, self._slots.running)
        self._takes_no_more = True
        self._receiver.stop()
        self._slots.hand_back_waiting()

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
        self._share.expect()
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
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._stopping.wait()
                pause = min(pause * 2, _LAST_OPEN_SECONDS)
            else:
                log.info("started queue=%s slots=%d", self._queue.name, self._share.count)
                return True
        return False

    async def _work(self) -> None:
        # An error in any of these is a bug: the group ends the worker, loudly, and its jobs go back with the lease.
        try:
            async with asyncio.TaskGroup() as group:
                receiving = group.create_task(self._receiver.run())
                group.create_task(self._end_polls(receiving))
                background = [group.create_task(chore) for chore in self._background()]
                await self._stopping.wait()
                await self._drain(receiving)
                for task in background:
                    task.cancel()
        finally:
            self._slots.hand_back_all()

    def _background(self) -> list[Coroutine[Any, Any, None]]:
        """What goes on beside receiving, as the backend can and the worker was told."""
        queue = self._queue
        chosen = [
            self._keeper.run(),
            self._settler.run(),
            chores.say_repeated(self._job_log, every_seconds=SAY_SECONDS),
        ]
        if self._guard is not None:
            chosen.append(self._keep_keys(self._guard))
        if isinstance(queue, KeepsAliveAside):
            aside = Aside(
                queue,
                self._keeper,
                heartbeat_seconds=self._heartbeat_seconds,
                stuck_after_seconds=self._stuck_after_seconds,
            )
            chosen.append(aside.run())
        return chosen + chores.of_roles(queue, self._metrics, self._slots.side, every_seconds=self._heartbeat_seconds)

    async def _end_polls(self, receiving: asyncio.Task[None]) -> None:
        await chores.end_polls(self._queue, receiving)
        await self._slots.ended(self._stopping, None)
        if not self._stopping.is_set():
            log.info("nothing runs any more queue=%s: ends at once when told to stop", self._queue.name)

    async def _drain(self, receiving: asyncio.Task[None]) -> None:
        self._slots.hand_back_waiting()
        self._receiver.stop()
        await asyncio.wait([receiving], timeout=_RECEIVE_GRACE_SECONDS)
        receiving.cancel()
        await self._slots.ended(self._hastened, self._drain_timeout_seconds)
        if self._slots.running:
            log.warning("drain timed out queue=%s: handing %d jobs back", self._queue.name, self._slots.running)
            self._slots.hand_back_all()
            await self._slots.ended(asyncio.Event(), _CANCEL_GRACE_SECONDS)
        if self._slots.running:
            log.warning("still running, though told to stop queue=%s: %d jobs", self._queue.name, self._slots.running)
            if self._before_abandoning is None:
                await self._slots.ended(asyncio.Event(), None)
            else:
                await self._before_abandoning()
                self._slots.abandon()
        try:
            async with asyncio.timeout(_FLUSH_GRACE_SECONDS):
                await self._settler.flushed()
        except TimeoutError:
            log.warning("outcomes not reported in time queue=%s: those jobs run again", self._queue.name)

    async def _keep_keys(self, guard: IdempotencyGuard) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_seconds)
            if lost := await guard.keep():
                stopped = self._slots.stop(lost, Fate.HANDED_BACK)
                if stopped:
                    log.warning("keys belong to others by now queue=%s: handing back %d", self._queue.name, stopped)

    def lease_extended(self) -> None:
        """See `headrace.runtime.lease.Holder`."""
        self._metrics.lease_extensions.inc()
        self._nudge.give()

    def jobs_lost(self, keys: AbstractSet[DeliveryKey]) -> None:
        """See `headrace.runtime.lease.Holder`."""
        self._metrics.lease_lost.inc()
        self._slots.stop(keys, Fate.LOST)
        self._settler.lose(keys)
        self._receiver.lose(keys)

    def jobs_cancelled(self, keys: AbstractSet[DeliveryKey]) -> None:
        """See `headrace.runtime.lease.Holder`."""
        self._slots.stop(keys, Fate.CANCELLED)

    def lease_out_of_reach(self) -> None:
        """See `headrace.runtime.lease.Holder`."""
        self._slots.hand_back_all()
        self._nudge.give()
