"""The reconcilers with their work queues: they are shown objects, and look after them by themselves.

What stands behind the ports is the caller's: a Kubernetes API, or one machine.
"""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from headrace_operator.core.model import OperatorError, PassingError
from headrace_operator.core.queue_status import NUMBERS_STEP
from headrace_operator.reconcile.gate import Gate
from headrace_operator.reconcile.objects import POOL_KIND, QUEUE_KIND, ObjectStore, key_of
from headrace_operator.reconcile.pool import PoolReconciler
from headrace_operator.reconcile.queue import QueueReconciler
from headrace_operator.reconcile.secrets import Secrets, SecretUser
from headrace_operator.reconcile.work_queue import WorkQueue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from headrace_operator.core.model import ObjectKey
    from headrace_operator.core.provider import Providers
    from headrace_operator.core.rollout import OperatorRelease
    from headrace_operator.reconcile.observations import Observations
    from headrace_operator.reconcile.ports import Clock, Cluster, Sampling

    Manifest = Mapping[str, Any]

logger = logging.getLogger(__name__)

STUCK_SECONDS = 120.0
"""Keys that wait, or writes that the watch does not show, for so long: a restart is the cure."""

RESYNC_SECONDS = 600.0
"""After about so long an object is looked at for which there was no reason: whatever we missed ends then."""

_HEED_SECONDS = 5.0


class Controllers:
    """Looks after JobQueues and JobWorkerPools, inside `running`.

    Parameters
    ----------
    observe
        Is told of every look: the kind, how many seconds it took, and the error that ended it.

    Attributes
    ----------
    gate
        While it is closed, objects are looked at only so far that depths are read and autoscalers are told of them:
        nothing is written.
    """

    def __init__(
        self,
        clock: Clock,
        observations: Observations,
        observe: Callable[[str, float, Exception | None], None] = lambda *_: None,
    ) -> None:
        self.objects = ObjectStore()
        self.gate = Gate()
        self._clock = clock
        self._observations = observations
        self._observe = observe
        self._secrets: Secrets | None = None
        self._look: dict[str, Callable[[ObjectKey], Awaitable[float | None]]] = {}
        self._stand_by = dict(self._look)
        # Queues that wait for their databases must not keep pools waiting.
        self._work = {kind: self._work_queue(kind) for kind in (QUEUE_KIND, POOL_KIND)}
        self.gate.watch(self._gate_changed)

    def show(self, manifest: Manifest) -> None:
        """The watch shows an object."""
        kind, key = manifest["kind"], key_of(manifest)
        is_first = self.objects.get(kind, key) is None
        if self.objects.seen(manifest):
            self._work[kind].add(key)
        if is_first and kind == QUEUE_KIND:
            # They may have waited for it.
            self._wake_pools(key)

    def show_gone(self, manifest: Manifest) -> None:
        """The watch shows that an object is deleted."""
        self.objects.gone(manifest)
        kind, key = manifest["kind"], key_of(manifest)
        if self._secrets is not None and self.objects.get(kind, key) is None:
            self._secrets.forget(SecretUser(kind, key))
        self._work[kind].add(key)

    def show_pool_change(self, pool: ObjectKey) -> None:
        """The pool's Deployment, autoscalers or pods have changed; it may be no pool of ours, or not be there yet."""
        if self.objects.get(POOL_KIND, pool) is not None:
            self._work[POOL_KIND].add(pool)

    def show_news(self, queue: ObjectKey, is_urgent: bool) -> None:
        """A queue's sample has changed; urgently, where it was lost or found, or there is something to start or not."""
        if is_urgent:
            self._work[QUEUE_KIND].add(queue, is_urgent=True)
        else:
            # For the numbers in its status, which are written so often at most.
            self._work[QUEUE_KIND].add_within(queue, NUMBERS_STEP.total_seconds())
        self._wake_pools(queue, is_urgent=is_urgent)

    @property
    def waiting_looks(self) -> Mapping[str, Callable[[], int]]:
        """By kind, what tells how many objects wait for their look."""
        return {kind: work.waiting for kind, work in self._work.items()}

    def health_problem(self) -> str | None:
        """Why the process should be restarted."""
        for kind, work in self._work.items():
            if (seconds := work.stuck_seconds()) > STUCK_SECONDS:
                return f"{kind} objects have waited for {seconds:.0f} s"
        if (seconds := self.objects.watch_lag_seconds(self._clock.now().timestamp())) > STUCK_SECONDS:
            return f"the watch has not shown our own writes for {seconds:.0f} s"
        return None

    @asynccontextmanager
    async def running(
        self,
        *,
        cluster: Cluster,
        providers: Providers,
        sampling: Sampling,
        as_seen_from_here: Callable[[str, str], str],
        release: OperatorRelease,
        metrics_api_failure: Callable[[], OperatorError | None],
    ) -> AsyncIterator[None]:
        """Work inside the block. The parameters are those of the reconcilers."""
        self._secrets = secrets = Secrets(cluster, self._clock, self._wake_user)
        queues = QueueReconciler(
            cluster=cluster,
            secrets=secrets,
            providers=providers,
            sampling=sampling,
            objects=self.objects,
            clock=self._clock,
            gate=self.gate,
            wake=self._work[QUEUE_KIND].add,
            wake_pools=self._wake_pools,
            look_within=self._work[QUEUE_KIND].add_within,
            as_seen_from_here=as_seen_from_here,
        )
        pools = PoolReconciler(
            cluster=cluster,
            secrets=secrets,
            sampling=sampling,
            objects=self.objects,
            observations=self._observations,
            clock=self._clock,
            providers=providers,
            release=release,
            metrics_api_failure=metrics_api_failure,
            look_within=self._work[POOL_KIND].add_within,
        )
        self._look = {QUEUE_KIND: queues.reconcile, POOL_KIND: pools.reconcile}
        self._stand_by = {QUEUE_KIND: queues.stand_by, POOL_KIND: pools.stand_by}
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(secrets.watching())
            await stack.enter_async_context(queues.running())
            for work in self._work.values():
                await stack.enter_async_context(work.running())
            await stack.enter_async_context(self._heeding(metrics_api_failure))
            yield

    @asynccontextmanager
    async def _heeding(self, metrics_api_failure: Callable[[], OperatorError | None]) -> AsyncIterator[None]:
        """Look at all pools when autoscalers can no more read depths, or can again: nothing else tells them."""

        def failure() -> str | None:
            found = metrics_api_failure()
            return None if found is None else found.message

        async def heed() -> None:
            before = failure()
            while True:
                await asyncio.sleep(_HEED_SECONDS)
                if failure() != before:
                    before = failure()
                    for pool in self.objects.keys(POOL_KIND):
                        self._work[POOL_KIND].add(pool)

        async with asyncio.TaskGroup() as group:
            task = group.create_task(heed(), name="heed-metrics-api")
            try:
                yield
            finally:
                task.cancel()

    def _work_queue(self, kind: str) -> WorkQueue[ObjectKey]:
        def secrets() -> Secrets:
            assert self._secrets is not None, "looks are taken inside `running`"
            return self._secrets

        async def look(key: ObjectKey) -> float | None:
            user = SecretUser(kind, key)
            try:
                seconds = await (self._look if self.gate.is_open else self._stand_by)[kind](key)
            except OperatorError as error:
                if not isinstance(error, PassingError):
                    secrets().doubt(user)
                raise
            if self.objects.get(kind, key) is None:
                return seconds
            # At different times, whatever was looked at together.
            resync_seconds = RESYNC_SECONDS * random.uniform(0.8, 1.2)  # noqa: S311 - nobody guesses it
            return resync_seconds if seconds is None else min(seconds, resync_seconds)

        def observe(key: ObjectKey, seconds: float, error: Exception | None) -> None:
            self._observe(kind, seconds, error)
            _log_look(kind, key, error)

        return WorkQueue(look, observe, share_of=lambda key: key.namespace)

    def _gate_changed(self) -> None:
        """What was looked at from this side of the gate is looked at from the other."""
        for kind, work in self._work.items():
            work.give_up_looks()
            for key in self.objects.keys(kind):
                work.add(key)

    def _wake_user(self, user: SecretUser) -> None:
        """A Secret that the object's spec names has changed."""
        if self.objects.get(user.kind, user.key) is not None:
            self._work[user.kind].add(user.key)

    def _wake_pools(self, queue: ObjectKey, *, is_urgent: bool = False) -> None:
        for pool in self.objects.pools_of(queue):
            self._work[POOL_KIND].add(pool, is_urgent=is_urgent)


def _log_look(kind: str, key: ObjectKey, error: Exception | None) -> None:
    match error:
        case None:
            logger.debug("%s %s: looked at", kind, key)
        case OperatorError():
            # The transition into this state was logged as such; every further attempt would only repeat it.
            logger.debug("%s %s: %s: %s", kind, key, error.reason, error.message)
        case _:
            logger.error("%s %s: an unexpected error", kind, key, exc_info=error)
