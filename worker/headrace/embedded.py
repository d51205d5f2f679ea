"""A worker within one's own process: a web application, a script, a notebook.

It runs on the event loop that is there, handles no signals and never ends the process. `composition` is the same for a
process of its own.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from headrace.app import AppError
from headrace.idempotency import failure_counts_in, key_prefix, store_from_url
from headrace.queues import backend_of, from_url
from headrace.queues.errors import QueueError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from headrace.app import App
    from headrace.metrics import Metrics
    from headrace.retry import RetryPolicy
    from headrace.runtime.tracer import Tracer
    from headrace.runtime.worker import Worker

log = logging.getLogger(__name__)


class Working:
    """A worker that works in this process. `working` makes it."""

    def __init__(self, worker: Worker, task: asyncio.Task[None]) -> None:
        self._worker = worker
        self._task = task
        self._loop = asyncio.get_running_loop()
        self.is_stopping = False
        """Whether it was told to stop."""

    @property
    def is_ready(self) -> bool:
        """Whether the backend answers, and the worker works."""
        return self._worker.is_ready and not self._task.done()

    @property
    def running(self) -> int:
        """How many jobs run."""
        return self._worker.running

    def stop(self) -> None:
        """Take no more jobs, and end when those that run have ended. From any thread.

        Called again: hand back what runs, uncharged.
        """
        self.is_stopping = True
        self._loop.call_soon_threadsafe(self._worker.stop)

    async def ended(self) -> None:
        """Wait until the worker has ended: it was stopped. Raises what ended it else, which is a fault of Headrace."""
        await asyncio.shield(self._task)


@asynccontextmanager
async def working(
    app: App,
    url: str,
    queue: str,
    *,
    slots: int = 10,
    poll_interval_seconds: float = 5.0,
    job_timeout_seconds: float = 1800.0,
    drain_timeout_seconds: float = 30.0,
    retry: RetryPolicy | None = None,
    redis_url: str | None = None,
    namespace: str = "",
    metrics: Metrics | None = None,
    holder: str | None = None,
    **options: Any,
) -> AsyncIterator[Working]:
    """Run an App's jobs in this process for as long as the block lasts: ``async with working(…) as worker``.

    It begins at once, whether or not the backend can be reached: until it can, the worker tries again, and
    `Working.is_ready` is False. Leaving the block drains: no more jobs are taken, and those that run may finish for
    `drain_timeout_seconds`; then they are stopped and handed back, uncharged. Functions in threads can't be stopped:
    they are waited for. Being cancelled while it drains hands back at once.

    Parameters
    ----------
    app
        The application.
    url, queue, holder, **options
        As those of `headrace.from_url`; but where the backend can tell of new jobs (``listens``), it is asked to.
    slots
        How many jobs run at a time, functions in threads included. Defaults to 10.
    poll_interval_seconds
        How seldom an idle worker looks for jobs. Defaults to 5.
    job_timeout_seconds
        How long an attempt may run. Defaults to half an hour.
    drain_timeout_seconds
        Defaults to 30: servers that end give their applications no longer.
    retry
        How long a failed job waits. Defaults to seconds at first, minutes in the end.
    redis_url
        Where finished jobs are recorded for idempotency, and where failed attempts are counted of a queue that can't
        count them itself (SQS). Defaults to nowhere.
    namespace
        What metrics and idempotency's keys are named by beside the queue. Defaults to nothing.
    metrics
        What to publish into; its `Metrics.render` is what a page for Prometheus shows. Several workers may share one.

    Raises
    ------
    AppError
        When a job's payload can't be decoded as annotated.
    UnsupportedCapabilityError
        When the App asks for what the backend lacks.
    QueueError
        When the URL names no backend, or the packages of it, or of the worker, are not installed.
    """
    if slots < 1:
        raise ValueError(f"slots {slots}: must be 1 or more")
    backend = backend_of(url)
    if "listens" in backend.options:
        options.setdefault("listens", True)
    store = None if redis_url is None else store_from_url(redis_url, prefix=key_prefix(namespace, queue))
    if "failure_counts" in backend.options:
        options.setdefault("failure_counts", failure_counts_in(store))
    opened = from_url(url, queue, holder=holder, **options)
    capabilities = backend.capabilities
    try:
        # Who only enqueues has none of a worker's packages.
        from headrace.metrics import Metrics  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise QueueError(f"a worker needs {error.name}: pip install 'headrace[worker]'") from error
    from headrace.runtime.handlers import HandlerError  # noqa: PLC0415
    from headrace.runtime.handlers.python import PythonHandler  # noqa: PLC0415
    from headrace.runtime.idempotency_guard import Idempotency  # noqa: PLC0415
    from headrace.runtime.refusals import refuse_to_start, remarks  # noqa: PLC0415
    from headrace.runtime.worker import Worker  # noqa: PLC0415

    refuse_to_start(app.jobs.values(), capabilities, job_timeout_seconds=job_timeout_seconds, retry=retry)
    for remark in remarks(app.jobs.values(), capabilities):
        log.warning("queue=%s: %s", queue, remark)
    try:
        handler = PythonHandler(app, threads=slots)
    except HandlerError as error:
        raise AppError(str(error)) from None
    async with AsyncExitStack() as stack:
        idempotency = None
        if store is not None:
            idempotency = Idempotency(store=await stack.enter_async_context(store))
        worker = Worker(
            opened,
            handler,
            (metrics or Metrics()).of(namespace, queue),
            slots=slots,
            poll_interval_seconds=poll_interval_seconds,
            job_timeout_seconds=job_timeout_seconds,
            drain_timeout_seconds=drain_timeout_seconds,
            retry=retry,
            idempotency=idempotency,
            tracer=_tracer(),
        )
        task = asyncio.create_task(worker.run(), name=f"headrace worker of {queue}")
        task.add_done_callback(_say_what_ended_it)
        made = Working(worker, task)
        try:
            yield made
        finally:
            if not (made.is_stopping or task.done()):
                worker.stop()
            await _drained(worker, task)


def _say_what_ended_it(task: asyncio.Task[None]) -> None:
    """At once: whoever made the worker may look at it much later."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("the worker ended by a fault of its own, and works no more: %s", task.get_name(), exc_info=error)


async def _drained(worker: Worker, task: asyncio.Task[None]) -> None:
    """Wait until it has ended; being cancelled hands back at once."""
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            worker.stop()
            await asyncio.wait([task])
        raise


def _tracer() -> Tracer:
    """Spans go where the application's own go: to the provider that it has set, if any."""
    from headrace.runtime.tracer import NO_TRACING  # noqa: PLC0415

    if "opentelemetry.trace" not in sys.modules:
        return NO_TRACING
    from opentelemetry import trace  # noqa: PLC0415

    from headrace.otel.tracing import SpanTracer  # noqa: PLC0415

    return SpanTracer(trace.get_tracer("headrace"))
