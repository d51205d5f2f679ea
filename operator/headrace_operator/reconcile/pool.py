"""JobWorkerPools: from the queue's depth to a number of workers, and from that to a Deployment and an autoscaler.

A look takes its steps one after another, whatever became of those before: a template that is refused keeps nobody's
number from being carried out, least of all a zero by hand, and what is known is always reported.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from headrace_operator.core import conditions
from headrace_operator.core.conditions import Condition
from headrace_operator.core.deployment import WorkedQueue
from headrace_operator.core.limits import pool_refusal
from headrace_operator.core.model import (
    GROUP,
    VERSION,
    AwaitedError,
    EventType,
    ObjectKey,
    OperatorError,
    RefusedError,
)
from headrace_operator.core.pool_status import (
    NOT_COMING_UP,
    QUEUE_PENDING,
    PoolFacts,
    pool_conditions,
    pool_numbers,
    scaling_failure,
    scaling_status,
)
from headrace_operator.core.provider import provider_of
from headrace_operator.core.spec import JobQueue, JobWorkerPool, NumberedPool, Resource, block_name, parse
from headrace_operator.reconcile.decisions import PoolDecisions
from headrace_operator.reconcile.objects import POOL_KIND, QUEUE_KIND, key_of
from headrace_operator.reconcile.pool_objects import PoolObjects
from headrace_operator.reconcile.pool_secrets import secret_revisions
from headrace_operator.reconcile.reporting import Reporter, conditions_of
from headrace_operator.reconcile.steps import Step, StepsByPool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from headrace_operator.core.provider import AnyProvider, Providers
    from headrace_operator.core.rollout import OperatorRelease, Rollout
    from headrace_operator.core.scaling import Decision, Limit
    from headrace_operator.reconcile.objects import ObjectStore
    from headrace_operator.reconcile.observations import Observations
    from headrace_operator.reconcile.ports import Clock, Cluster, Sampling
    from headrace_operator.reconcile.secrets import Secrets
    from headrace_operator.reconcile.steps import Steps

    Manifest = Mapping[str, Any]

ROUND_SECONDS = 30.0
"""How often a pool that has workers is looked at when nothing is due: should its queues be read no more, nobody tells
of that. At zero there is nothing to lose."""

SIGNALS_STEP = timedelta(seconds=30)
"""Signals change with every sample, and metrics show them: they are written so often at most, unless the decision
changes."""


Found = TypeVar("Found")


class _Queue(NamedTuple):
    """A queue that a pool works on."""

    manifest: Manifest
    spec: JobQueue
    provider: AnyProvider


class PoolReconciler:
    """Looks at JobWorkerPools.

    Parameters
    ----------
    providers
        The table of them.
    release
        What pools are given.
    metrics_api_failure
        Why HorizontalPodAutoscalers can't read the depth of queues; None where they can.
    look_within
        Called with a pool and after how many seconds to look at it again at the latest, even if this look fails.
    """

    def __init__(
        self,
        *,
        cluster: Cluster,
        secrets: Secrets,
        sampling: Sampling,
        objects: ObjectStore,
        observations: Observations,
        clock: Clock,
        providers: Providers,
        release: OperatorRelease,
        metrics_api_failure: Callable[[], OperatorError | None],
        look_within: Callable[[ObjectKey, float], None],
    ) -> None:
        self._cluster = cluster
        self._objects = objects
        self._observations = observations
        self._clock = clock
        self._providers = providers
        self._metrics_api_failure = metrics_api_failure
        self._look_within = look_within
        self._reporter = Reporter(cluster, objects, clock)
        self._decisions = PoolDecisions(cluster, sampling, objects, observations, self._reporter, clock)
        self._owned = PoolObjects(cluster, release, wake=lambda pool: look_within(pool, 0.0))
        self._secrets = secrets
        self._steps = StepsByPool(clock)
        self._signals_told: dict[ObjectKey, datetime] = {}

    async def reconcile(self, key: ObjectKey) -> float | None:
        """Look at one JobWorkerPool; returns after how many seconds to look again, unless `look_within` said so.

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
            self._owned.forget(key)
            return None
        try:
            pool = parse(manifest, JobWorkerPool)
        except OperatorError as failure:
            # What it wanted before may be wrong by now: an autoscaler that is told nothing holds.
            self._observations.forget_pool(key)
            await self._reporter.write_status(manifest, [Condition.failed(conditions.READY, failure)])
            numbered = parse(manifest, NumberedPool)
            self._owned.pass_over(numbered)
            if numbered.spec.replicas is not None:
                await self._owned.carry_number(numbered, numbered.spec.replicas)
            raise
        steps = self._steps.begin(key)
        decision = await self._take(steps, pool, manifest)
        steps.raise_first()
        return ROUND_SECONDS if decision.desired_replicas else None

    async def stand_by(self, key: ObjectKey) -> float | None:
        """Decide, for autoscalers to read, on a JobWorkerPool that another process looks after; as `reconcile` else.

        Nothing is written.
        """
        manifest = self._objects.get(POOL_KIND, key)
        if manifest is None:
            self._forget(key)
            return None
        pool = parse(manifest, JobWorkerPool)
        seen, _ = self._decisions.see(pool)
        self._decisions.decide(pool, self._owned.deployment(pool), seen)
        return ROUND_SECONDS

    async def _take(self, steps: Steps, pool: JobWorkerPool, manifest: Manifest) -> Decision:
        queues: Sequence[_Queue] = ()
        with steps.taking(Step.QUEUE):
            queues = [await self._find_queue(key) for key in pool.queue_keys]
        if not queues and steps.told(Step.QUEUE) is None:
            # The API is away for a moment: whether there is a queue is not known.
            steps.raise_first()
        if self._owned.deployment(pool) is None and queues and all(_is_bound(queue.manifest) for queue in queues):
            # There is something to be made for it.
            await self._reporter.require_existence(manifest)
        seen, sampling_failure = self._decisions.see(pool)
        decision = self._decisions.decide(pool, self._owned.deployment(pool), seen)
        if decision.next_at is not None:
            self._look_within(pool.key, max((decision.next_at - self._clock.now()).total_seconds(), 0.0))
        manifest = await self._decisions.write(pool, manifest, decision)
        replicas = self._owned.number(pool, decision.desired_replicas)
        with steps.taking(Step.NUMBER):
            await self._owned.carry_number(pool, replicas)
        rollout = None
        if queues:
            with steps.taking(Step.WORKERS):
                rollout = await self._apply_workers(pool, queues, replicas)
        if rollout is None:
            self._owned.pass_over(pool)
        if self._owned.deployment(pool) is not None:
            with steps.taking(Step.AUTOSCALER):
                await self._owned.keep_autoscaler(pool)
        facts = PoolFacts(
            decision=decision,
            replicas=replicas,
            samples=[queue.sample for queue in seen if queue.sample is not None],
            deployment=self._owned.deployment(pool),
            pods=self._cluster.pods(pool.key),
            queue_failure=steps.told(Step.QUEUE) or _first(_queue_failure(queue.manifest) for queue in queues),
            rollout=rollout,
            workers_failure=steps.told(Step.WORKERS),
            number_failure=steps.told(Step.NUMBER),
            scaling_failure=scaling_failure(
                pool,
                decision,
                self._cluster.autoscalers(pool.key),
                autoscaler_failure=steps.told(Step.AUTOSCALER),
                metrics_api_failure=self._metrics_api_failure(),
            )
            or sampling_failure,
            ceiling=_first(_ceiling(pool, queue, replicas) for queue in queues),
        )
        await self._report(pool, manifest, facts)
        return decision

    async def _find_queue(self, key: ObjectKey) -> _Queue:
        # After a start the watch may show pools before their queues: a queue is missing when the API says so.
        manifest = self._objects.get(QUEUE_KIND, key) or await self._cluster.get(f"{GROUP}/{VERSION}", QUEUE_KIND, key)
        if manifest is None:
            # When it comes its pools are told.
            raise RefusedError(
                "QueueNotFound",
                f"namespace {key.namespace} has no JobQueue {key.name}: create it, or let the pool name another one",
            )
        queue = parse(manifest, JobQueue)
        return _Queue(manifest, queue, provider_of(queue, self._providers))

    async def _apply_workers(self, pool: JobWorkerPool, queues: Sequence[_Queue], replicas: int) -> Rollout:
        if refusal := _first(pool_refusal(pool, queue.provider.name, queue.provider.limits) for queue in queues):
            raise refusal
        if unbound := _first(queue for queue in queues if not _is_bound(queue.manifest)):
            # Pods would wait for the binding Secret, and longer than needed once it is there.
            raise _queue_failure(unbound.manifest) or _queue_pending(unbound.spec.key.name)
        # As above: a kubelet that misses a Secret takes its time to look again.
        revisions = await secret_revisions(self._secrets, pool)
        return await self._owned.apply(pool, [_worked(queue) for queue in queues], revisions, replicas)

    async def _report(self, pool: JobWorkerPool, manifest: Manifest, facts: PoolFacts) -> None:
        now = self._clock.now()
        decision = facts.decision
        before = manifest.get("status") or {}
        is_rescaled = before.get("desiredReplicas", 0) != decision.desired_replicas
        fields = pool_numbers(pool, facts)
        if is_rescaled:
            fields["lastScaleTime"] = conditions.timestamp(now)
        is_other_reason = before.get("scaling", {}).get("reason") != decision.reason
        if is_rescaled or is_other_reason or self._are_signals_due(pool.key, now):
            fields["scaling"] = scaling_status(facts)
            self._signals_told[pool.key] = now
        elif before.get("scaling") != scaling_status(facts):
            self._look_within(pool.key, (self._signals_told[pool.key] + SIGNALS_STEP - now).total_seconds())
        told = pool_conditions(pool, facts)
        if (seconds := self._decisions.seconds_to_first_readings(pool)) is not None:
            # What the operator said before it was restarted is likelier than that nothing follows the load.
            told = [condition for condition in told if condition.type not in conditions.OF_READINGS]
            fields.pop("scaling", None)
            self._signals_told.pop(pool.key, None)
            self._look_within(pool.key, seconds)
        await self._reporter.write_status(manifest, told, fields)
        # Told once it is written: what was not is found, and told, by the next look.
        if is_rescaled:
            await self._reporter.tell(manifest, EventType.NORMAL, decision.reason, decision.message)
        for condition in told:
            if condition.reason == NOT_COMING_UP != _said(manifest, conditions.UPDATED, "reason"):
                await self._reporter.tell(manifest, EventType.WARNING, condition.reason, condition.message)
        limit = facts.ceiling
        if limit is not None and limit.message not in _said(manifest, conditions.SCALING_LIMITED, "message"):
            await self._reporter.tell(manifest, EventType.WARNING, limit.reason, limit.message)

    def _are_signals_due(self, key: ObjectKey, now: datetime) -> bool:
        told = self._signals_told.get(key)
        return told is None or now - told >= SIGNALS_STEP

    def _forget(self, key: ObjectKey) -> None:
        self._observations.forget_pool(key)
        self._decisions.forget(key)
        self._signals_told.pop(key, None)
        self._owned.forget(key)
        self._steps.forget(key)


def _first(found: Iterable[Found | None]) -> Found | None:
    """The first that is there."""
    return next((each for each in found if each is not None), None)


def _said(manifest: Manifest, condition: str, field: str) -> str:
    """What one of its conditions says; nothing where it has none."""
    found = conditions.find(conditions_of(manifest), condition)
    return "" if found is None else str(found[field])


def _is_bound(queue_manifest: Manifest) -> bool:
    return "binding" in (queue_manifest.get("status") or {})


def _worked(queue: _Queue) -> WorkedQueue:
    revision = queue.manifest["status"]["binding"].get("revision")
    return WorkedQueue(queue.spec, queue.provider.worker_environment(queue.spec), revision)


def _ceiling(pool: JobWorkerPool, queue: _Queue, replicas: int) -> Limit | None:
    """What to say where the pool may have more workers than the queue's backend can take."""
    told = (queue.manifest.get("status") or {}).get(block_name(queue.provider.name)) or {}
    return queue.provider.ceiling(told, pool, replicas)


def _queue_failure(queue_manifest: Manifest) -> OperatorError | None:
    """Why a queue can't be used, by its own condition."""
    name = key_of(queue_manifest).name
    ready = conditions.find(conditions_of(queue_manifest), conditions.READY)
    if ready is None:
        return _queue_pending(name)
    if ready["status"] != "True":
        return AwaitedError("QueueNotReady", f"JobQueue {name}: {ready['reason']}: {ready['message']}")
    return None


def _queue_pending(name: str) -> OperatorError:
    return AwaitedError(QUEUE_PENDING, f"JobQueue {name} is being provisioned")
