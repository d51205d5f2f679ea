"""The newest known state of our custom resources, fed by the watch and by what our own writes return.

Without the latter a look that follows a write would decide by what was before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from headrace_operator.core.lean import lean
from headrace_operator.core.model import ObjectKey

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Manifest = Mapping[str, Any]

QUEUE_KIND = "JobQueue"
POOL_KIND = "JobWorkerPool"


class _Owed(NamedTuple):
    """A write of ours that the watch has not shown yet."""

    version: int
    since_seconds: float


class ObjectStore:
    """JobQueues and JobWorkerPools by kind and key."""

    def __init__(self) -> None:
        self._objects: dict[tuple[str, ObjectKey], Manifest] = {}
        self._noticed: dict[tuple[str, ObjectKey], tuple[Any, ...]] = {}
        """The traits for which a look was last asked, or that a write of ours has made of them."""
        self._unconfirmed: dict[tuple[str, ObjectKey], _Owed] = {}
        self._pools: dict[ObjectKey, dict[ObjectKey, None]] = {}
        """The pools of each queue, in the order in which they came."""

    def get(self, kind: str, key: ObjectKey) -> Manifest | None:
        """The newest known state, if the object exists."""
        return self._objects.get((kind, key))

    def keys(self, kind: str) -> Sequence[ObjectKey]:
        """All objects of a kind."""
        return [key for known, key in self._objects if known == kind]

    def pools_of(self, queue: ObjectKey) -> Sequence[ObjectKey]:
        """The pools that work on a queue."""
        return list(self._pools.get(queue, ()))

    def seen(self, manifest: Manifest) -> bool:
        """The watch shows an object; returns whether that is news, which asks for a look.

        A status is none, and neither is what a write of our own has brought about.
        """
        manifest = lean(manifest)
        place = _place(manifest)
        known = self._objects.get(place)
        if known is None or _version(manifest) >= _version(known):
            self._put(place, manifest)
        if place in self._unconfirmed and _version(manifest) >= self._unconfirmed[place].version:
            del self._unconfirmed[place]
        # Of the newest state: a user's change may have come with what a write of ours has returned.
        traits = _traits(self._objects[place])
        is_news = self._noticed.get(place) != traits
        self._noticed[place] = traits
        return is_news

    def gone(self, manifest: Manifest) -> None:
        """The object is deleted; one of the same name that came since is another."""
        place = _place(manifest)
        known = self._objects.get(place)
        if known is not None and known["metadata"]["uid"] == manifest["metadata"]["uid"]:
            self._link(place, ())
            del self._objects[place]
            self._noticed.pop(place, None)
            self._unconfirmed.pop(place, None)

    def written(self, manifest: Manifest, now_seconds: float, *, guarded: bool) -> None:
        """A write of ours returned this state. An object that is gone meanwhile stays gone.

        Parameters
        ----------
        guarded
            Whether the write would have failed on another state than the newest one here. All that it changed is ours
            then; what else came with the answer to another write is somebody's, and news when the watch shows it.
        """
        place = _place(manifest)
        known = self._objects.get(place)
        if known is None or known["metadata"]["uid"] != manifest["metadata"]["uid"]:
            return
        if _version(manifest) <= _version(known):
            return
        manifest = lean(manifest)
        if guarded and self._noticed.get(place) == _traits(known):
            self._noticed[place] = _traits(manifest)
        self._put(place, manifest)
        owed = self._unconfirmed.get(place)
        self._unconfirmed[place] = _Owed(_version(manifest), now_seconds if owed is None else owed.since_seconds)

    def watch_lag_seconds(self, now_seconds: float) -> float:
        """For how long the watch has owed us a write of our own; much means that it is stuck."""
        oldest = min((owed.since_seconds for owed in self._unconfirmed.values()), default=now_seconds)
        return now_seconds - oldest

    def _put(self, place: tuple[str, ObjectKey], manifest: Manifest) -> None:
        self._link(place, queues_of(manifest))
        self._objects[place] = manifest

    def _link(self, place: tuple[str, ObjectKey], queues: Sequence[ObjectKey]) -> None:
        """Let a pool be found by these queues, and by no other."""
        kind, key = place
        if kind != POOL_KIND:
            return
        known = self._objects.get(place)
        before = () if known is None else queues_of(known)
        for queue in before:
            if queue not in queues:
                del self._pools[queue][key]
                if not self._pools[queue]:
                    del self._pools[queue]
        for queue in queues:
            self._pools.setdefault(queue, {})[key] = None


def queues_of(pool: Manifest) -> Sequence[ObjectKey]:
    """The queues that a pool works on."""
    spec, namespace = pool.get("spec", {}), pool["metadata"]["namespace"]
    references = (spec.get("queueRef"), *spec.get("queueRefs", ()))
    # Each once: a spec that names one twice is refused elsewhere.
    return tuple(dict.fromkeys(ObjectKey(namespace, reference["name"]) for reference in references if reference))


def key_of(manifest: Manifest) -> ObjectKey:
    """Namespace and name."""
    metadata = manifest["metadata"]
    return ObjectKey(metadata["namespace"], metadata["name"])


def _place(manifest: Manifest) -> tuple[str, ObjectKey]:
    return manifest["kind"], key_of(manifest)


def _version(manifest: Manifest) -> int:
    # Comparable within one kind, by the API's own promise since Kubernetes 1.35, and in fact always.
    return int(manifest["metadata"]["resourceVersion"])


def _traits(manifest: Manifest) -> tuple[Any, ...]:
    """What reconciling reads of an object, but for its status, which is ours."""
    metadata = manifest["metadata"]
    names = ("uid", "generation", "annotations", "labels", "finalizers", "deletionTimestamp")
    return tuple(metadata.get(name) for name in names)
