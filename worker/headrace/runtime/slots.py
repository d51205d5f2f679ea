"""Jobs in a worker: those that wait for a slot, and those that run in one.

Taken jobs wait until a slot is free; how many, `Prefetch` says. What waits long goes back: other workers may have a
slot for it. What becomes of one job, `attempt` says.

Short jobs end by the hundred in one turn of the event loop. What follows is done once a turn, for all of them: that is
a third of what a job costs here.
"""

from __future__ import annotations

import asyncio
import logging
import random
from datetime import UTC, datetime
from functools import partial
from time import perf_counter, time
from typing import TYPE_CHECKING

from headrace import logs
from headrace.queues.settlement import Release
from headrace.retry import RetryPolicy, unknown_name_delay_seconds
from headrace.runtime.attempt import STOPPED, Attempt, Ending, Fate
from headrace.runtime.context_side import ContextSide
from headrace.runtime.outcome import COMPLETED, Completed, Failed
from headrace.runtime.prefetch import Prefetch
from headrace.runtime.time_limits import TimeLimits
from headrace.runtime.tracer import NO_TRACING, Tracer
from headrace.runtime.waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from collections.abc import Set as AbstractSet

    from headrace.metrics import QueueMetrics
    from headrace.queues.base import Delivery, DeliveryKey, Queue
    from headrace.queues.settlement import Settlement
    from headrace.runtime.handlers import Handler
    from headrace.runtime.job_log import JobLog
    from headrace.runtime.nudge import Nudge
    from headrace.runtime.outcome import Outcome
    from headrace.runtime.settler import Settler
    from headrace.runtime.sharing import Share

log = logging.getLogger(__name__)

# Jobs that wait longer than this are handed back; where a backend can't leave names out, those beyond their name's
# limit not to return at once.
_WAIT_SECONDS = 2.0
_TURN_DELAY_SECONDS = 5.0


class Slots:
    """Where a worker's jobs run.

    Parameters
    ----------
    queue
        Whose they are.
    handler
        Runs them.
    settler
        Takes what becomes of them.
    metrics
        What to publish.
    job_log
        Says what happens to them.
    is_trusted
        Whether the lease can be relied on: it is asked just before jobs start.
    may_start
        Whether what one of them holds besides still stands, likewise. None: they hold nothing else.
    nudge
        Is given each time that there may be room for more.
    share
        How many jobs run at a time, and in which turn where other queues' run in the same slots.
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
        job_log: JobLog,
        *,
        is_trusted: Callable[[], bool],
        may_start: Callable[[Delivery], bool] | None,
        nudge: Nudge,
        share: Share,
        job_timeout_seconds: float,
        retry: RetryPolicy,
        tracer: Tracer = NO_TRACING,
    ) -> None:
        self._handler = handler
        self._settler = settler
        self._metrics = metrics
        self._job_log = job_log
        self._is_trusted = is_trusted
        self._may_start = may_start
        self._nudge = nudge
        self._retry = retry
        self._process = tracer.process
        self._turn_delay_seconds = 0.0 if queue.capabilities.skips_names else _TURN_DELAY_SECONDS
        self._running: dict[asyncio.Task[Outcome], Attempt] = {}  # In the order of their starts.
        self._ended: list[asyncio.Task[Outcome]] = []
        self._limits = TimeLimits(self._running, job_timeout_seconds, job_log)
        self._stale_timer: asyncio.TimerHandle | None = None
        self._prefetch = Prefetch(share.count)
        self._is_verbose = False
        self._share = share
        share.running, share.fill, share.look_again = self._running.__len__, self._fill, nudge.give
        self.waiting = Waiting()
        self.side = ContextSide(queue, metrics, self._limits.extend)
        """Of their contexts."""
        metrics.slots.set(share.count)
        metrics.busy_slots.set_function(lambda: len(self._running))
        metrics.prefetched.set_function(lambda: len(self.waiting))

    @property
    def running(self) -> int:
        """How many jobs run."""
        return len(self._running)

    @property
    def most(self) -> int:
        """How many jobs may run and wait here at a time, as it is now."""
        return self._share.count + self._prefetch.jobs

    def wanted(self) -> int:
        """How many jobs to take now, as far as the slots go."""
        prefetch = self._prefetch.jobs
        waiting = len(self.waiting.line)
        if waiting > prefetch // 2 or not self._share.may_take:
            return 0
        return max(0, self._share.free + prefetch - waiting)

    def take(self, deliveries: Iterable[Delivery]) -> None:
        """Run them, as soon as there are slots."""
        loop = asyncio.get_running_loop()
        now, terms_of, waiting = loop.time(), self._handler.terms, self.waiting
        self._is_verbose = self._job_log.is_verbose
        for delivery in deliveries:
            terms = terms_of(delivery.job.name)
            if terms is None:
                self._put_back_unknown(delivery)
            elif not waiting.add(Attempt(delivery, terms, now)):
                delay_seconds = self._turn_delay_seconds * random.uniform(0.8, 1.2)  # noqa: S311
                self._settler.add([Release(delivery=delivery, delay_seconds=delay_seconds)])
        self._fill()
        if self._stale_timer is None and self.waiting:
            self._stale_timer = loop.call_at(now + _WAIT_SECONDS, self._hand_back_stale)

    async def ended(self, hastened: asyncio.Event, timeout_seconds: float | None) -> None:
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
        self._settle_ended()
        self._settle([(attempt, STOPPED) for attempt in self._running.values()])

    def hand_back_waiting(self) -> None:
        """What has not been started goes back."""
        self._stop_waiting(self.waiting.all(), Fate.HANDED_BACK)

    def hand_back_all(self) -> None:
        """Stop everything; each job hands itself back uncharged."""
        self.hand_back_waiting()
        for attempt in self._running.values():
            attempt.stop(Fate.HANDED_BACK)

    def stop(self, keys: AbstractSet[DeliveryKey], fate: Fate) -> int:
        """Stop these, wherever they are; returns to how many it is news."""
        waiting = [attempt for attempt in self.waiting.all() if attempt.delivery.key in keys]
        self._stop_waiting(waiting, fate)
        # The same is said of a job with every heartbeat until it has stopped.
        running = [
            attempt for attempt in self._running.values() if attempt.delivery.key in keys and attempt.yields_to(fate)
        ]
        for attempt in running:
            attempt.stop(fate)
        return len(waiting) + len(running)

    def _stop_waiting(self, attempts: list[Attempt], fate: Fate) -> None:
        if attempts:
            self.waiting.remove(attempts)
            for attempt in attempts:
                attempt.stop(fate)
            self._settle([(attempt, STOPPED) for attempt in attempts])
            self._nudge.give()

    def _hand_back_stale(self) -> None:
        """What has waited long goes back: these take longer than those before, and others may have a free slot."""
        self._stale_timer = None
        loop = asyncio.get_running_loop()
        if stale := self.waiting.stale(loop.time() - _WAIT_SECONDS):
            log.debug("slots stay taken: handing %d jobs back", len(stale))
            if any(attempt.fate is Fate.WAITING for attempt in stale):
                self._prefetch.observe(1, _WAIT_SECONDS)
            self.waiting.names.observe_stale(stale, _WAIT_SECONDS)
            self._stop_waiting(stale, Fate.HANDED_BACK)
        if (oldest := self.waiting.oldest_taken_at()) is not None:
            self._stale_timer = loop.call_at(oldest + _WAIT_SECONDS, self._hand_back_stale)

    def _fill(self) -> None:
        free = self._share.free
        if free <= 0 or not self.waiting.line:
            return
        if not self._is_trusted():
            # This process was paused, or out of reach, while they waited: they may be others' by now.
            self.hand_back_waiting()
            return
        loop = asyncio.get_running_loop()
        loop_now, now = loop.time(), time()
        waits: list[float] = []
        refused: list[Attempt] = []
        while free > 0 and (attempt := self.waiting.next(self._may_start, refused)) is not None:
            attempt.fate = Fate.RUNNING
            attempt.task = task = loop.create_task(self._run(attempt))
            self._running[task] = attempt
            task.add_done_callback(self._note_end)
            self._limits.start(attempt, loop, loop_now)
            waits.append(now - attempt.delivery.job.run_at.timestamp())
            free -= 1
        self._share.began()
        self._metrics.queue_wait_time.observe(waits)
        self._settle([(attempt, STOPPED) for attempt in refused])

    def _put_back_unknown(self, delivery: Delivery) -> None:
        self._metrics.unknown_name.inc()
        age_seconds = (datetime.now(UTC) - delivery.job.enqueued_at).total_seconds()
        delay_seconds = unknown_name_delay_seconds(age_seconds, random.random())  # noqa: S311
        self._job_log.unknown_name(delivery.job, delay_seconds)
        self._settler.add([Release(delivery=delivery, delay_seconds=delay_seconds)])

    async def _run(self, attempt: Attempt) -> Outcome:
        job = attempt.delivery.job
        logs.set_job(job)
        if self._is_verbose:
            self._job_log.started(job)
        started = perf_counter()
        try:
            return await self._process(job, self._handler.run(job, partial(self.side.context_of, attempt)))
        except asyncio.CancelledError:
            if attempt.is_stopped:
                raise
            return Failed("the handler cancelled itself")
        finally:
            attempt.run_seconds = perf_counter() - started

    def _note_end(self, task: asyncio.Task[Outcome]) -> None:
        # Here and not in the job's coroutine, which a cancellation may reach before it has begun.
        self._ended.append(task)
        if len(self._ended) == 1:
            asyncio.get_running_loop().call_soon(self._settle_ended)

    def _settle_ended(self) -> None:
        ended, self._ended = self._ended, []
        ends: list[tuple[Attempt, Ending]] = []
        for task in ended:
            attempt = self._running.pop(task)
            ends.append((attempt, _ending_of(task)))
            if attempt.terms.max_concurrent is not None:
                self.waiting.ended(attempt)
        self._share.freed()  # First: whether the outcomes can wait for others depends on whether anything runs.
        self._settle(ends)

    def _settle(self, ends: Iterable[tuple[Attempt, Ending]]) -> None:
        settlements: list[Settlement] = []
        ran_seconds: list[float] = []
        for attempt, ending in ends:
            if ending is not STOPPED or attempt.fate is Fate.TIMED_OUT:
                ran_seconds.append(attempt.run_seconds)
            chance = 0.0
            if ending is not COMPLETED:
                self._job_log.ended(attempt, ending)
                chance = random.random()  # noqa: S311
            elif self._is_verbose:
                self._job_log.completed(attempt.delivery.job, attempt.run_seconds)
            is_lost = attempt.fate is Fate.LOST
            settlement = attempt.end(ending, self._retry, chance)
            if settlement is not None:
                settlements.append(settlement)
            elif is_lost:
                self._settler.end_lost(attempt.delivery, is_done=isinstance(ending, Completed))
        self._metrics.duration.observe(ran_seconds)
        self._prefetch.ran(ran_seconds)
        self._settler.add(settlements, at_once=not (self._running or self._settler.saves_calls))


def _ending_of(task: asyncio.Task[Outcome]) -> Ending:
    if task.cancelled():
        return STOPPED
    if error := task.exception():
        log.error("a job ended outside of its handler: %s", type(error).__name__, exc_info=error)
        # Unsettled it would be held as long as this worker lives.
        return Failed(f"it ended outside of its handler: {type(error).__name__}")
    return task.result()
