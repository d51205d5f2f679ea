"""JobQueues: from the connection's Secret to a provisioned queue, its binding Secret and its depth."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from headrace_operator.core import conditions
from headrace_operator.core.binding import binding_secret
from headrace_operator.core.conditions import Condition
from headrace_operator.core.hosts import seen_from_elsewhere
from headrace_operator.core.limits import queue_refusal
from headrace_operator.core.model import (
    PAUSED_ANNOTATION,
    QUEUE_FINALIZER,
    EventType,
    ObjectKey,
    OperatorError,
    PassingError,
    RefusedError,
    TransientError,
)
from headrace_operator.core.provider import QueueOwner, provider_of
from headrace_operator.core.spec import DeletionPolicy, JobQueue, Resource, block_name, parse
from headrace_operator.reconcile.objects import QUEUE_KIND, key_of
from headrace_operator.reconcile.reporting import Reporter, conditions_of
from headrace_operator.reconcile.secrets import SecretUser

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from headrace_operator.core.binding import QueueBinding
    from headrace_operator.core.model import Sample
    from headrace_operator.core.provider import Place, Providers, Provisioned, SecretKey
    from headrace_operator.reconcile.objects import ObjectStore
    from headrace_operator.reconcile.observations import Observations
    from headrace_operator.reconcile.ports import Clock, Cluster, Sampling
    from headrace_operator.reconcile.secrets import Secrets

    Manifest = Mapping[str, Any]

ROUND_SECONDS = 5.0
"""How often a queue is looked at: what breaks from outside (its Secret, its database) shows within twice this."""

ENSURED_FOR = timedelta(seconds=60)
"""What others do to a queue's tables, or to its binding, is undone within this."""

CLEANUP_PATIENCE = timedelta(seconds=60)
"""How long the deletion of a JobQueue waits for a backend that doesn't answer, before the jobs are left behind."""

AGE_STEP_SECONDS = 30.0
"""An age alone grows with every sample: it is worth a write when it has grown by so much."""


@dataclass(slots=True, kw_only=True)
class _Findings:
    """What one look at a queue has found, as far as it got."""

    conditions: list[Condition] = field(default_factory=list)
    status: dict[str, Any] = field(default_factory=dict)
    sample: Sample | None = None
    failure: OperatorError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ensured:
    """What a queue was made sure of, and when."""

    place: Place
    settings: Mapping[str, Any]
    uid: str
    at: datetime
    provisioned: Provisioned

    def is_good_for(self, place: Place, settings: Mapping[str, Any], uid: str, now: datetime) -> bool:
        """Whether the same is wanted still, and it was not long ago."""
        same = (self.place, self.settings, self.uid) == (place, settings, uid)
        return same and now - self.at < ENSURED_FOR


class QueueReconciler:
    """Looks at JobQueues.

    Parameters
    ----------
    wake_pools
        Called with a queue whose pools should be looked at, since what they depend on has changed.
    as_seen_from_here
        Turns the name of a host that means something to the pods of a namespace into what means the same here.
    """

    def __init__(
        self,
        *,
        cluster: Cluster,
        secrets: Secrets,
        providers: Providers,
        sampling: Sampling,
        objects: ObjectStore,
        observations: Observations,
        clock: Clock,
        wake_pools: Callable[[ObjectKey], None],
        as_seen_from_here: Callable[[str, str], str] = seen_from_elsewhere,
    ) -> None:
        self._cluster = cluster
        self._secrets = secrets
        self._providers = providers
        self._sampling = sampling
        self._objects = objects
        self._observations = observations
        self._clock = clock
        self._wake_pools = wake_pools
        self._as_seen_from_here = as_seen_from_here
        self._reporter = Reporter(cluster, objects, clock)
        self._ensured: dict[ObjectKey, _Ensured] = {}

    async def reconcile(self, key: ObjectKey) -> float | None:
        """Look at one JobQueue; returns after how many seconds to look again.

        Raises
        ------
        OperatorError
            When not all is in order; the conditions say so already.
        """
        manifest = self._objects.get(QUEUE_KIND, key)
        if manifest is None:
            self._forget(key)
            return None
        if parse(manifest, Resource).metadata.deletion_timestamp is not None:
            await self._clean_up(manifest)
            return None
        findings = _Findings()
        try:
            queue = parse(manifest, JobQueue)
            await self._keep_finalizer(queue)
            if refusal := queue_refusal(queue, provider_of(queue, self._providers).limits):
                raise refusal
            await self._provision(queue, manifest, findings)
        except PassingError:
            raise
        except OperatorError as failure:
            findings.failure = failure
            findings.conditions.append(Condition.failed(conditions.PROVISIONED, failure))
        self._observe_depth(key, manifest, findings)
        await self._report(manifest, findings)
        if findings.failure is not None:
            raise findings.failure
        return ROUND_SECONDS

    async def _keep_finalizer(self, queue: JobQueue) -> None:
        """Only Delete needs one: whatever else happens to Headrace, a retained queue's object can always go."""
        wanted = queue.spec.deletion_policy is DeletionPolicy.DELETE
        if wanted != (QUEUE_FINALIZER in queue.metadata.finalizers):
            await self._cluster.set_finalizer(QUEUE_KIND, queue.key, QUEUE_FINALIZER, present=wanted)

    async def _provision(self, queue: JobQueue, manifest: Manifest, findings: _Findings) -> None:
        provider = provider_of(queue, self._providers)
        secrets = await self._read(queue, provider.secrets(queue))
        place = provider.place(queue, secrets, self._seen_from_here(queue))
        ensured = await self._ensure(queue, manifest, place, provider.binding(queue, secrets))
        if self._observations.place(queue.key) != place:
            self._observations.remember_place(queue.key, place)
            self._wake_pools(queue.key)
        findings.conditions.append(
            Condition(
                type=conditions.PROVISIONED,
                status=True,
                reason="Provisioned",
                message=f"{place.label} is there, with the settings of the spec",
            )
        )
        findings.status |= {
            "binding": {"name": queue.binding_name},
            block_name(provider.name): dict(ensured.provisioned.status),
        }

    async def _ensure(self, queue: JobQueue, manifest: Manifest, place: Place, binding: QueueBinding) -> _Ensured:
        """Make sure of the queue and its binding, unless our own reading has vouched for it since we last did."""
        provider = provider_of(queue, self._providers)
        settings = provider.settings(queue)
        now = self._clock.now()
        ensured = self._ensured.get(queue.key)
        if ensured is not None and ensured.is_good_for(place, settings, queue.metadata.uid, now):
            return ensured
        await self._reporter.require_existence(manifest)
        provisioned = await provider.provision(place, _owner(queue), settings, lambda _: None)
        await self._bind(queue, binding)
        if provisioned.changed:
            await self._reporter.tell(manifest, EventType.NORMAL, "Provisioned", provisioned.details)
        ensured = _Ensured(place=place, settings=settings, uid=queue.metadata.uid, at=now, provisioned=provisioned)
        self._ensured[queue.key] = ensured
        return ensured

    async def _read(self, queue: JobQueue, keys: Sequence[SecretKey]) -> dict[SecretKey, bytes]:
        user = SecretUser(QUEUE_KIND, queue.key)
        return {key: (await self._secrets.read(user, key.name, key.key)).content for key in keys}

    def _seen_from_here(self, queue: JobQueue) -> Callable[[str], str]:
        return lambda host: self._as_seen_from_here(host, queue.metadata.namespace)

    async def _bind(self, queue: JobQueue, binding: QueueBinding) -> None:
        wanted = binding_secret(queue, binding)
        key = ObjectKey(queue.metadata.namespace, queue.binding_name)
        existing = await self._cluster.get("v1", "Secret", key)
        if existing is not None and not queue.owns(existing):
            raise RefusedError(
                "NameTaken",
                f"Secret {key.name} exists and isn't this JobQueue's: delete it, or give the JobQueue another name",
            )
        if existing is None or existing.get("data") != wanted["data"]:
            await self._cluster.apply(wanted)

    def _observe_depth(self, key: ObjectKey, manifest: Manifest, findings: _Findings) -> None:
        """The depth wherever the queue was last in order: workers may know it while the backend is away."""
        place = self._observations.place(key)
        if place is None:
            if findings.failure is not None:
                findings.conditions.append(Condition.failed(conditions.SYNCED, findings.failure))
            return
        self._sampling.follow(key, place)
        reading = self._sampling.reading(key)
        if reading is None:
            return
        if reading.failure is not None:
            self._ensured.pop(key, None)
            findings.failure = findings.failure or reading.failure
            findings.conditions.append(Condition.failed(conditions.SYNCED, reading.failure))
            return
        assert reading.sample is not None
        findings.sample = reading.sample
        findings.status |= _depth_status(manifest, reading.sample)
        findings.conditions.append(
            Condition(type=conditions.SYNCED, status=True, reason="DepthKnown", message="the depth is read regularly")
        )

    async def _report(self, manifest: Manifest, findings: _Findings) -> None:
        if findings.failure is None:
            ready = _in_order(manifest, findings.sample)
        else:
            ready = Condition.failed(conditions.READY, findings.failure)
        was_ready = conditions.is_true(conditions_of(manifest), conditions.READY)
        await self._reporter.write_status(manifest, [ready, *findings.conditions], findings.status)
        if was_ready != ready.status:
            self._wake_pools(key_of(manifest))

    async def _clean_up(self, manifest: Manifest) -> None:
        """The JobQueue is being deleted: remove the queue first, where that is wanted."""
        metadata = parse(manifest, Resource).metadata
        if QUEUE_FINALIZER not in metadata.finalizers:
            return
        try:
            queue = parse(manifest, JobQueue)
            if queue.spec.deletion_policy is DeletionPolicy.DELETE:
                provider = provider_of(queue, self._providers)
                await provider.remove(await self._last_place(queue), _owner(queue), lambda _: None)
        except OperatorError as failure:
            assert metadata.deletion_timestamp is not None
            if not self._is_abandoned(metadata.deletion_timestamp):
                await self._reporter.write_status(manifest, [Condition.failed(conditions.READY, failure)])
                raise
            await self._reporter.tell(
                manifest,
                EventType.WARNING,
                "CleanupAbandoned",
                f"the queue and its jobs stay behind in the backend: {failure.message}",
            )
        await self._cluster.set_finalizer(QUEUE_KIND, key_of(manifest), QUEUE_FINALIZER, present=False)

    async def _last_place(self, queue: JobQueue) -> Place:
        """Where the queue is; in a namespace that is being deleted its Secret may be gone before it."""
        provider = provider_of(queue, self._providers)
        try:
            secrets = await self._read(queue, provider.removal_secrets(queue))
            place: Place = provider.place(queue, secrets, self._seen_from_here(queue))
        except TransientError:
            if (remembered := self._observations.place(queue.key)) is not None:
                return remembered
            raise
        return place

    def _is_abandoned(self, deleted_at: datetime) -> bool:
        return self._clock.now() - deleted_at >= CLEANUP_PATIENCE

    def _forget(self, key: ObjectKey) -> None:
        self._sampling.forget(key)
        self._observations.forget_queue(key)
        self._ensured.pop(key, None)
        self._wake_pools(key)


def _owner(queue: JobQueue) -> QueueOwner:
    metadata = queue.metadata
    return QueueOwner(namespace=metadata.namespace, name=metadata.name, uid=metadata.uid)


def _in_order(manifest: Manifest, sample: Sample | None) -> Condition:
    holds = None
    if parse(manifest, Resource).paused:
        holds = f"the annotation {PAUSED_ANNOTATION} holds the queue"
    elif sample is not None and sample.depth.paused:
        holds = "the queue was paused by hand (`headrace queues resume` ends that)"
    if holds is not None:
        message = f"jobs are taken in and none is given out: {holds}"
        return Condition(type=conditions.READY, status=True, reason="Paused", message=message)
    return Condition(
        type=conditions.READY, status=True, reason="Ready", message="producers and workers can use the queue"
    )


def _depth_status(manifest: Manifest, sample: Sample) -> dict[str, Any]:
    """The depth for the status; nothing where it is as it was."""
    before = manifest.get("status") or {}
    depth = {
        "ready": sample.depth.ready,
        "blocked": sample.depth.blocked,
        "delayed": sample.depth.delayed,
        "inFlight": sample.depth.in_flight,
        "deadLettered": sample.depth.dead_lettered,
        "isLowerBound": sample.depth.is_lower_bound,
    }
    age_seconds = round(sample.depth.oldest_ready_age_seconds)
    grown_seconds = abs(age_seconds - before.get("oldestReadyAgeSeconds", 0))
    if before.get("depth") == depth and grown_seconds < AGE_STEP_SECONDS:
        return {}
    if "sampledAt" in before:
        written_at = datetime.fromisoformat(before["sampledAt"])
        if sample.sampled_at - written_at < timedelta(seconds=ROUND_SECONDS):
            return {}
    return {
        "depth": depth,
        "oldestReadyAgeSeconds": age_seconds,
        "sampledAt": conditions.timestamp(sample.sampled_at),
    }
