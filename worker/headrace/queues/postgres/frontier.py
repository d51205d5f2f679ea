"""Where to look for jobs next, as far as one queue object knows. Pure.

The database says where to look, from what all workers have claimed (``functions/claim.sql``). It forgets that once
nothing of it is held any more: what this object was given last, it knows by itself. Whoever leaves names out goes by
that alone, for each set of names: below stands what was left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

LEVELS = 11
"""Priorities from 0. By each there is a lane of jobs by their ids, and one of those that came back by their numbers."""

# Of so many sets of names left out a frontier is kept.
_MAX_SETS = 32


Claimed: TypeAlias = "tuple[int, int, int | None, int | None]"
"""A job as the frontier sees it: its priority; its id; its number among those that came back, if it did; and the number
of the database's last look from the start."""


class Frontier:
    """What has been claimed, by the names left out."""

    def __init__(self) -> None:
        self._frontiers: dict[frozenset[str], _Frontier] = {}

    def of(self, without: frozenset[str]) -> tuple[list[int], int | None]:
        """By lane, from where on to look; and after which look from the start that was found."""
        found = self._frontiers.get(without)
        return ([0] * 2 * LEVELS, None) if found is None else (found.floors, found.look)

    def found(self, without: frozenset[str], jobs: Iterable[Claimed]) -> None:
        """These were claimed."""
        frontier = self._frontiers.get(without)
        for priority, job_id, came_back, look in jobs:
            # Where a look from the start ended, everybody begins anew.
            if frontier is None or frontier.look != look:
                frontier = self._begin(without, look)
            lane, last = (priority, job_id) if came_back is None else (LEVELS + priority, came_back)
            frontier.floors[lane] = max(frontier.floors[lane], last + 1)

    def _begin(self, without: frozenset[str], look: int | None) -> _Frontier:
        if without not in self._frontiers and len(self._frontiers) >= _MAX_SETS:
            del self._frontiers[next(iter(self._frontiers))]
        frontier = self._frontiers[without] = _Frontier(look)
        return frontier


class _Frontier:
    """That of one set of names left out."""

    def __init__(self, look: int | None) -> None:
        self.look = look
        self.floors = [0] * 2 * LEVELS
