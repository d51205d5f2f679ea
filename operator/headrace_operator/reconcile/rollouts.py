"""The row of pools whose workers a new release of the operator replaces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace_operator.core.rollout import Stage, progress_of, stage_after_turn, stopped_by, turns

if TYPE_CHECKING:
    from collections.abc import Callable

    from headrace_operator.core.model import ObjectKey
    from headrace_operator.reconcile.ports import Cluster


class Rollouts:
    """Keeps the row, from what every look at a pool finds.

    Parameters
    ----------
    wake
        Called with a pool whose turn has come.
    """

    def __init__(self, cluster: Cluster, pools_at_once: int, wake: Callable[[ObjectKey], None]) -> None:
        self._cluster = cluster
        self._pools_at_once = pools_at_once
        self._wake = wake
        self._row: dict[ObjectKey, Stage] | None = None
        """None before the first look: those under way are found among all Deployments then."""
        self._turns: frozenset[ObjectKey] = frozenset()

    def put(self, pool: ObjectKey, stage: Stage | None) -> None:
        """A pool stands there from now on; None: it is in nobody's way, and waits for nobody."""
        row = self._known_row()
        if row.get(pool) is stage:
            return
        if stage is None:
            del row[pool]
        else:
            row[pool] = stage
        before, self._turns = self._turns, turns(row, self._pools_at_once)
        for woken in self._turns - before - {pool}:
            self._wake(woken)

    def has_turn(self, pool: ObjectKey) -> bool:
        """Whether its workers may be replaced now."""
        if pool not in self._turns:
            self._leave_out_what_is_gone()
        return pool in self._turns

    def stopped_by(self, pool: ObjectKey) -> ObjectKey | None:
        """The pool that did not come up, and so keeps this one's workers as they are."""
        return stopped_by(self._known_row(), pool)

    def _known_row(self) -> dict[ObjectKey, Stage]:
        if self._row is None:
            owned = (each for each in self._cluster.deployments() if each[1]["metadata"].get("ownerReferences"))
            found = ((pool, stage_after_turn(each, progress_of(each))) for pool, each in owned)
            self._row = {pool: stage for pool, stage in found if stage is not None}
        return self._row

    def _leave_out_what_is_gone(self) -> None:
        """A pool that was deleted in its turn, before we started perhaps, must not hold it for ever."""
        held = [pool for pool, stage in self._known_row().items() if stage <= Stage.UNDER_WAY]
        for pool in held:
            if self._cluster.deployment(pool) is None:
                self.put(pool, None)
