"""What is known of a pool's queues, added up."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from typing import TYPE_CHECKING

from headrace_operator.core.scaling.words import one_or_named

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from headrace_operator.core.model import Sample
    from headrace_operator.core.scaling.model import SeenQueue


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """All of the pool's queues as one, as far as they are known."""

    ready: int
    startable: int
    """What a worker more could start: of paused queues, nothing."""
    in_flight: int
    load: Fraction
    """This pool's part of what could start and what is in flight."""
    sampled_at: datetime
    """Of the oldest reading among them."""
    is_lower_bound: bool
    is_shared: bool
    """Whether other pools take a part of the load."""
    is_paused: bool
    """Whether all of them are."""
    paused: str = ""
    """Which queues are paused, in words."""
    unknown: str = ""
    """Which queues could not be read, in words: there may be more than is said here."""
    unconfirmed: str = ""
    """Of which queues only an approximate count says that there is nothing to do, and how many workers confirm it, in
    words."""
    is_unwitnessed: bool = False
    """Whether that is so since no worker of these queues is ready: nobody takes jobs out, and nobody can tell."""
    empty_since: datetime | None = None
    """Since when workers say so themselves, where counts are approximate: there may have been something before."""

    @property
    def is_workless(self) -> bool:
        """Whether nothing was counted that could start and nothing in flight, in any queue that was read."""
        return not self.startable and not self.in_flight

    @property
    def is_doubtful(self) -> bool:
        """Whether nothing was counted, and for all that there may be something."""
        return self.is_workless and bool(self.unconfirmed)

    def __str__(self) -> str:
        least = "at least " if self.is_lower_bound else ""
        part = f", {float(self.load):.15g} of it for this pool" if self.is_shared else ""
        paused = f", {self.paused} is paused" if self.paused else ""
        return f"{least}{self.ready} ready and {self.in_flight} in flight{part}{paused}"


def add_up(queues: Sequence[SeenQueue]) -> Signals | None:
    """What the pool's queues hold together; None where none of them could be read."""
    read = [(queue, queue.sample) for queue in queues if queue.sample is not None]
    if not read:
        return None
    unknown = unknown_queues(queues)
    paused = [queue.name for queue, sample in read if sample.depth.paused]
    doubtful = [(queue, sample) for queue, sample in read if not (sample.depth.load or sample.depth.is_known_empty)]
    return Signals(
        ready=sum(sample.depth.ready for _, sample in read),
        startable=sum(sample.depth.startable for _, sample in read),
        in_flight=sum(sample.depth.in_flight for _, sample in read),
        load=sum((sample.depth.load * queue.share for queue, sample in read), start=Fraction()),
        sampled_at=min(sample.sampled_at for _, sample in read),
        is_lower_bound=bool(unknown) or any(sample.depth.is_lower_bound for _, sample in read),
        is_shared=any(queue.share != 1 for queue, _ in read),
        is_paused=len(paused) == len(read),
        paused=one_or_named(paused, len(queues)) if paused else "",
        unknown=unknown,
        unconfirmed=_doubt(doubtful, len(queues)) if doubtful else "",
        is_unwitnessed=bool(doubtful) and all(sample.depth.witness is None for _, sample in doubtful),
        empty_since=max((since for _, sample in read if (since := _empty_since(sample)) is not None), default=None),
    )


def _empty_since(sample: Sample) -> datetime | None:
    """Since when a queue is known to be empty by what workers have seen; None where counts alone say so, or nobody."""
    witness = sample.depth.witness
    if witness is None or not sample.depth.is_known_empty:
        return None
    return sample.sampled_at - timedelta(seconds=witness.empty_for_seconds)


def _doubt(doubtful: Sequence[tuple[SeenQueue, Sample]], of: int) -> str:
    """Whose count is approximate, and who confirms it."""
    witnesses = [sample.depth.witness for _, sample in doubtful if sample.depth.witness is not None]
    confirming, asked = sum(witness.empty for witness in witnesses), sum(witness.asked for witness in witnesses)
    by = f"confirmed by {confirming} of {asked} ready workers" if asked else "confirmed by no worker"
    return f"the count of {one_or_named([queue.name for queue, _ in doubtful], of)} is approximate, and {by}"


def unknown_queues(queues: Sequence[SeenQueue]) -> str:
    """Which queues could not be read, in words; empty where all were."""
    names = [queue.name for queue in queues if queue.sample is None]
    return one_or_named(names, len(queues)) if names else ""
