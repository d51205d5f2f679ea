"""What the operator remembers between two looks: the newest samples of queues, how pools were decided on.

All of it is in memory and comes back by itself after a restart, within a round.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from headrace_operator.core.external_metrics import (
    DESIRED_WORKERS_METRIC,
    POOL_METRIC_LABEL,
    QUEUE_DEPTH_METRIC,
    QUEUE_LOAD_METRIC,
    QUEUE_METRIC_LABEL,
    MetricValue,
)
from headrace_operator.core.scaling import History

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headrace_operator.core.model import ObjectKey, Reading, Sample
    from headrace_operator.reconcile.ports import Clock

FRESH = timedelta(seconds=15)
"""An older sample (three rounds) is not published: an autoscaler holds without a value, and follows a wrong one."""

FRESH_WHILE_IDLE = timedelta(seconds=30)
"""The same where nothing was to be done: such queues are counted less often, and tell of new jobs by themselves."""

Remembered = TypeVar("Remembered")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolMemory:
    """What is remembered of a pool."""

    uid: str
    queues: tuple[ObjectKey, ...]
    history: History
    wanted_replicas: int | None = None
    """What the load wanted when it was last known."""


class Observations:
    """The operator's memory. It also tells the metrics API what to serve (`metrics_api.ports.MetricsSource`)."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # By namespace: autoscalers ask for one, and each of them does every 15 s.
        self._readings: defaultdict[str, dict[ObjectKey, Reading]] = defaultdict(dict)
        self._pools: defaultdict[str, dict[ObjectKey, PoolMemory]] = defaultdict(dict)

    def reading(self, queue: ObjectKey) -> Reading | None:
        """The newest reading of a queue; None before the first."""
        return self._readings.get(queue.namespace, {}).get(queue)

    def remember_reading(self, queue: ObjectKey, reading: Reading) -> None:
        """A queue was read, or could not be."""
        self._readings[queue.namespace][queue] = reading

    def forget_reading(self, queue: ObjectKey) -> None:
        """The queue is read no more, or elsewhere."""
        _forget(self._readings, queue)

    def history(self, pool: ObjectKey, uid: str) -> History:
        """What the pool's previous decision left; a namesake's is none of it."""
        memory = self._pools.get(pool.namespace, {}).get(pool)
        return memory.history if memory is not None and memory.uid == uid else History()

    def remember_pool(self, pool: ObjectKey, memory: PoolMemory) -> None:
        """How the pool was decided on."""
        self._pools[pool.namespace][pool] = memory

    def forget_pool(self, pool: ObjectKey) -> None:
        """The pool is gone."""
        _forget(self._pools, pool)

    def fresh_samples(self) -> dict[ObjectKey, Sample]:
        """The samples that are fit for others to act on. Any thread may ask."""
        everywhere = (self._fresh_samples(readings) for readings in list(self._readings.values()))
        return {queue: sample for samples in everywhere for queue, sample in samples.items()}

    def _fresh_samples(self, readings: Mapping[ObjectKey, Reading]) -> dict[ObjectKey, Sample]:
        now = self._clock.now()
        # Of a copy, which is made at once: what is read meanwhile is written into the original.
        samples = ((queue, reading.sample) for queue, reading in list(readings.items()))
        return {
            queue: sample
            for queue, sample in samples
            if sample is not None and now - sample.sampled_at <= (FRESH if sample.depth.load else FRESH_WHILE_IDLE)
        }

    def values(self, metric: str, namespace: str) -> Sequence[MetricValue]:
        """The fresh values of an external metric in a namespace."""
        samples = self._fresh_samples(self._readings.get(namespace, {}))
        if metric == QUEUE_DEPTH_METRIC:
            return [_queue_value(queue, sample, sample.depth.ready) for queue, sample in samples.items()]
        if metric == QUEUE_LOAD_METRIC:
            return [_queue_value(queue, sample, sample.depth.load) for queue, sample in samples.items()]
        if metric == DESIRED_WORKERS_METRIC:
            return [
                MetricValue(labels={POOL_METRIC_LABEL: pool.name}, value=memory.wanted_replicas, sampled_at=min(times))
                for pool, memory in self._pools.get(namespace, {}).items()
                # What is wanted while one of several can't be read is no less than there is.
                if (times := [samples[queue].sampled_at for queue in memory.queues if queue in samples])
                and memory.wanted_replicas is not None
            ]
        return []


def _forget(known: dict[str, dict[ObjectKey, Remembered]], key: ObjectKey) -> None:
    """Nothing is left of a namespace in which nothing is left."""
    there = known.get(key.namespace, {})
    there.pop(key, None)
    if not there:
        known.pop(key.namespace, None)


def _queue_value(queue: ObjectKey, sample: Sample, value: int) -> MetricValue:
    return MetricValue(labels={QUEUE_METRIC_LABEL: queue.name}, value=value, sampled_at=sample.sampled_at)
