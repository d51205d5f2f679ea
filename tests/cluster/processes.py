"""Commands that are run to their end, and servers that are started, waited for and stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ClusterError

_POLL_SECONDS = 0.05
_LOG_LINES_SHOWN = 15


def run(
    command: Sequence[str | Path],
    *,
    failure: str | None = None,
    stdin: str | None = None,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> str:
    """Run `command` and return what it printed.

    Parameters
    ----------
    failure
        The sentence that says what went wrong, and the fix, should it fail. Defaults to the command itself.
    environment
        Variables added to those of this process.

    Raises
    ------
    ClusterError
        If the command can't be started or exits with another status than 0; with the end of what it printed.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            env={**os.environ, **(environment or {})},
            cwd=directory,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise ClusterError(failure or f"{words[0]} is not installed") from error
    if done.returncode:
        said = _last_lines(done.stderr or done.stdout)
        raise ClusterError(f"{failure or ' '.join(words) + ' failed'} (exit status {done.returncode})\n{said}".rstrip())
    return done.stdout


def pipe(source: Sequence[str | Path], target: Sequence[str | Path], *, failure: str) -> None:
    """Run `source` into `target`; should either fail, say `failure` with what they said."""
    with subprocess.Popen(
        [str(word) for word in source], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as producer:
        consumer = subprocess.run(
            [str(word) for word in target], stdin=producer.stdout, capture_output=True, check=False
        )
        assert producer.stdout is not None
        # Else a source whose target has ended would wait for ever to be read.
        producer.stdout.close()
        _, said = producer.communicate()
    if producer.returncode or consumer.returncode:
        raise ClusterError(f"{failure}\n{_last_lines((said + consumer.stderr).decode(errors='replace'))}")


def succeeds(command: Sequence[str | Path], *, timeout_seconds: float = 10.0) -> bool:
    """Whether `command` is there and exits 0 in time."""
    try:
        done = subprocess.run(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout_seconds,
            check=False,
        )
    except (FileNotFoundError, PermissionError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


@dataclass(frozen=True, slots=True)
class Server:
    """A process of ours that goes on until it is stopped; what it says is in `log`."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, name: str, command: Sequence[str | Path], *, log: Path, process_group: int | None = None) -> Server:
        with log.open("ab") as output:
            process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=process_group,
            )
        return cls(name, process, log)

    def stop(self, *, timeout_seconds: float = 10.0) -> None:
        """End the process, politely at first; one that is over already is left alone."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def last_words(self) -> str:
        return last_lines(self.log)


def wait_until(what: str, ready: Callable[[], bool], *, servers: Sequence[Server] = (), timeout_seconds: float) -> None:
    """Wait until `ready` answers True; a server that ends meanwhile, or a wait too long, is an error with its log."""
    deadline = time.monotonic() + timeout_seconds
    while not ready():
        for server in servers:
            if server.process.poll() is not None:
                raise ClusterError(
                    f"{server.name} ended with status {server.process.returncode}\n{server.last_words()}"
                )
        if time.monotonic() > deadline:
            said = "\n".join(f"{server.name}:\n{server.last_words()}" for server in servers)
            raise ClusterError(f"{what} was not there after {timeout_seconds:.0f} s\n{said}".rstrip())
        time.sleep(_POLL_SECONDS)


def start_daemon(command: Sequence[str | Path], *, log: Path) -> int:
    """Start a process that goes on after this one, out of reach of the terminal's Ctrl-C; return its pid."""
    with log.open("ab") as output:
        # The shell ends at once, so that the process is nobody's child here.
        detach = 'setsid "$@" >&3 2>&3 3>&- & echo $!'
        started = subprocess.run(
            ["sh", "-c", f"exec 3>&2; {detach}", "sh", *(str(word) for word in command)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
            check=True,
        )
    return int(started.stdout)


def is_running(pid: int) -> bool:
    """Whether process `pid` runs; one that has ended and waits for its parent's notice does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def naming(text: str) -> list[int]:
    """Return the processes that have `text` in their command line: a pid in a file may be another's by now."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_text(errors="replace").replace("\0", " ")
        except OSError:
            continue
        if text in line and int(path.parent.name) != os.getpid():
            found.append(int(path.parent.name))
    return found


def end_those_naming(text: str, *, timeout_seconds: float) -> None:
    """End the processes that have `text` in their command line, politely at first."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in naming(text):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + timeout_seconds
        while naming(text):
            if time.monotonic() > deadline:
                break
            time.sleep(_POLL_SECONDS)
        else:
            return
    raise ClusterError(f"processes {naming(text)} ({text}) don't end: end them by hand")


def last_lines(log: Path) -> str:
    """Return the end of a log, as it is shown beneath an error."""
    return _last_lines(log.read_text(errors="replace")) if log.exists() else ""


def _last_lines(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.strip().splitlines()[-_LOG_LINES_SHOWN:])
