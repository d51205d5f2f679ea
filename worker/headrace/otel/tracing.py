"""A span for each run of a job, after OpenTelemetry's semantic conventions for messaging.

A job is one message, and its run stands in no other span. So its span is the child of the context that came with the
job, and one trace leads from who enqueued it through every attempt; it is linked to that context as well, which is what
the conventions ask of every consumer.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.trace import Link, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from headrace.runtime.outcome import Completed, Failed, GivenUp, Interrupted, Snoozed

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from opentelemetry.trace import Span

    from headrace.job import Job
    from headrace.runtime.outcome import Outcome

_PROPAGATOR = TraceContextTextMapPropagator()


class SpanTracer:
    """Makes a span for each run.

    Parameters
    ----------
    tracer
        What makes them.
    """

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    async def process(self, job: Job, run: Awaitable[Outcome]) -> Outcome:
        """See `headrace.runtime.tracer.Tracer`."""
        # From nothing, and not from here: the loop's own context is nobody's.
        came_with = _PROPAGATOR.extract(job.headers, contexts.Context())
        creation = trace.get_current_span(came_with).get_span_context()
        span = self._tracer.start_span(
            f"process {job.queue}",
            came_with,
            SpanKind.CONSUMER,
            {
                "messaging.system": "headrace",
                "messaging.operation.name": "process",
                "messaging.operation.type": "process",
                "messaging.destination.name": job.queue,
                "messaging.message.id": job.id,
                "messaging.message.body.size": len(job.payload),
                "headrace.job.name": job.name,
                "headrace.job.attempt": job.attempt,
            },
            [Link(creation)] if creation.is_valid else [],
        )
        token = contexts.attach(trace.set_span_in_context(span))
        try:
            outcome = await run
        except asyncio.CancelledError:
            # A timeout, a lost lease, a drain, a cancelled job: the worker's log says which.
            _fail(span, "cancelled", "stopped by the worker")
            raise
        except BaseException as error:
            _fail(span, type(error).__qualname__, str(error))
            raise
        else:
            _describe(span, outcome)
            return outcome
        finally:
            contexts.detach(token)
            span.end()


def _describe(span: Span, outcome: Outcome) -> None:
    match outcome:
        case Completed():
            span.set_attribute("headrace.job.outcome", "completed")
        case Snoozed():
            span.set_attribute("headrace.job.outcome", "snoozed")
        case Interrupted(reason=reason):
            _fail(span, "interrupted", reason)
        case Failed(error=error, traceback=traceback):
            _fail(span, "failed", error, traceback)
        case GivenUp(reason=reason, error=error, traceback=traceback):
            _fail(span, "given_up", error or reason, traceback)


def _fail(span: Span, kind: str, error: str, traceback: str | None = None) -> None:
    span.set_attribute("headrace.job.outcome", kind)
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR, error))
    if traceback:
        span.add_event("exception", {"exception.message": error, "exception.stacktrace": traceback})
