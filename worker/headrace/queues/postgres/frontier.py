"""Where to look for jobs next. Pure: the time is an argument.

Jobs are claimed in the order of their ids, so the next stand behind the last that were claimed: a look from there, the
frontier, passes neither what is held nor the dead rows of what is done. Below it stands what came back (a retry, the
next of a group): that is numbered, and each look goes on behind the last number, too. What came late, from a long
transaction, stands below either; a look from the start finds it, now and then. Whoever leaves names out has a frontier
of its own: below it stands what was left out.
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
    floors: list[int | None]
    """As the SQL function ``claim`` takes them."""
    from_start: bool


class Frontier:
    """Says from where to look, by what the looks before have found."""

    def __init__(self) -> None:
        self._frontiers: dict[frozenset[str], _Frontier] = {}

    def next_look(self, without: frozenset[str], now: float) -> Look:
        """From where to look first."""
        frontier = self._of(without)
        from_start = now >= frontier.start_allowed_at and (frontier.was_short or now >= frontier.ends_at)
        return frontier.look(without, now, from_start=from_start)

    def second_look(self, first: Look, now: float) -> Look | None:
        """Where to look after one that found nothing; None: nowhere."""
        frontier = self._of(first.without)
        if first.from_start or now < frontier.start_allowed_at:
            return None
        return frontier.look(first.without, now, from_start=True)

    def found(
        self,
        look: Look,
        jobs: Iterable[tuple[int, int, int | None]],
        *,
        is_short: bool,
        started: float,
        ended: float,
    ) -> None:
        """What a look has found.

        Parameters
        ----------
        look
            From where it was made.
        jobs
            Priority, id and ``came_back`` of each job, in the order of the ids.
        is_short
            Whether these were fewer than wanted: there is time to look from the start.
        started, ended
            When.
        """
        frontier = self._of(look.without)
        frontier.was_short = is_short
        if look.from_start:
            frontier.started_at = started
            # One that was slow by chance tells nothing of the next.
            took_seconds, frontier.took_seconds = min(ended - started, frontier.took_seconds), ended - started
            expense_seconds = _EXPENSE_FACTOR * took_seconds if took_seconds > _EXPENSIVE_SECONDS else 0.0
            frontier.start_allowed_at = ended + expense_seconds
            frontier.ends_at = ended + max(expense_seconds, FRONTIER_SECONDS)
        for priority, job_id, came_back in jobs:
            # From the start: it goes on behind what was found. Else what came back may be among it.
            floor = 0 if look.from_start else frontier.floors[priority]
            frontier.floors[priority] = max(floor, job_id + 1)
            if came_back is not None:
                frontier.returns[priority] = max(frontier.returns[priority] or 0, came_back + 1)

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
        self.returns: list[int | None] = [None] * LEVELS
        self.started_at = 0.0
        self.ends_at = 0.0
        self.start_allowed_at = 0.0
        self.took_seconds = 0.0
        """How long the last look from the start took."""
        self.was_short = True

    def look(self, without: frozenset[str], now: float, *, from_start: bool) -> Look:
        if from_start:
            return Look(without, [0] * LEVELS, from_start)
        age_ms = round((now - self.started_at) * 1000)
        return Look(without, [*self.floors, *self.returns, age_ms], from_start)
