"""Who makes room for a suspect. Pure."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from headrace.queues.memory.entries import Lease

ROOM = timedelta(seconds=30)
"""For so long a worker takes no other job while a suspect waits for it to be idle."""
_BETWEEN_TURNS = timedelta(seconds=300)
"""A worker that has made room in vain is busy with long jobs: its other slots must not stand still for ever."""


class Room:
    """Whose turn it is."""

    def __init__(self) -> None:
        self._number: int | None = None
        self._until: datetime | None = None
        self._had_until: dict[int, datetime] = {}

    def until(self, lease: Lease, leases: Iterable[Lease], now: datetime) -> datetime | None:
        """Until when this lease makes room, where it is its turn; the one that holds the fewest jobs comes first."""
        live = {other.number: other for other in leases if other.has_heartbeats and other.ends_at > now}
        if self._number not in live or self._until is None or self._until <= now:
            self._had_until = {number: until for number, until in self._had_until.items() if number in live}
            rested = [
                (len(other.held), number)
                for number, other in live.items()
                if number not in self._had_until or self._had_until[number] + _BETWEEN_TURNS <= now
            ]
            self._number = min(rested)[1] if rested else None
            self._until = now + ROOM
            if self._number is not None:
                self._had_until[self._number] = self._until
        return self._until if self._number == lease.number else None
