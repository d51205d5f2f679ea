"""What was set a short while ago: SQS takes up to 60 s to show it (a retention: 15 minutes), and that is no drift.

Nothing of this outlives the process: what starts anew may set something once more, which changes nothing. No I/O, no
clock: the time is told.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from headrace.queues.sqs.attributes import propagation_seconds
from headrace.queues.sqs.place import QUEUE_DELETED_SECONDS

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOST_KNOWN = 20_000
"""So many queues are remembered: those of ten thousand JobQueues. Others are looked at as if this process were new."""

TAG_CALLS_PER_SECOND = 20.0
"""An account may make 30 a second, and has other callers than this process: see
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-queue-tags.html"""
_TAG_CALLS_AT_ONCE = 8

RESTLESS = 3
"""Set so often and never seen as it was set: something else sets it, too."""


@dataclass(slots=True)
class _Set:
    value: str | None
    """None: taken away."""
    at: float
    unseen: int = 1
    """How often this value was set, one time after another, without ever having been seen."""


@dataclass(slots=True)
class Memory:
    """Of one kind of what can be set (attributes, tags) on one queue."""

    _set: dict[str, _Set] = field(default_factory=dict)

    def note(self, values: Mapping[str, str | None], now: float) -> None:
        """These have been set just now; None: taken away."""
        for name, value in values.items():
            before = self._set.get(name)
            unseen = before.unseen + 1 if before is not None and before.value == value else 1
            self._set[name] = _Set(value, now, unseen)

    def overlaid(self, observed: Mapping[str, str], now: float) -> dict[str, str]:
        """What is there: as observed, but for what was set so recently that it may not show."""
        told = dict(observed)
        for name, recent in self._set.items():
            if now - recent.at >= propagation_seconds(name):
                continue
            if recent.value is None:
                told.pop(name, None)
            else:
                told[name] = recent.value
        return told

    def confirm(self, name: str) -> None:
        """It has been seen as it is wanted."""
        if (recent := self._set.get(name)) is not None:
            recent.unseen = 0

    def was_set_to(self, name: str, value: str) -> bool:
        """Whether this process has set it so the last time: otherwise now, and it is drift."""
        recent = self._set.get(name)
        return recent is not None and recent.value == value

    def was_never_seen(self, name: str) -> bool:
        """Whether it was set, and not once seen since."""
        recent = self._set.get(name)
        return recent is not None and recent.unseen > 0

    def restless(self) -> list[str]:
        """What was set again and again and was never seen as it was set."""
        return sorted(name for name, recent in self._set.items() if recent.unseen >= RESTLESS)


@dataclass(slots=True)
class QueueMemory:
    """What this process knows of one queue."""

    attributes: Memory = field(default_factory=Memory)
    tags: Memory = field(default_factory=Memory)
    refused: set[str] = field(default_factory=set)
    """What the endpoint does not know: attributes by their names, or ``tags``."""
    seen_tags: Mapping[str, str] | None = None
    """As they were read last; None where that is no longer so."""
    seen_tags_at: float = 0.0
    has_told_tags: bool = False
    """Whether the endpoint has ever told some, or that there are none."""

    def refuse(self, name: str, value: str) -> None:
        """The endpoint takes no such attribute; where the value is empty, it can't take it away."""
        self.refused.add(name if value else f"empty {name}")

    def refuses(self, name: str, value: str) -> bool:
        """Whether it is known to take no such attribute."""
        return (name if value else f"empty {name}") in self.refused

    def remembered_tags(self, now: float, *, good_for_seconds: float) -> Mapping[str, str] | None:
        """The tags as they were read, while that is good enough."""
        return self.seen_tags if now - self.seen_tags_at < good_for_seconds else None


class Recent:
    """What this process has set, by queue, and what an endpoint has refused: one for all provisioners of an endpoint.

    Queues are told apart by their URLs. Those of AWS name the region and the account, those of other endpoints may be
    alike: see `within`.
    """

    def __init__(self) -> None:
        self._queues: dict[str, QueueMemory] = {}
        self._deleted: dict[str, float] = {}
        self._taken: dict[str, float] = {}
        self._within: dict[str | None, Recent] = {}
        self._tag_turns: WeakKeyDictionary[object, float] = WeakKeyDictionary()
        """When whoever calls has had its turns."""

    def within(self, endpoint_url: str | None) -> Recent:
        """Of one endpoint, where there are several; None is AWS."""
        return self._within.setdefault(endpoint_url, Recent())

    def of(self, url: str) -> QueueMemory:
        """What is known of a queue."""
        # Whose turn it was last is last to go.
        found = self._queues.pop(url, None)
        if found is None:
            found = QueueMemory()
        self._queues[url] = found
        if len(self._queues) > _MOST_KNOWN:
            del self._queues[next(iter(self._queues))]
        return found

    def note_deleted(self, url: str, now: float) -> None:
        """It was deleted just now."""
        self._queues.pop(url, None)
        self._deleted[url] = now

    def note_made(self, url: str) -> None:
        """It is there again."""
        self._deleted.pop(url, None)

    def is_going(self, url: str, now: float) -> bool:
        """Whether this process has deleted it so recently that it may still be told as if it were there."""
        self._deleted = {gone: at for gone, at in self._deleted.items() if now - at < QUEUE_DELETED_SECONDS}
        return url in self._deleted

    def seconds_until_free(self, name: str, now: float) -> float:
        """How much longer a name is taken at the most that is heard to be taken, by when that was heard first."""
        self._taken = {taken: at for taken, at in self._taken.items() if now - at < QUEUE_DELETED_SECONDS}
        return QUEUE_DELETED_SECONDS - (now - self._taken.setdefault(name, now))

    def seconds_until_tags(self, client: object, now: float) -> float:
        """In how long a client may ask for a queue's tags; its turn is taken. A few at a time need not wait."""
        turn = max(self._tag_turns.get(client, 0.0), now - _TAG_CALLS_AT_ONCE / TAG_CALLS_PER_SECOND)
        self._tag_turns[client] = turn + 1 / TAG_CALLS_PER_SECOND
        return max(turn - now, 0.0)
