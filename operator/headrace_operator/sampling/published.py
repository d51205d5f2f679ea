"""The depth that workers publish at ``/depth``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from headrace_operator.core.model import QueueDepth

if TYPE_CHECKING:
    from headrace_operator.core.model import ObjectKey

PAGE_BYTES = 64 * 1024
"""A queue takes about half a KiB. What answers is the user's image: more than this is not read, let alone parsed."""

_MOST = 2**53
"""No number is larger: beyond it, sums and quantities would be wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedDepth:
    """What a worker says of a queue."""

    depth: QueueDepth
    age_seconds: float
    """For how long it has been counted."""


class _Line(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One queue; fields that are not known yet are passed over."""

    namespace: str
    queue: str
    age_seconds: float
    ready: int
    blocked: int
    delayed: int
    in_flight: int
    in_flight_seconds: float
    dead_lettered: int
    oldest_ready_age_seconds: float
    next_due_seconds: float | None
    paused: bool
    is_lower_bound: bool
    arrived: int | None
    completed: int | None
    failed: int | None
    service_seconds: float | None


_PAGE = msgspec.json.Decoder(list[_Line])


def parse_depth(page: bytes, queue: ObjectKey) -> PublishedDepth | None:
    """The queue's depth in a worker's page; None unless it is there as a whole.

    Workers leave a queue out whose newest count is too old, so what is missing is unknown and never zero.
    """
    try:
        lines = _PAGE.decode(page)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    line = next((line for line in lines if (line.namespace, line.queue) == (queue.namespace, queue.name)), None)
    if line is None or not _is_sound(line):
        return None
    depth = QueueDepth(
        ready=line.ready,
        blocked=line.blocked,
        delayed=line.delayed,
        in_flight=line.in_flight,
        in_flight_seconds=line.in_flight_seconds,
        dead_lettered=line.dead_lettered,
        oldest_ready_age_seconds=line.oldest_ready_age_seconds,
        next_due_seconds=line.next_due_seconds,
        paused=line.paused,
        is_lower_bound=line.is_lower_bound,
        arrived=line.arrived,
        completed=line.completed,
        failed=line.failed,
        service_seconds=line.service_seconds,
    )
    return PublishedDepth(depth=depth, age_seconds=line.age_seconds)


def _is_sound(line: _Line) -> bool:
    numbers = (
        *(line.age_seconds, line.ready, line.blocked, line.delayed, line.in_flight, line.in_flight_seconds),
        *(line.dead_lettered, line.oldest_ready_age_seconds, line.arrived or 0, line.completed or 0, line.failed or 0),
        line.service_seconds or 0,
    )
    # Compared and not converted: an integer may have thousands of digits. What is no number is within no bounds.
    return all(0 <= number <= _MOST for number in numbers) and -_MOST <= (line.next_due_seconds or 0) <= _MOST
