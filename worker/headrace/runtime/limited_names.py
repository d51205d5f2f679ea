"""Names of which only so many jobs run at a time (``max_concurrent``): what may be taken, run, or must wait its turn.

A name that is full is left out when jobs are received, so that its jobs keep nobody from a slot. Those that came all
the same (one receive brings many) go back at once, but for as many as will have their turn within the next second.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from headrace.runtime.attempt import Fate
from headrace.runtime.prefetch import Prefetch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from headrace.runtime.attempt import Attempt

KEPT_SECONDS = 1.0
"""So much work of a name may wait for its turn."""

_NONE: frozenset[str] = frozenset()


class _Name:
    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self.running = 0
        self.kept: deque[Attempt] = deque()
        self.prefetch = Prefetch(limit, KEPT_SECONDS)
        self.is_full = False
        self.had_too_many = False
        """When it was last asked for, more came than it had room for."""

    @property
    def room(self) -> int:
        return self.limit + self.prefetch.jobs - self.taken


class LimitedNames:
    """Counts the jobs of limited names. Pure: no clock, no queue."""

    def __init__(self) -> None:
        self._names: dict[str, _Name] = {}

    @property
    def kept(self) -> int:
        """How many jobs wait for their name's turn."""
        return sum(len(name.kept) for name in self._names.values()) if self._names else 0

    def full(self) -> frozenset[str]:
        """Of which names no more is wanted now."""
        if not self._names:
            return _NONE
        for name in self._names.values():
            if name.room <= 0:
                name.is_full = True
            elif name.is_full and name.room > name.prefetch.jobs // 2:
                # Not with every job that ends: each is another look at the queue.
                name.is_full = False
        return frozenset(text for text, name in self._names.items() if name.is_full)

    def most_wanted(self) -> int | None:
        """How many jobs to ask for, while a name of which there are too many is among them. None: any number."""
        rooms = [name.room for name in self._names.values() if name.had_too_many and not name.is_full]
        return max(min(rooms), 1) if rooms else None

    def asked(self, without: frozenset[str]) -> None:
        """Jobs came, of any name but these."""
        for text, name in self._names.items():
            if text not in without:
                name.had_too_many = False

    def take(self, attempt: Attempt) -> bool:
        """Whether it may wait here; else it is to go back."""
        name = self._of(attempt)
        if name.room <= 0:
            name.had_too_many = True
            return False
        name.taken += 1
        return True

    def start(self, attempt: Attempt) -> bool:
        """Whether it may run now; else it is kept here until its name's turn."""
        name = self._of(attempt)
        if name.running >= name.limit:
            attempt.fate = Fate.KEPT
            name.kept.append(attempt)
            return False
        name.running += 1
        return True

    def end(self, attempt: Attempt) -> Attempt | None:
        """One that ran has ended; gives one that may run in its place."""
        name = self._of(attempt)
        name.running -= 1
        name.taken -= 1
        name.prefetch.observe(1, attempt.run_seconds)
        if not name.kept:
            return None
        following = name.kept.popleft()
        following.fate = Fate.WAITING
        return following

    def leave(self, attempt: Attempt) -> None:
        """One that did not run is let go of."""
        name = self._of(attempt)
        name.taken -= 1
        if attempt.fate is Fate.KEPT:
            name.kept.remove(attempt)

    def observe_stale(self, attempts: Iterable[Attempt], seconds: float) -> None:
        """So long none of these had its turn: the jobs of their names take longer than those before."""
        for text in {attempt.delivery.job.name for attempt in attempts if attempt.fate is Fate.KEPT}:
            self._names[text].prefetch.observe(1, seconds)

    def waiting(self) -> Iterator[Attempt]:
        """All that wait for their name's turn, the longest waiting of each name first."""
        for name in self._names.values():
            yield from name.kept

    def _of(self, attempt: Attempt) -> _Name:
        text = attempt.delivery.job.name
        name = self._names.get(text)
        if name is None:
            limit = attempt.terms.max_concurrent
            assert limit is not None, "it is a limited name"
            name = self._names[text] = _Name(limit)
        return name
