"""``headrace worker``: run jobs until told to stop."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shlex
import signal
import sys
import threading
from typing import TYPE_CHECKING

import click

from headrace.cli.common import (
    EXIT_FAILED,
    EXIT_USAGE,
    connection_options,
    environment,
    log_to_stderr,
    read_ca,
    with_exit_statuses,
)
from headrace.queues import from_url
from headrace.queues.base import QueueError
from headrace.settings import worker_settings

if TYPE_CHECKING:
    from pathlib import Path

    from headrace.runtime.handlers import Handler
    from headrace.settings import WorkerSettings

log = logging.getLogger(__name__)

# A pod's grace is its drain timeout and 30 s; whatever hangs by then must not wait for the kill.
_STOP_SECONDS = 27.0


@click.command()
@click.option("--queue", help="The queue's name. Defaults to the binding's.")
@click.option("--app", help="MODULE:ATTRIBUTE of the App whose jobs to run.")
@click.option("--exec", "command", help="A program that runs each job, with its arguments, quoted as for a shell.")
@click.option("--concurrency", help="How many jobs run at a time. Defaults to 10.")
@click.option(
    "--mode",
    help="MessageQueue: be told of new jobs beside looking for them. Polling: look alone. Defaults to MessageQueue.",
)
@click.option("--poll-interval", help="Seconds after which an idle worker looks for jobs again. Defaults to 5.")
@click.option("--drain-timeout", help="Seconds that running jobs may take to finish after SIGTERM. Defaults to 300.")
@click.option("--metrics-address", help="HOST:PORT of /metrics, /healthz, /readyz. Defaults to 0.0.0.0:8080.")
@click.option("--direct-dsn", help="Past a connection pooler, for being told of new jobs. Defaults to --dsn.")
@connection_options
@with_exit_statuses
def worker(
    queue: str | None,
    app: str | None,
    command: str | None,
    concurrency: str | None,
    mode: str | None,
    poll_interval: str | None,
    drain_timeout: str | None,
    metrics_address: str | None,
    direct_dsn: str | None,
    dsn: str | None,
    schema: str | None,
    ca: Path | None,
) -> None:
    """Run a queue's jobs.

    All settings can come from the environment; options go before it. SIGTERM drains: no new jobs, running ones
    may finish; a second SIGTERM hands them back at once.
    """
    settings = worker_settings(
        environment(
            {
                "HEADRACE_DSN": dsn,
                "HEADRACE_METRICS_ADDRESS": metrics_address,
                "BACKGROUND_JOBS__QUEUENAME": queue,
                "BACKGROUND_JOBS__MAXCONCURRENTJOBS": concurrency,
                "BACKGROUND_JOBS__MODE": mode,
                "BACKGROUND_JOBS__POLLINTERVALSECONDS": poll_interval,
                "BACKGROUND_JOBS__DRAINTIMEOUTSECONDS": drain_timeout,
                "BACKGROUND_JOBS__POSTGRES__SCHEMA": schema,
                "BACKGROUND_JOBS__POSTGRES__DIRECTCONNECTIONSTRING": direct_dsn,
                "BACKGROUND_JOBS__HANDLER__PYTHON__APP": app,
                "BACKGROUND_JOBS__HANDLER__EXEC__COMMAND": json.dumps(shlex.split(command)) if command else None,
            }
        )
    )
    log_to_stderr(settings.log_level)
    # Only now: the SDK's other commands need none of the worker's packages.
    import prometheus_client  # noqa: PLC0415
    import uvloop  # noqa: PLC0415

    from headrace.health import HealthServerError  # noqa: PLC0415
    from headrace.runtime.handlers import HandlerError  # noqa: PLC0415

    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    try:
        handler = _handler(settings)
        uvloop.run(_run(settings, handler, read_ca(ca)))
    except (HandlerError, HealthServerError) as error:
        click.echo(f"headrace: {error}", err=True)
        sys.exit(EXIT_USAGE)
    except QueueError:
        raise  # A URL that leads to no queue; whatever happens to a backend later, the worker waits.
    except Exception:
        log.critical("the worker failed; its jobs go back", exc_info=True)
        _leave(EXIT_FAILED)
    else:
        if handler.abandoned:
            log.warning("leaving %d functions behind that outlived their jobs", handler.abandoned)
            _leave(0)


def _handler(settings: WorkerSettings) -> Handler:
    from headrace.runtime.handlers.exec import ExecHandler  # noqa: PLC0415
    from headrace.runtime.handlers.python import PythonHandler, load_app  # noqa: PLC0415

    if settings.exec_command is not None:
        return ExecHandler(settings.exec_command)
    assert settings.python_app is not None
    return PythonHandler(load_app(settings.python_app), threads=settings.max_concurrent_jobs)


async def _run(settings: WorkerSettings, handler: Handler, ca_certificates: str | None) -> None:
    from headrace.health import Pulse, serving  # noqa: PLC0415
    from headrace.metrics import WorkerMetrics  # noqa: PLC0415
    from headrace.retry import RetryPolicy  # noqa: PLC0415
    from headrace.runtime.worker import Worker  # noqa: PLC0415

    binding = settings.binding
    metrics = WorkerMetrics(settings.namespace, binding.queue)
    running = Worker(
        from_url(
            binding.dsn,
            binding.queue,
            schema=binding.schema,
            ca_certificates=ca_certificates or binding.ca_certificates,
            holder=settings.worker_name,
            listens=settings.listens,
            direct_url=binding.direct_dsn,
        ),
        handler,
        metrics,
        slots=settings.max_concurrent_jobs,
        poll_interval_seconds=settings.poll_interval_seconds,
        job_timeout_seconds=settings.job_timeout_seconds,
        drain_timeout_seconds=settings.drain_timeout_seconds,
        retry=RetryPolicy(
            initial_delay_seconds=settings.retry.initial_delay_seconds,
            multiplier=settings.retry.multiplier,
            max_delay_seconds=settings.retry.max_delay_seconds,
            jitter=settings.retry.jitter,
        ),
    )
    pulse = Pulse()

    def stop() -> None:
        running.stop()
        if not watchdog.is_alive():
            watchdog.start()

    watchdog = threading.Timer(settings.drain_timeout_seconds + _STOP_SECONDS, _leave, [EXIT_FAILED])
    watchdog.daemon = True
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    with serving(
        settings.metrics_host,
        settings.metrics_port,
        is_stuck=lambda: pulse.is_stuck,
        is_ready=lambda: running.is_ready,
        metrics=metrics.render,
    ) as port:
        log.info("serving metrics port=%d", port)
        beating = asyncio.create_task(pulse.run())
        try:
            await running.run()
        finally:
            beating.cancel()
            watchdog.cancel()


def _leave(status: int) -> None:
    """End the process whatever still runs in it."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(status)
