"""Following a run until all is done, and showing it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.progress import say
from demo.table import Scene, stage
from support.kubectl import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from demo.ledger import Ledger

# A machine of two cores drains the queue in well under a minute; the rest is for one that is busy otherwise.
PATIENCE_SECONDS = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The pool at a moment."""

    desired_replicas: int = 0
    replicas: int = 0
    ready_replicas: int = 0
    reason: str = ""
    message: str = ""

    @property
    def remaining(self) -> int:
        """How many workers there are, asked for or still there."""
        return max(self.replicas, self.ready_replicas)


def watch(pool_now: Callable[[], Pool], ledger: Ledger, jobs: int) -> int:
    """Show the run until all is done and the pool is at zero; return the most workers that were ready at once."""
    begun = time.monotonic()
    peak = 0
    seen: list[tuple[float, int]] = []

    def look() -> Scene:
        nonlocal peak
        pool = pool_now()
        depth = ledger.depth()
        elapsed, completed = time.monotonic() - begun, ledger.completed()
        seen.append((elapsed, completed))
        past, earlier = seen[max(0, len(seen) - 6)]
        peak = max(peak, pool.ready_replicas)
        return Scene(
            elapsed_seconds=elapsed,
            jobs_enqueued=jobs,
            jobs_completed=completed,
            jobs_per_second=(completed - earlier) / (elapsed - past) if elapsed > past else 0.0,
            ready=depth.ready,
            in_flight=depth.in_flight,
            desired_replicas=pool.desired_replicas,
            replicas=pool.replicas,
            ready_replicas=pool.ready_replicas,
            reason=pool.reason,
            message=pool.message,
        )

    with stage() as show:

        def look_and_show() -> Scene:
            scene = look()
            show(scene)
            return scene

        try:
            eventually(
                look_and_show,
                until=lambda scene: scene.jobs_completed >= jobs and scene.replicas == 0 and scene.ready_replicas == 0,
                within_seconds=PATIENCE_SECONDS,
                what="every job completed and the pool back at zero",
            )
        except AssertionError as late:
            # The summary says which promise was broken, and by how much.
            say(str(late))
    return peak
