"""One round of housekeeping in a queue in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.queues.base import Maintained

if TYPE_CHECKING:
    from datetime import datetime

    from headrace.queues.memory.place import Place


def keep_house(place: Place, now: datetime) -> Maintained:
    """Judge leases that have run out, and end what is over. Nothing is promoted: being due makes a job here ready."""
    lost = poisoned = 0
    for lease in [lease for lease in place.leases.values() if lease.ends_at <= now]:
        ids, dead = place.lose(lease, now, charges=True)
        lost, poisoned = lost + len(ids), poisoned + dead
    return Maintained(
        rescued=lost - poisoned,
        poisoned=poisoned,
        cancelled=place.catch_up_cancellations(now),
        expired=place.expire(now),
        pruned=place.prune(now),
    )
