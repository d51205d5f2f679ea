"""Traces and metrics over OTLP: real producers, a real worker process, and a receiver that decodes what arrives."""

from __future__ import annotations

import asyncio
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

import asyncpg
import psycopg
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.sdk.trace import TracerProvider

from headrace import new_job
from headrace.queues.base import Owner, QueueSettings
from headrace.queues.memory import MemoryBackend, MemoryQueue
from headrace.queues.postgres import Place, PostgresProvisioner, PostgresQueue
from headrace.sync import Producer, enqueue_in
from support.otlp import attributes, receiving
from support.verbs import enqueue
from support.worker_process import eventually, running_worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from opentelemetry.trace import SpanContext

    from headrace import NewJob
    from headrace.queues.base import Queue
    from support.otlp import Receiver
    from support.worker_process import WorkerProcess

TRACER = TracerProvider(shutdown_on_exit=False).get_tracer("producer")
OWNER = Owner(namespace="shop", name="orders", uid="1")


@pytest.fixture
async def queue(database_dsn: str) -> AsyncIterator[PostgresQueue]:
    place = Place(dsn=database_dsn)
    await PostgresProvisioner(place).ensure("orders", QueueSettings(max_retries=1), OWNER)
    async with PostgresQueue(place, "orders") as opened:
        yield opened


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@contextmanager
def exporting_worker(
    directory: Path, receiver: Receiver, dsn: str, *arguments: str, **more: str
) -> Iterator[WorkerProcess]:
    with running_worker(
        directory,
        *(arguments or ("--app", "support.worker_app:app")),
        dsn=dsn,
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
        OTEL_METRIC_EXPORT_INTERVAL="300",
        OTEL_BSP_SCHEDULE_DELAY="200",
        BACKGROUND_JOBS__RETRY__INITIALDELAYSECONDS="0.01",
        HEADRACE_WORKER_NAME="pod-1",
        **more,
    ) as worker:
        yield worker


def identity(context: SpanContext) -> tuple[bytes, bytes]:
    return context.trace_id.to_bytes(16), context.span_id.to_bytes(8)


async def test_one_trace_leads_from_the_producer_through_the_run_to_its_spans_and_the_jobs_it_enqueues(
    queue: PostgresQueue, receiver: Receiver, database_dsn: str, tmp_path: Path
) -> None:
    with exporting_worker(tmp_path, receiver, database_dsn, HEADRACE_LOG_FORMAT="json") as worker:
        with TRACER.start_as_current_span("checkout") as checkout:
            (job_id,) = await enqueue(queue, [new_job("traced", "x")])
        await eventually(lambda: len(receiver.spans("process orders")) == 2, what="the job's span and its child's")
        await eventually(lambda: bool(receiver.spans("resize")), what="the handler's own span")
        (own,) = receiver.spans("resize")
        parent, child = sorted(receiver.spans("process orders"), key=lambda span: span.start_time_unix_nano)
        assert (parent.trace_id, parent.parent_span_id) == identity(checkout.get_span_context())
        assert [(link.trace_id, link.span_id) for link in parent.links] == [identity(checkout.get_span_context())]
        assert (own.trace_id, own.parent_span_id) == (parent.trace_id, parent.span_id)
        assert (child.trace_id, child.parent_span_id) == (parent.trace_id, parent.span_id)
        assert parent.kind == Span.SPAN_KIND_CONSUMER
        assert attributes(parent.attributes) == {
            "messaging.system": "headrace",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": "orders",
            "messaging.message.id": job_id,
            "messaging.message.body.size": 3,
            "headrace.job.name": "traced",
            "headrace.job.attempt": 1,
            "headrace.job.outcome": "completed",
        }
        sender = receiver.resources[0]
        assert (sender["service.name"], sender["service.instance.id"]) == ("headrace-worker", "pod-1")
        lines = [json.loads(line) for line in worker.log.splitlines()]
        (own_line,) = [line for line in lines if line["message"] == "within the trace"]
        assert (own_line["job"], own_line["trace_id"]) == (job_id, parent.trace_id.hex())


async def test_every_attempt_is_a_span_and_a_failed_one_says_why(
    queue: PostgresQueue, receiver: Receiver, database_dsn: str, tmp_path: Path
) -> None:
    with exporting_worker(tmp_path, receiver, database_dsn, BACKGROUND_JOBS__JOBTIMEOUTSECONDS="0.5"):
        with TRACER.start_as_current_span("checkout") as checkout:
            await queue.enqueue([new_job("failing", 7), new_job("hopeless"), new_job("gated", "never")])
        await eventually(lambda: len(receiver.spans("process orders")) == 5, what="two attempts, twice, and one")
        spans = receiver.spans("process orders")
        assert {span.trace_id for span in spans} == {identity(checkout.get_span_context())[0]}
        assert {span.status.code for span in spans} == {Status.STATUS_CODE_ERROR}
        said = {
            (str(found["headrace.job.name"]), found["headrace.job.attempt"], found["error.type"], span.status.message)
            for span in spans
            for found in [attributes(span.attributes)]
        }
        assert {(name, attempt, kind) for name, attempt, kind, _ in said} == {
            ("failing", 1, "failed"),
            ("failing", 2, "failed"),
            ("hopeless", 1, "given_up"),
            ("gated", 1, "cancelled"),
            ("gated", 2, "cancelled"),
        }
        assert any("no luck with 7" in message for *_, message in said)
        (event,) = next(span for span in spans if "no luck" in span.status.message).events
        assert "Traceback" in str(attributes(event.attributes)["exception.stacktrace"])


async def test_what_is_counted_is_exported_under_opentelemetrys_names(
    queue: PostgresQueue, receiver: Receiver, database_dsn: str, tmp_path: Path
) -> None:
    await queue.enqueue([new_job("quick")] * 20 + [new_job("failing")] * 3 + [new_job("parent")])

    def number(name: str) -> float | None:
        if (metric := receiver.metric(f"background_jobs.{name}")) is None:
            return None
        (point,) = metric.sum.data_points or metric.gauge.data_points
        assert attributes(point.attributes) == {"namespace": "shop", "queue": "orders"}
        value: float = getattr(point, point.WhichOneof("value") or "as_int")
        return value

    with exporting_worker(tmp_path, receiver, database_dsn) as worker:
        expected = {"completed": 23, "failed": 3, "retried": 3, "enqueued": 2, "slots": 10}
        # The dead are counted once a minute: that there is a count is what can be waited for.
        expected |= {"queue_depth": 0, "queue_arrived": 26}
        await eventually(lambda: {name: number(name) for name in expected} == expected, what="all of it received")
        assert number("queue_dead_lettered") is not None
        for name in ("duration", "queue_wait_time"):
            metric = receiver.metric(f"background_jobs.{name}")
            assert metric is not None
            assert metric.unit == "s"
            (point,) = metric.histogram.data_points
            assert attributes(point.attributes) == {"namespace": "shop", "queue": "orders"}
            assert point.count == 29 == sum(point.bucket_counts)
            assert len(point.bucket_counts) == len(point.explicit_bounds) + 1
            assert (point.explicit_bounds[0], point.explicit_bounds[-1]) == (0.005, 7200.0)
            assert point.start_time_unix_nano < point.time_unix_nano
        assert worker.metric("completed_total") == 23, "Prometheus is served all the same"


async def test_what_is_left_at_the_end_is_exported(
    queue: PostgresQueue, receiver: Receiver, database_dsn: str, tmp_path: Path
) -> None:
    await queue.enqueue([new_job("quick")])
    with running_worker(
        tmp_path,
        "--app",
        "support.worker_app:app",
        dsn=database_dsn,
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.endpoint,
        OTEL_BSP_SCHEDULE_DELAY="3600000",
        OTEL_METRIC_EXPORT_INTERVAL="3600000",
    ) as worker:
        await eventually(lambda: worker.metric("completed_total") == 1, what="completed")
        assert not receiver.traces
        worker.terminate()
        assert await worker.exit_status() == 0
    assert len(receiver.spans("process orders")) == 1
    assert receiver.metric("background_jobs.completed") is not None


async def test_a_program_gets_the_trace_in_its_environment(
    queue: PostgresQueue, receiver: Receiver, database_dsn: str, tmp_path: Path
) -> None:
    script = tmp_path / "render"
    script.write_text('#!/bin/sh\necho "$TRACEPARENT" >"$RECORDS/trace"\n')
    script.chmod(0o755)
    with TRACER.start_as_current_span("checkout"):
        await queue.enqueue([new_job("render")])
    with exporting_worker(tmp_path, receiver, database_dsn, "--exec", str(script)):
        await eventually(lambda: bool(receiver.spans("process orders")), what="run")
    (span,) = receiver.spans("process orders")
    assert (tmp_path / "trace").read_text().startswith(f"00-{span.trace_id.hex()}-{span.span_id.hex()}-")


async def test_a_collector_that_is_away_harms_no_job(queue: PostgresQueue, database_dsn: str, tmp_path: Path) -> None:
    await queue.enqueue([new_job("quick")] * 50)
    with running_worker(
        tmp_path,
        *("--app", "support.worker_app:app"),
        dsn=database_dsn,
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1",
        OTEL_BSP_SCHEDULE_DELAY="100",
    ) as worker:
        await eventually(lambda: worker.metric("completed_total") == 50, what="completed all the same")
        worker.terminate()
        assert await worker.exit_status() == 0


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc: must be http/protobuf"),
        ({"OTEL_METRICS_EXPORTER": "prometheus"}, "OTEL_METRICS_EXPORTER=prometheus: must be otlp or none"),
    ],
)
async def test_what_cannot_be_exported_is_refused_with_the_fix(
    tmp_path: Path, variables: dict[str, str], complaint: str
) -> None:
    with running_worker(
        tmp_path,
        *("--app", "support.worker_app:app"),
        dsn="postgresql://127.0.0.1:1/x",
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1",
        **variables,
    ) as worker:
        assert await worker.exit_status() == 2
        assert complaint in worker.log
        assert "Traceback" not in worker.log


# The producers' side: each way of enqueuing.


async def async_sdk(queue: PostgresQueue, dsn: str, jobs: list[NewJob]) -> None:
    await queue.enqueue(jobs)


async def own_transaction(queue: PostgresQueue, dsn: str, jobs: list[NewJob]) -> None:
    connection = await asyncpg.connect(dsn)
    async with connection.transaction():
        await queue.enqueue_in(connection, jobs)
    await connection.close()


async def sync_producer(queue: PostgresQueue, dsn: str, jobs: list[NewJob]) -> None:
    with Producer(dsn) as producer:
        producer.enqueue("orders", jobs)


async def sync_transaction(queue: PostgresQueue, dsn: str, jobs: list[NewJob]) -> None:
    with psycopg.connect(dsn) as connection:
        enqueue_in(connection, "orders", jobs)


@pytest.mark.parametrize("way", [async_sdk, own_transaction, sync_producer, sync_transaction])
async def test_whoever_enqueues_within_a_span_sends_its_context_along(
    queue: PostgresQueue, database_dsn: str, way: Callable[[PostgresQueue, str, list[NewJob]], Awaitable[None]]
) -> None:
    made_before = new_job("quick", headers={"tenant": "7"})
    own = new_job("quick", headers={"traceparent": "00-own"})
    with TRACER.start_as_current_span("checkout") as checkout:
        await way(queue, database_dsn, [made_before, own])
    await way(queue, database_dsn, [new_job("quick")])
    context = checkout.get_span_context()
    traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    assert [dict(delivery.job.headers) for delivery in await queue.receive(3)] == [
        {"tenant": "7", "traceparent": traceparent},
        {"traceparent": "00-own"},
        {},
    ]


async def test_calls_that_travel_together_keep_their_own_traces(queue: PostgresQueue) -> None:
    async def checkout(number: int) -> tuple[str, str]:
        with TRACER.start_as_current_span("checkout") as span:
            (job_id,) = await enqueue(queue, [new_job("quick", number)])
        return job_id, f"{span.get_span_context().trace_id:032x}"

    expected = dict(await asyncio.gather(*(checkout(number) for number in range(20))))
    found = {delivery.job.id: delivery.job.headers["traceparent"] for delivery in await queue.receive(20)}
    assert {job_id: traceparent.split("-")[1] for job_id, traceparent in found.items()} == expected


async def test_a_queue_in_memory_carries_it_as_well() -> None:
    backend = MemoryBackend()
    backend.register("orders", QueueSettings(), OWNER)
    queue: Queue = MemoryQueue(backend, "orders")
    async with queue:
        with TRACER.start_as_current_span("checkout"):
            await queue.enqueue([new_job("quick")])
        (delivery,) = await queue.receive(1)
        assert delivery.job.headers.keys() == {"traceparent"}
