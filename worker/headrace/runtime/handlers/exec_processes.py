"""Programs that run beside us: started, fed, listened to, ended, with all that they started.

Made of system calls and not of asyncio's subprocesses, which cost several times what the kernel takes to start a
program.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import os
import secrets
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

RUN_VARIABLE = "HEADRACE_JOB_RUN"
"""Tells one run's processes from all others, wherever they went."""

_CHUNK_BYTES = 64 * 1024
# Who still writes after the program has ended does not hold us up.
_LAST_BYTES = 1024 * 1024

_PR_SET_CHILD_SUBREAPER = 36

# Python ignores these, and a program would inherit that.
_DEFAULT_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ)


class Process:
    """A program in a session, and so in a process group, of its own.

    Parameters
    ----------
    program
        Where it is.
    arguments
        The first is its name.
    environment
        All of it.
    payload
        For its standard input.
    listener
        Gets what it writes to standard error.

    Raises
    ------
    OSError, ValueError
        When it can't be started.
    """

    def __init__(
        self,
        program: str,
        arguments: tuple[str, ...],
        environment: Mapping[bytes, bytes],
        *,
        payload: bytes,
        listener: Callable[[bytes], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._unsent = memoryview(payload)
        theirs: list[int] = []
        ours: list[int] = []
        try:
            for mine in (1, 0):
                ends = os.pipe()
                ours.append(ends[mine])
                theirs.append(ends[1 - mine])
                os.set_blocking(ends[mine], False)
            self._stdin, self._stderr = ours
            # Most payloads fit into the pipe: the program finds all of it there, and nothing is left to do.
            self._write()
            self.pid = os.posix_spawn(
                program,
                arguments,
                environment,
                file_actions=[(os.POSIX_SPAWN_DUP2, theirs[0], 0), (os.POSIX_SPAWN_DUP2, theirs[1], 2)],
                setsid=True,
                setsigmask=(),
                setsigdef=_DEFAULT_SIGNALS,
            )
        except BaseException:
            for descriptor in ours:
                os.close(descriptor)
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        _started.add(self.pid)
        self._loop.add_reader(self._stderr, self._read)
        if self._unsent:
            self._loop.add_writer(self._stdin, self._feed)
        else:
            self._close_stdin()
        self.exited = _exit_of(self.pid, leads_a_group=True)
        """Its exit status, negative for a signal; None where somebody else has taken it. Not to be cancelled."""
        self.exited.add_done_callback(lambda _: _started.discard(self.pid))

    def terminate(self) -> None:
        """Ask it, and all in its group, to end."""
        if not self.exited.done():
            _signal_group(self.pid, signal.SIGTERM)

    def close(self) -> None:
        """Take what it has written, and let go of it; end what has not ended by now."""
        if not self.exited.done():
            _signal_group(self.pid, signal.SIGKILL)
        left = _LAST_BYTES
        while left > 0 and self._stderr >= 0 and (count := self._read()):
            left -= count
        self._close_stderr()
        self._close_stdin()

    def _write(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._unsent:
                self._unsent = self._unsent[os.write(self._stdin, self._unsent) :]

    def _feed(self) -> None:
        try:
            self._write()
        except BrokenPipeError:
            self._unsent = memoryview(b"")  # A program need not read its payload.
        if not self._unsent:
            self._close_stdin()

    def _read(self) -> int:
        try:
            chunk = os.read(self._stderr, _CHUNK_BYTES)
        except BlockingIOError:
            return 0
        if chunk:
            self._listener(chunk)
        else:
            self._close_stderr()
        return len(chunk)

    def _close_stdin(self) -> None:
        if self._stdin >= 0:
            self._loop.remove_writer(self._stdin)
            os.close(self._stdin)
            self._stdin = -1

    def _close_stderr(self) -> None:
        if self._stderr >= 0:
            self._loop.remove_reader(self._stderr)
            os.close(self._stderr)
            self._stderr = -1


class Orphans:
    """Ends what programs leave behind outside of their groups, and collects the dead.

    A process that made a session of its own (a daemon, a browser that was started detached) is out of reach of its
    group's signals. When its parent ends it becomes a child of ours, as if we were the first process of the system, and
    its environment says which run it belongs to. Linux only; elsewhere orphans stay with the first process.
    """

    def __init__(self) -> None:
        self._token = f"{RUN_VARIABLE}={secrets.token_hex(8)}-"
        self._numbers = itertools.count()
        self._running: set[str] = set()
        self._watched: set[int] = set()
        self._adopting = _can_watch() and _set_subreaper(adopt=True)
        # Not of a run: who embeds us has children too.
        self._earlier = frozenset(_children()) if self._adopting else frozenset()

    def begin(self) -> str:
        """What a new run's processes shall carry as `RUN_VARIABLE`."""
        run = f"{self._token}{next(self._numbers)}"
        self._running.add(run)
        return run.partition("=")[2]

    def end(self, run: str) -> None:
        """End whatever is left of a run."""
        self._running.discard(f"{RUN_VARIABLE}={run}")
        if self._adopting:
            self._sweep()

    def close(self) -> None:
        """Adopt no more. Those that are still ending are still collected."""
        if self._adopting:
            _set_subreaper(adopt=False)

    def _sweep(self) -> None:
        for pid in _children():
            if pid in _started or pid in self._earlier:
                continue
            if pid not in self._watched:
                self._watched.add(pid)
                _exit_of(pid).add_done_callback(lambda _, pid=pid: self._gone(pid))  # type: ignore[misc]
            run = self._run_of(pid)
            if run is not None and run not in self._running:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)

    def _gone(self, pid: int) -> None:
        self._watched.discard(pid)
        self._sweep()  # Its children are ours now.

    def _run_of(self, pid: int) -> str | None:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return None
        wanted = self._token.encode()
        return next((line.decode() for line in environment.split(b"\0") if line.startswith(wanted)), None)


# Every running program of this process, whoever started it.
_started: set[int] = set()


def _children() -> list[int]:
    """Of the first thread, which is the one that adopts."""
    # Asked after every run: without the layers of a text file.
    pid = os.getpid()
    listed = b""
    try:
        descriptor = os.open(f"/proc/{pid}/task/{pid}/children", os.O_RDONLY)
    except OSError:
        return []
    try:
        while chunk := os.read(descriptor, _CHUNK_BYTES):
            listed += chunk
    finally:
        os.close(descriptor)
    return [int(pid) for pid in listed.split()]


def keep_open_files_to_ourselves() -> None:
    """Let no program inherit what this process itself has inherited; whatever Python opens is not inherited anyway."""
    for name in os.listdir("/dev/fd"):  # noqa: PTH208 - numbers, not paths
        if (descriptor := int(name)) > 2:
            with contextlib.suppress(OSError):
                os.set_inheritable(descriptor, False)


def _set_subreaper(*, adopt: bool) -> bool:
    try:
        return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0) == 0)
    except (AttributeError, OSError):
        return False


def _can_watch() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


def _exit_of(pid: int, *, leads_a_group: bool = False) -> asyncio.Future[int | None]:
    """Reap a child of ours when it ends, and kill the rest of its group; the future is its exit status."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[int | None] = loop.create_future()
    try:
        descriptor = os.pidfd_open(pid)
    except (AttributeError, OSError):
        # No Linux, or a sandbox that knows no such call.
        def wait() -> None:
            status = _reap(pid)
            if leads_a_group:
                _signal_group(pid, signal.SIGKILL)
            with contextlib.suppress(RuntimeError):  # The loop may be closed by then.
                loop.call_soon_threadsafe(future.set_result, status)

        threading.Thread(target=wait, name="headrace-exec", daemon=True).start()
        return future

    def ended() -> None:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        if leads_a_group:
            # Before it is reaped: until then its number can't be another group's.
            _signal_group(pid, signal.SIGKILL)
        future.set_result(_reap(pid))

    loop.add_reader(descriptor, ended)
    return future


def _reap(pid: int) -> int | None:
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return None


def _signal_group(leader: int, number: signal.Signals) -> None:
    # A group outlives its leader while anything in it runs.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)
