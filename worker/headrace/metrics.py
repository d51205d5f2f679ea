"""What a worker publishes for Prometheus. Names and labels are a contract: alerts and dashboards stand on them.

Every series carries ``namespace`` and ``queue`` and no other label of ours, so that an alert on a rate is judged for
the whole queue. Every worker publishes the same depth: take ``max by (namespace, queue)``, never a sum.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from prometheus_client.core import Metric

    from headrace.queues.base import Depth, Witnessed

DEPTH_MAX_AGE_SECONDS = 15.0
"""Older than this, a depth is no longer published: whoever scales on it must ask the backend instead."""

PREFIX = "background_jobs_"
LABELS = ("namespace", "queue")

# From milliseconds past an hour: fine where a worker's own overhead shows, coarse where jobs are long.
_BUCKETS = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0),
)

_COUNTERS = {
    "enqueued": "Jobs enqueued by this process.",
    "completed": "Jobs completed.",
    "failed": "Jobs that ended failed: given up, out of attempts or expired.",
    "retried": "Attempts that failed and whose job went back to be tried again.",
    "released": "Jobs handed back uncharged.",
    "rescued": "Jobs of lost workers that were put back, uncharged.",
    "unknown_name": "Jobs handed back because this worker knows no such name.",
    "cancelled": "Jobs that were cancelled while they ran here.",
    "lease_extensions": "Heartbeats that extended this worker's lease.",
    "lease_lost": "Leases lost, with all jobs held under them.",
    "refused_completions": "Outcomes refused because the lease had been lost.",
    "idempotency_hits": "Jobs not run because a finish is recorded under their key.",
    "idempotency_misses": "Jobs whose key was free, and that were run.",
    "idempotency_in_progress": "Jobs put back because another run holds their key.",
    "idempotency_failures": "Looks at the idempotency store that it did not answer.",
    "event_loop_stalls": "Times that this process' event loop did not turn for seconds: a handler blocked it.",
}
_GAUGES = {
    "slots": "Jobs this process may run at a time.",
    "busy_slots": "Jobs running in this process.",
    "prefetched": "Jobs taken by this process and waiting in it for a slot.",
    "listener_up": "Whether new jobs wake this worker (1), or it polls alone (0).",
    "draining": "Whether this worker is stopping (1), and takes no more jobs.",
    "drain_seconds": "How long this worker has been stopping; 0 while it is not.",
}
_WITNESSED: Mapping[str, tuple[str, Callable[[Witnessed], float]]] = {
    "held": ("Jobs held by this process, those that wait here to be received among them.", lambda seen: seen.held),
    "empty_polls_seconds": (
        "For how long this process' polls have come back empty; 0 once one brought a job, or failed.",
        lambda seen: seen.empty_for_seconds or 0.0,
    ),
    "received_age_seconds": (
        "The greatest age of a job that came to this process in the last half minute.",
        lambda seen: seen.oldest_age_seconds,
    ),
}
"""Gauges that are there for queues which are counted by others than their workers, or not exactly."""
DEPTHS = (
    ("queue_depth", "Jobs that could start now.", "ready"),
    ("queue_blocked", "Jobs behind the head of their group.", "blocked"),
    ("queue_delayed", "Jobs whose time has not come.", "delayed"),
    ("queue_in_flight", "Jobs held by workers.", "in_flight"),
    ("queue_dead_lettered", "Jobs in the dead-letter queue.", "dead_lettered"),
    ("queue_oldest_age_seconds", "How long the oldest ready job is due.", "oldest_ready_age_seconds"),
    ("queue_paused", "Whether the queue is paused (1): what is ready can't start.", "paused"),
    ("queue_depth_is_lower_bound", "Whether counting stopped (1): there are at least so many jobs.", "is_lower_bound"),
)
"""Gauges that are there only while a depth is fresh: name, meaning, and the field of `Depth`."""

TOTALS = (("queue_arrived", "Jobs enqueued since the queue was made, by whatever way.", "arrived"),)
"""Counters that are the queue's own, likewise: name, meaning, and the field of `Totals`."""


class Distribution:
    """What a histogram publishes, counted in a fraction of the time that the client library's takes for each job."""

    def __init__(self) -> None:
        self._counts = [0] * (len(_BUCKETS) + 1)
        self._sum = 0.0

    def observe(self, values: Sequence[float]) -> None:
        """More values, in seconds; those below 0, of clocks that disagree, count as 0."""
        counts = self._counts
        for seconds in values:
            counts[bisect_left(_BUCKETS, seconds)] += 1
            if seconds > 0:
                self._sum += seconds

    def add_to(self, family: HistogramMetricFamily, labels: tuple[str, ...]) -> None:
        """Publish it under these labels."""
        bounds = [*(str(bound) for bound in _BUCKETS), "+Inf"]
        family.add_metric(labels, list(zip(bounds, accumulate(self._counts), strict=True)), self._sum)


class QueueMetrics:
    """One queue's metrics in this process; made by `Metrics.of`."""

    def __init__(
        self,
        labels: tuple[str, str],
        counters: Mapping[str, Counter],
        gauges: Mapping[str, Gauge],
        clock: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._depth: tuple[float, Depth] | None = None
        self.witnessed: Callable[[], Witnessed] | None = None
        """Tells, from any thread, what this process has seen of the queue; None where it is not such a queue."""
        self.enqueued = counters["enqueued"].labels(*labels)
        self.completed = counters["completed"].labels(*labels)
        self.failed = counters["failed"].labels(*labels)
        self.retried = counters["retried"].labels(*labels)
        self.released = counters["released"].labels(*labels)
        self.rescued = counters["rescued"].labels(*labels)
        self.unknown_name = counters["unknown_name"].labels(*labels)
        self.cancelled = counters["cancelled"].labels(*labels)
        self.lease_extensions = counters["lease_extensions"].labels(*labels)
        self.lease_lost = counters["lease_lost"].labels(*labels)
        self.refused_completions = counters["refused_completions"].labels(*labels)
        self.idempotency_hits = counters["idempotency_hits"].labels(*labels)
        self.idempotency_misses = counters["idempotency_misses"].labels(*labels)
        self.idempotency_in_progress = counters["idempotency_in_progress"].labels(*labels)
        self.idempotency_failures = counters["idempotency_failures"].labels(*labels)
        self.event_loop_stalls = counters["event_loop_stalls"].labels(*labels)
        self.slots = gauges["slots"].labels(*labels)
        self.busy_slots = gauges["busy_slots"].labels(*labels)
        self.prefetched = gauges["prefetched"].labels(*labels)
        self.listener_up = gauges["listener_up"].labels(*labels)
        self._draining = gauges["draining"].labels(*labels)
        self._drain_seconds = gauges["drain_seconds"].labels(*labels)
        self.duration = Distribution()
        self.queue_wait_time = Distribution()

    def observe_depth(self, depth: Depth) -> None:
        """Publish this depth, until it is too old."""
        self._depth = (self._clock(), depth)

    @property
    def depth(self) -> Depth | None:
        """What was observed last, while it is fresh."""
        if self._depth is None or self._clock() - self._depth[0] > DEPTH_MAX_AGE_SECONDS:
            return None
        return self._depth[1]

    def published_depth(self) -> dict[str, object] | None:
        """What was observed last, while it is fresh, with the seconds since it was counted; for ``/depth``."""
        if self._depth is None or (depth := self.depth) is None:
            return None
        totals = depth.totals
        return {
            "age_seconds": depth.age_seconds + self._clock() - self._depth[0],
            "ready": depth.ready,
            "blocked": depth.blocked,
            "delayed": depth.delayed,
            "in_flight": depth.in_flight,
            "in_flight_seconds": depth.in_flight_seconds,
            "dead_lettered": depth.dead_lettered,
            "oldest_ready_age_seconds": depth.oldest_ready_age_seconds,
            "next_due_seconds": depth.next_due_seconds,
            "paused": depth.paused,
            "is_lower_bound": depth.is_lower_bound,
            "is_approximate": depth.is_approximate,
            "arrived": None if totals is None else totals.arrived,
            "completed": None if totals is None else totals.completed,
            "failed": None if totals is None else totals.failed,
            "service_seconds": None if totals is None else totals.service_seconds,
        }

    def published(self) -> dict[str, object] | None:
        """All that is known of the queue, for ``/depth``: how much it holds, what was seen of it, or either."""
        depth = self.published_depth()
        if self.witnessed is None:
            return depth
        seen = self.witnessed()
        return {
            **(depth or {}),
            "held": seen.held,
            "empty_for_seconds": seen.empty_for_seconds,
            "oldest_age_seconds": seen.oldest_age_seconds,
        }

    def start_draining(self) -> None:
        """The worker is stopping: from now on its time runs."""
        since = self._clock()
        self._draining.set(1)
        self._drain_seconds.set_function(lambda: self._clock() - since)


class Metrics:
    """All of one process' metrics, whatever the queues it works on.

    Parameters
    ----------
    clock
        Monotonic seconds. Defaults to `time.monotonic`.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._queues: dict[tuple[str, str], QueueMetrics] = {}
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._counters = {
            name: Counter(PREFIX + name, text, LABELS, registry=self.registry) for name, text in _COUNTERS.items()
        }
        self._gauges = {
            name: Gauge(PREFIX + name, text, LABELS, registry=self.registry) for name, text in _GAUGES.items()
        }
        self.registry.register(self)

    def of(self, namespace: str, queue: str) -> QueueMetrics:
        """The metrics of one queue; the same object for the same labels."""
        labels = (namespace, queue)
        if labels not in self._queues:
            self._queues[labels] = QueueMetrics(labels, self._counters, self._gauges, self._clock)
        return self._queues[labels]

    def event_loop_stalled(self) -> None:
        """Every queue of a process stands while its event loop does."""
        for queue in self._queues.copy().values():
            queue.event_loop_stalls.inc()

    def describe(self) -> Iterator[Metric]:
        """What `collect` may give, for the registry."""
        yield from _distributions()
        yield from (family for family, _ in (*_depth_gauges(), *_total_counters(), *_witness_gauges()))

    def collect(self) -> Iterator[Metric]:
        """The distributions, and the depths while they are fresh, for the registry."""
        queues = self._queues.copy()  # Another thread asks.
        duration, wait_time = _distributions()
        for labels, queue in queues.items():
            queue.duration.add_to(duration, labels)
            queue.queue_wait_time.add_to(wait_time, labels)
        yield duration
        yield wait_time
        depths = {labels: depth for labels, queue in queues.items() if (depth := queue.depth) is not None}
        for family, field in _depth_gauges() if depths else ():
            for labels, depth in depths.items():
                family.add_metric(labels, float(getattr(depth, field)))
            yield family
        totals = {labels: depth.totals for labels, depth in depths.items() if depth.totals is not None}
        for counter, field in _total_counters() if totals else ():
            for labels, total in totals.items():
                counter.add_metric(labels, getattr(total, field))
            yield counter
        seen = {labels: queue.witnessed() for labels, queue in queues.items() if queue.witnessed is not None}
        for family, value in _witness_gauges() if seen else ():
            for labels, witnessed in seen.items():
                family.add_metric(labels, value(witnessed))
            yield family

    def render_depths(self) -> bytes:
        """The depths while they are fresh, and what was seen, as JSON: what the operator scales on, and no more."""
        queues = self._queues.copy()  # Another thread asks.
        published = ((labels, queue.published()) for labels, queue in queues.items())
        return msgspec.json.encode(
            [
                {"namespace": namespace, "queue": queue, **said}
                for (namespace, queue), said in published
                if said is not None
            ]
        )

    def render(self) -> bytes:
        """Everything, in Prometheus's text format."""
        return generate_latest(self.registry)


def _distributions() -> tuple[HistogramMetricFamily, HistogramMetricFamily]:
    return (
        HistogramMetricFamily(f"{PREFIX}duration", "Seconds an attempt ran.", labels=LABELS),
        HistogramMetricFamily(f"{PREFIX}queue_wait_time", "Seconds a job was due before it started.", labels=LABELS),
    )


def _depth_gauges() -> list[tuple[GaugeMetricFamily, str]]:
    return [(GaugeMetricFamily(PREFIX + name, text, labels=LABELS), field) for name, text, field in DEPTHS]


def _witness_gauges() -> list[tuple[GaugeMetricFamily, Callable[[Witnessed], float]]]:
    return [
        (GaugeMetricFamily(PREFIX + name, text, labels=LABELS), value) for name, (text, value) in _WITNESSED.items()
    ]


def _total_counters() -> list[tuple[CounterMetricFamily, str]]:
    return [(CounterMetricFamily(PREFIX + name, text, labels=LABELS), field) for name, text, field in TOTALS]
