# ruff: noqa: ARG002 - ports have arguments that one machine does not need
"""Fills `reconcile.ports.Cluster` with the objects of the manifests, in memory."""

from __future__ import annotations

import base64
import copy
import itertools
import socket
from typing import TYPE_CHECKING, Any

from headrace_operator.core.model import (
    SCALED_TO_ZERO_ANNOTATION,
    ConflictError,
    ObjectKey,
    SecretContent,
    TransientError,
)
from headrace_operator.local.pod import Sources
from headrace_operator.reconcile.objects import POOL_KIND, QUEUE_KIND, key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from headrace_operator.core.model import EventType, WorkerPod
    from headrace_operator.local.manifests import Manifests
    from headrace_operator.local.replicas import Replicas

    Manifest = Mapping[str, Any]


class LocalCluster:
    """The objects, and the processes that stand for pods.

    Parameters
    ----------
    replicas
        Is told of every Deployment.
    show
        Is shown every state of a JobQueue and a JobWorkerPool, as by a watch.
    """

    def __init__(self, manifests: Manifests, replicas: Replicas, show: Callable[[Manifest], None]) -> None:
        self.sources = Sources(secret=self._secret, config_map=manifests.config_maps.get)
        self._secrets = dict(manifests.secrets)
        self._replicas = replicas
        self._show = show
        self._objects: dict[tuple[str, ObjectKey], dict[str, Any]] = {}
        self._versions = itertools.count(1)

    def put(self, manifest: Manifest) -> None:
        """A user's object."""
        self._store(manifest)

    async def identity(self) -> str:
        """See `reconcile.ports.Cluster`."""
        # Whatever folder it works in: the next run is to find its queues again, and another machine's are none of ours.
        return f"laptop/{socket.gethostname()}"

    async def secret(self, key: ObjectKey) -> SecretContent | None:
        """See `reconcile.ports.Cluster`. Those of the manifests never change."""
        data = self._secret(key)
        made = self._objects.get(("Secret", key), {"metadata": {"resourceVersion": "0"}})
        return None if data is None else SecretContent(version=made["metadata"]["resourceVersion"], data=data)

    async def get(self, api_version: str, kind: str, key: ObjectKey) -> Manifest | None:
        """See `reconcile.ports.Cluster`."""
        return copy.deepcopy(self._objects.get((kind, key)))

    async def apply(self, manifest: Manifest) -> Manifest:
        """See `reconcile.ports.Cluster`."""
        stored = self._store(manifest)
        if manifest["kind"] == "Deployment":
            self._replicas.bring_about(stored, self.sources)
        return stored

    async def delete(self, api_version: str, kind: str, key: ObjectKey) -> None:
        """See `reconcile.ports.Cluster`."""
        self._objects.pop((kind, key), None)

    async def patch_status(self, owner: Manifest, status: Mapping[str, Any]) -> Manifest:
        """See `reconcile.ports.Cluster`. Here nobody else writes, and no object comes after another."""
        before = self._find(owner["kind"], key_of(owner))
        return self._store({**before, "status": {**before.get("status", {}), **status}})

    async def scale_pool(self, pool: Manifest, replicas: int, *, marked: bool) -> Manifest:
        """See `reconcile.ports.Cluster`."""
        before = self._find(POOL_KIND, key_of(pool))
        if before["metadata"]["resourceVersion"] != pool["metadata"]["resourceVersion"]:
            raise ConflictError("Conflict", f"JobWorkerPool {key_of(pool)} was changed meanwhile")
        mark = {SCALED_TO_ZERO_ANNOTATION: "true"} if marked else {}
        kept = before["metadata"].get("annotations", {}).items()
        others = {name: value for name, value in kept if name != SCALED_TO_ZERO_ANNOTATION}
        metadata = {**before["metadata"], "annotations": others | mark}
        return self._store({**before, "metadata": metadata, "spec": {**before["spec"], "replicas": replicas}})

    async def scale_deployment(self, pool: ObjectKey, replicas: int) -> Manifest:
        """See `reconcile.ports.Cluster`."""
        before = self._find("Deployment", pool)
        return await self.apply({**before, "spec": {**before["spec"], "replicas": replicas}})

    async def set_finalizer(self, kind: str, key: ObjectKey, finalizer: str, *, present: bool) -> None:
        """See `reconcile.ports.Cluster`."""
        before = self._find(kind, key)
        others = [other for other in before["metadata"].get("finalizers", []) if other != finalizer]
        finalizers = [*others, finalizer] if present else others
        self._store({**before, "metadata": {**before["metadata"], "finalizers": finalizers}})

    async def record_event(self, owner: Manifest, event_type: EventType, reason: str, message: str) -> None:
        """See `reconcile.ports.Cluster`. The log says the same, and here it is all that is looked at."""

    def pods(self, pool: ObjectKey) -> Sequence[WorkerPod]:
        """See `reconcile.ports.Cluster`."""
        return self._replicas.pods(pool)

    def deployment(self, pool: ObjectKey) -> Manifest | None:
        """See `reconcile.ports.Cluster`."""
        stored = self._objects.get(("Deployment", pool))
        if stored is None:
            return None
        ready = sum(pod.ready for pod in self._replicas.pods(pool))
        return {**copy.deepcopy(stored), "status": {"readyReplicas": ready}}

    def deployments(self) -> Iterable[tuple[ObjectKey, Manifest]]:
        """See `reconcile.ports.Cluster`."""
        return [(key, stored) for (kind, key), stored in self._objects.items() if kind == "Deployment"]

    def autoscalers(self, pool: ObjectKey) -> Sequence[Manifest]:
        """See `reconcile.ports.Cluster`. There are none."""
        return ()

    def _secret(self, key: ObjectKey) -> Mapping[str, bytes] | None:
        made = self._objects.get(("Secret", key))
        if made is not None:
            return {name: base64.b64decode(value) for name, value in made["data"].items()}
        return self._secrets.get(key)

    def _find(self, kind: str, key: ObjectKey) -> dict[str, Any]:
        try:
            return self._objects[kind, key]
        except KeyError:
            raise TransientError("NotFound", f"there is no {kind} {key}") from None

    def _store(self, manifest: Manifest) -> dict[str, Any]:
        """Keep an object's new state; returns a copy of it, with its version."""
        place = manifest["kind"], key_of(manifest)
        before = self._objects.get(place, {})
        stored = copy.deepcopy(dict(manifest))
        generation = before.get("metadata", {}).get("generation", 0)
        if before.get("spec") != stored.get("spec"):
            generation += 1
        stored["metadata"] |= {"generation": generation, "resourceVersion": str(next(self._versions))}
        self._objects[place] = stored
        if manifest["kind"] in (QUEUE_KIND, POOL_KIND):
            self._show(copy.deepcopy(stored))
        return copy.deepcopy(stored)
