"""Sets OpenTelemetry's SDK up and takes it down."""

from __future__ import annotations

import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from opentelemetry import metrics as metrics_api
from opentelemetry import trace as trace_api
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import headrace.otel
from headrace.otel.metrics import SCOPE, WithOurs, observe
from headrace.otel.tracing import SpanTracer
from headrace.runtime.tracer import NO_TRACING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client import CollectorRegistry

    from headrace.runtime.tracer import Tracer


@contextmanager
def running(
    signals: Sequence[str], registry: CollectorRegistry, *, instance: str, shutdown_seconds: float
) -> Iterator[Tracer]:
    """Export these signals while the context lasts; then what is left, for up to `shutdown_seconds`."""
    stack = ExitStack()
    try:
        if signals:
            resource = _resource(instance)
            if "TRACES" in signals and isinstance(trace_api.get_tracer_provider(), trace_api.ProxyTracerProvider):
                _trace(resource, stack)
            if "METRICS" in signals:
                _measure(resource, registry, stack)
        # A proxy is what there is until somebody sets tracing up.
        if isinstance(trace_api.get_tracer_provider(), trace_api.ProxyTracerProvider):
            yield NO_TRACING
        else:
            yield SpanTracer(trace_api.get_tracer("headrace"))
    finally:
        # The exporters try again for as long as they please where the collector is away.
        closing = threading.Thread(target=stack.close, name="headrace-otel-shutdown", daemon=True)
        closing.start()
        closing.join(shutdown_seconds)


def _resource(instance: str) -> Resource:
    defaults = Resource({"service.name": headrace.otel.SERVICE_NAME, "service.instance.id": instance})
    return Resource.create().merge(defaults).merge(OTELResourceDetector().detect())


def _trace(resource: Resource, stack: ExitStack) -> None:
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace_api.set_tracer_provider(provider)
    stack.callback(provider.shutdown)


def _measure(resource: Resource, registry: CollectorRegistry, stack: ExitStack) -> None:
    reader = PeriodicExportingMetricReader(WithOurs(OTLPMetricExporter(), registry))
    provider = MeterProvider(metric_readers=[reader], resource=resource, shutdown_on_exit=False)
    observe(provider.get_meter(SCOPE), registry)
    # Instruments of the application's own go the same way, unless it has set up another.
    if isinstance(metrics_api.get_meter_provider(), metrics_api._internal._ProxyMeterProvider):  # noqa: SLF001
        metrics_api.set_meter_provider(provider)
    stack.callback(provider.shutdown)
