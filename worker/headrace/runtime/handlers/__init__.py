"""Handlers: what runs a job. One Protocol, one module per kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from headrace.app import Context
    from headrace.job import Job
    from headrace.retry import RetryPolicy
    from headrace.runtime.outcome import Outcome


class HandlerError(Exception):
    """A handler can't be made as configured; the message says what to mend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """On what terms jobs of a name run, where they are other than the worker's own."""

    retry: RetryPolicy | None = None
    timeout_seconds: float | None = None
    max_concurrent: int | None = None
    """How many of the name run at a time."""
    idempotency_key: Callable[[Job], str | None] | None = None
    """What stands for a job's effect; None where this job has nothing of its own."""


DEFAULT_TERMS = Terms()


class Handler(Protocol):
    """Runs jobs."""

    def terms(self, name: str) -> Terms | None:
        """On what terms jobs of this name run; None where they can't be run at all."""
        ...

    async def run(self, job: Job, context: Callable[[], Context]) -> Outcome:
        """Run one job to its outcome. Cancelled, it stops what it started and lets the cancellation through.

        It does not return before what it started has ended: until then the job is held, whatever was decided of it.

        `context` makes what a handler may ask for beside the job: most don't.
        """
        ...

    def drain(self) -> None:
        """The worker is stopping: what is cut short from now on may be an interruption, not a failure."""
        ...

    async def close(self) -> None:
        """No further job will come; wait for nothing."""
        ...
