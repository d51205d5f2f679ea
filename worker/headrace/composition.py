"""From settings to a running worker: the one module that knows every class of it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from headrace.health import Pulse, serving
from headrace.idempotency import key_prefix, store_from_url
from headrace.queues import from_url
from headrace.retry import RetryPolicy
from headrace.runtime.handlers.exec import ExecHandler
from headrace.runtime.handlers.python import PythonHandler, load_app
from headrace.runtime.idempotency import Idempotency
from headrace.runtime.worker import Worker
from headrace.settings import ExecHandlerSettings, HttpHandlerSettings, PythonHandlerSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headrace.idempotency.base import IdempotencyStore
    from headrace.metrics import Metrics
    from headrace.queues.base import Queue
    from headrace.runtime.handlers import Handler
    from headrace.runtime.tracing import Tracer
    from headrace.settings import QueueWorkerSettings, WorkerSettings

log = logging.getLogger(__name__)

EXIT_FAILED = 1

# A pod's grace is its drain timeout and 30 s; whatever hangs by then must not wait for the kill.
_STOP_SECONDS = 27.0
_MOMENT_SECONDS = 0.5


def handler_of(settings: QueueWorkerSettings) -> Handler:
    """What runs the jobs of a queue.

    Raises
    ------
    HandlerError
        When it can't be made; the message says what to mend.
    """
    match settings.handler:
        case PythonHandlerSettings(app=app):
            return PythonHandler(load_app(app), threads=settings.max_concurrent_jobs)
        case ExecHandlerSettings(command=command):
            return ExecHandler(command)
        case HttpHandlerSettings(url=url, ca_certificates=ca_certificates):
            from headrace.runtime.handlers.http import HttpHandler  # noqa: PLC0415 - only who uses it pays for it

            return HttpHandler(url, ca_certificates=ca_certificates)


class Process:
    """All that one worker process runs: a worker for each queue, and the endpoints.

    Parameters
    ----------
    settings
        What it is told.
    handlers
        What runs each queue's jobs, in the order of the settings' queues.
    metrics
        What to publish.
    tracer
        Follows the jobs' runs.
    """

    def __init__(self, settings: WorkerSettings, handlers: Sequence[Handler], metrics: Metrics, tracer: Tracer) -> None:
        self._settings = settings
        self._metrics = metrics
        self._tracer = tracer
        self._queues = [self._queue(queue) for queue in settings.queues]
        self._stores = [self._store(queue) for queue in settings.queues]
        self._workers = [
            self._worker(*parts) for parts in zip(settings.queues, self._queues, self._stores, handlers, strict=True)
        ]
        self._watchdog = threading.Timer(settings.drain_timeout_seconds + _STOP_SECONDS, leave, [EXIT_FAILED])
        self._watchdog.daemon = True

    def _queue(self, settings: QueueWorkerSettings) -> Queue:
        binding = settings.binding
        return from_url(
            binding.dsn,
            binding.queue,
            schema=binding.schema,
            ca_certificates=binding.ca_certificates,
            holder=self._settings.worker_name,
            listens=settings.listens,
            direct_url=binding.direct_dsn,
        )

    def _store(self, settings: QueueWorkerSettings) -> IdempotencyStore | None:
        redis = self._settings.redis
        if redis is None or settings.idempotency is None:
            return None
        return store_from_url(
            redis.url,
            mode=redis.mode,
            sentinel_master=redis.sentinel_master,
            ca_certificates=redis.ca_certificates,
            prefix=key_prefix(self._settings.namespace, settings.binding.queue),
        )

    def _worker(
        self,
        settings: QueueWorkerSettings,
        queue: Queue,
        store: IdempotencyStore | None,
        handler: Handler,
    ) -> Worker:
        retry = settings.retry
        idempotency = None
        if store is not None and settings.idempotency is not None:
            idempotency = Idempotency(
                store=store,
                ttl_seconds=settings.idempotency.ttl_days * 86400,
                on_unavailable=settings.idempotency.on_unavailable,
            )
        return Worker(
            queue,
            handler,
            self._metrics.of(self._settings.namespace, settings.binding.queue),
            slots=settings.max_concurrent_jobs,
            poll_interval_seconds=settings.poll_interval_seconds,
            job_timeout_seconds=settings.job_timeout_seconds,
            drain_timeout_seconds=self._settings.drain_timeout_seconds,
            retry=RetryPolicy(
                initial_delay_seconds=retry.initial_delay_seconds,
                multiplier=retry.multiplier,
                max_delay_seconds=retry.max_delay_seconds,
                jitter=retry.jitter,
            ),
            idempotency=idempotency,
            tracer=self._tracer,
        )

    async def run(self) -> None:
        """Work until stopped. Raises only what is a fault of the worker's own, and what its endpoints need.

        Raises
        ------
        IdempotencyConfigurationError
            When a store answers that will not do.
        """
        pulse = Pulse(stuck_after_seconds=self._settings.stuck_after_seconds, on_stall=self._metrics.event_loop_stalled)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        with serving(
            self._settings.metrics_host,
            self._settings.metrics_port,
            is_stuck=lambda: pulse.is_stuck,
            is_ready=lambda: all(worker.is_ready for worker in self._workers),
            metrics=self._metrics.render,
        ) as port:
            log.info("serving metrics port=%d", port)
            beside = [asyncio.create_task(pulse.run()), *self._start_comparisons()]
            try:
                async with AsyncExitStack() as stack:
                    for store in filter(None, self._stores):
                        await stack.enter_async_context(store)
                    async with asyncio.TaskGroup() as group:
                        for worker in self._workers:
                            group.create_task(worker.run())
                if deaf := sum(worker.running for worker in self._workers):
                    # Others may run them by now, and the event loop would wait for them without end.
                    log.warning("leaving %d jobs behind that are deaf to being stopped", deaf)
                    leave(0)
            finally:
                for task in beside:
                    task.cancel()
                self._watchdog.cancel()

    def _stop(self) -> None:
        for worker in self._workers:
            worker.stop()
        if self._watchdog.ident is None:
            self._watchdog.start()

    def _start_comparisons(self) -> list[asyncio.Task[None]]:
        return [
            asyncio.create_task(_compare(*parts))
            for parts in zip(self._workers, self._queues, self._settings.queues, strict=True)
        ]


async def _compare(worker: Worker, queue: Queue, settings: QueueWorkerSettings) -> None:
    """Once the queue is there, say where its own settings are not what the worker was told."""
    while not worker.is_ready:  # noqa: ASYNC110 - once, and nobody waits for it
        await asyncio.sleep(_MOMENT_SECONDS)
    for disagreement in settings.disagreements(queue.settings):
        log.warning("settings differ queue=%s: %s", queue.name, disagreement)


def leave(status: int) -> None:
    """End the process whatever still runs in it."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(status)
