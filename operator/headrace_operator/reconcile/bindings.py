"""Binding Secrets, and the revisions of what they hold."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from headrace_operator.core.binding import binding_secret
from headrace_operator.core.model import BINDING_REVISION_ANNOTATION, ObjectKey, RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from typing import Any

    from headrace_operator.core.binding import QueueBinding
    from headrace_operator.core.spec import JobQueue
    from headrace_operator.reconcile.ports import Clock, Cluster


TRUSTED = timedelta(minutes=8)
"""A Secret that was looked at is not looked at again for so long, unless it is to hold something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bound:
    """What a queue's binding holds, as far as we know."""

    uid: str
    binding: QueueBinding
    revision: str
    seen_at: datetime


class Bindings:
    """Brings binding Secrets about. Each content of one has a revision of its own."""

    def __init__(self, cluster: Cluster, clock: Clock) -> None:
        self._cluster = cluster
        self._clock = clock
        self._bound: dict[ObjectKey, _Bound] = {}

    def revision(self, queue: JobQueue, binding: QueueBinding) -> str | None:
        """That of this very content; None where the Secret must be looked at, since that was long ago, or never."""
        bound = self._known(queue, binding)
        return None if bound is None or self._clock.now() - bound.seen_at >= TRUSTED else bound.revision

    async def is_there(self, queue: JobQueue, binding: QueueBinding) -> bool:
        """Whether the Secret holds this very content, as it does for a queue that is in order when we start."""
        existing = await self._find(queue)
        if existing is None or not queue.owns(existing):
            return False
        revision = _revision_of(existing)
        if revision is None or existing.get("data") != binding_secret(queue, binding, revision)["data"]:
            return False
        self._remember(queue, binding, revision)
        return True

    async def bring_about(self, queue: JobQueue, binding: QueueBinding, before: Mapping[str, Any]) -> str:
        """See that the Secret holds this; returns its revision.

        Parameters
        ----------
        before
            The binding in the queue's status.

        Raises
        ------
        RefusedError
            ``NameTaken`` where a Secret of this name is somebody else's.
        """
        existing = await self._find(queue)
        if existing is not None and not queue.owns(existing):
            raise RefusedError(
                "NameTaken",
                f"Secret {queue.binding_name} exists and isn't this JobQueue's: delete it, or give the JobQueue "
                "another name",
            )
        revision = self._next_revision(queue, binding, existing, before)
        wanted = binding_secret(queue, binding, revision)
        if existing is None or existing.get("data") != wanted["data"] or _revision_of(existing) != revision:
            await self._cluster.apply(wanted)
        self._remember(queue, binding, revision)
        return revision

    def forget(self, key: ObjectKey) -> None:
        """The queue is gone."""
        self._bound.pop(key, None)

    def _next_revision(
        self, queue: JobQueue, binding: QueueBinding, existing: Mapping[str, Any] | None, before: Mapping[str, Any]
    ) -> str:
        if (known := self._known(queue, binding)) is not None:
            return known.revision
        newest = max(_number(before.get("revision")), _number(None if existing is None else _revision_of(existing)))
        if existing is not None and newest:
            same = existing.get("data") == binding_secret(queue, binding, "")["data"]
            return str(newest) if same else str(newest + 1)
        return str(newest + 1)

    def _known(self, queue: JobQueue, binding: QueueBinding) -> _Bound | None:
        bound = self._bound.get(queue.key)
        is_this = bound is not None and (bound.uid, bound.binding) == (queue.metadata.uid, binding)
        return bound if is_this else None

    async def _find(self, queue: JobQueue) -> Mapping[str, Any] | None:
        return await self._cluster.get("v1", "Secret", ObjectKey(queue.metadata.namespace, queue.binding_name))

    def _remember(self, queue: JobQueue, binding: QueueBinding, revision: str) -> None:
        self._bound[queue.key] = _Bound(
            uid=queue.metadata.uid, binding=binding, revision=revision, seen_at=self._clock.now()
        )


def _revision_of(secret: Mapping[str, Any]) -> str | None:
    revision: str | None = (secret["metadata"].get("annotations") or {}).get(BINDING_REVISION_ANNOTATION)
    return revision


def _number(revision: str | None) -> int:
    """Revisions are counted; one that somebody wrote by hand counts as none."""
    return int(revision) if revision is not None and revision.isdecimal() else 0
