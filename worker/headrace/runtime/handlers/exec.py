"""Jobs as runs of a program, in any language.

The payload comes on standard input, the rest in ``HEADRACE_JOB_*`` variables, the trace in ``TRACEPARENT`` and
``TRACESTATE``. Exit status 0 completes the job, 100 gives it up (dead-letter queue), anything else retries it; the end
of standard error is kept as the error. Whatever the program has started ends with the job.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from typing import TYPE_CHECKING

from headrace import trace_context
from headrace.runtime.handlers import DEFAULT_TERMS, HandlerError, Terms
from headrace.runtime.handlers.exec_processes import RUN_VARIABLE, Orphans, Process, keep_open_files_to_ourselves
from headrace.runtime.outcome import COMPLETED, MAX_ERROR_LENGTH, REJECTED, Failed, GivenUp, Outcome
from headrace.settings import is_secret_variable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from headrace.app import Context
    from headrace.job import Job

DEAD_LETTER_EXIT_STATUS = 100
"""The program says that this job can never succeed."""

# How long a program may take to end after SIGTERM.
_GRACE_SECONDS = 2.0

_JOB_PREFIX = "HEADRACE_JOB_"


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

    def __init__(self, command: Sequence[str]) -> None:
        program = shutil.which(command[0])
        if program is None:
            raise HandlerError(f"exec: there is no program {command[0]!r} here, or it may not be run")
        self._program = program
        self._command = tuple(command)
        # Encoded once: most of it is the same for every job.
        self._environment = {os.fsencode(name): os.fsencode(value) for name, value in _without_ours(os.environ).items()}
        self._orphans: Orphans | None = None
        keep_open_files_to_ourselves()

    def terms(self, name: str) -> Terms:  # noqa: ARG002 - the program itself decides by HEADRACE_JOB_NAME
        """See `Handler`."""
        return DEFAULT_TERMS

    async def run(self, job: Job, context: Callable[[], Context]) -> Outcome:  # noqa: ARG002
        """See `Handler`."""
        if self._orphans is None:
            self._orphans = Orphans()
        orphans = self._orphans
        run = orphans.begin()
        tail = _Tail()
        try:
            process = Process(
                self._program,
                self._command,
                {**self._environment, **_described(job), RUN_VARIABLE.encode(): run.encode()},
                payload=job.payload,
                listener=tail.add,
            )
        except (OSError, ValueError) as error:
            orphans.end(run)
            return Failed(f"the program can't be started: {error}")
        try:
            status = await asyncio.shield(process.exited)
        except asyncio.CancelledError:
            process.terminate()
            await asyncio.wait([process.exited], timeout=_GRACE_SECONDS)
            raise
        finally:
            process.close()
            # Killed a moment ago, it may take another; what it leaves is an orphan only then.
            process.exited.add_done_callback(lambda _: orphans.end(run))
        return _outcome(status, tail.text)

    def drain(self) -> None:
        """See `Handler`."""

    async def close(self) -> None:
        """See `Handler`."""
        if self._orphans is not None:
            self._orphans.close()


class _Tail:
    """Passes what is written on to our own standard error and keeps its end."""

    def __init__(self) -> None:
        self._kept = b""

    @property
    def text(self) -> str:
        return self._kept.decode("utf-8", "replace").strip()

    def add(self, chunk: bytes) -> None:
        sys.stderr.buffer.write(chunk)
        sys.stderr.buffer.flush()
        self._kept = (self._kept + chunk)[-MAX_ERROR_LENGTH:]


def _outcome(status: int | None, said: str) -> Outcome:
    if status == 0:
        return COMPLETED
    if status is None:
        ended = "the exit status was lost: something else waits for the worker's children, or SIGCHLD is ignored"
    else:
        ended = f"signal {-status}" if status < 0 else f"exit status {status}"
    report = f"{ended}: {said}" if said else ended
    return GivenUp(REJECTED, error=report) if status == DEAD_LETTER_EXIT_STATUS else Failed(report)


def _without_ours(environ: Mapping[str, str]) -> dict[str, str]:
    """What is a program's business too: the worker's connections are not, nor what was said of another job."""
    return {
        name: value for name, value in environ.items() if not (is_secret_variable(name) or name.startswith(_JOB_PREFIX))
    }


def _described(job: Job) -> dict[bytes, bytes]:
    described = {
        "ID": job.id,
        "QUEUE": job.queue,
        "NAME": job.name,
        "ATTEMPT": str(job.attempt),
        "PRIORITY": str(job.priority),
        "CONTENT_TYPE": job.content_type,
        "ENQUEUED_AT": job.enqueued_at.isoformat(),
        "HEADERS": json.dumps(dict(job.headers)) if job.headers else "{}",
    }
    if job.group is not None:
        described["GROUP"] = job.group
    if job.deduplication_key is not None:
        described["DEDUPLICATION_KEY"] = job.deduplication_key
    if job.fairness_key is not None:
        described["FAIRNESS_KEY"] = job.fairness_key
    if job.expires_at is not None:
        described["EXPIRES_AT"] = job.expires_at.isoformat()
    variables = {f"{_JOB_PREFIX}{name}".encode(): value.encode() for name, value in described.items()}
    return variables | {name.upper().encode(): value.encode() for name, value in trace_context.of(job).items()}
