"""The handlers in examples/ as a worker drives them: the Node server as a process, the program as one per job."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import urllib.request
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from headrace import new_job
from headrace.metrics import Metrics
from headrace.queues.base import Owner, QueueSettings
from headrace.queues.memory import MemoryBackend, MemoryQueue
from headrace.runtime.handlers.exec import ExecHandler
from headrace.runtime.handlers.http import HttpHandler
from headrace.runtime.worker import Worker
from support.postgres import free_port
from support.worker_process import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from headrace import NewJob
    from headrace.runtime.handlers import Handler

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


class Run:
    """What became of the jobs."""

    def __init__(self) -> None:
        self.backend = MemoryBackend()
        self.backend.register("jobs", QueueSettings(), Owner(namespace="", name="jobs", uid=""))
        self.metrics = Metrics()

    def counted(self, name: str) -> float:
        prefix = f'background_jobs_{name}{{namespace="shop",queue="jobs"}} '
        lines = self.metrics.render().decode().splitlines()
        return next(float(line.removeprefix(prefix)) for line in lines if line.startswith(prefix))

    def given_up(self) -> list[str]:
        return [dead.error or "" for dead in self.backend.places["jobs"].dead.values() if dead.reason == "Rejected"]


@asynccontextmanager
async def working(handler: Handler, jobs: Sequence[NewJob]) -> AsyncIterator[Run]:
    run = Run()
    async with MemoryQueue(run.backend, "jobs") as producer:
        await producer.enqueue(jobs)
        worker = Worker(
            MemoryQueue(run.backend, "jobs"), handler, run.metrics.of("shop", "jobs"), poll_interval_seconds=0.05
        )
        task = asyncio.create_task(worker.run())
        try:
            yield run
        finally:
            worker.stop()
            worker.stop()
            await task


@contextmanager
def node_server(port: int) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        ["node", EXAMPLES / "http-node" / "server.mjs"],
        env={**os.environ, "HOST": "127.0.0.1", "PORT": str(port)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


async def test_the_node_server_takes_jobs_and_says_which_can_never_succeed() -> None:
    port = free_port()
    # The server is no sooner there than the worker: that is waited for.
    handler = HttpHandler(f"http://127.0.0.1:{port}/jobs")
    jobs = [new_job("words", {"text": "so many words"})] * 20
    bad = [new_job("words", {"text": 3}), new_job("words", b"{"), new_job("unknown")]
    with node_server(port) as process:
        async with working(handler, [*jobs, *bad]) as run:
            await eventually(lambda: run.counted("completed_total") == 20, what="the good ones completed")
            # The unknown one is tried again, and may be dead of that by now.
            await eventually(lambda: len(run.given_up()) == 2, what="the bad ones given up")
            await eventually(lambda: run.counted("retried_total") >= 1, what="the unknown one tried again")
        with await asyncio.to_thread(urllib.request.urlopen, f"http://127.0.0.1:{port}/healthz") as response:
            assert response.status == 200
        process.send_signal(signal.SIGTERM)
        said, _ = await asyncio.to_thread(process.communicate, timeout=60)
        assert process.returncode == 0
    assert said.count(" 200 3 words\n") == 20
    said_of_them = sorted(run.given_up())
    assert said_of_them[0].startswith("status 400 Bad Request: the payload is no JSON")
    assert said_of_them[1].startswith("status 422 Unprocessable Entity: give text")


async def test_the_program_takes_jobs_and_says_which_can_never_succeed(capfd: pytest.CaptureFixture[str]) -> None:
    jobs = [new_job("sum", [3, 4.5]), new_job("sum", []), new_job("sum", {"not": "a list"})]
    async with working(ExecHandler([str(EXAMPLES / "exec" / "statistics.awk")]), jobs) as run:
        await eventually(lambda: run.counted("completed_total") == 2, what="the good ones completed")
        await eventually(lambda: run.counted("failed_total") == 1, what="the bad one given up")
    said = capfd.readouterr().out
    assert "2 numbers, sum 7.5" in said
    assert "0 numbers, sum 0" in said
    assert run.given_up() == ["exit status 100: the payload must be a list of numbers, such as [3, 4.5]"]
