"""JobQueues that are being deleted: their queues go first where that is wanted, and after a minute in any case."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from headrace_operator.core import conditions
from headrace_operator.core.conditions import Condition
from headrace_operator.core.model import QUEUE_FINALIZER, EventType, OperatorError, PassingError, TransientError
from headrace_operator.core.queue_status import REMOVING, at_work
from headrace_operator.core.spec import DeletionPolicy, JobQueue, Resource, parse
from headrace_operator.reconcile.long_work import WorkOrder
from headrace_operator.reconcile.objects import QUEUE_KIND, key_of
from headrace_operator.reconcile.reporting import conditions_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from datetime import datetime

    from headrace_operator.core.model import ObjectKey
    from headrace_operator.core.provider import Place, QueueOwner
    from headrace_operator.reconcile.long_work import Errand, LongWork
    from headrace_operator.reconcile.ports import Clock, Cluster
    from headrace_operator.reconcile.reporting import Reporter

    Manifest = Mapping[str, Any]

CLEANUP_PATIENCE = timedelta(seconds=60)
"""How long the deletion of a JobQueue waits for its backend, before the jobs are left behind."""

FIRST_ATTEMPT = timedelta(seconds=5)
"""What is found to have waited for so long already, by an operator that starts, is tried for this long."""

ROUND_SECONDS = 5.0
"""How often one that waits is looked at."""


class QueueRemoval:
    """Looks at JobQueues that are being deleted.

    Parameters
    ----------
    last_place
        Where a queue is, as well as that is known.
    owner
        Whose a queue's place is.
    """

    def __init__(
        self,
        *,
        cluster: Cluster,
        reporter: Reporter,
        clock: Clock,
        long_work: LongWork,
        last_place: Callable[[JobQueue], Awaitable[Place]],
        owner: Callable[[JobQueue], Awaitable[QueueOwner]],
    ) -> None:
        self._cluster = cluster
        self._reporter = reporter
        self._clock = clock
        self._long_work = long_work
        self._last_place = last_place
        self._owner = owner
        self._seen_at: dict[ObjectKey, datetime] = {}
        self._abandoned: set[ObjectKey] = set()

    async def keep_finalizer(self, queue: JobQueue) -> None:
        """Only Delete needs one: whatever else happens to Headrace, a retained queue's object can always go."""
        wanted = queue.spec.deletion_policy is DeletionPolicy.DELETE
        if wanted != (QUEUE_FINALIZER in queue.metadata.finalizers):
            await self._cluster.set_finalizer(QUEUE_KIND, queue.key, QUEUE_FINALIZER, present=wanted)

    async def reconcile(self, manifest: Manifest) -> float | None:
        """Look at one; returns after how many seconds to look again.

        Raises
        ------
        OperatorError
            Why the queue is not removed yet; the condition says so already.
        """
        metadata = parse(manifest, Resource).metadata
        if QUEUE_FINALIZER not in metadata.finalizers:
            return None
        assert metadata.deletion_timestamp is not None
        patience = self._patience(key_of(manifest), metadata.deletion_timestamp)
        if patience <= timedelta():
            # Whatever the removal is at, the object is kept no longer.
            await self._end(manifest)
            return None
        try:
            errand = await self._remove(manifest)
        except PassingError:
            raise
        except OperatorError as failure:
            await self._reporter.write_status(manifest, [Condition.failed(conditions.READY, failure)])
            # Nothing is waited for longer than the patience: the object goes then, whoever should have mended what.
            raise TransientError(failure.reason, failure.message) from None
        if errand is not None and errand.work is not None:
            if errand.work.step is not None:
                await self._reporter.write_status(manifest, [at_work(conditions.READY, errand.work, REMOVING)])
            return min(ROUND_SECONDS, patience.total_seconds())
        await self._let_go(manifest, errand)
        return None

    def forget(self, key: ObjectKey) -> None:
        """The object is gone."""
        self._seen_at.pop(key, None)
        self._abandoned.discard(key)

    def _patience(self, key: ObjectKey, deleted_at: datetime) -> timedelta:
        now = self._clock.now()
        seen_at = self._seen_at.setdefault(key, now)
        return max(deleted_at + CLEANUP_PATIENCE, seen_at + FIRST_ATTEMPT) - now

    async def _remove(self, manifest: Manifest) -> Errand | None:
        """Have the queue removed; None where it is to stay."""
        queue = parse(manifest, JobQueue)
        if queue.spec.deletion_policy is not DeletionPolicy.DELETE:
            return None
        order = WorkOrder(
            provider=queue.spec.provider,
            place=await self._last_place(queue),
            owner=await self._owner(queue),
            settings=None,
        )
        errand = self._long_work.ask(queue.key, order)
        if errand.order == order and errand.failure is not None:
            raise errand.failure
        return errand

    async def _end(self, manifest: Manifest) -> None:
        """Let the object go, and say what stays behind, if anything was to be removed."""
        key = key_of(manifest)
        errand = self._long_work.known(key)
        if errand is not None and errand.order.settings is None and errand.ended_at and errand.failure is None:
            await self._let_go(manifest, errand)
            return
        if not _is_to_stay(manifest) and key not in self._abandoned:
            self._abandoned.add(key)
            self._long_work.forget(key)
            message = f"the queue and its jobs stay behind in the backend: {_why(manifest, errand)}"
            await self._reporter.tell(manifest, EventType.WARNING, "CleanupAbandoned", message)
        await self._let_go(manifest, None)

    async def _let_go(self, manifest: Manifest, errand: Errand | None) -> None:
        if errand is not None and not errand.is_told:
            errand.is_told = True
            await self._tell(manifest, errand)
        await self._cluster.set_finalizer(QUEUE_KIND, key_of(manifest), QUEUE_FINALIZER, present=False)

    async def _tell(self, manifest: Manifest, errand: Errand) -> None:
        label = errand.order.place.label
        if errand.removed is None:
            await self._reporter.tell(
                manifest,
                EventType.WARNING,
                "NotRemoved",
                f"{label} is not there, or isn't this JobQueue's any more: nothing was removed",
            )
        else:
            number, is_approximate = errand.removed
            jobs = f"{'about ' if is_approximate else ''}{number} {'job' if number == 1 else 'jobs'}"
            await self._reporter.tell(manifest, EventType.NORMAL, "Removed", f"{label} is removed, with {jobs}")


def _is_to_stay(manifest: Manifest) -> bool:
    try:
        return parse(manifest, JobQueue).spec.deletion_policy is not DeletionPolicy.DELETE
    except OperatorError:
        return False


def _why(manifest: Manifest, errand: Errand | None) -> str:
    """What kept it from being removed."""
    if errand is not None and errand.work is not None and errand.work.step is not None:
        return errand.work.step
    if errand is not None and errand.failure is not None:
        return errand.failure.message
    ready = conditions.find(conditions_of(manifest), conditions.READY)
    return "the backend had no time for it" if ready is None or ready["status"] == "True" else str(ready["message"])
