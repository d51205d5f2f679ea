"""Events on our objects. What happens again within some minutes is told by the Event that there is, with its count."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from headrace_operator.core.conditions import timestamp
from headrace_operator.core.model import FIELD_MANAGER, ConflictError, EventType, ObjectKey, OperatorError
from headrace_operator.kubernetes.api import MERGE_PATCH, collection_path, object_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from headrace_operator.kubernetes.api import KubernetesApi

    Manifest = Mapping[str, Any]

logger = logging.getLogger(__name__)

TOGETHER = timedelta(minutes=10)
"""So long one Event tells of all that happens to an object for one reason."""

REMEMBERED = 10_000
"""Events; of the oldest it is forgotten that they were told."""

_MESSAGE_BYTES = 1024
"""The API takes no longer message."""


@dataclass(slots=True, kw_only=True)
class _ToldEvent:
    """An Event that there is."""

    key: ObjectKey
    since: datetime
    count: int = field(default=1)


class Events:
    """Records Events.

    Parameters
    ----------
    now
        The wall clock, in UTC.
    """

    def __init__(self, api: KubernetesApi, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._api = api
        self._now = now
        self._told: OrderedDict[tuple[str, EventType, str], _ToldEvent] = OrderedDict()

    async def record(self, owner: Manifest, event_type: EventType, reason: str, message: str) -> None:
        """Tell it, or tell it once more. Losing an Event is no failure: the condition and the log say the same."""
        now = self._now()
        about = owner["metadata"]["uid"], event_type, reason
        told = self._told.get(about)
        content = {
            "message": message.encode()[:_MESSAGE_BYTES].decode(errors="ignore"),
            "lastTimestamp": timestamp(now),
        }
        try:
            if told is not None and now - told.since < TOGETHER:
                told.count += 1
                await self._update(told.key, content | {"count": told.count})
            else:
                await self._create(owner, event_type, reason, now, content)
        except OperatorError as error:
            # It may have been removed; and a namespace that is going takes none.
            self._told.pop(about, None)
            logger.debug("An event was lost: %s", error.message)

    async def _create(
        self, owner: Manifest, event_type: EventType, reason: str, now: datetime, content: Mapping[str, Any]
    ) -> None:
        metadata = owner["metadata"]
        about = metadata["uid"], event_type, reason
        told = _ToldEvent(key=ObjectKey(metadata["namespace"], _name(owner, event_type, reason, now)), since=now)
        event = {
            "metadata": {"namespace": told.key.namespace, "name": told.key.name},
            "type": event_type,
            "reason": reason,
            "firstTimestamp": content["lastTimestamp"],
            "count": told.count,
            "source": {"component": FIELD_MANAGER},
            "involvedObject": {
                "apiVersion": owner["apiVersion"],
                "kind": owner["kind"],
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
            **content,
        }
        self._told[about] = told
        self._told.move_to_end(about)
        while len(self._told) > REMEMBERED:
            self._told.popitem(last=False)
        try:
            await self._api.request("POST", collection_path("v1", "Event", told.key.namespace), body=event)
        except ConflictError:
            # Made before a restart: how often it was told since is not ours to read.
            await self._update(told.key, content)

    async def _update(self, key: ObjectKey, content: Mapping[str, Any]) -> None:
        await self._api.request("PATCH", object_path("v1", "Event", key), body=content, content_type=MERGE_PATCH)


def _name(owner: Manifest, event_type: EventType, reason: str, now: datetime) -> str:
    """The same for what is told together, whoever tells it: two processes, or one that was started anew."""
    window = int(now.timestamp() // TOGETHER.total_seconds())
    about = f"{owner['metadata']['uid']} {event_type} {reason} {window}"
    return f"{owner['metadata']['name']}.{hashlib.sha256(about.encode()).hexdigest()[:16]}"
