"""Where to look for jobs next. Pure: the time is an argument.

Jobs are claimed in the order of their ids, so the next stand behind the last that were claimed: a look from there, the
frontier, passes neither what is held nor the dead rows of what is done. Below it stands what came back, or came late;
a look from the start finds that, now and then. Whoever leaves names out has a frontier of its own: below it stands what
was left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

LEVELS = 11
"""Priorities from 0."""

FRONTIER_SECONDS = 0.5
"""For how long at most no look is made from the start …"""
_EXPENSE_FACTOR = 20
# … or, where such a look is expensive (an old transaction keeps the dead rows there), for so many times as long as it
# took. Below this, it is not.
_EXPENSIVE_SECONDS = 0.005

# Of so many sets of names left out a frontier is kept.
_MAX_SETS = 32


class Look(NamedTuple):
    """One look for jobs."""

    without: frozenset[str]
    """Names that are left out."""
    floors: list[int]
    """By priority, the id from which on to look."""
    from_start: bool


class Frontier:
    """Says from where to look, by what the looks before have found."""

    def __init__(self) -> None:
        self._frontiers: dict[frozenset[str], _Frontier] = {}

    def has_older(self) -> None:
        """Something stands below the frontier: the next look shall be from the start, if that is cheap."""
        for frontier in self._frontiers.values():
            frontier.has_older = True

    def next_look(self, without: frozenset[str], now: float) -> Look:
        """From where to look first."""
        frontier = self._of(without)
        from_start = now >= frontier.start_allowed_at and (
            frontier.has_older or frontier.was_short or now >= frontier.ends_at
        )
        return frontier.look(without, from_start=from_start)

    def second_look(self, first: Look, now: float) -> Look | None:
        """Where to look after one that found nothing; None: nowhere. What is known to be there is worth any expense."""
        frontier = self._of(first.without)
        if first.from_start or (now < frontier.start_allowed_at and not frontier.has_older):
            return None
        return frontier.look(first.without, from_start=True)

    def found(
        self, look: Look, jobs: Iterable[tuple[int, int]], *, is_short: bool, started: float, ended: float
    ) -> None:
        """What a look has found.

        Parameters
        ----------
        look
            From where it was made.
        jobs
            Priority and id of each job, in the order of the ids.
        is_short
            Whether these were fewer than wanted: there is time to look from the start.
        started, ended
            When.
        """
        frontier = self._of(look.without)
        frontier.was_short = is_short
        if look.from_start:
            # One that was slow by chance tells nothing of the next.
            took_seconds, frontier.took_seconds = min(ended - started, frontier.took_seconds), ended - started
            expense_seconds = _EXPENSE_FACTOR * took_seconds if took_seconds > _EXPENSIVE_SECONDS else 0.0
            frontier.start_allowed_at = ended + expense_seconds
            frontier.ends_at = ended + max(expense_seconds, FRONTIER_SECONDS)
        floors = frontier.floors
        for priority, job_id in jobs:
            # From the start: it goes on behind what was found. Else what came back may be among it.
            floors[priority] = job_id + 1 if look.from_start else max(floors[priority], job_id + 1)

    def _of(self, without: frozenset[str]) -> _Frontier:
        found = self._frontiers.get(without)
        if found is None:
            if len(self._frontiers) >= _MAX_SETS:
                del self._frontiers[next(iter(self._frontiers))]
            found = self._frontiers[without] = _Frontier()
        return found


class _Frontier:
    """That of one set of names left out."""

    def __init__(self) -> None:
        self.floors = [0] * LEVELS
        self.ends_at = 0.0
        self.start_allowed_at = 0.0
        self.took_seconds = 0.0
        """How long the last look from the start took."""
        self.was_short = True
        self.has_older = False

    def look(self, without: frozenset[str], *, from_start: bool) -> Look:
        if from_start:
            self.has_older = False  # Before the look: what comes back during it may be passed already.
        return Look(without, [0] * LEVELS if from_start else self.floors, from_start)
