"""The deduplication keys of a queue in memory."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class _Key:
    number: int
    kept_until: datetime | None


class Keys:
    """Which job has which key: while it is unfinished, and until the key's window is over.

    Parameters
    ----------
    unfinished
        The numbers of the jobs that are.
    """

    def __init__(self, unfinished: Container[int]) -> None:
        self._unfinished = unfinished
        self._keys: dict[str, _Key] = {}
        self._windows: list[tuple[datetime, str]] = []

    def owner(self, name: str, now: datetime) -> int | None:
        """The job that has the key; None where it is free."""
        key = self._keys.get(name)
        return key.number if key is not None and self._is_taken(key, now) else None

    def take(self, name: str, number: int, kept_until: datetime | None) -> None:
        """Give a free key to a job."""
        self._keys[name] = _Key(number, kept_until)
        if kept_until is not None:
            heapq.heappush(self._windows, (kept_until, name))

    def take_again(self, name: str, number: int, now: datetime) -> bool:
        """Give it to a job that had it before, with what is left of its window; False where another has it."""
        if self.owner(name, now) not in {None, number}:
            return False
        key = self._keys.get(name)
        self._keys[name] = _Key(number, key.kept_until if key is not None else None)
        return True

    def free(self, name: str, now: datetime) -> None:
        """Its job has ended: it is free, unless its window is not over."""
        if (key := self._keys.get(name)) is not None and not self._is_taken(key, now):
            del self._keys[name]

    def prune(self, now: datetime) -> None:
        """Forget the keys whose window is over."""
        while self._windows and self._windows[0][0] <= now:
            self.free(heapq.heappop(self._windows)[1], now)

    def _is_taken(self, key: _Key, now: datetime) -> bool:
        return key.number in self._unfinished or (key.kept_until is not None and key.kept_until > now)
