"""The application under fire. What its jobs do goes into files that no chaos touches, one a process.

A line is written with one system call into the kernel's page cache: a kill of the process can't take it back.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

from headrace import App, Context, DeadLetter

app = App()
_process = f"{os.getpid()}-{time.monotonic_ns()}"
_file = os.open(Path(os.environ["RECORDS"], f"runs-{_process}.jsonl"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
_numbers = itertools.count()


def _note(**entry: Any) -> None:
    os.write(_file, json.dumps({**entry, "at": time.monotonic()}).encode() + b"\n")


@app.job("work")
async def work(payload: dict[str, Any], context: Context) -> None:
    """Take a while, then succeed, fail or give up as the payload says."""
    run = f"{_process}-{next(_numbers)}"
    job = context.job
    _note(run=run, began=job.id, attempt=job.attempt, token=payload["token"], group=job.group, process=os.getpid())
    try:
        await asyncio.sleep(payload["seconds"])
    except asyncio.CancelledError:
        _note(run=run, ended="stopped")
        raise
    if job.attempt <= payload["failures"]:
        _note(run=run, ended="failed")
        raise ValueError("as planned")
    if payload["hopeless"]:
        _note(run=run, ended="given up")
        raise DeadLetter("hopeless, as planned")
    _note(run=run, ended="done")
