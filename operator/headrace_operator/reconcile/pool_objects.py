"""What a pool owns, brought about: its Deployment, by number and by template, and its autoscaler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace_operator.core.deployment import worker_deployment
from headrace_operator.core.hpa import autoscaler_of_deployment, pool_autoscaler
from headrace_operator.core.model import RefusedError
from headrace_operator.core.rollout import (
    ASKED_ANNOTATION,
    MADE_ANNOTATION,
    NOT_READY,
    READY,
    RELEASE_ANNOTATION,
    Cause,
    Rollout,
    RolloutProgress,
    Stage,
    asked_digest,
    cause_of_change,
    is_ready,
    made_digest,
    marks,
    progress_of,
    stage_after_turn,
    stage_before_turn,
)
from headrace_operator.core.spec import ScalingMode
from headrace_operator.reconcile.applying import AUTOSCALER, DEPLOYMENT, Applier
from headrace_operator.reconcile.rollouts import Rollouts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from headrace_operator.core.deployment import WorkedQueue
    from headrace_operator.core.model import ObjectKey
    from headrace_operator.core.rollout import OperatorRelease
    from headrace_operator.core.spec import JobWorkerPool, Resource
    from headrace_operator.reconcile.ports import Cluster

    Manifest = Mapping[str, Any]


class PoolObjects:
    """Brings pools' objects about.

    Parameters
    ----------
    release
        What pools are given.
    wake
        Called with a pool whose turn to be changed has come.
    """

    def __init__(self, cluster: Cluster, release: OperatorRelease, wake: Callable[[ObjectKey], None]) -> None:
        self._cluster = cluster
        self._applier = Applier(cluster)
        self._release = release
        self._rollouts = Rollouts(cluster, release.pools_at_once, wake)

    def deployment(self, pool: Resource) -> Manifest | None:
        """The pool's own Deployment: as the watch shows it, or as our last write to it has left it."""
        live = self._cluster.deployment(pool.key)
        return self._applier.newest(DEPLOYMENT, pool, live if live is not None and pool.owns(live) else None)

    def number(self, pool: JobWorkerPool, replicas: int) -> int:
        """The number that the Deployment is to have: the pool's own, or what an autoscaler of somebody else's writes.

        In mode Off the user may have one; where it scales the Deployment and not the pool, both would write for ever.
        """
        deployment = self.deployment(pool)
        if pool.spec.autoscaling.mode is not ScalingMode.OFF or deployment is None:
            return replicas
        foreign = autoscaler_of_deployment(pool, self._cluster.autoscalers(pool.key))
        theirs: int = deployment["spec"].get("replicas", 1)
        return replicas if foreign is None else theirs

    async def carry_number(self, pool: Resource, replicas: int) -> None:
        """Give the Deployment the pool's number, whatever becomes of the rest of it."""
        deployment = self.deployment(pool)
        if deployment is not None and deployment["spec"].get("replicas") != replicas:
            await self._applier.scale_deployment(pool, deployment, replicas)

    async def apply(
        self, pool: JobWorkerPool, queues: Sequence[WorkedQueue], secret_revisions: Mapping[str, str], replicas: int
    ) -> Rollout:
        """Make the Deployment what the pool's spec says, unless it is a new release alone that says it differently.

        Then it waits for its turn, but for a pool at zero, which loses nothing.

        Raises
        ------
        OperatorError
            ``NameTaken``; ``InvalidTemplate`` where the API server won't take the pool's template; or whatever else
            the API server says.
        """
        wanted = worker_deployment(
            pool,
            queues,
            replicas=replicas,
            image=self._release.image,
            image_pull_policy=self._release.image_pull_policy,
            secret_revisions=secret_revisions,
        )
        live = self.deployment(pool)
        asked, made = asked_digest(pool, queues, secret_revisions), made_digest(wanted)
        cause = cause_of_change(live, asked, made)
        annotations = {ASKED_ANNOTATION: asked, MADE_ANNOTATION: made}
        if live is not None and cause is Cause.NONE:
            annotations |= marks(live, self._progress(pool, live))
        if live is not None and cause is Cause.RELEASE and replicas:
            self._rollouts.put(pool.key, stage_before_turn(live, self._progress(pool, live)))
            if not self._rollouts.has_turn(pool.key):
                stopped_by = self._rollouts.stopped_by(pool.key)
                return Rollout(progress=RolloutProgress.COMPLETE, is_waiting=True, stopped_by=stopped_by)
            # Before anything is awaited: the turn is taken.
            self._rollouts.put(pool.key, Stage.UNDER_WAY)
            annotations[RELEASE_ANNOTATION] = READY if is_ready(live) else NOT_READY
        wanted["metadata"]["annotations"] = annotations
        try:
            await self._applier.apply(DEPLOYMENT, pool, wanted, live)
        except RefusedError as failure:
            if failure.reason == "Invalid" and pool.spec.template:
                raise RefusedError("InvalidTemplate", f"spec.template does not fit: {failure.message}") from None
            raise
        left = self.deployment(pool)
        progress = RolloutProgress.UNDER_WAY if left is None else self._progress(pool, left)
        self._rollouts.put(pool.key, None if left is None else stage_after_turn(left, progress))
        return Rollout(progress=progress)

    def pass_over(self, pool: Resource) -> None:
        """The pool's workers can't be changed at present: it waits for no turn. What has begun goes on by itself."""
        live = self.deployment(pool)
        self._rollouts.put(pool.key, None if live is None else stage_after_turn(live, self._progress(pool, live)))

    def _progress(self, pool: Resource, deployment: Manifest) -> RolloutProgress:
        return progress_of(deployment, since_generation=self._applier.applied_generation(DEPLOYMENT, pool))

    async def keep_autoscaler(self, pool: JobWorkerPool) -> None:
        """Ours exists in mode HPA alone, and not while the annotation stops scaling."""
        ours = (autoscaler for autoscaler in self._cluster.autoscalers(pool.key) if pool.owns(autoscaler))
        autoscaler = next(ours, None)
        if pool.spec.autoscaling.mode is ScalingMode.HPA and not pool.paused:
            await self._applier.apply(AUTOSCALER, pool, pool_autoscaler(pool), autoscaler)
        elif autoscaler is not None:
            await self._applier.delete(AUTOSCALER, pool)

    def forget(self, pool: ObjectKey) -> None:
        """The pool is gone, and what it owned goes after it."""
        self._applier.forget(pool)
        self._rollouts.put(pool, None)
