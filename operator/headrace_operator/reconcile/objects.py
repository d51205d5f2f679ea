"""The newest known state of our custom resources, fed by the watch and by what our own writes return.

Without the latter a look that follows a write would decide by what was before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace_operator.core.model import ObjectKey

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Manifest = Mapping[str, Any]

QUEUE_KIND = "JobQueue"
POOL_KIND = "JobWorkerPool"


class ObjectStore:
    """JobQueues and JobWorkerPools by kind and key."""

    def __init__(self) -> None:
        self._objects: dict[tuple[str, ObjectKey], Manifest] = {}
        self._unconfirmed: dict[tuple[str, ObjectKey], tuple[int, float]] = {}
        """The version of our newest write to each object that the watch has not shown yet, and when it was written."""

    def get(self, kind: str, key: ObjectKey) -> Manifest | None:
        """The newest known state, if the object exists."""
        return self._objects.get((kind, key))

    def pools_of(self, queue: ObjectKey) -> Sequence[ObjectKey]:
        """The pools that work on a queue."""
        return [
            key
            for (kind, key), manifest in self._objects.items()
            if kind == POOL_KIND
            and key.namespace == queue.namespace
            and manifest.get("spec", {}).get("queueRef", {}).get("name") == queue.name
        ]

    def seen(self, manifest: Manifest) -> None:
        """The watch shows an object."""
        place = _place(manifest)
        known = self._objects.get(place)
        if known is None or _version(manifest) >= _version(known):
            self._objects[place] = manifest
        if place in self._unconfirmed and _version(manifest) >= self._unconfirmed[place][0]:
            del self._unconfirmed[place]

    def gone(self, manifest: Manifest) -> None:
        """The object is deleted; one of the same name that came since is another."""
        place = _place(manifest)
        known = self._objects.get(place)
        if known is not None and known["metadata"]["uid"] == manifest["metadata"]["uid"]:
            del self._objects[place]
            self._unconfirmed.pop(place, None)

    def written(self, manifest: Manifest, now_seconds: float) -> None:
        """A write of ours returned this state. An object that is gone meanwhile stays gone."""
        place = _place(manifest)
        known = self._objects.get(place)
        if known is None or known["metadata"]["uid"] != manifest["metadata"]["uid"]:
            return
        if _version(manifest) > _version(known):
            self._objects[place] = manifest
            _, since_seconds = self._unconfirmed.get(place, (0, now_seconds))
            self._unconfirmed[place] = (_version(manifest), since_seconds)

    def watch_lag_seconds(self, now_seconds: float) -> float:
        """For how long the watch has owed us a write of our own; much means that it is stuck."""
        oldest = min((since for _, since in self._unconfirmed.values()), default=now_seconds)
        return now_seconds - oldest


def key_of(manifest: Manifest) -> ObjectKey:
    """Namespace and name."""
    metadata = manifest["metadata"]
    return ObjectKey(metadata["namespace"], metadata["name"])


def _place(manifest: Manifest) -> tuple[str, ObjectKey]:
    return manifest["kind"], key_of(manifest)


def _version(manifest: Manifest) -> int:
    # Comparable within one kind, by the API's own promise since Kubernetes 1.35, and in fact always.
    return int(manifest["metadata"]["resourceVersion"])
