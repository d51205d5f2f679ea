"""The lines of docs/without-kubernetes.md, as a shell runs them beside the page's files and nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from headrace.settings import worker_settings
from support.postgres import free_port
from support.worker_process import PATIENCE_SECONDS, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = (Path(__file__).parents[3] / "docs" / "without-kubernetes.md").read_text()
LINES = re.findall(r"^\$ (headrace .*)$", PAGE, re.MULTILINE)
MIGRATE_AND_WORK, ENQUEUE, RUN_A_PROGRAM, SHOW = LINES


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A fresh directory with the page's files."""
    for text, name in re.findall(r"```\w+\n((?:#![^\n]*\n)?# ([\w.-]+)\n.*?)```", PAGE, re.DOTALL):
        (tmp_path / name).write_text(text)
    (tmp_path / "render").chmod(0o755)
    return tmp_path


def environment(dsn: str) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    # Where the packages are not installed but found.
    found = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    return {"PATH": path, **found, "HEADRACE_DSN": dsn, "HEADRACE_METRICS_ADDRESS": f"127.0.0.1:{free_port()}"}


@contextmanager
def running(line: str, directory: Path, dsn: str) -> Iterator[Path]:
    """A line that goes on; gives its output. At the end it is told to stop, and must say that it did."""
    # What a shell starts last takes its place: signals are the worker's.
    *before, last = line.split(" && ")
    script = " && ".join([*before, f"exec {last}"])
    output = directory / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            ["sh", "-c", script],
            cwd=directory,
            env=environment(dsn) | {"PYTHONUNBUFFERED": "1"},
            stdout=file,
            stderr=file,
        )
    try:
        yield output
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 0
    finally:
        process.kill()
        process.wait()


async def enqueue(dsn: str) -> str:
    """Enqueue the page's job; gives its id."""
    line = [*shlex.split(ENQUEUE), "--output", "json"]
    done = await asyncio.to_thread(subprocess.run, line, env=environment(dsn), check=True, capture_output=True)
    (job_id,) = json.loads(done.stdout)["ids"]
    return str(job_id)


async def test_one_line_is_a_worker_of_functions(database_dsn: str, directory: Path) -> None:
    with running(MIGRATE_AND_WORK, directory, database_dsn) as output:
        await eventually(lambda: "lease held queue=thumbnails" in output.read_text(), what="it works")
        await enqueue(database_dsn)
        await eventually(lambda: "resizing picture 17" in output.read_text(), what="the function ran")


async def test_one_line_is_a_worker_of_a_program(database_dsn: str, directory: Path) -> None:
    migrate, _ = MIGRATE_AND_WORK.split(" && ")
    with running(f"{migrate} && {RUN_A_PROGRAM}", directory, database_dsn) as output:
        await eventually(lambda: "lease held queue=thumbnails" in output.read_text(), what="it works")
        picture = directory / f"picture-{await enqueue(database_dsn)}.json"
        await eventually(lambda: picture.exists() and bool(picture.read_text()), what="the program ran")
        assert picture.read_text() == '{"picture":17}'


_ENQUEUE = """
import asyncio, os, headrace

async def enqueue():
    async with headrace.from_url(os.environ["HEADRACE_DSN"], "thumbnails") as queue:
        await queue.enqueue([headrace.new_job("resize", {"picture": 17})])

async def worked_off():
    async with headrace.from_url(os.environ["HEADRACE_DSN"], "thumbnails") as queue:
        while (depth := await queue.depth()).ready or depth.in_flight:
            await asyncio.sleep(0.05)

asyncio.run(enqueue())
"""
_IN_ONES_OWN_PROCESS = {
    "a web application": """
from site_lifespan import lifespan

async def main():
    async with lifespan(None):
        await worked_off()

asyncio.run(main())
""",
    "a script": """
import runpy

runpy.run_path("work_off.py", run_name="__main__")
""",
    "a notebook": """
import ast, inspect, pathlib

async def run(names, cell):
    code = compile(pathlib.Path(cell).read_text(), cell, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if inspect.isawaitable(done := eval(code, names)):
        await done

async def main():
    names = {}
    await run(names, "start_cell.py")
    await worked_off()
    await run(names, "stop_cell.py")
    assert not names["worker"].is_ready

asyncio.run(main())
""",
    "a thread": """
import beside_flask

asyncio.run(worked_off())
beside_flask.stop()
assert not beside_flask.thread.is_alive()
""",
}


@pytest.mark.parametrize("where", _IN_ONES_OWN_PROCESS)
def test_a_worker_runs_in_ones_own_process(database_dsn: str, directory: Path, where: str) -> None:
    migrate, _ = MIGRATE_AND_WORK.split(" && ")
    subprocess.run(shlex.split(migrate), env=environment(database_dsn), check=True, capture_output=True)
    (directory / "it.py").write_text(_ENQUEUE + _IN_ONES_OWN_PROCESS[where])
    done = subprocess.run(
        [sys.executable, "-W", "error", "it.py"],
        cwd=directory,
        env=environment(database_dsn),
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert (done.stdout, done.stderr) == ("resizing picture 17\n", "")


def test_the_file_says_what_it_seems_to(directory: Path) -> None:
    shown = subprocess.run(
        shlex.split(SHOW),
        cwd=directory,
        env=environment("postgresql://db/x"),
        check=True,
        capture_output=True,
        text=True,
    )
    names = [queue["QueueName"] for queue in yaml.safe_load(shown.stdout)["BackgroundJobs"]["Queues"]]
    assert names == ["thumbnails", "mails"]


@pytest.mark.parametrize(
    "block",
    re.findall(r"```yaml\n(.*?)```", (Path(__file__).parents[3] / "docs" / "settings.md").read_text(), re.DOTALL),
)
def test_the_files_of_the_settings_page_are_right(tmp_path: Path, block: str) -> None:
    (tmp_path / "worker.yaml").write_text(block)
    environ = {"HEADRACE_CONFIG": str(tmp_path / "worker.yaml"), "HEADRACE_DSN": "postgresql://db/x"}
    orders, reports, mails = worker_settings(environ).queues
    assert (orders.max_concurrent_jobs, reports.max_concurrent_jobs, reports.job_timeout_seconds) == (10, 1, 7200)
    assert orders.handler == reports.handler != mails.handler
