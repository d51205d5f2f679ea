"""W3C trace context in a job's headers: from who enqueues it, through the queue, to who runs it.

Costs next to nothing where OpenTelemetry is not in use: a process that has not imported it has no current span.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

from msgspec import structs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headrace.job import Job, NewJob

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def carried(jobs: Sequence[NewJob]) -> Sequence[NewJob]:
    """The jobs with the current span's context in their headers; as they are where there is none.

    A job that has a ``traceparent`` of its own keeps it. To be called where jobs are taken from their producer, and
    before they are handed to another task: a `NewJob` may have been made long before, and the span is the caller's.
    """
    if not (context := current()):
        return jobs
    return [
        job if TRACEPARENT in job.headers else structs.replace(job, headers={**job.headers, **context}) for job in jobs
    ]


def current() -> dict[str, str]:
    """The current span as headers; empty where there is none."""
    span = _current_span()
    if span is None:
        return {}
    headers = {TRACEPARENT: f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"}
    if span.trace_state:
        headers[TRACESTATE] = span.trace_state.to_header()
    return headers


def of(job: Job) -> dict[str, str]:
    """What a handler passes on to a program or a service: the current span, else what came with the job."""
    if context := current():
        return context
    return {name: job.headers[name] for name in (TRACEPARENT, TRACESTATE) if name in job.headers}


def trace_id(headers: Mapping[str, str]) -> str | None:
    """The current span's trace, else that of these headers, as 32 hexadecimal digits."""
    if (span := _current_span()) is not None:
        return f"{span.trace_id:032x}"
    if TRACEPARENT in headers and (match := _TRACEPARENT.fullmatch(headers[TRACEPARENT])):
        return match[1]
    return None


def _current_span() -> Any:
    trace = sys.modules.get("opentelemetry.trace")
    # Another thread may be importing it at this moment.
    if trace is None or not hasattr(trace, "get_current_span"):
        return None
    span = trace.get_current_span().get_span_context()
    return span if span.is_valid else None
