"""What a pool owns, brought about: its Deployment, by number and by template, and its autoscaler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace_operator.core.deployment import worker_deployment
from headrace_operator.core.hpa import autoscaler_of_deployment, pool_autoscaler
from headrace_operator.core.model import RefusedError
from headrace_operator.core.spec import ScalingMode
from headrace_operator.reconcile.applying import AUTOSCALER, DEPLOYMENT, Applier

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headrace_operator.core.deployment import WorkedQueue
    from headrace_operator.core.model import ObjectKey
    from headrace_operator.core.spec import JobWorkerPool
    from headrace_operator.reconcile.ports import Cluster

    Manifest = Mapping[str, Any]


class PoolObjects:
    """Brings pools' objects about.

    Parameters
    ----------
    image, image_pull_policy
        What pools run that name no image of their own.
    """

    def __init__(self, cluster: Cluster, *, image: str, image_pull_policy: str | None) -> None:
        self._cluster = cluster
        self._applier = Applier(cluster)
        self._image = image
        self._image_pull_policy = image_pull_policy

    def deployment(self, pool: JobWorkerPool) -> Manifest | None:
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

    async def carry_number(self, pool: JobWorkerPool, replicas: int) -> None:
        """Give the Deployment the pool's number, whatever becomes of the rest of it."""
        deployment = self.deployment(pool)
        if deployment is not None and deployment["spec"].get("replicas") != replicas:
            await self._applier.scale_deployment(pool, deployment, replicas)

    async def apply(self, pool: JobWorkerPool, queues: Sequence[WorkedQueue], replicas: int) -> None:
        """Make the Deployment what the pool's spec says.

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
            image=self._image,
            image_pull_policy=self._image_pull_policy,
        )
        try:
            await self._applier.apply(DEPLOYMENT, pool, wanted, self.deployment(pool))
        except RefusedError as refusal:
            if refusal.reason != "Invalid" or not pool.spec.template:
                raise
            raise RefusedError("InvalidTemplate", f"spec.template does not fit: {refusal.message}") from None

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
