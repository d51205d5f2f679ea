"""A real `headrace-operator dev` in a process of its own, read as a program reads it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE_SECONDS = 60.0
COMMAND = (sys.executable, "-m", "headrace_operator", "dev")


@dataclass(kw_only=True)
class DevProcess:
    """A running supervisor: what it tells on standard output, and the file with all else."""

    process: subprocess.Popen[str]
    log_file: Path
    told: list[dict[str, Any]] = field(default_factory=list)

    @property
    def log(self) -> str:
        """What it has said on standard error so far."""
        return self.log_file.read_text()

    @property
    def started(self) -> dict[str, Any]:
        """Its first object, once it is there."""
        eventually(lambda: bool(self.told) or self.process.poll() is not None, what="it starts", log=lambda: self.log)
        assert self.told, f"it ended with {self.process.returncode}: {self.log}"
        return self.told[0]

    @property
    def dsn(self) -> str:
        """Of its embedded database."""
        dsn: str = self.started["dsn"]
        return dsn

    def wait_for_pool(self, condition: Callable[[dict[str, Any]], bool], *, what: str) -> dict[str, Any]:
        """Wait for a status of the only pool that was not there before; returns it."""
        return self._wait_for("pools", condition, what)

    def wait_for_queue(self, condition: Callable[[dict[str, Any]], bool], *, what: str) -> dict[str, Any]:
        """The same with the only queue."""
        return self._wait_for("queues", condition, what)

    def enqueue(self, *arguments: str) -> None:
        """``headrace enqueue``, with the DSN that was told."""
        self.wait_for_queue(lambda queue: queue["ready"] is not None, what="the queue is there")
        subprocess.run(
            [sys.executable, "-m", "headrace", "enqueue", *arguments],
            env={**os.environ, "HEADRACE_DSN": self.dsn},
            check=True,
            capture_output=True,
            timeout=PATIENCE_SECONDS,
        )

    def interrupt(self) -> None:
        """Ctrl-C, as a terminal sends it: to the whole process group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> int:
        """Ctrl-C, and wait; the exit status."""
        self.interrupt()
        return self.wait()

    def wait(self) -> int:
        """The exit status."""
        return self.process.wait(PATIENCE_SECONDS)

    def pids(self) -> list[int]:
        """The processes that it has started, by its own file."""
        file = Path(self.started["data_dir"]) / "processes.json"
        return [line["pid"] for line in json.loads(file.read_text())] if file.exists() else []

    def _wait_for(self, kind: str, condition: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        since = len(self.told)
        found: list[dict[str, Any]] = []

        def has_come() -> bool:
            found[:] = [
                each
                for status in self.told[since:]
                if status["type"] == "status"
                for each in status[kind]
                if condition(each)
            ]
            return bool(found) or self.process.poll() is not None

        eventually(has_come, what=what, log=lambda: f"{self.told[-1:]}\n{self.log}")
        assert found, f"it ended with {self.process.returncode} before: {what}\n{self.log}"
        return found[0]


@contextmanager
def running_dev(directory: Path, *arguments: str, **environment: str) -> Iterator[DevProcess]:
    """A supervisor in this directory; ended at the end if it still runs, with all that it has started."""
    log_file = directory / "dev.log"
    path = [environment.get("PYTHONPATH"), os.environ.get("PYTHONPATH")]
    with log_file.open("w") as log:
        process = subprocess.Popen(
            [*COMMAND, "--output", "json", *arguments],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=directory,
            env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(filter(None, path))},
            start_new_session=True,
        )
    dev = DevProcess(process=process, log_file=log_file)
    reading = threading.Thread(target=_read, args=(dev,), daemon=True)
    reading.start()
    try:
        yield dev
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGTERM)
                process.wait(20)
        reading.join()
        assert process.stdout is not None
        process.stdout.close()


def eventually(condition: Callable[[], bool], *, what: str, log: Callable[[], str] = str) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {PATIENCE_SECONDS:g} s: {what}\n{log()}")
        time.sleep(0.05)


def _read(dev: DevProcess) -> None:
    assert dev.process.stdout is not None
    for line in dev.process.stdout:
        dev.told.append(json.loads(line))
