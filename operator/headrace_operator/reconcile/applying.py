"""What a pool owns: applied where it isn't as wanted, and left alone where it is."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from headrace_operator.core.lean import shared
from headrace_operator.core.model import ObjectKey, RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headrace_operator.core.spec import JobWorkerPool, Resource
    from headrace_operator.reconcile.ports import Cluster

    Manifest = Mapping[str, Any]

DEPLOYMENT = ("apps/v1", "Deployment")
AUTOSCALER = ("autoscaling/v2", "HorizontalPodAutoscaler")

_METADATA = ("uid", "generation", "ownerReferences", "annotations")
_STATUS = ("readyReplicas", "observedGeneration", "conditions")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Applied:
    """What was last applied, and what our writes have made of it."""

    wanted: bytes
    """A digest of it, without the number of replicas, which is carried over by itself."""
    left: Manifest
    """Of the object as our last write has left it, what is read of it: with this generation, nothing is to be done."""
    generation: int
    """That our last apply has left."""


class Applier:
    """Applies objects that have their pool's name."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._applied: dict[tuple[str, ObjectKey], _Applied] = {}

    def newest(self, api_kind: tuple[str, str], pool: Resource, live: Manifest | None) -> Manifest | None:
        """The watch's object, or ours where the watch is behind our own write."""
        applied = self._applied.get((api_kind[1], pool.key))
        if live is None or applied is None or not pool.owns(applied.left):
            return live
        is_same = live["metadata"].get("uid") == applied.left["metadata"].get("uid")
        return applied.left if is_same and _generation(live) < _generation(applied.left) else live

    def applied_generation(self, api_kind: tuple[str, str], pool: Resource) -> int | None:
        """That our last apply has left; None where there was none since we started."""
        applied = self._applied.get((api_kind[1], pool.key))
        return None if applied is None else applied.generation

    async def apply(
        self, api_kind: tuple[str, str], pool: JobWorkerPool, wanted: Manifest, live: Manifest | None
    ) -> None:
        """Apply where it was not, or where somebody has changed it since; never over what isn't ours."""
        api_version, kind = api_kind
        digest = _digest(wanted)
        if live is None:
            existing = await self._cluster.get(api_version, kind, pool.key)
            if existing is not None and not pool.owns(existing):
                raise RefusedError(
                    "NameTaken",
                    f"{kind} {pool.key.name} exists and isn't this pool's: delete it, or give the pool another name",
                )
        elif (
            (applied := self._applied.get((kind, pool.key))) is not None
            and applied.wanted == digest
            and _is_the_same(applied.left, live)
        ):
            return
        left = await self._cluster.apply(wanted)
        self._applied[kind, pool.key] = _Applied(wanted=digest, left=_kept(left), generation=_generation(left))

    async def scale_deployment(self, pool: Resource, live: Manifest, replicas: int) -> None:
        """Write the number of the pool's Deployment, and nothing else of it."""
        left = await self._cluster.scale_deployment(pool.key, replicas)
        applied = self._applied.get(("Deployment", pool.key))
        if applied is not None and _generation(applied.left) == _generation(live) == _generation(left) - 1:
            # The step is our number alone: nobody has changed the rest, which need not be applied again.
            self._applied["Deployment", pool.key] = replace(applied, left=_kept(left))

    async def delete(self, api_kind: tuple[str, str], pool: JobWorkerPool) -> None:
        """Delete what is ours."""
        await self._cluster.delete(*api_kind, pool.key)
        self._applied.pop((api_kind[1], pool.key), None)

    def forget(self, pool: ObjectKey) -> None:
        """The pool is gone, and what it owned goes after it."""
        for _, kind in (DEPLOYMENT, AUTOSCALER):
            self._applied.pop((kind, pool), None)


def _digest(wanted: Manifest) -> bytes:
    numberless = {**wanted, "spec": {name: value for name, value in wanted["spec"].items() if name != "replicas"}}
    return hashlib.blake2b(json.dumps(numberless, sort_keys=True).encode(), digest_size=16).digest()


def _kept(manifest: Manifest) -> Manifest:
    """As little as the watch keeps: thousands of these are held."""
    metadata, spec, status = manifest["metadata"], manifest["spec"], manifest.get("status") or {}
    kept = {
        "metadata": {name: metadata[name] for name in _METADATA if name in metadata},
        "spec": spec if _is_autoscaler(manifest) else {"replicas": spec.get("replicas")},
        "status": {name: status[name] for name in _STATUS if name in status},
    }
    return shared(kept)


def _is_the_same(left: Manifest, live: Manifest) -> bool:
    """Whether nobody has changed it since."""
    if _generation(left) != _generation(live):
        return False
    # Of an autoscaler older Kubernetes counts no generations.
    return not _is_autoscaler(live) or bool(left["spec"] == live["spec"])


def _is_autoscaler(manifest: Manifest) -> bool:
    return "scaleTargetRef" in manifest["spec"]


def _generation(manifest: Manifest) -> int:
    generation: int = manifest["metadata"].get("generation", 0)
    return generation
