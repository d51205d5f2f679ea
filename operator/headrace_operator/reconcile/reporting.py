"""Writing statuses, and telling transitions in the same words to the status, to an Event and to the log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from headrace_operator.core import pool_status, queue_status
from headrace_operator.core.conditions import DEGRADED, READY, find, merge
from headrace_operator.core.model import ConflictError, EventType, PassingError
from headrace_operator.reconcile.objects import key_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from headrace_operator.core.conditions import Condition
    from headrace_operator.reconcile.objects import ObjectStore
    from headrace_operator.reconcile.ports import Clock, Cluster

    Manifest = Mapping[str, Any]

logger = logging.getLogger(__name__)

_CALM_REASONS = (*pool_status.CALM_REASONS, *queue_status.CALM_REASONS)


class Reporter:
    """Writes statuses, only where they change, and tells what changed."""

    def __init__(self, cluster: Cluster, objects: ObjectStore, clock: Clock) -> None:
        self._cluster = cluster
        self._objects = objects
        self._clock = clock

    async def write_status(
        self, manifest: Manifest, changes: Iterable[Condition], fields: Mapping[str, Any] | None = None
    ) -> Manifest:
        """Bring these conditions, and other fields of the status, about; returns the object as it then is."""
        status = manifest.get("status") or {}
        generation = manifest["metadata"].get("generation", 0)
        wanted = {
            "observedGeneration": generation,
            "conditions": merge(conditions_of(manifest), changes, generation=generation, now=self._clock.now()),
            **(fields or {}),
        }
        changed = {name: value for name, value in wanted.items() if status.get(name) != value}
        if not changed:
            return manifest
        written = await self._cluster.patch_status(self._newest(manifest), changed)
        self._objects.written(written, self._clock.now().timestamp(), guarded=False)
        await self._tell_readiness(manifest, written)
        await self._tell_findings(manifest, written)
        return written

    def would_change(self, manifest: Manifest, changes: Iterable[Condition]) -> bool:
        """Whether these conditions are others than those that the object has."""
        before = conditions_of(manifest)
        generation = manifest["metadata"].get("generation", 0)
        return merge(before, changes, generation=generation, now=self._clock.now()) != before

    async def require_existence(self, manifest: Manifest) -> None:
        """See that the object is still there, before anything is made for it: the watch may have missed its end.

        Raises
        ------
        PassingError
            ``Gone``; the object is forgotten.
        """
        key = key_of(manifest)
        live = await self._cluster.get(manifest["apiVersion"], manifest["kind"], key)
        if live is None or live["metadata"]["uid"] != manifest["metadata"]["uid"]:
            self._objects.gone(manifest)
            raise PassingError("Gone", f"{manifest['kind']} {key} is gone")

    def _newest(self, manifest: Manifest) -> Manifest:
        """What is known of the object now: something else of it may have been written since the look began."""
        newest = self._objects.get(manifest["kind"], key_of(manifest))
        if newest is not None and newest["metadata"]["uid"] != manifest["metadata"]["uid"]:
            raise ConflictError("Conflict", f"another {manifest['kind']} has the name {key_of(manifest)} now")
        return newest or manifest

    def remember(self, written: Manifest) -> None:
        """What a write returned that was guarded against others' is the newest state, and no news."""
        self._objects.written(written, self._clock.now().timestamp(), guarded=True)

    async def tell(self, manifest: Manifest, event_type: EventType, reason: str, message: str) -> None:
        """Record an Event on the object, and log it."""
        level = logging.WARNING if event_type is EventType.WARNING else logging.INFO
        logger.log(level, "%s %s: %s: %s", manifest["kind"], key_of(manifest), reason, message)
        await self._cluster.record_event(manifest, event_type, reason, message)

    async def _tell_readiness(self, before: Manifest, after: Manifest) -> None:
        old, new = _readiness(before), _readiness(after)
        if new is None or new["reason"] in _CALM_REASONS:
            return
        if new["status"] == "True":
            if old is None or old["status"] != "True":
                await self.tell(after, EventType.NORMAL, new["reason"], new["message"])
        elif old is None or (old["status"], old["reason"]) != (new["status"], new["reason"]):
            await self.tell(after, EventType.WARNING, new["reason"], new["message"])

    async def _tell_findings(self, before: Manifest, after: Manifest) -> None:
        old, new = (find(conditions_of(manifest), DEGRADED) for manifest in (before, after))
        if new is None or new["status"] != "True":
            return
        if old is None or (old["status"], old["reason"]) != (new["status"], new["reason"]):
            await self.tell(after, EventType.WARNING, new["reason"], new["message"])


def conditions_of(manifest: Manifest) -> list[Mapping[str, Any]]:
    """The conditions that an object has."""
    return (manifest.get("status") or {}).get("conditions") or []


def _readiness(manifest: Manifest) -> Mapping[str, Any] | None:
    return find(conditions_of(manifest), READY)
