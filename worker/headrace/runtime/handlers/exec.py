"""Jobs as runs of a program, in any language.

The payload comes on standard input, the rest in ``HEADRACE_JOB_*`` variables, the trace in ``TRACEPARENT`` and
``TRACESTATE``. Exit status 0 completes the job, 100 gives it up (dead-letter queue), anything else retries it; the end
of standard error is kept as the error. The program runs in a process group of its own, which ends with the job.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from typing import TYPE_CHECKING

from headrace import trace_context
from headrace.runtime.handlers import DEFAULT_TERMS, HandlerError, Terms
from headrace.runtime.outcome import COMPLETED, MAX_ERROR_LENGTH, Failed, GivenUp, Outcome
from headrace.settings import is_secret_variable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from headrace.app import Context
    from headrace.job import Job

DEAD_LETTER_EXIT_STATUS = 100
"""The program says that this job can never succeed."""

# How long a program may take to end after SIGTERM, and its error stream to close after that.
_GRACE_SECONDS = 2.0
_CHUNK_BYTES = 16 * 1024


class ExecHandler:
    """Runs one program per job.

    Parameters
    ----------
    command
        The program and its arguments.

    Raises
    ------
    HandlerError
        When there is no such program.
    """

    abandoned = 0

    def __init__(self, command: Sequence[str]) -> None:
        if shutil.which(command[0]) is None:
            raise HandlerError(f"exec: there is no program {command[0]!r} here, or it may not be run")
        self._command = tuple(command)

    def terms(self, name: str) -> Terms:  # noqa: ARG002 - the program itself decides by HEADRACE_JOB_NAME
        """See `Handler`."""
        return DEFAULT_TERMS

    async def run(self, job: Job, context: Callable[[], Context]) -> Outcome:  # noqa: ARG002
        """See `Handler`."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=_environment(job),
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            return Failed(f"the program can't be started: {error}")
        tail = _Tail()
        reading = asyncio.create_task(tail.read(process.stderr))
        try:
            await _feed(process.stdin, job.payload)
            status = await process.wait()
        except asyncio.CancelledError:
            await _terminate(process)
            raise
        finally:
            # Whatever the program left behind ends with the job, and lets go of the stream that we read.
            _signal_group(process, signal.SIGKILL)
            await asyncio.wait([reading], timeout=_GRACE_SECONDS)
            reading.cancel()
        if status == 0:
            return COMPLETED
        ended = f"signal {-status}" if status < 0 else f"exit status {status}"
        report = f"{ended}: {tail.text}" if tail.text else ended
        return GivenUp(report) if status == DEAD_LETTER_EXIT_STATUS else Failed(report)

    def drain(self) -> None:
        """See `Handler`."""

    async def close(self) -> None:
        """See `Handler`."""


class _Tail:
    """Passes a stream on to our own standard error and keeps its end."""

    def __init__(self) -> None:
        self._kept = b""

    @property
    def text(self) -> str:
        return self._kept.decode("utf-8", "replace").strip()

    async def read(self, stream: asyncio.StreamReader | None) -> None:
        assert stream is not None
        while chunk := await stream.read(_CHUNK_BYTES):
            sys.stderr.buffer.write(chunk)
            sys.stderr.buffer.flush()
            self._kept = (self._kept + chunk)[-MAX_ERROR_LENGTH:]


async def _feed(stream: asyncio.StreamWriter | None, payload: bytes) -> None:
    assert stream is not None
    # A program need not read its payload, and may have ended by now: uvloop then calls it a RuntimeError.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError, RuntimeError):
        stream.write(payload)
        await stream.drain()
        stream.close()
        await stream.wait_closed()


async def _terminate(process: asyncio.subprocess.Process) -> None:
    _signal_group(process, signal.SIGTERM)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), _GRACE_SECONDS)


def _signal_group(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    # The group outlives its leader while anything in it runs; its id is the leader's pid.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _environment(job: Job) -> Mapping[str, str]:
    # Our connections are none of a job's business.
    environment = {name: value for name, value in os.environ.items() if not is_secret_variable(name)}
    return environment | {
        "HEADRACE_JOB_ID": job.id,
        "HEADRACE_JOB_QUEUE": job.queue,
        "HEADRACE_JOB_NAME": job.name,
        "HEADRACE_JOB_ATTEMPT": str(job.attempt),
        "HEADRACE_JOB_PRIORITY": str(job.priority),
        "HEADRACE_JOB_CONTENT_TYPE": job.content_type,
        "HEADRACE_JOB_ENQUEUED_AT": job.enqueued_at.isoformat(),
        "HEADRACE_JOB_HEADERS": json.dumps(dict(job.headers)),
        **{name.upper(): value for name, value in trace_context.of(job).items()},
    }
