"""What was set a short while ago: SQS takes up to 60 s to show it (a retention: 15 minutes), and that is no drift.

Nothing of this outlives the process: what starts anew may set something once more, which changes nothing. No I/O, no
clock: the time is told.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from headrace.queues.sqs.attributes import propagation_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping

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


class Recent:
    """What this process has set, by queue, and what an endpoint has refused: one for all provisioners of a place."""

    def __init__(self) -> None:
        self._queues: dict[str, QueueMemory] = {}
        self._deleted: dict[str, float] = {}

    def of(self, queue: str) -> QueueMemory:
        """What is known of a queue, by its name."""
        found = self._queues.get(queue)
        if found is None:
            found = self._queues[queue] = QueueMemory()
        return found

    def forget(self, queue: str) -> None:
        """It is not there, or is somebody else's business."""
        self._queues.pop(queue, None)

    def note_deleted(self, queue: str, now: float) -> None:
        """It was deleted just now, or is heard to have been."""
        self.forget(queue)
        self._deleted.setdefault(queue, now)

    def deleted_seconds(self, queue: str, now: float, *, at_most: float) -> float | None:
        """How long ago a queue was deleted, where that is no longer ago than `at_most`.

        It may still be told as if it were there, and its name is taken.
        """
        self._deleted = {name: at for name, at in self._deleted.items() if now - at < at_most}
        return None if queue not in self._deleted else now - self._deleted[queue]

    def note_made(self, queue: str) -> None:
        """It is there again."""
        self._deleted.pop(queue, None)
