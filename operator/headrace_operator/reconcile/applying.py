"""What a pool owns: applied where it isn't as wanted, and left alone where it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace_operator.core.model import ObjectKey, RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headrace_operator.core.spec import JobWorkerPool
    from headrace_operator.reconcile.ports import Cluster

    Manifest = Mapping[str, Any]

DEPLOYMENT = ("apps/v1", "Deployment")
AUTOSCALER = ("autoscaling/v2", "HorizontalPodAutoscaler")


class Applier:
    """Applies objects that have their pool's name."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._applied: dict[tuple[str, ObjectKey], tuple[Manifest, int | None]] = {}
        """What was last applied, and the generation that this made: neither has changed, so nothing is to be done."""

    async def apply(
        self, api_kind: tuple[str, str], pool: JobWorkerPool, wanted: Manifest, live: Manifest | None
    ) -> Manifest:
        """Apply where it was not, or where somebody has changed it since; never over what isn't ours."""
        api_version, kind = api_kind
        if live is None:
            existing = await self._cluster.get(api_version, kind, pool.key)
            if existing is not None and not pool.owns(existing):
                raise RefusedError(
                    "NameTaken",
                    f"{kind} {pool.key.name} exists and isn't this pool's: delete it, or give the pool another name",
                )
        elif self._applied.get((kind, pool.key)) == (wanted, live["metadata"].get("generation")):
            return live
        applied = await self._cluster.apply(wanted)
        self._applied[kind, pool.key] = wanted, applied["metadata"].get("generation")
        return applied

    async def delete(self, api_kind: tuple[str, str], pool: JobWorkerPool) -> None:
        """Delete what is ours."""
        await self._cluster.delete(*api_kind, pool.key)
        self._applied.pop((api_kind[1], pool.key), None)

    def forget(self, pool: ObjectKey) -> None:
        """The pool is gone, and what it owned goes after it."""
        for _, kind in (DEPLOYMENT, AUTOSCALER):
            self._applied.pop((kind, pool), None)
