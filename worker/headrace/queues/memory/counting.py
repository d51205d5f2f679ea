"""How much a queue in memory holds. Nothing is walked but what is held."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.queues.base import Depth, Totals

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from headrace.queues.memory.entries import Entry
    from headrace.queues.memory.place import Place


def has_ready(place: Place, now: datetime) -> bool:
    """Whether anything could start now."""
    place.order.advance(now)
    return place.order.first_startable_at() is not None or any(_of_the_dead(place, now))


def depth(place: Place, now: datetime) -> Depth:
    """Count a queue."""
    place.order.advance(now)
    counts, next_due = place.order.counts, place.order.next_due_at()
    held = [
        (now - entry.claimed_at).total_seconds()
        for lease in place.leases.values()
        if lease.ends_at > now
        for entry in lease.held.values()
        if entry.claimed_at is not None
    ]
    since = [entry.job.run_at for entry in _of_the_dead(place, now)]
    of_the_dead = len(since)
    if (first := place.order.first_startable_at()) is not None:
        since.append(first)
    return Depth(
        ready=counts["ready"] + counts["suspect"] + of_the_dead,
        delayed=counts["delayed"],
        blocked=counts["blocked"],
        in_flight=len(held),
        in_flight_seconds=sum(held),
        dead_lettered=len(place.dead),
        oldest_ready_age_seconds=(now - min(since)).total_seconds() if since else 0.0,
        next_due_seconds=None if next_due is None else (next_due - now).total_seconds(),
        paused=place.is_paused,
        totals=_totals(place),
    )


def _totals(place: Place) -> Totals:
    tally = place.tally
    return Totals(
        arrived=place.arrived,
        completed=tally.completed,
        failed=tally.failed,
        dead_lettered=tally.dead_lettered,
        service_seconds=tally.service_seconds,
        service_histogram=tuple(tally.service_histogram),
    )


def _of_the_dead(place: Place, now: datetime) -> Iterator[Entry]:
    """What is held by nobody who is known to live: it could start, once somebody keeps house."""
    for lease in place.leases.values():
        if lease.ends_at <= now:
            yield from (entry for entry in lease.held.values() if not entry.is_expired(now))
