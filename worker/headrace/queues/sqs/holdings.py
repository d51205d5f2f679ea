"""What one queue object holds, and until when. Pure: the time is an argument, in seconds of one clock.

Each delivery is held under a lease of its own: its receipt. Deliveries leave by being settled, or by being told as
lost. Whoever extends a lease and whoever settles its job keep out of each other's way: a lease that is extended after
its job was put back would hide that job.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from msgspec import Struct

from headrace.queues.sqs.capabilities import MAX_VISIBILITY_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from headrace.queues.base import Delivery, DeliveryKey

Use: TypeAlias = Literal["settling", "extending"]

_MANY = 10_000


class Held(Struct, eq=False, gc=False):
    """One delivery that is held."""

    delivery: Delivery
    message_id: str
    receives: int
    """How often the message was received."""
    received_at: float
    expires_at: float
    """Until when it is held, by the service's account or a little longer."""
    use: Use | None = None
    """What is being done with it."""
    is_sent: bool = False
    """Whether what takes its place (a retry, a dead letter) was sent: it is only to be deleted."""
    is_left: bool = False
    """Whether it is dead and could not be buried: it comes again."""
    is_counted: bool = False
    """Whether its failure was counted beside the queue."""
    has_failures: bool = False
    """Whether any of its failures was."""
    asked_until: float = float("-inf")
    """A change of its visibility was asked for and got no answer: if it came about, nobody has it before."""

    @property
    def wall_at(self) -> float:
        """It can't be held for longer."""
        return self.received_at + MAX_VISIBILITY_SECONDS


class Holdings:
    """The deliveries that are held, by their receipts.

    Parameters
    ----------
    lease_seconds
        How long what is held can be relied on after a heartbeat.
    visibility_seconds
        How long a heartbeat extends for.
    """

    def __init__(self, *, lease_seconds: float, visibility_seconds: int) -> None:
        self.has_heartbeats = False
        """Whether all that is received shall be held for as long as heartbeats go on."""
        self.visibility_seconds = visibility_seconds
        self._lease_seconds = lease_seconds
        self._held: dict[str, Held] = {}

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Held]:
        return iter(list(self._held.values()))

    def hold(self, held: Held, now: float) -> None:
        """Hold one more."""
        if not self.has_heartbeats and len(self._held) >= _MANY:
            self._forget_expired(now)
        self._held[held.delivery.receipt] = held

    def get(self, delivery: Delivery) -> Held | None:
        """The delivery, where it is held."""
        return self._held.get(delivery.receipt)

    def drop(self, delivery: Delivery) -> None:
        """It is held no more."""
        self._held.pop(delivery.receipt, None)

    # Extending

    def due(self, now: float, *, beside: bool = False) -> list[Held]:
        """What a heartbeat is to extend: more than half of its time is over, and it is neither lost nor in use.

        One from beside a loop that stands extends what the loop's own was about, too: that may never end.
        """
        half = now + self.visibility_seconds / 2
        free: tuple[Use | None, ...] = (None, "extending") if beside else (None,)
        return [
            held
            for held in list(self._held.values())
            if held.expires_at <= half and held.use in free and now < held.expires_at and self.extension(held, now) > 0
        ]

    def extension(self, held: Held, now: float) -> int:
        """For how many seconds from now it can be held, up to the wall; 0 where that is no longer than it is held."""
        seconds = min(self.visibility_seconds, int(held.wall_at - now))
        return seconds if now + seconds > held.expires_at else 0

    def extended(self, held: Held, until: float) -> None:
        """The service holds it until then."""
        held.expires_at = max(held.expires_at, until)

    def lost(self, now: float, gone: Iterable[Held]) -> frozenset[DeliveryKey]:
        """What is to be told as lost, and is held no more.

        That is what is gone, what has expired, and what can't be relied on until the next heartbeats: it was to be
        extended and could not be, whether for a fault or for the wall. What is being settled is left to that.
        """
        trusted_until = now + self._lease_seconds
        lost = [held for held in gone if held.delivery.receipt in self._held]
        lost += [held for held in list(self._held.values()) if held.expires_at < trusted_until and held.use is None]
        for held in lost:
            self.drop(held.delivery)
        return frozenset(held.delivery.key for held in lost)

    def _forget_expired(self, now: float) -> None:
        """Without heartbeats nobody asks what is lost."""
        self._held = {receipt: held for receipt, held in self._held.items() if held.expires_at > now}
