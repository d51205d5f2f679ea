"""How many workers a pool should have: decided on what is known, remembered, and written on the pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace_operator.core.model import OperatorError, TransientError
from headrace_operator.core.scaling import SeenQueue, Situation, decide
from headrace_operator.core.spec import ScalingMode
from headrace_operator.reconcile.observations import PoolMemory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headrace_operator.core.model import Sample
    from headrace_operator.core.scaling import Decision
    from headrace_operator.core.spec import JobWorkerPool
    from headrace_operator.reconcile.observations import Observations
    from headrace_operator.reconcile.ports import Clock, Cluster, Sampling
    from headrace_operator.reconcile.reporting import Reporter

    Manifest = Mapping[str, Any]


class PoolDecisions:
    """Decides on pools' numbers and writes them on the pools; carrying them out is somebody else's."""

    def __init__(
        self, cluster: Cluster, sampling: Sampling, observations: Observations, reporter: Reporter, clock: Clock
    ) -> None:
        self._cluster = cluster
        self._sampling = sampling
        self._observations = observations
        self._reporter = reporter
        self._clock = clock

    def sample(self, pool: JobWorkerPool) -> tuple[Sample | None, OperatorError | None]:
        """How the queue stands, or why that is not known; neither where nothing is scaled."""
        if pool.spec.autoscaling.mode is ScalingMode.OFF:
            return None, None
        reading = self._sampling.reading(pool.queue_key)
        if reading is None:
            return None, TransientError("DepthUnknown", f"JobQueue {pool.queue_key.name} was not read yet")
        return reading.current, reading.failure

    def decide(self, pool: JobWorkerPool, deployment: Manifest | None, sample: Sample | None) -> Decision:
        """Decide, and remember what the next decision needs."""
        current = pool.spec.replicas
        if current is None and deployment is not None:
            # The number was lost (an object replaced by one without it), the workers were not. A zero is nobody's then.
            current = deployment["spec"].get("replicas") or None
        situation = Situation(
            current=current,
            scaled_to_zero=pool.is_marked_as_our_zero,
            queues=(SeenQueue(name=pool.queue_key.name, sample=sample),),
            paused=pool.paused,
        )
        uid = pool.metadata.uid
        history = self._observations.history(pool.key, uid)
        decision = decide(pool.spec.autoscaling, situation, history, self._clock.now())
        memory = PoolMemory(
            uid=uid,
            queue=pool.queue_key,
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
