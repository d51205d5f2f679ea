"""How many workers a pool should have: decided on what is known, remembered, and written on the pool."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from headrace_operator.core.model import OperatorError, RefusedError, TransientError
from headrace_operator.core.scaling import SeenQueue, Situation, decide, share
from headrace_operator.core.spec import JobWorkerPool, ScalingMode, parse
from headrace_operator.reconcile.objects import POOL_KIND
from headrace_operator.reconcile.observations import PoolMemory

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from fractions import Fraction

    from headrace_operator.core.model import ObjectKey, Sample
    from headrace_operator.core.scaling import Decision
    from headrace_operator.reconcile.objects import ObjectStore
    from headrace_operator.reconcile.observations import Observations
    from headrace_operator.reconcile.ports import Clock, Cluster, Sampling
    from headrace_operator.reconcile.reporting import Reporter

    Manifest = Mapping[str, Any]


STALE = timedelta(seconds=60)
"""Nothing is decided on an older sample: that is three times as long as a queue waits for its turn at the most."""


FIRST_READINGS = timedelta(seconds=30)
"""After the operator's start what was said of pools stands so long, while their queues have not been read."""


class PoolDecisions:
    """Decides on pools' numbers and writes them on the pools; carrying them out is somebody else's."""

    def __init__(
        self,
        cluster: Cluster,
        sampling: Sampling,
        objects: ObjectStore,
        observations: Observations,
        reporter: Reporter,
        clock: Clock,
    ) -> None:
        self._cluster = cluster
        self._sampling = sampling
        self._objects = objects
        self._observations = observations
        self._reporter = reporter
        self._clock = clock
        self._started_at = clock.now()
        self._others: dict[ObjectKey, tuple[Manifest, JobWorkerPool | None]] = {}
        """Pools that share a queue with others: the manifest, and what was read in it."""

    def seconds_to_first_readings(self, pool: JobWorkerPool) -> float | None:
        """How long it may take yet, after a start, until all queues of the pool have been read; None: no longer."""
        left = FIRST_READINGS - (self._clock.now() - self._started_at)
        if left <= timedelta(0) or pool.spec.autoscaling.mode is ScalingMode.OFF:
            return None
        is_unread = any(self._sampling.reading(queue) is None for queue in pool.queue_keys)
        return left.total_seconds() if is_unread else None

    def see(self, pool: JobWorkerPool) -> tuple[Sequence[SeenQueue], OperatorError | None]:
        """How the pool's queues stand; and why that of one is not known, unless nothing is scaled."""
        readings = [self._read(pool, key) for key in pool.queue_keys]
        seen = [
            SeenQueue(name=key.name, sample=sample, share=self._share(pool, key))
            for key, (sample, _) in zip(pool.queue_keys, readings, strict=True)
        ]
        return seen, next((failure for _, failure in readings if failure is not None), None)

    def _read(self, pool: JobWorkerPool, queue: ObjectKey) -> tuple[Sample | None, OperatorError | None]:
        if pool.spec.autoscaling.mode is ScalingMode.OFF:
            return None, None
        reading = self._sampling.reading(queue)
        if reading is None:
            return None, TransientError("DepthUnknown", f"JobQueue {queue.name} was not read yet")
        sample = reading.current
        if sample is not None and (age := self._clock.now() - sample.sampled_at) > STALE:
            seconds = age.total_seconds()
            return None, TransientError("DepthUnknown", f"JobQueue {queue.name} was last read {seconds:.0f} s ago")
        return sample, reading.failure

    def _share(self, pool: JobWorkerPool, queue: ObjectKey) -> Fraction:
        """What part of the queue's load is the pool's. A pool whose spec is wrong takes none."""
        others = (self._other(key) for key in self._objects.pools_of(queue) if key != pool.key)
        return share(pool, [other for other in others if other is not None])

    def _other(self, key: ObjectKey) -> JobWorkerPool | None:
        """Another pool of the queue, read once a version: a hundred on a queue would read each other with each look."""
        manifest = self._objects.get(POOL_KIND, key) or {}
        known = self._others.get(key)
        if known is None or known[0] is not manifest:
            pool = None
            with suppress(RefusedError):
                pool = parse(manifest, JobWorkerPool)
            known = self._others[key] = manifest, pool
        return known[1]

    def forget(self, pool: ObjectKey) -> None:
        """The pool is gone."""
        self._others.pop(pool, None)

    def decide(self, pool: JobWorkerPool, deployment: Manifest | None, seen: Sequence[SeenQueue]) -> Decision:
        """Decide, and remember what the next decision needs."""
        current = pool.spec.replicas
        if current is None and deployment is not None:
            # The number was lost (an object replaced by one without it), the workers were not. A zero is nobody's then.
            current = deployment["spec"].get("replicas") or None
        situation = Situation(
            current=current,
            scaled_to_zero=pool.is_marked_as_our_zero,
            queues=tuple(seen),
            paused=pool.paused,
        )
        uid = pool.metadata.uid
        history = self._observations.history(pool.key, uid)
        decision = decide(pool.spec.autoscaling, situation, history, self._clock.now())
        memory = PoolMemory(
            uid=uid,
            queues=pool.queue_keys,
            history=decision.history,
            wanted_replicas=decision.wanted_replicas,
        )
        self._observations.remember_pool(pool.key, memory)
        return decision

    async def write(self, pool: JobWorkerPool, manifest: Manifest, decision: Decision) -> Manifest:
        """Write the pool's own number, and whose zero it is, where they are not as decided."""
        wanted = decision.desired_replicas, decision.scaled_to_zero
        if wanted == (pool.spec.replicas, pool.is_marked_as_our_zero):
            return manifest
        written = await self._cluster.scale_pool(manifest, decision.desired_replicas, marked=decision.scaled_to_zero)
        self._reporter.remember(written)
        return written
