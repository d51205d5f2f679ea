"""A real worker in a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from support.postgres import free_port

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

PATIENCE_SECONDS = 60.0
TESTS = Path(__file__).parents[1]


@dataclass(kw_only=True)
class WorkerProcess:
    """A running worker, its log and its endpoints."""

    process: subprocess.Popen[bytes]
    log_file: Path
    port: int

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self.log_file.read_text()

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of one of its endpoints; status 0 where nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metric(self, name: str) -> float | None:
        """The value of a series of one of our metrics; None where there is none."""
        for line in self.get("/metrics")[1].splitlines():
            if line.startswith(f"background_jobs_{name}{{"):
                return float(line.rpartition(" ")[2])
        return None

    def terminate(self) -> None:
        """SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, and gone."""
        self.process.kill()
        self.process.wait()

    async def exit_status(self) -> int:
        """Wait for its end."""
        return await asyncio.to_thread(self.process.wait, PATIENCE_SECONDS)


@contextmanager
def running_worker(
    directory: Path,
    *arguments: str,
    dsn: str,
    queue: str | None = "orders",
    module: str = "headrace",
    **environment: str,
) -> Iterator[WorkerProcess]:
    """A worker whose jobs leave their records in the directory; killed at the end if it still runs.

    The module is the command to run in place of `headrace`.
    """
    port = free_port()
    log_file = directory / f"worker-{port}.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module, "worker", *(("--queue", queue) if queue else ()), *arguments],
            stdout=log,
            stderr=log,
            env={
                **os.environ,
                "HEADRACE_DSN": dsn,
                "HEADRACE_METRICS_ADDRESS": f"127.0.0.1:{port}",
                "HEADRACE_LOG_LEVEL": "DEBUG",
                "BACKGROUND_JOBS__POLLINTERVALSECONDS": "0.2",
                "BACKGROUND_JOBS__NAMESPACE": "shop",
                "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]),
                "RECORDS": str(directory),
                **environment,
            },
        )
    worker = WorkerProcess(process=process, log_file=log_file, port=port)
    try:
        yield worker
    finally:
        if process.poll() is None:
            worker.kill()


def records(directory: Path, kind: str) -> Counter[str]:
    """How often each job, by id, noted this."""
    return Counter(path.name.split("-")[1] for path in directory.glob(f"{kind}-*"))


def attempts(directory: Path, job_id: str) -> set[str]:
    """The attempts under which a job noted anything."""
    return {path.name.split("-")[2] for path in directory.glob(f"*-{job_id}-*")}


async def eventually(condition: Callable[[], bool | Awaitable[bool]], *, what: str) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        holds = condition()
        if not isinstance(holds, bool):
            holds = await holds
        if holds:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {PATIENCE_SECONDS:g} s: {what}")
        await asyncio.sleep(0.05)
