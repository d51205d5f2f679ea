"""From settings to a running worker: the one module that knows every class of it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from headrace.idempotency import failure_counts_in, key_prefix, store_from_url
from headrace.queues import backend_of, from_url
from headrace.queues.errors import UnsupportedCapabilityError
from headrace.retry import RetryPolicy
from headrace.runtime.handlers import HandlerError
from headrace.runtime.handlers.python import PythonHandler, load_app
from headrace.runtime.idempotency_guard import Idempotency
from headrace.runtime.process import Process
from headrace.runtime.refusals import refuse_to_start, remarks
from headrace.runtime.sharing import SharedSlots
from headrace.runtime.worker import Worker
from headrace.settings import ExecHandlerSettings, HttpHandlerSettings, PythonHandlerSettings

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from headrace.app import Declaration
    from headrace.idempotency.base import IdempotencyStore
    from headrace.metrics import Metrics
    from headrace.queues.base import Queue
    from headrace.runtime.handlers import Handler
    from headrace.runtime.tracer import Tracer
    from headrace.settings import QueueWorkerSettings, WorkerSettings

log = logging.getLogger(__name__)

_MOMENT_SECONDS = 0.5


def handler_of(settings: QueueWorkerSettings) -> Handler:
    """What runs the jobs of a queue.

    Raises
    ------
    HandlerError
        When it can't be made, or asks for what the queue's backend lacks; the message says what to mend.
    """
    match settings.handler:
        case PythonHandlerSettings(app=name):
            app = load_app(name)
            _refuse_unsupported(settings, app.jobs.values())
            return PythonHandler(app, threads=settings.max_concurrent_jobs)
        case ExecHandlerSettings(command=command):
            from headrace.runtime.handlers.exec import ExecHandler  # noqa: PLC0415 - only who uses it pays for it

            _refuse_unsupported(settings, ())
            return ExecHandler(command)
        case HttpHandlerSettings(url=url, ca_certificates=ca_certificates):
            from headrace.runtime.handlers.http import HttpHandler  # noqa: PLC0415 - likewise

            _refuse_unsupported(settings, ())
            return HttpHandler(url, ca_certificates=ca_certificates)


def _refuse_unsupported(settings: QueueWorkerSettings, declarations: Collection[Declaration]) -> None:
    capabilities = backend_of(settings.binding.dsn).capabilities
    try:
        refuse_to_start(
            declarations,
            capabilities,
            job_timeout_seconds=settings.job_timeout_seconds,
            retry=_retry(settings),
        )
    except UnsupportedCapabilityError as error:
        raise HandlerError(str(error)) from None
    for remark in remarks(declarations, capabilities):
        log.warning("queue=%s: %s", settings.binding.queue, remark)


async def run(settings: WorkerSettings, handlers: Sequence[Handler], metrics: Metrics, tracer: Tracer) -> None:
    """Run a worker process until it is told to stop: a worker for each queue, and the endpoints.

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

    Raises
    ------
    IdempotencyConfigurationError
        When a store answers that will not do.
    HealthServerError
        When the endpoints' address can't be served.
    """
    process = Process(
        metrics,
        metrics_host=settings.metrics_host,
        metrics_port=settings.metrics_port,
        stuck_after_seconds=settings.stuck_after_seconds,
        drain_timeout_seconds=settings.drain_timeout_seconds,
    )
    stores = [_store(settings, queue) for queue in settings.queues]
    queues = [_queue(settings, *parts) for parts in zip(settings.queues, stores, strict=True)]
    shared = None if settings.shared_slots is None else SharedSlots(settings.shared_slots)
    workers = [
        _worker(settings, *parts, shared=shared, metrics=metrics, tracer=tracer, process=process)
        for parts in zip(settings.queues, queues, stores, handlers, strict=True)
    ]
    comparisons = [
        asyncio.create_task(_compare(*parts)) for parts in zip(workers, queues, settings.queues, strict=True)
    ]
    try:
        await process.run(workers, [store for store in stores if store is not None])
    finally:
        for comparison in comparisons:
            comparison.cancel()


def _queue(process: WorkerSettings, settings: QueueWorkerSettings, store: IdempotencyStore | None) -> Queue:
    binding = settings.binding
    takes = backend_of(binding.dsn).options
    options: dict[str, object] = dict(binding.queue_options)
    if "listens" in takes:
        options["listens"] = settings.listens
    if "failure_counts" in takes:
        options["failure_counts"] = failure_counts_in(store)
    return from_url(binding.dsn, binding.queue, holder=process.worker_name, **options)


def _store(process: WorkerSettings, settings: QueueWorkerSettings) -> IdempotencyStore | None:
    redis = process.redis
    if redis is None or settings.idempotency is None:
        return None
    return store_from_url(
        redis.url,
        mode=redis.mode,
        sentinel_master=redis.sentinel_master,
        ca_certificates=redis.ca_certificates,
        prefix=key_prefix(process.namespace, settings.binding.queue),
    )


def _worker(
    told: WorkerSettings,
    settings: QueueWorkerSettings,
    queue: Queue,
    store: IdempotencyStore | None,
    handler: Handler,
    *,
    shared: SharedSlots | None,
    metrics: Metrics,
    tracer: Tracer,
    process: Process,
) -> Worker:
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
        metrics.of(told.namespace, settings.binding.queue),
        slots=settings.max_concurrent_jobs if shared is None else shared.share(settings.max_concurrent_jobs),
        poll_interval_seconds=settings.poll_interval_seconds,
        job_timeout_seconds=settings.job_timeout_seconds,
        drain_timeout_seconds=told.drain_timeout_seconds,
        retry=_retry(settings),
        idempotency=idempotency,
        tracer=tracer,
        stuck_after_seconds=told.stuck_after_seconds,
        before_abandoning=process.leaving,
    )


def _retry(settings: QueueWorkerSettings) -> RetryPolicy:
    retry = settings.retry
    return RetryPolicy(
        initial_delay_seconds=retry.initial_delay_seconds,
        multiplier=retry.multiplier,
        max_delay_seconds=retry.max_delay_seconds,
        jitter=retry.jitter,
    )


async def _compare(worker: Worker, queue: Queue, settings: QueueWorkerSettings) -> None:
    """Once the queue is there, say where its own settings are not what the worker was told."""
    while not worker.is_ready:  # noqa: ASYNC110 - once, and nobody waits for it
        await asyncio.sleep(_MOMENT_SECONDS)
    for disagreement in settings.disagreements(queue.settings):
        log.warning("settings differ queue=%s: %s", queue.name, disagreement)
