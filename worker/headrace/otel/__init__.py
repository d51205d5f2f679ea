"""OpenTelemetry: traces and metrics over OTLP, where the standard environment variables say so.

`exporting` is all that the worker needs; the SDK is imported only when it is wanted. ``metrics`` translates what is
counted for Prometheus, so that nothing is counted twice; ``tracing`` makes the spans.
"""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from headrace.runtime.tracer import NO_TRACING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client import CollectorRegistry

    from headrace.runtime.tracer import Tracer

log = logging.getLogger(__name__)

SERVICE_NAME = "headrace-worker"
"""Where neither OTEL_SERVICE_NAME nor OTEL_RESOURCE_ATTRIBUTES names one."""

SIGNALS = ("TRACES", "METRICS")

# Within what a pod's grace leaves after the drain.
_SHUTDOWN_SECONDS = 5.0


class TelemetryError(ValueError):
    """The environment asks for what can't be done; the message says the fix."""


def wanted_signals(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Which of `SIGNALS` to export.

    A signal is exported when ``OTEL_EXPORTER_OTLP_ENDPOINT``, or the one for that signal, is set, unless
    ``OTEL_<SIGNAL>_EXPORTER`` is ``none`` or ``OTEL_SDK_DISABLED`` is true.

    Raises
    ------
    TelemetryError
        Where another exporter or protocol is asked for than OTLP over HTTP.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return ()
    return tuple(signal for signal in SIGNALS if _is_wanted(signal, environ))


def _is_wanted(signal: str, environ: Mapping[str, str]) -> bool:
    variable = f"OTEL_{signal}_EXPORTER"
    exporter = environ.get(variable, "").strip() or "otlp"
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    if exporter == "none" or not any(environ.get(name, "").strip() for name in endpoints):
        return False
    if exporter != "otlp":
        raise TelemetryError(f"{variable}={exporter}: must be otlp or none")
    for variable in (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if protocol := environ.get(variable, "").strip():
            if protocol != "http/protobuf":
                raise TelemetryError(
                    f"{variable}={protocol}: must be http/protobuf, with the collector's port for it (4318, as a rule)"
                )
            break
    return True


@contextmanager
def exporting(environ: Mapping[str, str], registry: CollectorRegistry, *, instance: str) -> Iterator[Tracer]:
    """Export while the context lasts, as the environment says; gives the worker's tracer.

    Where an application has set up OpenTelemetry's tracing itself, or `opentelemetry-instrument` has, that is used.

    Parameters
    ----------
    environ
        The variables. What the SDK itself reads (sampler, intervals, headers, certificates, …) it reads from the
        process' own environment.
    registry
        What is counted for Prometheus.
    instance
        This worker's name, as ``service.instance.id``.

    Raises
    ------
    TelemetryError
        As `wanted_signals` does.
    """
    signals = wanted_signals(environ)
    if not signals and "opentelemetry.sdk.trace" not in sys.modules:
        yield NO_TRACING
        return
    try:
        from headrace.otel import provider  # noqa: PLC0415 - only who exports pays for it
    except ModuleNotFoundError as error:
        log.warning("nothing is exported over OTLP, %s is not installed: pip install 'headrace[otel]'", error.name)
        yield NO_TRACING
        return
    with provider.running(signals, registry, instance=instance, shutdown_seconds=_SHUTDOWN_SECONDS) as tracer:
        yield tracer
