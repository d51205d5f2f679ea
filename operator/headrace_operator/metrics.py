"""The operator's own metrics, and the depth of queues that no worker publishes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from headrace_operator.core.model import OperatorError, SampleSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client.core import Metric

    from headrace_operator.core.model import ObjectKey
    from headrace_operator.reconcile.observations import Observations

_LABELS = ("namespace", "queue")


class OperatorMetrics:
    """Everything that ``/metrics`` shows."""

    def __init__(self, observations: Observations) -> None:
        self.registry = CollectorRegistry()
        self._waiting = Gauge(
            "headrace_operator_waiting_looks",
            "Objects that wait for their look.",
            ("kind",),
            registry=self.registry,
        )
        self._reconciles = Counter(
            "headrace_operator_reconciles",
            "Looks at an object, by how they ended.",
            ("kind", "outcome"),
            registry=self.registry,
        )
        self._failures = Counter(
            "headrace_operator_reconcile_errors",
            "Looks at an object that failed, by the reason in its condition.",
            ("kind", "reason"),
            registry=self.registry,
        )
        self._durations = Histogram(
            "headrace_operator_reconcile_duration_seconds",
            "How long a look at an object took.",
            ("kind",),
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            registry=self.registry,
        )
        self._requests = Counter(
            "headrace_operator_api_requests",
            "Requests to the Kubernetes API, by what became of them: Succeeded, or why not.",
            ("method", "outcome"),
            registry=self.registry,
        )
        self._samples = Counter(
            "headrace_operator_samples",
            "Readings of a queue's depth, by who was asked last and how that ended.",
            ("source", "outcome"),
            registry=self.registry,
        )
        self._sample_ages = Histogram(
            "headrace_operator_sample_age_seconds",
            "How old a queue's newest count had become when it was replaced, or could not be.",
            buckets=(1, 2.5, 5, 7.5, 10, 15, 20, 25, 30, 60, 300),
            registry=self.registry,
        )
        self._questions = Histogram(
            "headrace_operator_backend_question_seconds",
            "How long a backend was asked for the depth of its queues, by how that ended.",
            ("outcome",),
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20),
            registry=self.registry,
        )
        self._backends = Gauge(
            "headrace_operator_backends",
            "Backends that queues are in, by whether they answer: those that are Away are asked more and more rarely.",
            ("state",),
            registry=self.registry,
        )
        for state in ("Answering", "Away"):
            self._backends.labels(state)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.registry.register(_BackendDepths(observations))

    def show_waiting(self, looks: Mapping[str, Callable[[], int]]) -> None:
        """Show, by kind, how many objects wait for their look."""
        for kind, count in looks.items():
            self._waiting.labels(kind).set_function(count)

    def observe(self, kind: str, seconds: float, error: Exception | None) -> None:
        """Count one look."""
        self._durations.labels(kind).observe(seconds)
        self._reconciles.labels(kind, "failed" if error else "succeeded").inc()
        if error is not None:
            reason = error.reason if isinstance(error, OperatorError) else type(error).__name__
            self._failures.labels(kind, reason).inc()

    def requested(self, method: str, error: OperatorError | None) -> None:
        """Count one request to the Kubernetes API."""
        self._requests.labels(method, "Succeeded" if error is None else error.reason).inc()

    def sampled(self, source: SampleSource, outcome: str, age_seconds: float | None) -> None:
        """See `sampling.following.SamplingObserver`."""
        self._samples.labels(source, outcome).inc()
        if age_seconds is not None:
            self._sample_ages.observe(age_seconds)

    def asked(self, outcome: str, seconds: float) -> None:
        """See `sampling.following.SamplingObserver`."""
        self._questions.labels(outcome).observe(seconds)

    def backend_changed(self, before: str | None, after: str | None) -> None:
        """See `sampling.following.SamplingObserver`."""
        if before is not None:
            self._backends.labels(before).dec()
        if after is not None:
            self._backends.labels(after).inc()


class _BackendDepths(Collector):
    """The queues whose newest sample no worker told: workers publish the same gauges, and never both at a time."""

    def __init__(self, observations: Observations) -> None:
        self._observations = observations

    def collect(self) -> Iterator[Metric]:
        """What the operator has read from backends."""
        families = {
            "ready": GaugeMetricFamily(
                "background_jobs_queue_depth",
                "Jobs that are ready: due, unexpired, held by nobody.",
                labels=_LABELS,
            ),
            "blocked": GaugeMetricFamily(
                "background_jobs_queue_blocked", "Jobs behind the head of their group.", labels=_LABELS
            ),
            "delayed": GaugeMetricFamily(
                "background_jobs_queue_delayed",
                "Jobs whose time has not come, waiting retries among them.",
                labels=_LABELS,
            ),
            "in_flight": GaugeMetricFamily(
                "background_jobs_queue_in_flight", "Jobs that a worker holds.", labels=_LABELS
            ),
            "dead_lettered": GaugeMetricFamily(
                "background_jobs_queue_dead_lettered", "Jobs in the dead-letter queue.", labels=_LABELS
            ),
            "oldest_ready_age_seconds": GaugeMetricFamily(
                "background_jobs_queue_oldest_age_seconds",
                "How long the oldest ready job has been due.",
                labels=_LABELS,
            ),
            "paused": GaugeMetricFamily(
                "background_jobs_queue_paused",
                "Whether the queue is paused: what is ready can't start.",
                labels=_LABELS,
            ),
            "is_lower_bound": GaugeMetricFamily(
                "background_jobs_queue_depth_is_lower_bound",
                "Whether counting stopped: there are at least so many jobs.",
                labels=_LABELS,
            ),
        }
        arrived = CounterMetricFamily(
            "background_jobs_queue_arrived",
            "Jobs enqueued since the queue was made, by whatever way.",
            labels=_LABELS,
        )
        for queue, sample in self._observations.fresh_samples().items():
            if sample.source is SampleSource.BACKEND:
                for field, family in families.items():
                    family.add_metric(_values(queue), getattr(sample.depth, field))
                if sample.depth.arrived is not None:
                    arrived.add_metric(_values(queue), sample.depth.arrived)
        yield from (*families.values(), arrived)


def _values(queue: ObjectKey) -> tuple[str, str]:
    return queue.namespace, queue.name
