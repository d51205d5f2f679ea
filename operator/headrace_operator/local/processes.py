"""Processes of ours: none outlives its supervisor unnoticed, and none that is another's is ever ended.

Each is written down with the time of its birth, since numbers are given again. On Linux the kernel ends them with their
supervisor; whatever is left all the same is ended by the next start.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SET_PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG, from linux/prctl.h."""

_LOOK_SECONDS = 0.05

PLACE_VARIABLE = "HEADRACE_DEV_PLACE"
"""What a worker starts has it, too, and keeps it in whatever session it makes for itself: the worker's own folder."""


class Role(StrEnum):
    """What a process is."""

    WORKER = "worker"
    POSTGRES = "postgres"


_ENDINGS = {
    # A worker hands its jobs back in much less; PostgreSQL needs longer where it has much to write down.
    Role.WORKER: ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)),
    Role.POSTGRES: ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)),
}
"""How leftovers are ended: signals, and how many seconds each is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedProcess:
    """One process that was started, the first of a process group of its own."""

    pid: int
    born: str
    role: Role


class Ledger:
    """The processes that run, written down in a file that outlives us."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._running: dict[int, StartedProcess] = {}

    def add(self, pid: int, role: Role) -> None:
        """A process was started."""
        if (born := birth(pid)) is not None:
            self._running[pid] = StartedProcess(pid=pid, born=born, role=role)
            self._write()

    def remove(self, pid: int) -> None:
        """A process is gone."""
        if self._running.pop(pid, None) is not None:
            # On a full disk, the name of one that is gone does no harm.
            with contextlib.suppress(OSError):
                self._write()

    def end_leftovers(self) -> int:
        """End what an earlier supervisor has left running; returns how many there were. Blocks."""
        left = [process for process in self._read() if birth(process.pid) == process.born]
        # Workers first: they can still report what they finish.
        for role in Role:
            _end([process for process in left if process.role is role], role)
        self._file.unlink(missing_ok=True)
        return len(left)

    def _read(self) -> list[StartedProcess]:
        try:
            lines = json.loads(self._file.read_text())
            return [StartedProcess(pid=line["pid"], born=line["born"], role=Role(line["role"])) for line in lines]
        except (FileNotFoundError, ValueError):
            return []

    def _write(self) -> None:
        # Whole or not at all: a supervisor may be killed at any time.
        beside = self._file.with_suffix(".new")
        beside.write_text(json.dumps([asdict(process) for process in self._running.values()]))
        beside.replace(self._file)


def birth(pid: int) -> str | None:
    """When a process was started, as a text that no other process of this number ever has; None where there is none."""
    if sys.platform == "linux":
        try:
            after_name = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        except OSError:
            return None
        # Dead, and only not yet asked after by its parent.
        if after_name[0] in (b"Z", b"X"):
            return None
        return f"{boot} {int(after_name[19])}"
    listed = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)  # noqa: S603, S607
    return listed.stdout.strip() or None


def dies_with_us(signal_number: signal.Signals) -> Callable[[], None] | None:
    """What a child calls before it becomes its program, so that it gets the signal when we end, however we end.

    None where the system has no such thing.
    """
    if sys.platform != "linux":
        return None
    # Found now: between fork and exec nothing may be looked up.
    prctl = ctypes.CDLL(None).prctl
    supervisor = os.getpid()

    def ask() -> None:
        prctl(_SET_PARENT_DEATH_SIGNAL, int(signal_number))
        if os.getppid() != supervisor:
            # It ended in between.
            os.kill(os.getpid(), signal_number)

    return ask


def signal_group(pid: int, signal_number: signal.Signals) -> None:
    """Signal a process of ours and whatever it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal_number)


def end_started_at(place: Path) -> int:
    """Kill all that runs with this folder, or one below it, for its `PLACE_VARIABLE`; returns how many there were.

    Knows of none where the system does not tell the environment of processes.
    """
    mark = f"{PLACE_VARIABLE}={place}".encode()
    ended: set[int] = set()
    # Again, until there are none: one may have started another meanwhile.
    while found := {pid for pid in _marked(mark) if pid not in ended}:
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        ended |= found
    return len(ended)


def _marked(mark: bytes) -> Iterator[int]:
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = environment.read_bytes().split(b"\0")
        except OSError:
            # Gone, or somebody else's.
            continue
        if any(variable == mark or variable.startswith(mark + b"/") for variable in variables):
            yield int(environment.parent.name)


def _end(processes: list[StartedProcess], role: Role) -> None:
    for signal_number, patience_seconds in _ENDINGS[role]:
        processes = [process for process in processes if birth(process.pid) == process.born]
        for process in processes:
            if signal_number is signal.SIGKILL:
                signal_group(process.pid, signal_number)
            else:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal_number)
        deadline = time.monotonic() + patience_seconds
        # They are no children of ours: nothing tells us of their end, and nobody else runs here yet.
        while time.monotonic() < deadline and any(birth(process.pid) == process.born for process in processes):
            time.sleep(_LOOK_SECONDS)
