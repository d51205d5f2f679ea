"""What a worker publishes for Prometheus. Names and labels are a contract: alerts and dashboards stand on them.

Every series carries ``namespace`` and ``queue`` and no other label of ours, so that an alert on a rate is judged for
the whole queue. Every worker publishes the same depth: take ``max by (namespace, queue)``, never a sum.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.core import Metric

    from headrace.queues.base import Depth

DEPTH_MAX_AGE_SECONDS = 15.0
"""Older than this, a depth is no longer published: whoever scales on it must ask the backend instead."""

LABELS = ("namespace", "queue")

# From milliseconds past an hour: fine where a worker's own overhead shows, coarse where jobs are long.
_BUCKETS = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0),
)


class Distribution:
    """What a histogram publishes, counted in a fraction of the time that the client library's takes for each job."""

    def __init__(self) -> None:
        self._counts = [0] * (len(_BUCKETS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """One more value."""
        self._counts[bisect_left(_BUCKETS, seconds)] += 1
        self._sum += seconds

    def family(self, name: str, text: str, labels: tuple[str, ...]) -> HistogramMetricFamily:
        """As it is published."""
        family = HistogramMetricFamily(name, text, labels=LABELS)
        bounds = [*(str(bound) for bound in _BUCKETS), "+Inf"]
        family.add_metric(labels, list(zip(bounds, accumulate(self._counts), strict=True)), self._sum)
        return family


class WorkerMetrics:
    """All of one worker's metrics, in a registry of their own.

    Parameters
    ----------
    namespace
        The label ``namespace``.
    queue
        The label ``queue``.
    clock
        Monotonic seconds. Defaults to `time.monotonic`.
    """

    def __init__(self, namespace: str, queue: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._labels = (namespace, queue)
        self._depth: tuple[float, Depth] | None = None
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)

        self.enqueued = self._counter("enqueued", "Jobs enqueued by this process.")
        self.completed = self._counter("completed", "Jobs completed.")
        self.failed = self._counter("failed", "Jobs that ended failed: given up, out of attempts or expired.")
        self.retried = self._counter("retried", "Attempts that failed and whose job went back to be tried again.")
        self.released = self._counter("released", "Jobs handed back uncharged.")
        self.rescued = self._counter("rescued", "Jobs of lost workers that were put back, uncharged.")
        self.unknown_name = self._counter("unknown_name", "Jobs handed back because this worker knows no such name.")
        self.lease_lost = self._counter("lease_lost", "Leases lost, with all jobs held under them.")
        self.refused_completions = self._counter(
            "refused_completions", "Outcomes refused because the lease had been lost."
        )
        self.idempotency_hits = self._counter("idempotency_hits", "Jobs completed without a run, their key being done.")
        self.idempotency_misses = self._counter("idempotency_misses", "Jobs that claimed their key and ran.")
        self.idempotency_collisions = self._counter(
            "idempotency_collisions", "Jobs put back for a while: another run had their key."
        )
        self.idempotency_failures = self._counter("idempotency_failures", "Calls that the idempotency store failed.")
        self.cancelled = self._counter("cancelled", "Jobs that were cancelled while they ran here.")
        self.duration = Distribution()
        self.queue_wait_time = Distribution()
        self.busy_slots = self._gauge("busy_slots", "Jobs running in this process.")
        self.prefetched = self._gauge("prefetched", "Jobs taken by this process and waiting in it for a slot.")
        self.listener_up = self._gauge("listener_up", "Whether new jobs wake this worker (1), or it polls alone (0).")
        self.slots = self._gauge("slots", "Jobs this process may run at a time.")
        self._registry.register(self)

    def _counter(self, name: str, text: str) -> Counter:
        counter = Counter(f"background_jobs_{name}", text, LABELS, registry=self._registry)
        return counter.labels(*self._labels)

    def _gauge(self, name: str, text: str) -> Gauge:
        gauge = Gauge(f"background_jobs_{name}", text, LABELS, registry=self._registry)
        return gauge.labels(*self._labels)

    def observe_depth(self, depth: Depth) -> None:
        """Publish this depth, until it is too old."""
        self._depth = (self._clock(), depth)

    def collect(self) -> Iterator[Metric]:
        """The distributions, and the depth's gauges while it is fresh, for the registry."""
        yield self.duration.family("background_jobs_duration", "Seconds an attempt ran.", self._labels)
        yield self.queue_wait_time.family(
            "background_jobs_queue_wait_time", "Seconds a job was due before it started.", self._labels
        )
        if self._depth is None or self._clock() - self._depth[0] > DEPTH_MAX_AGE_SECONDS:
            return
        depth = self._depth[1]
        for name, text, value in (
            ("queue_depth", "Jobs that could start now.", depth.ready),
            ("queue_delayed", "Jobs whose time has not come.", depth.delayed),
            ("queue_in_flight", "Jobs held by workers.", depth.in_flight),
            ("queue_dead_lettered", "Jobs in the dead-letter queue.", depth.dead_lettered),
            ("queue_oldest_age_seconds", "How long the oldest ready job is due.", depth.oldest_ready_age_seconds),
        ):
            family = GaugeMetricFamily(f"background_jobs_{name}", text, labels=LABELS)
            family.add_metric(self._labels, value)
            yield family

    def render(self) -> bytes:
        """Everything, in Prometheus's text format."""
        return generate_latest(self._registry)
