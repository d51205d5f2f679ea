"""What reconciling needs from the outside, as Protocols; `composition` picks who fills them.

Every method raises `core.model.OperatorError` (Transient, Refused, Conflict) and nothing of a client library's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from headrace_operator.core.model import EventType, ObjectKey, Reading, SecretContent, WorkerPod
    from headrace_operator.core.provider import Place

    Manifest = Mapping[str, Any]


class Clock(Protocol):
    """The time."""

    def now(self) -> datetime:
        """The wall clock, in UTC."""
        ...


class Cluster(Protocol):
    """The Kubernetes API, as far as reconciling uses it."""

    async def identity(self) -> str:
        """What tells this cluster from others, for as long as it lives."""
        ...

    async def secret(self, key: ObjectKey) -> SecretContent | None:
        """One Secret, read by name; None where there is none."""
        ...

    async def get(self, api_version: str, kind: str, key: ObjectKey) -> Manifest | None:
        """Any object that we own or reconcile; None where there is none."""
        ...

    async def apply(self, manifest: Manifest) -> Manifest:
        """Server-side apply with our field manager, forced, with strict field validation."""
        ...

    async def delete(self, api_version: str, kind: str, key: ObjectKey) -> None:
        """Delete, in the background; nothing happens where there is none."""
        ...

    async def patch_status(self, owner: Manifest, status: Mapping[str, Any]) -> Manifest:
        """Merge-patch the status of a JobQueue or JobWorkerPool; lists are replaced whole. Returns the object.

        Raises ConflictError where the object isn't as `owner` shows it any more, or another one has its name.
        """
        ...

    async def scale_pool(self, pool: Manifest, replicas: int, *, marked: bool) -> Manifest:
        """Write a JobWorkerPool's number of workers and whether it is a zero of ours, at once, and return the pool.

        Nothing is written where the pool isn't as `pool` shows it any more.

        Raises ConflictError where somebody wrote to the pool since, a user's number perhaps.
        """
        ...

    async def scale_deployment(self, pool: ObjectKey, replicas: int) -> Manifest:
        """Write the number of the Deployment of a pool's name, and nothing else of it; returns the Deployment."""
        ...

    async def set_finalizer(self, kind: str, key: ObjectKey, finalizer: str, *, present: bool) -> None:
        """Add or remove one finalizer, guarded against concurrent writers; gone objects are fine."""
        ...

    async def record_event(self, owner: Manifest, event_type: EventType, reason: str, message: str) -> None:
        """An Event on the object; what is told again for the same reason is told by the same one, for some minutes.

        Losing one never fails a reconcile.
        """
        ...

    def pods(self, pool: ObjectKey) -> Sequence[WorkerPod]:
        """The pool's pods, from the watch."""
        ...

    def deployment(self, pool: ObjectKey) -> Manifest | None:
        """The Deployment that is labelled as this pool's, from the watch."""
        ...

    def deployments(self) -> Iterable[tuple[ObjectKey, Manifest]]:
        """The Deployments that are labelled as any pool's, with the pool, from the watch."""
        ...

    def autoscalers(self, pool: ObjectKey) -> Sequence[Manifest]:
        """The HorizontalPodAutoscalers that scale the pool or its Deployment, whoever made them, from the watch."""
        ...


class Sampling(Protocol):
    """The depth of queues, read in the background: a look reads memory, and never waits for a backend or a pod."""

    def follow(self, queue: ObjectKey, place: Place) -> None:
        """Read this queue from now on; another place replaces it, and what was read of the old one is dropped."""
        ...

    def forget(self, queue: ObjectKey) -> None:
        """Read it no more."""
        ...

    def reading(self, queue: ObjectKey) -> Reading | None:
        """The newest reading, from memory; None before the first attempt."""
        ...
