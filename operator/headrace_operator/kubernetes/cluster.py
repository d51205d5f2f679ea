"""Fills `reconcile.ports.Cluster` with the Kubernetes API."""

from __future__ import annotations

import asyncio
import base64
import itertools
import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from headrace_operator.core.model import (
    FIELD_MANAGER,
    GROUP,
    POOL_LABEL,
    SCALED_TO_ZERO_ANNOTATION,
    VERSION,
    ConflictError,
    ObjectKey,
    RefusedError,
    SecretContent,
    TransientError,
)
from headrace_operator.kubernetes.api import APPLY_PATCH, JSON_PATCH, MERGE_PATCH, collection_path, object_path
from headrace_operator.kubernetes.events import Events
from headrace_operator.kubernetes.informer import Informer
from headrace_operator.kubernetes.objects import (
    merge_patch,
    pool_by_label,
    pool_by_scale_target,
    trim_autoscaler,
    trim_deployment,
    worker_pod,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from headrace_operator.core.model import EventType, WorkerPod
    from headrace_operator.kubernetes.api import KubernetesApi

    Manifest = Mapping[str, Any]

logger = logging.getLogger(__name__)

_API_VERSION = f"{GROUP}/{VERSION}"


class KubernetesCluster:
    """The cluster, inside an `async with` block: entered once what is watched is known.

    Parameters
    ----------
    namespaces
        What to watch; empty for all.
    on_pool_change
        Called with a pool whose Deployment, autoscalers or pods have changed.
    """

    def __init__(
        self, api: KubernetesApi, *, namespaces: Sequence[str], on_pool_change: Callable[[ObjectKey], None]
    ) -> None:
        self._api = api
        self._events = Events(api)
        self._identity: str | None = None
        self._deployments: list[Informer[dict[str, Any]]] = []
        self._autoscalers: list[Informer[dict[str, Any]]] = []
        self._pods: list[Informer[WorkerPod]] = []
        self._watching = AsyncExitStack()
        for namespace in namespaces or (None,):
            self._deployments.append(
                Informer(
                    api,
                    collection_path("apps/v1", "Deployment", namespace),
                    group=pool_by_label,
                    convert=trim_deployment,
                    on_change=on_pool_change,
                    label_selector=POOL_LABEL,
                )
            )
            self._pods.append(
                Informer(
                    api,
                    collection_path("v1", "Pod", namespace),
                    group=pool_by_label,
                    convert=worker_pod,
                    on_change=on_pool_change,
                    label_selector=POOL_LABEL,
                )
            )
            # All of them: one of somebody else's on a pool is what we want to know of.
            self._autoscalers.append(
                Informer(
                    api,
                    collection_path("autoscaling/v2", "HorizontalPodAutoscaler", namespace),
                    group=pool_by_scale_target,
                    convert=trim_autoscaler,
                    on_change=on_pool_change,
                )
            )

    async def __aenter__(self) -> Self:
        informers: list[Informer[Any]] = [*self._deployments, *self._autoscalers, *self._pods]
        for informer in informers:
            task = asyncio.create_task(informer.run(), name="informer")
            self._watching.push_async_callback(_stop, task)
        try:
            await asyncio.gather(*(informer.synced.wait() for informer in informers))
        except BaseException:
            await self._watching.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._watching.aclose()

    async def identity(self) -> str:
        """See `reconcile.ports.Cluster`: the uid of a namespace that every cluster has, and keeps."""
        if self._identity is None:
            namespace = await self._api.request("GET", "/api/v1/namespaces/kube-system")
            self._identity = str(namespace["metadata"]["uid"])
        return self._identity

    async def secret(self, key: ObjectKey) -> SecretContent | None:
        """See `reconcile.ports.Cluster`."""
        manifest = await self._api.find(object_path("v1", "Secret", key))
        if manifest is None:
            return None
        return SecretContent(
            version=manifest["metadata"]["resourceVersion"],
            data={name: base64.b64decode(value) for name, value in (manifest.get("data") or {}).items()},
        )

    async def get(self, api_version: str, kind: str, key: ObjectKey) -> Manifest | None:
        """See `reconcile.ports.Cluster`."""
        return await self._api.find(object_path(api_version, kind, key))

    async def apply(self, manifest: Manifest) -> Manifest:
        """See `reconcile.ports.Cluster`."""
        metadata = manifest["metadata"]
        key = ObjectKey(metadata["namespace"], metadata["name"])
        return await self._api.request(
            "PATCH",
            object_path(manifest["apiVersion"], manifest["kind"], key),
            query={"fieldManager": FIELD_MANAGER, "force": "true", "fieldValidation": "Strict"},
            body=manifest,
            content_type=APPLY_PATCH,
        )

    async def delete(self, api_version: str, kind: str, key: ObjectKey) -> None:
        """See `reconcile.ports.Cluster`."""
        try:
            await self._api.request(
                "DELETE", object_path(api_version, kind, key), body={"propagationPolicy": "Background"}
            )
        except TransientError as error:
            if error.reason != "NotFound":
                raise

    async def patch_status(self, owner: Manifest, status: Mapping[str, Any]) -> Manifest:
        """See `reconcile.ports.Cluster`."""
        metadata = owner["metadata"]
        path = object_path(_API_VERSION, owner["kind"], ObjectKey(metadata["namespace"], metadata["name"]))
        # The version makes it a conflict where a namesake came since; a uid is not looked at in a patch of the status.
        before = owner.get("status") or {}
        changes = {name: merge_patch(before.get(name), value) for name, value in status.items()}
        patch = {"metadata": {"resourceVersion": metadata["resourceVersion"]}, "status": changes}
        return await self._patch(f"{path}/status", patch, MERGE_PATCH)

    async def scale_pool(self, pool: Manifest, replicas: int, *, marked: bool) -> Manifest:
        """See `reconcile.ports.Cluster`."""
        metadata = pool["metadata"]
        path = object_path(_API_VERSION, pool["kind"], ObjectKey(metadata["namespace"], metadata["name"]))
        # The version makes it a conflict where a user's number, or an autoscaler's, came in between. Not by /scale: it
        # takes no annotation, and number and mark must not come apart.
        annotations = {SCALED_TO_ZERO_ANNOTATION: "true" if marked else None}
        patch = {
            "metadata": {"resourceVersion": metadata["resourceVersion"], "annotations": annotations},
            "spec": {"replicas": replicas},
        }
        return await self._patch(path, patch, MERGE_PATCH)

    async def scale_deployment(self, pool: ObjectKey, replicas: int) -> Manifest:
        """See `reconcile.ports.Cluster`."""
        path = object_path("apps/v1", "Deployment", pool)
        # Rules that judge Deployments as a whole don't stand in a number's way here.
        await self._patch(f"{path}/scale", {"spec": {"replicas": replicas}}, MERGE_PATCH)
        return await self._api.request("GET", path)

    async def set_finalizer(self, kind: str, key: ObjectKey, finalizer: str, *, present: bool) -> None:
        """See `reconcile.ports.Cluster`."""
        path = object_path(_API_VERSION, kind, key)
        manifest = await self._api.find(path)
        finalizers: list[str] = (manifest or {}).get("metadata", {}).get("finalizers") or []
        if manifest is None or present == (finalizer in finalizers):
            return
        wanted = [*finalizers, finalizer] if present else [other for other in finalizers if other != finalizer]
        patch = [
            {"op": "test", "path": "/metadata/resourceVersion", "value": manifest["metadata"]["resourceVersion"]},
            {"op": "add", "path": "/metadata/finalizers", "value": wanted},
        ]
        try:
            await self._patch(path, patch, JSON_PATCH)
        except RefusedError as refusal:
            # A test that fails is answered like a wrong object.
            raise ConflictError("Conflict", refusal.message) from None

    async def record_event(self, owner: Manifest, event_type: EventType, reason: str, message: str) -> None:
        """See `reconcile.ports.Cluster`."""
        await self._events.record(owner, event_type, reason, message)

    def pods(self, pool: ObjectKey) -> Sequence[WorkerPod]:
        """See `reconcile.ports.Cluster`."""
        return [pod for informer in self._pods for pod in informer.members(pool)]

    def deployment(self, pool: ObjectKey) -> Manifest | None:
        """See `reconcile.ports.Cluster`."""
        found = [deployment for informer in self._deployments for deployment in informer.members(pool)]
        return next((deployment for deployment in found if deployment["metadata"]["name"] == pool.name), None)

    def deployments(self) -> Iterable[tuple[ObjectKey, Manifest]]:
        """See `reconcile.ports.Cluster`."""
        everything = itertools.chain.from_iterable(informer.everything() for informer in self._deployments)
        return ((pool, each) for pool, each in everything if each["metadata"]["name"] == pool.name)

    def autoscalers(self, pool: ObjectKey) -> Sequence[Manifest]:
        """See `reconcile.ports.Cluster`."""
        return [autoscaler for informer in self._autoscalers for autoscaler in informer.members(pool)]

    async def _patch(self, path: str, patch: Any, content_type: str) -> Manifest:
        return await self._api.request(
            "PATCH", path, query={"fieldManager": FIELD_MANAGER}, body=patch, content_type=content_type
        )


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
