"""JobWorkerPools: from the queue's depth to a number of workers, and from that to a Deployment and an autoscaler."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from headrace_operator.core import conditions
from headrace_operator.core.conditions import Condition
from headrace_operator.core.deployment import worker_deployment
from headrace_operator.core.hpa import pool_autoscaler
from headrace_operator.core.limits import pool_refusal
from headrace_operator.core.model import (
    GROUP,
    VERSION,
    EventType,
    ObjectKey,
    OperatorError,
    PassingError,
    RefusedError,
    TransientError,
)
from headrace_operator.core.pool_status import (
    QUEUE_PENDING,
    PoolFacts,
    pool_conditions,
    pool_numbers,
    scaling_failure,
    scaling_status,
)
from headrace_operator.core.provider import provider_of
from headrace_operator.core.scaling import SeenQueue, Situation, decide
from headrace_operator.core.spec import JobQueue, JobWorkerPool, Resource, ScalingMode, block_name, parse
from headrace_operator.reconcile.applying import AUTOSCALER, DEPLOYMENT, Applier
from headrace_operator.reconcile.objects import POOL_KIND, QUEUE_KIND, key_of
from headrace_operator.reconcile.observations import PoolMemory
from headrace_operator.reconcile.redis import RedisSecrets
from headrace_operator.reconcile.reporting import Reporter, conditions_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from headrace_operator.core.model import Sample
    from headrace_operator.core.provider import AnyProvider, Providers
    from headrace_operator.core.scaling import Decision
    from headrace_operator.reconcile.objects import ObjectStore
    from headrace_operator.reconcile.observations import Observations
    from headrace_operator.reconcile.ports import Clock, Cluster, Sampling

    Manifest = Mapping[str, Any]

UNSCALED_ROUND_SECONDS = 30.0
"""How often a pool without autoscaling is looked at; what happens to its objects in between is told by the watch."""

SIGNALS_STEP = timedelta(seconds=5)
"""Signals change with every sample: they are written so often at most, unless the decision changes."""


class PoolReconciler:
    """Looks at JobWorkerPools.

    Parameters
    ----------
    providers
        The table of them.
    image, image_pull_policy
        What pools run that name no image of their own.
    metrics_api_failure
        Why HorizontalPodAutoscalers can't read the depth of queues; None where they can.
    """

    def __init__(
        self,
        *,
        cluster: Cluster,
        sampling: Sampling,
        objects: ObjectStore,
        observations: Observations,
        clock: Clock,
        providers: Providers,
        image: str,
        image_pull_policy: str | None,
        metrics_api_failure: Callable[[], OperatorError | None],
    ) -> None:
        self._cluster = cluster
        self._sampling = sampling
        self._objects = objects
        self._observations = observations
        self._clock = clock
        self._providers = providers
        self._image = image
        self._image_pull_policy = image_pull_policy
        self._metrics_api_failure = metrics_api_failure
        self._reporter = Reporter(cluster, objects, clock)
        self._applier = Applier(cluster)
        self._redis = RedisSecrets(cluster, clock)
        self._signals_told: dict[ObjectKey, datetime] = {}

    async def reconcile(self, key: ObjectKey) -> float | None:
        """Look at one JobWorkerPool; returns after how many seconds to look again.

        Raises
        ------
        OperatorError
            When not all is in order; the conditions say so already.
        """
        manifest = self._objects.get(POOL_KIND, key)
        if manifest is None:
            self._forget(key)
            return None
        if parse(manifest, Resource).metadata.deletion_timestamp is not None:
            # What the pool owns goes after it by itself.
            return None
        try:
            pool = parse(manifest, JobWorkerPool)
            await self._bring_about(pool, manifest)
        except PassingError:
            raise
        except OperatorError as failure:
            newest = self._objects.get(POOL_KIND, key) or manifest
            await self._reporter.write_status(newest, [Condition.failed(conditions.READY, failure)])
            raise
        scaling = pool.spec.autoscaling
        return UNSCALED_ROUND_SECONDS if scaling.mode is ScalingMode.OFF else scaling.sample_interval_seconds

    async def _bring_about(self, pool: JobWorkerPool, manifest: Manifest) -> None:
        queue_manifest = await self._find_queue(pool)
        queue = parse(queue_manifest, JobQueue)
        provider = provider_of(queue, self._providers)
        if refusal := pool_refusal(pool, provider.name, provider.limits):
            raise refusal
        deployment = self._owned_deployment(pool)
        if deployment is None:
            await self._reporter.require_existence(manifest)
        if deployment is None and not _is_bound(queue_manifest):
            # Its pods would wait for the binding Secret, and longer than needed once it is there.
            raise _queue_failure(queue_manifest) or _queue_pending(queue.key.name)
        redis_failure = await self._redis.failure(pool)
        if deployment is None and redis_failure is not None:
            # As above: a kubelet that misses a Secret takes its time to look again.
            raise redis_failure
        sample, sampling_failure = await self._sample(pool)
        decision = self._decide(pool, deployment, sample)
        manifest = await self._write_replicas(pool, manifest, decision)
        applied = await self._apply_deployment(pool, queue, provider, deployment, decision)
        await self._keep_autoscaler(pool)
        facts = PoolFacts(
            decision=decision,
            sample=sample,
            deployment=self._owned_deployment(pool) or applied,
            pods=self._cluster.pods(pool.key),
            queue_failure=_queue_failure(queue_manifest),
            redis_failure=redis_failure,
            scaling_failure=scaling_failure(
                pool, decision, self._cluster.autoscalers(pool.key), self._metrics_api_failure()
            )
            or sampling_failure,
            ceiling=provider.ceiling(_provider_status(queue_manifest, provider), pool, decision.desired_replicas),
        )
        await self._report(pool, manifest, facts)

    async def _find_queue(self, pool: JobWorkerPool) -> Manifest:
        # After a start the watch may show pools before their queues: a queue is missing when the API says so.
        queue = self._objects.get(QUEUE_KIND, pool.queue_key) or await self._cluster.get(
            f"{GROUP}/{VERSION}", QUEUE_KIND, pool.queue_key
        )
        if queue is None:
            raise TransientError(
                "QueueNotFound",
                f"namespace {pool.queue_key.namespace} has no JobQueue {pool.queue_key.name}: create it, "
                "or make a pool that names another one",
            )
        return queue

    async def _sample(self, pool: JobWorkerPool) -> tuple[Sample | None, OperatorError | None]:
        scaling = pool.spec.autoscaling
        place = self._observations.place(pool.queue_key)
        if scaling.mode is ScalingMode.OFF:
            return None, None
        if place is None:
            return None, TransientError("DepthUnknown", f"JobQueue {pool.queue_key.name} is not in order")
        try:
            sample = await self._sampling.sample(
                pool.queue_key,
                place,
                self._cluster.pods(pool.key),
                max_age_seconds=scaling.sample_interval_seconds,
            )
        except OperatorError as failure:
            return None, failure
        self._observations.remember_sample(pool.queue_key, sample)
        return sample, None

    def _decide(self, pool: JobWorkerPool, deployment: Manifest | None, sample: Sample | None) -> Decision:
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

    async def _write_replicas(self, pool: JobWorkerPool, manifest: Manifest, decision: Decision) -> Manifest:
        """Write the pool's own number, and whose zero it is, where they are not as decided."""
        wanted = decision.desired_replicas, decision.scaled_to_zero
        if wanted == (pool.spec.replicas, pool.is_marked_as_our_zero):
            return manifest
        written = await self._cluster.scale_pool(manifest, decision.desired_replicas, marked=decision.scaled_to_zero)
        self._reporter.remember(written)
        return written

    async def _apply_deployment(
        self,
        pool: JobWorkerPool,
        queue: JobQueue,
        provider: AnyProvider,
        deployment: Manifest | None,
        decision: Decision,
    ) -> Manifest:
        wanted = worker_deployment(
            pool,
            queue,
            provider_environment=provider.worker_environment(queue),
            replicas=decision.desired_replicas,
            image=self._image,
            image_pull_policy=self._image_pull_policy,
        )
        try:
            return await self._applier.apply(DEPLOYMENT, pool, wanted, deployment)
        except RefusedError as refusal:
            if refusal.reason != "Invalid" or not pool.spec.template:
                raise
            raise RefusedError("InvalidTemplate", f"spec.template does not fit: {refusal.message}") from None

    async def _keep_autoscaler(self, pool: JobWorkerPool) -> None:
        """Ours exists in mode HPA alone, and not while the annotation stops scaling."""
        ours = (autoscaler for autoscaler in self._cluster.autoscalers(pool.key) if pool.owns(autoscaler))
        autoscaler = next(ours, None)
        if pool.spec.autoscaling.mode is ScalingMode.HPA and not pool.paused:
            await self._applier.apply(AUTOSCALER, pool, pool_autoscaler(pool), autoscaler)
        elif autoscaler is not None:
            await self._applier.delete(AUTOSCALER, pool)

    def _owned_deployment(self, pool: JobWorkerPool) -> Manifest | None:
        deployment = self._cluster.deployment(pool.key)
        return deployment if deployment is not None and pool.owns(deployment) else None

    async def _report(self, pool: JobWorkerPool, manifest: Manifest, facts: PoolFacts) -> None:
        now = self._clock.now()
        decision = facts.decision
        before = manifest.get("status") or {}
        is_rescaled = before.get("replicas", 0) != decision.desired_replicas
        fields = pool_numbers(pool, facts)
        if is_rescaled:
            fields["lastScaleTime"] = conditions.timestamp(now)
            await self._reporter.tell(manifest, EventType.NORMAL, decision.reason, decision.message)
        limit = facts.ceiling
        if limit is not None and limit.message not in _limited(manifest):
            await self._reporter.tell(manifest, EventType.WARNING, limit.reason, limit.message)
        is_other_reason = before.get("scaling", {}).get("reason") != decision.reason
        if is_rescaled or is_other_reason or self._are_signals_due(pool.key, now):
            fields["scaling"] = scaling_status(facts)
            self._signals_told[pool.key] = now
        await self._reporter.write_status(manifest, pool_conditions(pool, facts), fields)

    def _are_signals_due(self, key: ObjectKey, now: datetime) -> bool:
        told = self._signals_told.get(key)
        return told is None or now - told >= SIGNALS_STEP

    def _forget(self, key: ObjectKey) -> None:
        self._observations.forget_pool(key)
        self._signals_told.pop(key, None)
        self._redis.forget(key)
        self._applier.forget(key)


def _limited(manifest: Manifest) -> str:
    """What the condition ScalingLimited says."""
    limited = conditions.find(conditions_of(manifest), conditions.SCALING_LIMITED)
    return "" if limited is None else str(limited["message"])


def _is_bound(queue_manifest: Manifest) -> bool:
    return "binding" in (queue_manifest.get("status") or {})


def _provider_status(queue_manifest: Manifest, provider: AnyProvider) -> Manifest:
    """The provider's own part of a JobQueue's status."""
    return (queue_manifest.get("status") or {}).get(block_name(provider.name)) or {}


def _queue_failure(queue_manifest: Manifest) -> OperatorError | None:
    """Why a queue can't be used, by its own condition."""
    name = key_of(queue_manifest).name
    ready = conditions.find(conditions_of(queue_manifest), conditions.READY)
    if ready is None:
        return _queue_pending(name)
    if ready["status"] != "True":
        return TransientError("QueueNotReady", f"JobQueue {name}: {ready['reason']}: {ready['message']}")
    return None


def _queue_pending(name: str) -> OperatorError:
    return TransientError(QUEUE_PENDING, f"JobQueue {name} is being provisioned")
