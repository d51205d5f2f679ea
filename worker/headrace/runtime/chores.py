"""What a worker does beside its jobs, where its backend has the role for it: housekeeping, counting, progress."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING

from headrace.queues.base import Counts, KeepsHouse, Polls, ShowsProgress
from headrace.queues.errors import QueueError, UnsupportedCapabilityError

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from headrace.metrics import QueueMetrics
    from headrace.queues.base import Queue
    from headrace.runtime.context_side import ContextSide
    from headrace.runtime.job_log import JobLog

log = logging.getLogger(__name__)

STATS_SECONDS = 2.0
"""How old a published depth may be while there is something to do …"""
_IDLE_STATS_SECONDS = 5.0
# … and while there is not. Where counting takes long, the backend itself gives older counts.

_PROGRESS_SECONDS = 1.0


def of_roles(
    queue: Queue, metrics: QueueMetrics, side: ContextSide, *, every_seconds: float
) -> list[Coroutine[Any, Any, None]]:
    """What the roles of a queue ask of its worker."""
    chosen = []
    if isinstance(queue, KeepsHouse):
        chosen.append(keep_house(queue, queue.name, metrics, every_seconds=every_seconds))
    if isinstance(queue, Counts):
        chosen.append(publish_depth(queue, queue.name, metrics))
    if isinstance(queue, ShowsProgress):
        chosen.append(publish_progress(queue, queue.name, side))
    return chosen


async def end_polls(queue: Queue, receiving: asyncio.Task[None]) -> None:
    """Once nothing is received any more: what polls still bring must not be kept while other jobs run on here."""
    await asyncio.wait([receiving])
    if isinstance(queue, Polls):
        await queue.end_polls()


async def keep_house(queue: KeepsHouse, name: str, metrics: QueueMetrics, *, every_seconds: float) -> None:
    """Look after the queue, until cancelled; at other moments than the many other workers."""
    await asyncio.sleep(every_seconds * random.random())  # noqa: S311
    while True:
        try:
            done = await queue.maintain()
        except QueueError as error:
            log.debug("no housekeeping queue=%s: %s", name, error)
        else:
            metrics.rescued.inc(done.rescued)
            metrics.cancelled.inc(done.cancelled)
            metrics.failed.inc(done.expired + done.poisoned + done.malformed)
            if done.rescued or done.expired or done.poisoned or done.malformed:
                log.warning(
                    "housekeeping queue=%s rescued=%d expired=%d poisoned=%d malformed=%d",
                    *(name, done.rescued, done.expired, done.poisoned, done.malformed),
                )
        await asyncio.sleep(every_seconds * random.uniform(0.8, 1.2))  # noqa: S311


async def publish_progress(queue: ShowsProgress, name: str, side: ContextSide) -> None:
    """Let people see how far jobs are, until cancelled."""
    while True:
        await asyncio.sleep(_PROGRESS_SECONDS)
        if reports := side.reports():
            try:
                await queue.report_progress(reports)
            except QueueError as error:
                log.debug("progress not published queue=%s: %s", name, error)


async def publish_depth(queue: Counts, name: str, metrics: QueueMetrics) -> None:
    """Publish how much the queue holds, until cancelled, or until the queue says that this process may not count."""
    while True:
        interval_seconds = STATS_SECONDS
        try:
            depth = await queue.depth(max_age_seconds=STATS_SECONDS)
        except UnsupportedCapabilityError as error:
            log.debug("no depth is published queue=%s: %s", name, error)
            return
        except QueueError as error:
            log.debug("no depth queue=%s: %s", name, error)
        else:
            metrics.observe_depth(depth)
            if not depth.ready and not depth.in_flight:
                interval_seconds = _IDLE_STATS_SECONDS
        await asyncio.sleep(interval_seconds * random.uniform(0.8, 1.2))  # noqa: S311


async def say_repeated(job_log: JobLog, *, every_seconds: float) -> None:
    """Let the log say what has repeated, until cancelled."""
    try:
        while True:
            await asyncio.sleep(every_seconds)
            job_log.say_repeated()
    finally:
        job_log.say_repeated()
