"""What workers publish at ``/depth``: how much a queue holds where they count, and what they have seen of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, UnsetType

from headrace_operator.core.model import QueueDepth, Witness

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headrace_operator.core.model import ObjectKey

PAGE_BYTES = 64 * 1024
"""A queue takes about half a KiB. What answers is the user's image: more than this is not read, let alone parsed."""

_MOST = 2**53
"""No number is larger: beyond it, sums and quantities would be wrong."""


_LONGEST_SECONDS = 2_592_000.0
"""For no longer is it of interest how long workers have polled in vain: zero is due after a week at the most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedDepth:
    """What a worker says of a queue that it counts."""

    depth: QueueDepth
    age_seconds: float
    """For how long it has been counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedWitness:
    """What a worker says of a queue that others count (`headrace.queues.base.Witnessed`)."""

    held: int
    empty_for_seconds: float | None
    oldest_age_seconds: float


class _CountedLine(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One queue, as it was counted where the worker counts; fields that are not known yet are passed over."""

    namespace: str
    queue: str
    age_seconds: float | UnsetType = UNSET
    ready: int | UnsetType = UNSET
    blocked: int | UnsetType = UNSET
    delayed: int | UnsetType = UNSET
    in_flight: int | UnsetType = UNSET
    in_flight_seconds: float | UnsetType = UNSET
    dead_lettered: int | UnsetType = UNSET
    oldest_ready_age_seconds: float | UnsetType = UNSET
    next_due_seconds: float | UnsetType | None = UNSET
    paused: bool | UnsetType = UNSET
    is_lower_bound: bool | UnsetType = UNSET
    is_approximate: bool = False
    arrived: int | UnsetType | None = UNSET
    completed: int | UnsetType | None = UNSET
    failed: int | UnsetType | None = UNSET
    service_seconds: float | UnsetType | None = UNSET


class _SeenLine(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One queue, as the worker has seen it where it is a witness."""

    namespace: str
    queue: str
    held: int | UnsetType = UNSET
    empty_for_seconds: float | UnsetType | None = UNSET
    oldest_age_seconds: float | UnsetType = UNSET


_COUNTED_PAGE = msgspec.json.Decoder(list[_CountedLine])
_SEEN_PAGE = msgspec.json.Decoder(list[_SeenLine])


def parse_depth(page: bytes, queue: ObjectKey) -> PublishedDepth | None:
    """The queue's depth in a worker's page; None unless it is there as a whole.

    Workers leave it out where their newest count is too old, so what is missing is unknown and never zero.
    """
    found = _found(page, queue, _COUNTED_PAGE)
    if found is None:
        return None
    age_seconds = found.pop("age_seconds")
    return PublishedDepth(depth=QueueDepth(**found), age_seconds=age_seconds)


def parse_witnessed(page: bytes, queue: ObjectKey) -> PublishedWitness | None:
    """What a worker has seen of the queue; None unless its page says so."""
    found = _found(page, queue, _SEEN_PAGE)
    return None if found is None else PublishedWitness(**found)


def with_witness(depth: QueueDepth, said: Sequence[PublishedWitness], *, ready: int) -> QueueDepth:
    """An approximate depth with what workers have seen beside it.

    Parameters
    ----------
    depth
        As it was counted.
    said
        What those said that answered.
    ready
        How many workers there are that should have seen something.
    """
    empty = [each.empty_for_seconds for each in said if each.empty_for_seconds is not None and not each.held]
    witness = Witness(
        asked=ready,
        empty=len(empty),
        empty_for_seconds=min([*empty, _LONGEST_SECONDS]) if empty else 0.0,
        held=min(sum(each.held for each in said), _MOST),
        oldest_age_seconds=max((each.oldest_age_seconds for each in said), default=0.0),
    )
    oldest_seconds = max(depth.oldest_ready_age_seconds, witness.oldest_age_seconds) if depth.ready else 0.0
    in_flight = max(depth.in_flight, witness.held)
    return replace(depth, in_flight=in_flight, oldest_ready_age_seconds=oldest_seconds, witness=witness)


def _found(
    page: bytes,
    queue: ObjectKey,
    decoder: msgspec.json.Decoder[list[_CountedLine]] | msgspec.json.Decoder[list[_SeenLine]],
) -> dict[str, Any] | None:
    """What the queue's line says beside its name; None unless all fields are there, and sound."""
    try:
        lines = decoder.decode(page)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    line = next((line for line in lines if (line.namespace, line.queue) == (queue.namespace, queue.name)), None)
    if line is None:
        return None
    found = {field: getattr(line, field) for field in line.__struct_fields__ if field not in ("namespace", "queue")}
    return found if all(_is_sound(field, value) for field, value in found.items()) else None


def _is_sound(field: str, value: float | UnsetType | None) -> bool:
    if value is None or isinstance(value, bool):
        return True
    least = -_MOST if field == "next_due_seconds" else 0
    # Compared and not converted: an integer may have thousands of digits. What is no number is within no bounds.
    return value is not UNSET and least <= value <= _MOST
