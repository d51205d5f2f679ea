"""The port to tracing: what wraps a job's run. `NO_TRACING` costs a job one call of a plain function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from headrace.job import Job
    from headrace.runtime.outcome import Outcome


class Tracer(Protocol):
    """Follows jobs as they run."""

    def process(self, job: Job, run: Awaitable[Outcome]) -> Awaitable[Outcome]:
        """The run, seen as one step of the job's trace; its outcome, errors and cancellation come through unchanged."""
        ...


class _NoTracing:
    @staticmethod
    def process(job: Job, run: Awaitable[Outcome]) -> Awaitable[Outcome]:  # noqa: ARG004
        """See `Tracer`."""
        return run


NO_TRACING: Tracer = _NoTracing()
