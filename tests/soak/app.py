"""The application under fire. What its jobs do goes into files that no chaos touches, one a process.

A line is written with one system call into the kernel's page cache: a kill of the process can't take it back.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headrace import App, Context, DeadLetter

# A pause and the start of a process fit into it, on a machine that starts twenty workers, too: only what hangs is timed
# out.
TIMEOUT_SECONDS = 30.0

IN_PROCESS = "work-in-process"
OF_TOMORROW = "work-of-tomorrow"
"""A name that not all workers know."""

KNOWS_TOMORROW = "KNOWS_TOMORROW"
"""The variable of those that do."""

app = App()
_process = f"{os.getpid()}-{time.monotonic_ns()}"
_file = os.open(Path(os.environ["RECORDS"], f"runs-{_process}.jsonl"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
_numbers = itertools.count()
# A job's process dies with its worker, and its records are the worker's.
_worker = os.getppid() if multiprocessing.parent_process() else os.getpid()


def note(**entry: Any) -> None:
    """A line in the records."""
    os.write(_file, json.dumps({**entry, "at": time.monotonic()}).encode() + b"\n")


@contextmanager
def _run(payload: dict[str, Any], context: Context) -> Iterator[None]:
    """Note the beginning and the end; in between, it takes a while. Then succeed, fail or give up as planned."""
    run = f"{_process}-{next(_numbers)}"
    job = context.job
    note(run=run, began=job.id, attempt=job.attempt, token=payload["token"], group=job.group, process=_worker)
    try:
        yield
    except asyncio.CancelledError:
        note(run=run, ended="stopped")
        raise
    if job.attempt <= payload["failures"]:
        note(run=run, ended="failed")
        if payload["hangs"]:
            # Whatever it says: it fails by being killed.
            threading.Event().wait()
        raise ValueError("as planned")
    if payload["hopeless"]:
        note(run=run, ended="given up")
        raise DeadLetter("hopeless, as planned")
    note(run=run, ended="done")


@app.job("work")
async def work(payload: dict[str, Any], context: Context) -> None:
    """On the event loop."""
    with _run(payload, context):
        await asyncio.sleep(payload["seconds"])


if os.environ.get(KNOWS_TOMORROW):
    # Producers are deployed before the last workers are.
    app.job(OF_TOMORROW)(work)


@app.job("work-in-thread")
def work_in_thread(payload: dict[str, Any], context: Context) -> None:
    """In a thread, which nobody can stop; some work on for longer than a drain waits."""
    with _run(payload, context):
        time.sleep(payload["seconds"])  # It is the work: a thread that is taken.


@app.job(IN_PROCESS, process=True, timeout=TIMEOUT_SECONDS, max_concurrent=2)
def work_in_process(payload: dict[str, Any], context: Context) -> None:
    """In a process, which is killed when its time is over."""
    with _run(payload, context):
        time.sleep(payload["seconds"])  # Likewise, a process.
