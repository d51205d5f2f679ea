"""JobQueues: from the connection's Secret to a provisioned queue, its binding Secret and its depth.

A look waits for the Kubernetes API alone: provisioning and removal are `LongWork`, the depth is read by `Sampling`, and
both wake the queue when there is something to see.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from headrace_operator.core import conditions
from headrace_operator.core.hosts import seen_from_elsewhere
from headrace_operator.core.limits import queue_refusal
from headrace_operator.core.model import (
    EventType,
    OperatorError,
    PassingError,
    TransientError,
    awaited,
)
from headrace_operator.core.provider import provider_of
from headrace_operator.core.queue_status import (
    QueueFacts,
    numbers_due_seconds,
    queue_conditions,
    queue_numbers,
    reading_failure,
)
from headrace_operator.core.spec import JobQueue, Resource, block_name, parse
from headrace_operator.reconcile.bindings import Bindings
from headrace_operator.reconcile.followed import FollowedPlaces
from headrace_operator.reconcile.long_work import LongWork, WorkOrder
from headrace_operator.reconcile.objects import QUEUE_KIND, key_of
from headrace_operator.reconcile.places import QueuePlaces
from headrace_operator.reconcile.removal import QueueRemoval
from headrace_operator.reconcile.reporting import Reporter, conditions_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    from headrace_operator.core.binding import QueueBinding
    from headrace_operator.core.model import ObjectKey
    from headrace_operator.core.provider import Place, Providers
    from headrace_operator.reconcile.gate import Gate
    from headrace_operator.reconcile.long_work import Errand
    from headrace_operator.reconcile.objects import ObjectStore
    from headrace_operator.reconcile.ports import Clock, Cluster, Sampling
    from headrace_operator.reconcile.secrets import Secrets

    Manifest = Mapping[str, Any]

ROUND_SECONDS = 30.0
"""How often a queue is looked at in which jobs wait: what breaks in its Secrets shows within twice this."""

WORKING_ROUND_SECONDS = 5.0
"""When one is looked at whose place has begun to be made or adjusted; the end of that wakes it, too."""

FOUND_STANDS = timedelta(seconds=60)
"""An object that the API has shown to be there is taken to be there for so long, unless the watch shows its end."""

BRIEFLY = timedelta(seconds=1)
"""What takes no longer is not worth a word in the status."""


class QueueReconciler:
    """Looks at JobQueues.

    Parameters
    ----------
    gate
        What everything that takes long waits before.
    wake
        Called with a queue that should be looked at, since something of it has changed that no watch shows.
    wake_pools
        Called with a queue whose pools should be looked at, since what they depend on has changed.
    look_within
        Called with a queue and after how many seconds to look at it again at the latest, even if this look fails.
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
        clock: Clock,
        gate: Gate,
        wake: Callable[[ObjectKey], None],
        wake_pools: Callable[[ObjectKey], None],
        look_within: Callable[[ObjectKey, float], None],
        as_seen_from_here: Callable[[str, str], str] = seen_from_elsewhere,
    ) -> None:
        self._providers = providers
        self._sampling = sampling
        self._objects = objects
        self._clock = clock
        self._wake_pools = wake_pools
        self._look_within = look_within
        self._places = QueuePlaces(cluster, secrets, providers, as_seen_from_here)
        self._reporter = Reporter(cluster, objects, clock)
        self._long_work = LongWork(providers, clock, wake, gate)
        self._bindings = Bindings(cluster, clock)
        self._removal = QueueRemoval(
            cluster=cluster,
            reporter=self._reporter,
            clock=clock,
            long_work=self._long_work,
            last_place=self._last_place,
            owner=self._places.owner,
        )
        self._followed = FollowedPlaces(sampling, clock, wake_pools)
        self._uids: dict[ObjectKey, str] = {}
        self._found_at: dict[ObjectKey, datetime] = {}
        """When the API itself has said that the object is there."""

    def running(self) -> AbstractAsyncContextManager[None]:
        """What takes long goes on inside the block."""
        return self._long_work.running()

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
        metadata = parse(manifest, Resource).metadata
        if self._uids.setdefault(key, metadata.uid) != metadata.uid:
            # Made anew since the last look: nothing that is known is known of this one.
            self._forget(key)
            self._uids[key] = metadata.uid
        if metadata.deletion_timestamp is not None:
            return await self._removal.reconcile(manifest)
        status: dict[str, Any] = {}
        facts = QueueFacts(
            paused=parse(manifest, Resource).paused,
            was_in_order="binding" in (manifest.get("status") or {}),
            was_degraded=conditions.is_true(conditions_of(manifest), conditions.DEGRADED),
        )
        try:
            queue = parse(manifest, JobQueue)
            await self._removal.keep_finalizer(queue)
            facts = await self._provision(queue, manifest, facts, status)
        except PassingError:
            raise
        except OperatorError as failure:
            facts = replace(facts, failure=failure)
        facts = self._observe(key, facts)
        seconds = await self._report(manifest, facts, status)
        if facts.work is not None:
            # Its steps and its end wake the queue: a look in between says that it waits, and a thousand may wait.
            is_told = self._clock.now() - facts.work.since >= BRIEFLY
            return seconds if is_told else min(seconds, WORKING_ROUND_SECONDS)
        problem = facts.failure or reading_failure(facts, self._clock.now())
        if problem is not None:
            raise self._awaited(key, problem, of_reading=facts.failure is None)
        sample = None if facts.reading is None else facts.reading.current
        if sample is None or sample.depth.ready or seconds < ROUND_SECONDS:
            # A first reading is awaited, jobs wait and grow older, or there are numbers to write.
            return seconds
        return self._long_work.due_seconds(key)

    def _awaited(self, key: ObjectKey, problem: OperatorError, *, of_reading: bool) -> OperatorError:
        """The problem, tried again when its errand is and not before; with one that sampling tells of likewise."""
        errand, due_seconds = self._long_work.known(key), self._long_work.due_seconds(key)
        if due_seconds is None or not (of_reading or (errand is not None and errand.failure is problem)):
            return problem
        self._look_within(key, due_seconds)
        return awaited(problem)

    async def stand_by(self, key: ObjectKey) -> float | None:
        """Have the depth of a JobQueue read that another process looks after; returns when to look again.

        Only of a place that is bound, and nothing is written.
        """
        manifest = self._objects.get(QUEUE_KIND, key)
        if manifest is None:
            self._forget(key)
            return None
        queue = parse(manifest, JobQueue)
        read = await self._places.read(queue)
        binding = read.binding(queue.found)
        if binding is None:
            return ROUND_SECONDS
        if self._bindings.revision(queue, binding) is not None or await self._bindings.is_there(queue, binding):
            self._followed.follow(key, read.place())
        return ROUND_SECONDS

    async def _provision(
        self, queue: JobQueue, manifest: Manifest, facts: QueueFacts, status: dict[str, Any]
    ) -> QueueFacts:
        """Have the place made or adjusted where that is due, and bind it once it is as wanted."""
        provider = provider_of(queue, self._providers)
        if refusal := queue_refusal(queue, provider.limits):
            raise refusal
        read = await self._places.read(queue)
        try:
            place, binding = read.place(), read.binding(queue.found)
        except OperatorError as failure:
            # It is for the spec or a Secret to mend, and both ask for a look when they change.
            raise awaited(failure) from None
        is_new_to_us = facts.was_in_order and self._followed.get(queue.key) is None
        if is_new_to_us and binding is not None and await self._bindings.is_there(queue, binding):
            # We have just started, and all is as it was: its depth need not wait for its turn to be made sure of.
            self._followed.follow(queue.key, place)
        order = WorkOrder(
            provider=provider.name,
            place=place,
            owner=await self._places.owner(queue),
            settings=provider.settings(queue),
        )
        reading = self._sampling.reading(queue.key)
        if reading is not None and reading.failure is not None:
            self._long_work.doubt(queue.key)
        elif reading is not None:
            self._long_work.trust(queue.key)
        if self._long_work.is_due(queue.key, order):
            await self._require_existence(manifest)
        errand = self._long_work.ask(queue.key, order)
        facts = replace(facts, label=place.label)
        if errand.work is not None:
            failure_before = errand.failure_before if errand.step is None else None
            return replace(facts, work=errand.work, failure=failure_before)
        if errand.failure is not None:
            raise errand.failure
        assert errand.provisioned is not None
        provisioned = errand.provisioned
        binding = read.binding(provisioned.status)
        assert binding is not None, "it was provisioned"
        status |= await self._bind(queue, manifest, binding, errand)
        depth = None if reading is None or reading.current is None else reading.current.depth
        found = [*provisioned.findings, *provider.findings(provisioned.status, depth)]
        return replace(facts, findings=list({finding.reason: finding for finding in found}.values()))

    async def _require_existence(self, manifest: Manifest) -> None:
        """See that the object is still there; but once a minute will do, however often its place is tried in vain."""
        key, now = key_of(manifest), self._clock.now()
        seen_at = self._found_at.get(key)
        if seen_at is None or now - seen_at >= FOUND_STANDS:
            await self._reporter.require_existence(manifest)
            self._found_at[key] = now

    async def _bind(self, queue: JobQueue, manifest: Manifest, binding: QueueBinding, errand: Errand) -> dict[str, Any]:
        """Make known what was provisioned; returns what the status says of it."""
        assert errand.provisioned is not None
        key, place = queue.key, errand.order.place
        followed = self._followed.get(key)
        revision = self._bindings.revision(queue, binding)
        if revision is None or followed is None or followed.bound_for != errand.ended_at:
            before = (manifest.get("status") or {}).get("binding") or {}
            revision = await self._bindings.bring_about(queue, binding, before)
            is_news = self._followed.bound(key, place, errand.ended_at)
            if is_news and errand.provisioned.changed:
                await self._reporter.tell(manifest, EventType.NORMAL, "Provisioned", errand.provisioned.details)
        return {
            "binding": {"name": queue.binding_name, "revision": revision},
            block_name(queue.spec.provider): dict(errand.provisioned.status),
        }

    def _observe(self, key: ObjectKey, facts: QueueFacts) -> QueueFacts:
        """What is known of the depth, wherever the queue was last in order: workers may know it without the backend."""
        followed = self._followed.get(key)
        if followed is None:
            return facts
        return replace(facts, reading=self._sampling.reading(key), followed_since=followed.since)

    async def _report(self, manifest: Manifest, facts: QueueFacts, status: dict[str, Any]) -> float:
        """Write what has changed; returns after how many seconds there may be more to write."""
        now = self._clock.now()
        if facts.work is not None and facts.work.step is None and now - facts.work.since < BRIEFLY:
            # It has only just begun, and mostly it ends in a moment: then there is more to say.
            return ROUND_SECONDS
        changes = queue_conditions(facts, now)
        sample = None if facts.reading is None else facts.reading.current
        due_seconds = numbers_due_seconds(manifest.get("status") or {}, sample)
        is_due = due_seconds is not None and (due_seconds == 0 or self._reporter.would_change(manifest, changes))
        if is_due and sample is not None:
            status |= queue_numbers(sample)
            due_seconds = None
        written = await self._reporter.write_status(manifest, changes, status)
        if _shown_to_pools(manifest) != _shown_to_pools(written):
            self._wake_pools(key_of(manifest))
        return ROUND_SECONDS if due_seconds is None else min(due_seconds, ROUND_SECONDS)

    async def _last_place(self, queue: JobQueue) -> Place:
        """Where the queue is; in a namespace that is being deleted its Secret may be gone before it."""
        try:
            return (await self._places.read_to_remove(queue)).place()
        except TransientError:
            if (followed := self._followed.get(queue.key)) is not None:
                return followed.place
            raise

    def _forget(self, key: ObjectKey) -> None:
        self._long_work.forget(key)
        self._bindings.forget(key)
        self._removal.forget(key)
        self._followed.forget(key)
        self._uids.pop(key, None)
        self._found_at.pop(key, None)
        self._wake_pools(key)


def _shown_to_pools(manifest: Manifest) -> Any:
    """What pools read of the queue's status: its binding, and why it can't be used."""
    ready = conditions.find(conditions_of(manifest), conditions.READY)
    is_ready = ready is not None and ready["status"] == "True"
    why = None if ready is None or is_ready else (ready["reason"], ready["message"])
    return (manifest.get("status") or {}).get("binding"), is_ready, why
