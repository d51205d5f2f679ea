"""Where to look for jobs next, as far as one queue object knows. Pure.

The database says where to look, from what all workers have claimed (``functions/claim.sql``). It forgets that once
nothing of it is held any more: what this object was given last, it knows by itself. Whoever leaves names out goes by
that alone, for each set of names: below stands what was left out. However much that is, a look passes so many of them
and no more, and the next goes on from there. Now and then such a frontier begins anew, for what was committed late: the
longer the way is, the less often.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

LEVELS = 11
"""Priorities from 0. By each there is a lane of jobs by their ids, and one of those that came back by their numbers."""

# Of so many sets of names left out a frontier is kept.
_MAX_SETS = 32

# Where names are left out: for at least so long, and for so long for each look that ended early, from the last of them
# on. (One takes a few milliseconds: two in a hundred of the time are spent on them.)
_KEPT_SECONDS = 0.5
_KEPT_SECONDS_A_LOOK = 0.15


Claimed: TypeAlias = "tuple[int, int, int | None, int | None]"
"""A job as the frontier sees it: its priority; its id; its number among those that came back, if it did; and the number
of the database's last look from the start."""


class Frontier:
    """What has been claimed, by the names left out. Times are seconds of one clock."""

    def __init__(self) -> None:
        self._frontiers: dict[frozenset[str], _Frontier] = {}

    def of(self, without: frozenset[str], now: float) -> tuple[list[int], int | None]:
        """By lane, from where on to look; and after which look from the start that was found."""
        found = self._frontiers.get(without)
        if found is not None and without and now >= found.until and not found.is_under_way:
            found = None
            del self._frontiers[without]
        return ([0] * 2 * LEVELS, None) if found is None else (found.floors, found.look)

    def found(self, without: frozenset[str], jobs: Iterable[Claimed], now: float) -> None:
        """These were claimed."""
        frontier = self._frontiers.get(without)
        for priority, job_id, came_back, look in jobs:
            # Where a look from the start ended, everybody who leaves nothing out begins anew.
            if frontier is None or (frontier.look != look and not without):
                frontier = self._begin(without, look, now)
            frontier.raise_to(priority, job_id, came_back)

    def passed(self, without: frozenset[str], marks: Iterable[Claimed], now: float) -> bool:
        """A look passed these in vain; whether the next will get further where it ended early.

        Call it after each look: until one ends of itself, none begins anew, however slow they are.
        """
        is_further = False
        frontier = self._frontiers.get(without)
        for priority, job_id, came_back, look in marks:
            if frontier is None or (frontier.look != look and not without):
                frontier = self._begin(without, look, now)
            is_further |= frontier.raise_to(priority, job_id, came_back)
        is_under_way = is_further and bool(without)
        if frontier is not None:
            frontier.is_under_way = is_under_way
            if is_under_way:
                frontier.looks += 1
                frontier.until = now + _KEPT_SECONDS + frontier.looks * _KEPT_SECONDS_A_LOOK
        return is_under_way

    def nothing(self) -> None:
        """A look for all found nothing: begin anew where the database's own looks ended.

        A number among those that came back is given before it is committed, so such a job may stand below by now.
        """
        self._frontiers.pop(frozenset(), None)

    def _begin(self, without: frozenset[str], look: int | None, now: float) -> _Frontier:
        if without not in self._frontiers and len(self._frontiers) >= _MAX_SETS:
            del self._frontiers[next(iter(self._frontiers))]
        frontier = self._frontiers[without] = _Frontier(look, now + _KEPT_SECONDS)
        return frontier


class _Frontier:
    """That of one set of names left out."""

    def __init__(self, look: int | None, until: float) -> None:
        self.look = look
        self.until = until
        self.looks = 0
        self.is_under_way = False
        self.floors = [0] * 2 * LEVELS

    def raise_to(self, priority: int, job_id: int, came_back: int | None) -> bool:
        """Look behind this job, if that is further than before."""
        lane, last = (priority, job_id) if came_back is None else (LEVELS + priority, came_back)
        is_further = last >= self.floors[lane]
        if is_further:
            self.floors[lane] = last + 1
        return is_further
