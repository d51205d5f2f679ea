from __future__ import annotations

import subprocess
import sys

import pytest

from headrace.otel import SIGNALS, TelemetryError, wanted_signals

COLLECTOR = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


@pytest.mark.parametrize(
    ("environ", "signals"),
    [
        ({}, ()),
        (COLLECTOR, SIGNALS),
        ({**COLLECTOR, "OTEL_SDK_DISABLED": "true"}, ()),
        ({**COLLECTOR, "OTEL_TRACES_EXPORTER": "none"}, ("METRICS",)),
        ({**COLLECTOR, "OTEL_METRICS_EXPORTER": "none", "OTEL_TRACES_EXPORTER": "otlp"}, ("TRACES",)),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, ("TRACES",)),
        ({**COLLECTOR, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, SIGNALS),
        (
            {
                **COLLECTOR,
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
                "OTEL_METRICS_EXPORTER": "none",
            },
            ("TRACES",),
        ),
        ({"OTEL_TRACES_EXPORTER": "console"}, ()),
    ],
)
def test_the_standard_variables_say_what_is_exported(environ: dict[str, str], signals: tuple[str, ...]) -> None:
    assert wanted_signals(environ) == signals


@pytest.mark.parametrize(
    ("variable", "value", "fix"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "must be http/protobuf, with the collector's port for it"),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/json", "must be http/protobuf"),
        ("OTEL_TRACES_EXPORTER", "zipkin", "must be otlp or none"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_fix(variable: str, value: str, fix: str) -> None:
    with pytest.raises(TelemetryError, match=f"^{variable}={value}: {fix}"):
        wanted_signals({**COLLECTOR, variable: value})


@pytest.mark.parametrize(("sets_up", "tracer"), [(True, "SpanTracer"), (False, "_NoTracing")])
def test_an_applications_own_tracer_provider_is_used_and_without_one_nothing_is_traced(
    sets_up: bool, tracer: str
) -> None:
    program = f"""
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from headrace.metrics import Metrics
from headrace.otel import exporting
if {sets_up}:
    trace.set_tracer_provider(TracerProvider())
with exporting({{}}, Metrics().registry, instance="pod-1") as tracer:
    print(type(tracer).__name__)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == tracer


@pytest.mark.parametrize("environ", [{}, COLLECTOR])
def test_a_worker_without_the_sdk_works_and_says_what_is_missing(environ: dict[str, str]) -> None:
    program = f"""
import logging, sys
sys.modules["opentelemetry.sdk"] = None
from headrace.metrics import Metrics
from headrace.otel import exporting
logging.basicConfig()
with exporting({environ!r}, Metrics().registry, instance="pod-1") as tracer:
    print(type(tracer).__name__)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "_NoTracing"
    assert ("pip install 'headrace[otel]'" in done.stderr) is bool(environ)
