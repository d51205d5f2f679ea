from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from headrace import Job, new_job, trace_context

if TYPE_CHECKING:
    from collections.abc import Iterator

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def span() -> Iterator[None]:
    """A current span with a state of its vendor's."""
    context = SpanContext(
        int(TRACEPARENT[3:35], 16),
        int(TRACEPARENT[36:52], 16),
        is_remote=False,
        trace_flags=TraceFlags(1),
        trace_state=TraceState([("vendor", "7")]),
    )
    with trace.use_span(NonRecordingSpan(context)):
        yield


def job(**headers: str) -> Job:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    return Job(
        id="1",
        queue="orders",
        name="resize",
        payload=b"null",
        content_type="application/json",
        headers=headers,
        priority=0,
        group=None,
        deduplication_key=None,
        attempt=1,
        enqueued_at=now,
        run_at=now,
        expires_at=None,
    )


def test_outside_of_a_span_jobs_are_not_touched() -> None:
    jobs = [new_job("resize")]
    assert trace_context.carried(jobs) is jobs


def test_within_a_span_jobs_get_its_context_beside_their_own_headers(span: None) -> None:
    (plain, own) = trace_context.carried(
        [new_job("resize", headers={"tenant": "7"}), new_job("resize", headers={"traceparent": "theirs"})]
    )
    assert plain.headers == {"tenant": "7", "traceparent": TRACEPARENT, "tracestate": "vendor=7"}
    assert own.headers == {"traceparent": "theirs"}


def test_a_handler_passes_on_the_current_span(span: None) -> None:
    assert trace_context.of(job(traceparent="older")) == {"traceparent": TRACEPARENT, "tracestate": "vendor=7"}


def test_without_a_span_it_passes_on_what_came_with_the_job_and_nothing_else() -> None:
    assert trace_context.of(job(traceparent="it", tenant="7")) == {"traceparent": "it"}
    assert trace_context.of(job()) == {}


def test_a_process_that_never_imported_opentelemetry_does_not_import_it_now() -> None:
    program = (
        "import sys; from headrace import new_job, trace_context;"
        "import headrace.runtime.worker, headrace.runtime.handlers.exec, headrace.logs, headrace.otel;"
        "jobs = [new_job('resize')]; assert trace_context.carried(jobs) is jobs;"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
