"""What a promise needs of a backend. What a backend lacks is found in what it declares, never written by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from headrace.queues import base, inspection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from headrace.queues.capabilities import Capabilities

Test = TypeVar("Test", bound="Callable[..., Any]")


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What a backend declares, and what its bench can do. Nothing is connected for it."""

    name: str
    queue: base.Queue
    inspector: inspection.Inspector | None
    moves_time: bool
    """Whether tests move the backend's clock on; else its clock is the real one."""
    takes_parts: bool = False
    """Whether tests can have the backend take a part of a call and refuse the rest."""

    @property
    def capabilities(self) -> Capabilities:
        return self.queue.capabilities


@dataclass(frozen=True)
class Need:
    """One thing that a promise is about."""

    words: str
    is_met_by: Callable[[Offer], bool]


def _capability(words: str, has: Callable[[Capabilities], bool]) -> Need:
    return Need(words, lambda offer: has(offer.capabilities))


def _role(words: str, role: type) -> Need:
    return Need(words, lambda offer: isinstance(offer.queue, role) or isinstance(offer.inspector, role))


ORDER = _capability("order", lambda can: can.ordered)
PRIORITIES = _capability("priorities", lambda can: can.priorities)
GROUPS = _capability("groups", lambda can: can.groups)
FAIRNESS = _capability("fairness", lambda can: can.fairness)
EXPIRY = _capability("expiry of single jobs", lambda can: can.expiry)
DELAYS = _capability("delays", lambda can: can.max_enqueue_delay_seconds >= 1)
LONG_DELAYS = _capability("delays of days", lambda can: can.max_enqueue_delay_seconds >= 2 * 86_400)
LATER = _capability("delays of retries", lambda can: can.max_retry_delay_seconds >= 1)
KEYS = _capability("keys of unfinished jobs", lambda can: can.deduplicates_unfinished)
WINDOWS = _capability("deduplication windows", lambda can: can.max_deduplication_window_seconds > 0)
UNCHARGED = _capability("uncharged interruptions", lambda can: can.attempts == "failures")
ATOMIC = _capability("atomic batches", lambda can: can.atomic_batches)
FENCED = _capability("fencing", lambda can: can.fenced)
CANCELLATION = _capability("cancellation of running jobs", lambda can: can.cancellation)
ERRORS = _capability("kept errors", lambda can: can.keeps_errors)
PAUSING = _capability("pausing", lambda can: can.pausing)
SKIPPING = _capability("names left out", lambda can: can.skips_names)
TRANSACTIONS = _capability("transactions", lambda can: can.transactions)

HOUSEKEEPING = _role("housekeeping by workers", base.KeepsHouse)
ASIDE = _role("heartbeats from another thread", base.KeepsAliveAside)
PROGRESS = _role("progress", base.ShowsProgress)
COUNTING = Need(
    "exact counts",
    # Who has witnesses needs them.
    lambda offer: isinstance(offer.queue, base.Counts) and not isinstance(offer.queue, base.Witnesses),
)
LISTENING = _role("news of jobs while waiting", base.Listens)
QUEUES = _role("a list of queues", inspection.Queues)
PAUSES = _role("a pause by hand", inspection.Pauses)
JOBS = _role("looks at single jobs", inspection.Jobs)
DEAD_LETTERS = _role("redrive and purge", inspection.DeadLetters)
STUCK = _role("recovery by hand", inspection.Stuck)

PARTS = _capability("batches in parts", lambda can: not can.atomic_batches)
FAULTS = Need("fault that tests can cause", lambda offer: offer.takes_parts)
TIME = Need("a clock that tests move", lambda offer: offer.moves_time)


def needs(*wanted: Need) -> Callable[[Test], Test]:
    """What a part needs; or what one of its promises needs beside that."""

    def with_needs(test: Test) -> Test:
        test.needs = wanted  # type: ignore[attr-defined]
        return test

    return with_needs


class Part:
    """A part of the contract: promises that are about one verb."""


def promises(part: type[Part]) -> Iterator[str]:
    """The tests that a part has of its own, in their order."""
    return (name for name in vars(part) if name.startswith("test_"))


def needed_by(part: type[Part], test: str) -> tuple[Need, ...]:
    return (*vars(part).get("needs", ()), *getattr(vars(part)[test], "needs", ()))


def parts(suite: type) -> list[type[Part]]:
    """The parts that a suite is made of, in their order."""
    return [part for part in suite.__mro__ if issubclass(part, Part) and any(promises(part))]


def missing(suite: type, test: str, offer: Offer) -> list[str]:
    """What a backend lacks for one of the suite's promises; empty where it is kept."""
    part = next(part for part in parts(suite) if test in vars(part))
    return [need.words for need in needed_by(part, test) if not need.is_met_by(offer)]
