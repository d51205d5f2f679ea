"""The application that worker tests run. Jobs note what they do in the directory that RECORDS names."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from pathlib import Path
from typing import Any

from headrace import App, Context, DeadLetter, new_job

log = logging.getLogger(__name__)

app = App()
_records = Path(os.environ.get("RECORDS", "."))


def note(kind: str, context: Context) -> None:
    (_records / f"{kind}-{context.job.id}-{context.attempt}-{time.monotonic_ns()}").touch()


@app.job("quick")
async def quick(payload: Any, context: Context) -> None:
    note("done", context)


@app.job("in-thread")
def in_thread(payload: Any, context: Context) -> None:
    note("done", context)


@app.job("gated")
async def gated(payload: str, context: Context) -> None:
    """Runs until the file that the payload names is there."""
    note("started", context)
    while not (_records / payload).exists():  # noqa: ASYNC110 - what it waits for is another process's
        await asyncio.sleep(0.02)
    note("done", context)


@app.job("failing")
async def failing(payload: Any, context: Context) -> None:
    note("started", context)
    raise ValueError(f"no luck with {payload}")


@app.job("hopeless")
async def hopeless(payload: Any) -> None:
    raise DeadLetter("there is no such picture")


@app.job("exiting")
async def exiting(payload: Any) -> None:
    raise SystemExit(3)


@app.job("parent")
async def parent(payload: Any, context: Context) -> None:
    await context.enqueue([new_job("quick"), new_job("quick")])


@app.job("stuck-thread")
def stuck_thread(payload: str, context: Context) -> None:
    note("started", context)
    while not (_records / payload).exists():
        time.sleep(0.02)


@app.job("deaf")
async def deaf(payload: str, context: Context) -> None:
    """Takes being stopped for one more thing to get over."""
    note("started", context)
    while not (_records / payload).exists():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.02)


@app.job("blocking")
async def blocking(payload: str, context: Context) -> None:
    """Blocks the event loop until the file that the payload names is there."""
    note("started", context)
    while not (_records / payload).exists():
        time.sleep(0.02)  # noqa: ASYNC251 - that it blocks is the point


@app.job("traced")
async def traced(payload: str, context: Context) -> None:
    """Makes a span of its own, and one in a thread, and enqueues another job."""
    await asyncio.to_thread(_spans)
    log.info("within the trace")
    await context.enqueue([new_job("in-thread")])


def _spans() -> None:
    from opentelemetry import trace  # noqa: PLC0415 - only the jobs that trace pay for it

    with trace.get_tracer("app").start_as_current_span("resize"):
        pass


@app.job("logging")
async def logging_(payload: str) -> None:
    log.info("a line of the handler's own: %s", payload)


@app.job("logging-in-thread")
def logging_in_thread(payload: str) -> None:
    log.info("a line of the handler's own: %s", payload)


@app.job("logging-in-process", process=True)
def logging_in_process(payload: str) -> None:
    log.info("a line of the handler's own: %s", payload)
