"""What one queue object holds, and what it knows of how that ends. Pure: no clock, no database.

A delivery is held under a claim (its receipt), a claim under a lease. Deliveries leave by being `settled`, all of a
lease's at once by being `lost`; a claim of which this object has never heard leaves as a stray.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from headrace.queues.errors import LeaseLostError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from headrace.queues.base import Delivery, DeliveryKey
    from headrace.queues.settlement import Settlement


class Fence(NamedTuple):
    """What proves that a job is ours."""

    lease: int
    claim: int
    job_id: int


class Lot(NamedTuple):
    """Settlements of one kind, all of deliveries held under one lease: one statement."""

    lease: int
    kind: type[Settlement]
    settlements: list[Settlement]


class Sorted(NamedTuple):
    """Settlements by what can be done with them."""

    lots: list[Lot]
    refused: list[Settlement]
    """Of deliveries that are not held (any more)."""


class _Claim(NamedTuple):
    lease: int
    ids: set[str]


class Holdings:
    """The claims and jobs that are held, under which leases, and what was said of them without an answer.

    One thread changes it; `fence` may be called from any.
    """

    def __init__(self) -> None:
        self.heartbeat_lease: int | None = None
        """The lease that heartbeats extend; None before the first of them, and once it is lost."""
        self.has_heartbeats = False
        """Whether all that is received shall be held under that lease."""
        self.holds_suspect = False
        """Whether what is held is a job that is to be held alone."""
        self.suspects_wait = False
        """Whether there are such jobs, as far as is known."""
        self.makes_room = False
        """Whether it is our turn to let what is held run out, so that one of them can be taken."""
        self._claims: dict[str, _Claim] = {}
        # What was given back, or lost, before its answer arrived: not to be held any more when it does.
        self._gone_claims: set[str] = set()
        self._gone_leases: set[int] = set()
        # What may have been completed in a transaction of its handler's own.
        self._fenced: set[DeliveryKey] = set()
        # What was settled, and in which way, by a call that got no answer: it may be done.
        self._unanswered: dict[DeliveryKey, str] = {}

    def __bool__(self) -> bool:
        """Whether anything is held."""
        return bool(self._claims)

    @property
    def job_ids(self) -> list[int]:
        """The jobs held."""
        return [int(job_id) for claim in self._claims.values() for job_id in claim.ids]

    @property
    def claims(self) -> list[int]:
        """The claims under which anything is held."""
        return [int(receipt) for receipt in self._claims]

    @property
    def leases(self) -> set[int]:
        """All leases that are ours."""
        leases = {claim.lease for claim in self._claims.values()}
        return leases if self.heartbeat_lease is None else {*leases, self.heartbeat_lease}

    def lease_of(self, delivery: Delivery) -> int | None:
        """The lease under which it is held; None where it is not (any more)."""
        claim = self._claims.get(delivery.receipt)
        return claim.lease if claim is not None and delivery.job.id in claim.ids else None

    def keys_of(self, job_ids: Collection[int]) -> frozenset[DeliveryKey]:
        """The deliveries of these jobs."""
        wanted = set(map(str, job_ids))
        return frozenset((receipt, job_id) for receipt, claim in self._claims.items() for job_id in claim.ids & wanted)

    # Taking

    @property
    def may_take_suspect(self) -> bool:
        """Whether to look for a job that is to be held alone."""
        return not self._claims and self.suspects_wait

    @property
    def may_take(self) -> bool:
        """Whether to look for other jobs."""
        return not self.holds_suspect and not (self.makes_room and self._claims)

    def take_suspect(self, lease: int, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """As `take`, of what is to be held alone: at most one."""
        self.suspects_wait = bool(deliveries)
        self.makes_room = self.makes_room and bool(deliveries)
        taken = self.take(lease, deliveries)
        self.holds_suspect = bool(taken)
        return taken

    def take(self, lease: int, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Hold what was claimed under a lease; what is gone by now is left out."""
        if lease in self._gone_leases:
            return []
        claims = self._claims
        taken = []
        for delivery in deliveries:
            receipt = delivery.receipt
            if receipt in self._gone_claims:
                continue
            claim = claims.get(receipt)
            if claim is None:
                claim = claims[receipt] = _Claim(lease, set())
            claim.ids.add(delivery.job.id)
            taken.append(delivery)
        return taken

    def untold(self, deliveries: Iterable[Delivery]) -> None:
        """Who asked for these was cut off before it was told: their claims are strays."""
        for delivery in deliveries:
            self._claims.pop(delivery.receipt, None)
        if not self._claims:
            self.holds_suspect = False

    def strays(self, claims: Iterable[int]) -> list[int]:
        """Of our claims in the database, those of which no answer has told: they are gone from now on."""
        strays = [claim for claim in claims if str(claim) not in self._claims]
        self._gone_claims.update(map(str, strays))
        return strays

    # Settling

    def sorted(self, settlements: Sequence[Settlement]) -> Sorted:
        """By lease and kind; deliveries that are not held are refused."""
        lots: dict[tuple[int, type[Settlement]], list[Settlement]] = {}
        refused: list[Settlement] = []
        claims = self._claims
        lease, kind, lot = -1, None, refused  # Those of the settlement before: most are of one lot.
        for settlement in settlements:
            delivery = settlement.delivery
            claim = claims.get(delivery.receipt)
            if claim is None or delivery.job.id not in claim.ids:
                refused.append(settlement)
                continue
            if claim.lease != lease or type(settlement) is not kind:
                lease, kind = claim.lease, type(settlement)
                lot = lots.setdefault((lease, kind), [])
            lot.append(settlement)
        return Sorted([Lot(*key, lot) for key, lot in lots.items()], refused)

    def fence(self, delivery: Delivery) -> Fence:
        """What proves that a job is ours, to complete it in a transaction; that is remembered before it is done.

        Raises
        ------
        LeaseLostError
            When it is not held (any more).
        """
        lease = self.lease_of(delivery)
        if lease is None:
            raise LeaseLostError(f"job {delivery.job.id} is not held any more: roll back")
        self._fenced.add(delivery.key)
        return Fence(lease, int(delivery.receipt), int(delivery.job.id))

    def fenced(self, settlements: Sequence[Settlement]) -> list[Settlement]:
        """Of settlements, those whose job may have been completed in a transaction."""
        if not self._fenced:
            return []
        return [settlement for settlement in settlements if settlement.delivery.key in self._fenced]

    def unanswered(self, query: str, settlements: Sequence[Settlement]) -> None:
        """A call that settles them got no answer: it may have been done."""
        self._unanswered.update(dict.fromkeys([settlement.delivery.key for settlement in settlements], query))

    def asked_before(self, query: str, settlements: Sequence[Settlement]) -> list[Settlement]:
        """Of settlements, those that a call of the same kind asked for without an answer."""
        if not self._unanswered:
            return []
        return [settlement for settlement in settlements if self._unanswered.get(settlement.delivery.key) == query]

    def settled(self, settlements: Sequence[Settlement]) -> set[int]:
        """These are held no more; gives the leases, other than the heartbeats', under which nothing is held now."""
        if self._fenced or self._unanswered:
            for settlement in settlements:
                key = settlement.delivery.key
                self._fenced.discard(key)
                self._unanswered.pop(key, None)
        by_receipt: dict[str, list[str]] = {}
        for settlement in settlements:
            delivery = settlement.delivery
            by_receipt.setdefault(delivery.receipt, []).append(delivery.job.id)
        ended: set[int] = set()
        claims = self._claims
        for receipt, job_ids in by_receipt.items():
            claim = claims.get(receipt)
            if claim is None:
                continue
            claim.ids.difference_update(job_ids)
            if not claim.ids:
                del claims[receipt]
                if claim.lease != self.heartbeat_lease:
                    ended.add(claim.lease)
        if not claims:
            self.holds_suspect = False
        return ended - {claim.lease for claim in claims.values()} if ended else ended

    def forget(self) -> None:
        """Hold nothing any more: all has been given back."""
        for lease in self.leases:
            self.lost(lease)

    def lost(self, lease: int) -> frozenset[DeliveryKey]:
        """A lease was judged: what was held under it is held no more; gives that."""
        if lease == self.heartbeat_lease:
            self.heartbeat_lease = None
        self._gone_leases.add(lease)
        lost = frozenset(
            (receipt, job_id) for receipt, claim in self._claims.items() if claim.lease == lease for job_id in claim.ids
        )
        self._claims = {receipt: claim for receipt, claim in self._claims.items() if claim.lease != lease}
        # By key, not anew: handlers in threads may add to it meanwhile.
        self._fenced -= lost
        for key in lost:
            self._unanswered.pop(key, None)
        if not self._claims:
            self.holds_suspect = False
        return lost
