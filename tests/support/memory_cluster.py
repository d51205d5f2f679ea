# ruff: noqa: ARG002 - ports have arguments that memory does not need
"""The operator's ports in memory, with a journal of what is written: for the order of writes and for rare mishaps."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import itertools
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from headrace_operator.core.limits import BackendLimits
from headrace_operator.core.model import (
    SCALED_TO_ZERO_ANNOTATION,
    ConflictError,
    EventType,
    Finding,
    ObjectKey,
    OperatorError,
    QueueDepth,
    Reading,
    Sample,
    SampleSource,
    SecretContent,
    TransientError,
    WorkerPod,
)
from headrace_operator.core.provider import Place, Provisioned, QueueOwner, Removed
from headrace_operator.providers.postgres import PostgresProvider
from headrace_operator.providers.postgres.place import PostgresPlace
from headrace_operator.reconcile.objects import ObjectStore, key_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

    from headrace_operator.core.binding import QueueBinding
    from headrace_operator.core.provider import SecretKey
    from headrace_operator.core.spec import JobQueue

Manifest = dict[str, Any]


def _version_of(data: Mapping[str, bytes]) -> str:
    """Another one for another content, of which it shows nothing."""
    return hashlib.sha256(repr(sorted(data.items())).encode()).hexdigest()[:12]


class SetClock:
    """Fills `Clock`; stands until it is moved."""

    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def move(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


class MemoryCluster:
    """Fills `Cluster`. Objects are put in by `put`; `journal` tells what was written, in order."""

    def __init__(self, objects: ObjectStore) -> None:
        self.journal: list[tuple[str, ...]] = []
        self.events: list[tuple[str, str]] = []
        self.told: list[str] = []
        """What the events say."""
        self.secrets: dict[ObjectKey, dict[str, bytes]] = {}
        self.secret_failure: OperatorError | None = None
        self.apply_failures: dict[str, OperatorError] = {}
        """By kind: what the API server answers to an apply."""
        self.secrets_read: list[ObjectKey] = []
        self.got: list[tuple[str, ObjectKey]] = []
        """What was asked for by name: kind and key."""
        self.finalizer_failures = 0
        """How many writes of a finalizer meet somebody else's."""
        self.worker_pods: list[WorkerPod] = []
        self.before_scale: Callable[[], None] = lambda: None
        self._known = objects
        self._objects: dict[tuple[str, ObjectKey], Manifest] = {}
        self._versions = itertools.count(1)

    def put(self, manifest: Mapping[str, Any]) -> Manifest:
        """Somebody writes an object, and the watch shows it."""
        stored = self._store(manifest)
        if stored["kind"] in ("JobQueue", "JobWorkerPool"):
            self._known.seen(copy.deepcopy(stored))
        return stored

    def find(self, kind: str, key: ObjectKey) -> Manifest | None:
        """An object as it stands."""
        return self._objects.get((kind, key))

    @property
    def requests(self) -> int:
        """How often the API was asked for anything."""
        return len(self.journal) + len(self.events) + len(self.secrets_read) + len(self.got)

    async def identity(self) -> str:
        return "here"

    async def secret(self, key: ObjectKey) -> SecretContent | None:
        self.secrets_read.append(key)
        if self.secret_failure is not None:
            raise self.secret_failure
        data = self.secrets.get(key)
        return None if data is None else SecretContent(version=_version_of(data), data=dict(data))

    async def get(self, api_version: str, kind: str, key: ObjectKey) -> Manifest | None:
        self.got.append((kind, key))
        return copy.deepcopy(self._objects.get((kind, key)))

    async def apply(self, manifest: Mapping[str, Any]) -> Manifest:
        if (failure := self.apply_failures.get(manifest["kind"])) is not None:
            raise failure
        self.journal.append(("apply", manifest["kind"], str(manifest.get("spec", {}).get("replicas", ""))))
        before = self._objects.get((manifest["kind"], key_of(manifest)), {})
        kept = {"status": before["status"]} if "status" in before else {}
        return copy.deepcopy(self._store({**manifest, **kept}))

    async def delete(self, api_version: str, kind: str, key: ObjectKey) -> None:
        self.journal.append(("delete", kind))
        self._objects.pop((kind, key), None)

    async def patch_status(self, owner: Mapping[str, Any], status: Mapping[str, Any]) -> Manifest:
        stored = self._objects[owner["kind"], key_of(owner)]
        if stored["metadata"]["resourceVersion"] != owner["metadata"]["resourceVersion"]:
            raise ConflictError("Conflict", "somebody else wrote first")
        self.journal.append(("status", owner["kind"], *sorted(status)))
        return self._write({**stored, "status": {**stored.get("status", {}), **status}})

    async def scale_pool(self, pool: Mapping[str, Any], replicas: int, *, marked: bool) -> Manifest:
        self.before_scale()
        stored = self._objects["JobWorkerPool", key_of(pool)]
        if stored["metadata"]["resourceVersion"] != pool["metadata"]["resourceVersion"]:
            raise ConflictError("Conflict", "somebody else wrote first")
        self.journal.append(("scale", str(replicas), *(["marked"] if marked else [])))
        annotations = {**stored["metadata"].get("annotations", {}), SCALED_TO_ZERO_ANNOTATION: "true"}
        if not marked:
            del annotations[SCALED_TO_ZERO_ANNOTATION]
        metadata = {**stored["metadata"], "annotations": annotations}
        return self._write({**stored, "metadata": metadata, "spec": {**stored["spec"], "replicas": replicas}})

    async def scale_deployment(self, pool: ObjectKey, replicas: int) -> Manifest:
        self.journal.append(("scale Deployment", str(replicas)))
        stored = self._objects["Deployment", pool]
        return self._write({**stored, "spec": {**stored["spec"], "replicas": replicas}})

    async def set_finalizer(self, kind: str, key: ObjectKey, finalizer: str, *, present: bool) -> None:
        if self.finalizer_failures:
            self.finalizer_failures -= 1
            raise ConflictError("Conflict", "somebody else wrote first")
        self.journal.append(("finalizer", finalizer, str(present)))
        stored = self._objects[kind, key]
        self.put({**stored, "metadata": {**stored["metadata"], "finalizers": [finalizer] if present else []}})

    async def record_event(
        self,
        owner: Mapping[str, Any],
        event_type: EventType,
        reason: str,
        message: str,
    ) -> None:
        self.events.append((event_type, reason))
        self.told.append(message)

    def pods(self, pool: ObjectKey) -> Sequence[WorkerPod]:
        return self.worker_pods

    def deployment(self, pool: ObjectKey) -> Manifest | None:
        return self._objects.get(("Deployment", pool))

    def deployments(self) -> Iterable[tuple[ObjectKey, Mapping[str, Any]]]:
        return [(key, stored) for (kind, key), stored in self._objects.items() if kind == "Deployment"]

    def autoscalers(self, pool: ObjectKey) -> Sequence[Manifest]:
        return [
            manifest
            for (kind, _), manifest in self._objects.items()
            if kind == "HorizontalPodAutoscaler" and manifest["spec"]["scaleTargetRef"]["name"] == pool.name
        ]

    def _write(self, manifest: Manifest) -> Manifest:
        """Our own write: the watch has not shown it yet."""
        return copy.deepcopy(self._store(manifest))

    def _store(self, manifest: Mapping[str, Any]) -> Manifest:
        place = manifest["kind"], key_of(manifest)
        before = self._objects.get(place)
        stored: Manifest = copy.deepcopy({**manifest, "metadata": {"uid": f"uid-{place[1]}", **manifest["metadata"]}})
        generation = before["metadata"].get("generation", 0) if before else 0
        if before is None or before.get("spec") != stored.get("spec"):
            generation += 1
        stored["metadata"]["resourceVersion"] = str(next(self._versions))
        # Older Kubernetes counts none of autoscalers.
        if stored["kind"] != "HorizontalPodAutoscaler":
            stored["metadata"]["generation"] = generation
        self._objects[place] = stored
        return stored


class MemoryBackend(PostgresProvider):
    """Provider Postgres without a database, and `Sampling`; `failure` makes both fail."""

    def __init__(self, clock: SetClock) -> None:
        self.depth = QueueDepth()
        self.depths: dict[str, QueueDepth] = {}
        """By a queue's name, where it has another one."""
        self.age_seconds = 0.0
        """Of the newest sample."""
        self.failure: OperatorError | None = None
        self.failures: dict[str, OperatorError] = {}
        """By a queue's name, for those that fail alone."""
        self.source = SampleSource.BACKEND
        self.ensured = 0
        self.attempts = 0
        self.sessions = 0
        self.followed: dict[ObjectKey, Place] = {}
        self.has_read = True
        """Whether the depth was read since we started."""
        self.places: list[PostgresPlace] = []
        self.owners: list[QueueOwner] = []
        self.held_up = asyncio.Event()
        """What provisions and removes waits for this."""
        self.held_up.set()
        self.step: str | None = None
        """What it tells meanwhile."""
        self.crash: Exception | None = None
        """What provisioning and removal alone fail with."""
        self.jobs: int | None = 0
        """How many are removed; None: the queue isn't this owner's."""
        self.status: dict[str, Any] = {"schemaVersion": 1}
        self.provisioning_findings: list[Finding] = []
        self.depth_findings: list[Finding] = []
        self.has_binding = True
        """Whether a binding is known; where it is not, once the status has a schema's version."""
        self.counts_exactly = True
        self.backend_limits = BackendLimits(max_retry_delay_seconds=10_000_000_000)
        self.removed: list[PostgresPlace] = []
        self._clock = clock

    @property
    def limits(self) -> BackendLimits:
        return self.backend_limits

    @asynccontextmanager
    async def open_provisioner(self) -> AsyncIterator[MemoryBackend]:  # type: ignore[override]
        self.sessions += 1
        yield self

    async def provision(
        self,
        place: PostgresPlace,
        owner: QueueOwner,
        settings: Mapping[str, Any],
        progress: Callable[[str], None],
    ) -> Provisioned:
        await self._take_time(progress)
        self.ensured += 1
        self.places.append(place)
        self.owners.append(owner)
        return Provisioned(changed=False, details="", status=self.status, findings=self.provisioning_findings)

    async def remove(self, place: PostgresPlace, owner: QueueOwner, progress: Callable[[str], None]) -> Removed | None:
        await self._take_time(progress)
        self.removed.append(place)
        return None if self.jobs is None else Removed(self.jobs, is_approximate=not self.counts_exactly)

    def findings(self, status: Mapping[str, Any], depth: QueueDepth | None) -> Sequence[Finding]:
        return self.depth_findings

    def binding(  # type: ignore[override]
        self, queue: JobQueue, secrets: Mapping[SecretKey, bytes], status: Mapping[str, Any]
    ) -> QueueBinding | None:
        is_known = self.has_binding or "schemaVersion" in status
        return super().binding(queue, secrets, status) if is_known else None

    async def _take_time(self, progress: Callable[[str], None]) -> None:
        self.attempts += 1
        if self.step is not None:
            progress(self.step)
        await self.held_up.wait()
        if self.crash is not None:
            raise self.crash
        self._fail()

    def follow(self, queue: ObjectKey, place: Place) -> None:
        self.followed[queue] = place

    def forget(self, queue: ObjectKey) -> None:
        self.followed.pop(queue, None)

    def reading(self, queue: ObjectKey) -> Reading | None:
        if not self.has_read:
            return None
        now = self._clock.now()
        failure = self.failures.get(queue.name, self.failure)
        depth, sampled_at = self.depths.get(queue.name, self.depth), now - timedelta(seconds=self.age_seconds)
        sample = Sample(depth=depth, sampled_at=sampled_at, source=self.source)
        return Reading(sample=None if failure else sample, failure=failure, tried_at=now)

    def break_off(self) -> None:
        """From now on nobody answers."""
        self.failure = TransientError("BackendUnreachable", "the database can't be reached")

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure
