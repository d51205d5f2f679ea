"""What is counted for Prometheus, under OpenTelemetry's names: ``background_jobs.completed``, ``.duration`` and so on.

It is read when it is exported, from the registry that ``/metrics`` shows: the worker counts once, in the cheapest way.
Counters and gauges are observable instruments. The SDK has none for a histogram, so the exporter is given ours beside
what the SDK has collected; their temporality is cumulative.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    ResourceMetrics,
)

from headrace.metrics import DEPTHS, PREFIX, TOTALS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from opentelemetry.metrics import CallbackOptions, Meter
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric as Family

SCOPE = "headrace"
"""The name of the meter."""


def observe(meter: Meter, registry: CollectorRegistry) -> None:
    """Make an observable instrument for each of our counters and gauges."""
    for family in _families(registry):
        if family.type == "counter":
            meter.create_observable_counter(
                _name(family.name), [_observer(registry, f"{family.name}_total")], "{job}", family.documentation
            )
        elif family.type == "gauge":
            meter.create_observable_gauge(
                _name(family.name), [_observer(registry, family.name)], _unit(family.name), family.documentation
            )
    for name, text, _ in DEPTHS:
        family_name = PREFIX + name
        meter.create_observable_gauge(_name(family_name), [_observer(registry, family_name)], _unit(family_name), text)
    for name, text, _ in TOTALS:
        family_name = PREFIX + name
        meter.create_observable_counter(
            _name(family_name), [_observer(registry, f"{family_name}_total")], "{job}", text
        )


def _observer(registry: CollectorRegistry, sample_name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observed(_: CallbackOptions) -> Iterator[Observation]:
        for family in registry.restricted_registry([sample_name]).collect():
            for sample in family.samples:
                if sample.name == sample_name:
                    yield Observation(sample.value, sample.labels)

    return observed


def _families(registry: CollectorRegistry) -> Iterator[Family]:
    depths = {PREFIX + name for name, _, _ in (*DEPTHS, *TOTALS)}
    return (family for family in registry.collect() if family.name.startswith(PREFIX) and family.name not in depths)


def _name(family: str) -> str:
    return "background_jobs." + family.removeprefix(PREFIX)


def _unit(family: str) -> str:
    return "s" if family.endswith("_seconds") else "{job}"


class WithOurs(MetricExporter):
    """Exports our histograms beside what the SDK has collected.

    Parameters
    ----------
    exporter
        Where everything goes.
    registry
        Where ours are.
    """

    def __init__(self, exporter: MetricExporter, registry: CollectorRegistry) -> None:
        # The reader looks at its exporter's preferences, and the SDK shows them nowhere else.
        super().__init__(exporter._preferred_temporality, exporter._preferred_aggregation)  # noqa: SLF001
        self._exporter = exporter
        self._registry = registry
        self._started = time.time_ns()

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        """See `MetricExporter`."""
        whole = MetricsData([self._completed(resource) for resource in metrics_data.resource_metrics])
        return self._exporter.export(whole, timeout_millis=timeout_millis, **kwargs)

    def _completed(self, resource: ResourceMetrics) -> ResourceMetrics:
        # Within the scope that is there: of two alike, the encoder keeps one.
        scopes = [
            replace(scope, metrics=[*scope.metrics, *self._histograms()]) if scope.scope.name == SCOPE else scope
            for scope in resource.scope_metrics
        ]
        return replace(resource, scope_metrics=scopes)

    def _histograms(self) -> Iterator[Metric]:
        now = time.time_ns()
        for family in _families(self._registry):
            if family.type == "histogram":
                points = [self._point(samples, now) for samples in _by_labels(family)]
                data = Histogram(points, AggregationTemporality.CUMULATIVE)
                yield Metric(_name(family.name), family.documentation, "s", data)

    def _point(self, samples: list[Any], now: int) -> HistogramDataPoint:
        buckets = [sample for sample in samples if sample.name.endswith("_bucket")]
        below = [0, *(int(sample.value) for sample in buckets)]
        return HistogramDataPoint(
            attributes={name: value for name, value in buckets[0].labels.items() if name != "le"},
            start_time_unix_nano=self._started,
            time_unix_nano=now,
            count=below[-1],
            sum=next(sample.value for sample in samples if sample.name.endswith("_sum")),
            bucket_counts=[upper - lower for lower, upper in itertools.pairwise(below)],
            explicit_bounds=[float(sample.labels["le"]) for sample in buckets[:-1]],
            min=float("nan"),
            max=float("nan"),
        )

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """See `MetricExporter`."""
        return self._exporter.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """See `MetricExporter`."""
        self._exporter.shutdown(timeout_millis, **kwargs)


def _by_labels(family: Family) -> list[list[Any]]:
    groups: dict[tuple[str, str], list[Any]] = {}
    for sample in family.samples:
        groups.setdefault((sample.labels["namespace"], sample.labels["queue"]), []).append(sample)
    return list(groups.values())
