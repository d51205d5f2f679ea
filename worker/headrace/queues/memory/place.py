"""One queue in memory: its jobs from their enqueue to their end."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from msgspec import structs

from headrace.queues.base import Delivery, Enqueued
from headrace.queues.memory.entries import EndedJob, Entry, Lease, new_entry
from headrace.queues.memory.keys import Keys
from headrace.queues.memory.order import Order
from headrace.queues.memory.room import Room
from headrace.queues.settlement import Complete, DeadLetter, Discard, Release, Retry
from headrace.queues.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet
    from datetime import datetime

    from headrace.job import NewJob
    from headrace.queues.base import Owner, QueueSettings
    from headrace.queues.settlement import Settlement

_POISONOUS_DEATHS = 3
_FORGIVEN_AFTER = timedelta(days=1)
"""So long after its last loss, a job is one like others."""


class Place:
    """One queue. Jobs go by number, in the order in which they were enqueued."""

    def __init__(self, name: str, settings: QueueSettings, owner: Owner) -> None:
        self.name = name
        self.settings = settings
        self.owner = owner
        self.paused_by_hand = False
        self.entries: dict[int, Entry] = {}
        self.leases: dict[int, Lease] = {}
        self.dead: dict[int, EndedJob] = {}
        self.finished: dict[int, EndedJob] = {}
        self.room = Room()
        self.order = Order()
        self.tally = Tally()
        self.arrived = 0
        """How many jobs were enqueued."""
        self._keys = Keys(self.entries)
        self._cancelled: set[int] = set()

    @property
    def is_paused(self) -> bool:
        """Whether nothing is received."""
        return self.settings.paused or self.paused_by_hand

    # Come

    def add(self, number: int, new: NewJob, now: datetime) -> Enqueued:
        """Enqueue, unless the deduplication key is taken."""
        if (name := new.deduplication_key) is not None:
            if (owner := self._keys.owner(name, now)) is not None:
                return Enqueued(str(owner), is_new=False)
            window = new.deduplication_window_seconds
            self._keys.take(name, number, None if window is None else now + timedelta(seconds=window))
        run_at = new.run_at or now + timedelta(seconds=new.delay_seconds)
        expires_at = new.expires_at
        if expires_at is None and self.settings.message_retention_seconds is not None:
            expires_at = run_at + timedelta(seconds=self.settings.message_retention_seconds)
        entry = new_entry(number, new, queue=self.name, enqueued_at=now, run_at=run_at, expires_at=expires_at)
        self.arrived += 1
        self._bring(entry, now)
        return Enqueued(entry.job.id)

    def redrive(self, number: int, now: datetime) -> bool:
        """Put a dead job back, with all attempts before it; not where another has its deduplication key by now."""
        dead = self.dead[number]
        if (name := dead.job.deduplication_key) is not None and not self._keys.take_again(name, number, now):
            return False
        del self.dead[number]
        retention = self.settings.message_retention_seconds
        expires_at = None if retention is None else now + timedelta(seconds=retention)
        job = structs.replace(dead.job, attempt=0, run_at=now, expires_at=expires_at)
        self._bring(Entry(number, job, failures=dead.failures), now)
        return True

    def _bring(self, entry: Entry, now: datetime) -> None:
        self.entries[entry.number] = entry
        self.order.put(entry, now)

    # Be held

    def has_suspects(self, now: datetime) -> bool:
        """Whether a job waits to be claimed alone."""
        self.order.advance(now)
        return self.order.counts["suspect"] > 0

    def take_suspect(self, now: datetime, without: AbstractSet[str]) -> list[Entry]:
        """The suspect that comes first, if there is one."""
        self.order.advance(now)
        suspect = self.order.choose_suspect(without)
        return [] if suspect is None else [suspect]

    def take(self, limit: int, now: datetime, without: AbstractSet[str]) -> list[Entry]:
        """Jobs that may be held beside others."""
        self.order.advance(now)
        return self.order.choose(limit, without)

    def hold(self, entry: Entry, lease: Lease, claim: int, now: datetime) -> Delivery:
        """Hold a job that was taken."""
        entry.lease, entry.claim, entry.claimed_at = lease, claim, now
        lease.held[entry.number] = entry
        job = structs.replace(entry.job, attempt=entry.job.attempt + 1)
        return Delivery(job=job, receipt=str(claim), is_suspect=entry.is_suspect)

    def held(self, receipt: str, job_id: str) -> Entry | None:
        """The job, where it is held as it was delivered."""
        entry = self.entries.get(int(job_id))
        return entry if entry is not None and entry.lease is not None and str(entry.claim) == receipt else None

    def settle(self, settlement: Settlement, now: datetime) -> Literal["accepted", "dead", "refused"]:
        """What becomes of it."""
        delivery = settlement.delivery
        entry = self.held(delivery.receipt, delivery.job.id)
        if entry is None:
            return "refused"
        is_dead = False
        match settlement:
            case Complete():
                self.end(entry, now, "completed")
            case Discard():
                self.end(entry, now, "cancelled")
            case Release(delay_seconds=seconds):
                self._put_back(entry, now, run_at=now + timedelta(seconds=seconds) if seconds > 0 else None)
            case Retry(delay_seconds=seconds, failure=failure):
                entry.charge(failure, now)
                is_dead = entry.job.attempt > self.settings.max_retries
                if is_dead:
                    self._dead_letter(entry, now, "RetriesExhausted", failure.error)
                else:
                    self._put_back(entry, now, run_at=now + timedelta(seconds=seconds))
            case DeadLetter(reason=reason, failure=failed):
                entry.charge(failed, now)
                self._dead_letter(entry, now, reason, None if failed is None else failed.error)
                is_dead = True
        self.tally.count([settlement], [settlement] if is_dead else [])
        return "dead" if is_dead else "accepted"

    def _put_back(self, entry: Entry, now: datetime, *, run_at: datetime | None = None) -> None:
        self._unlease(entry)
        if run_at is not None:
            entry.job = structs.replace(entry.job, run_at=run_at)
        self.order.put(entry, now)

    def _unlease(self, entry: Entry) -> None:
        lease = entry.lease
        if lease is not None:
            del lease.held[entry.number]
            # Without heartbeats each receive has a lease of its own, which ends with the last of its jobs.
            if not lease.held and not lease.has_heartbeats:
                self.leases.pop(lease.number, None)
        entry.lease = entry.claimed_at = entry.progress = None

    # Go

    def end(self, entry: Entry, now: datetime, outcome: Literal["completed", "cancelled"]) -> None:
        """The job is gone; the history remembers it, where there is one."""
        self._remove(entry, now)
        if self.settings.completed_retention_seconds > 0:
            self.finished[entry.number] = EndedJob(
                job=entry.job, outcome=outcome, ended_at=now, failures=entry.failures
            )

    def cancel(self, entry: Entry, now: datetime) -> Literal["cancelled", "requested"]:
        """At once, or by who runs it."""
        if entry.lease is None:
            self.end(entry, now, "cancelled")
            return "cancelled"
        entry.is_cancelled = True
        self._cancelled.add(entry.number)
        return "requested"

    def hurry(self, entry: Entry, now: datetime) -> bool:
        """Make a delayed job due; False where it is held, or due."""
        if entry.lease is not None or entry.job.run_at <= now:
            return False
        entry.job = structs.replace(entry.job, run_at=now)
        self.order.put(entry, now)
        return True

    def _dead_letter(self, entry: Entry, now: datetime, reason: str, error: str | None = None) -> None:
        self._remove(entry, now)
        if error is None and entry.failures:
            error = entry.failures[-1].failure.error
        if self.settings.dead_letter_enabled:
            self.dead[entry.number] = EndedJob(
                job=entry.job, outcome="dead", ended_at=now, failures=entry.failures, reason=reason, error=error
            )

    def _remove(self, entry: Entry, now: datetime) -> None:
        del self.entries[entry.number]
        self._cancelled.discard(entry.number)
        self._unlease(entry)
        self.order.drop(entry, now)
        if entry.job.deduplication_key is not None:
            self._keys.free(entry.job.deduplication_key, now)

    # Housekeeping

    def end_lease(self, lease: Lease, now: datetime) -> None:
        """Put all that is held under it back."""
        for entry in list(lease.held.values()):
            self._put_back(entry, now)
        self.leases.pop(lease.number, None)

    def lose(self, lease: Lease, now: datetime, *, charges: bool) -> tuple[list[str], int]:
        """A worker is lost: its jobs go back; gives their ids, and how many turned out to be poisonous.

        Parameters
        ----------
        lease
            What it held.
        now
            When.
        charges
            Whether it counts as a death where it held one job alone.
        """
        numbers, poisoned = sorted(lease.held), 0
        was_alone = charges and len(numbers) == 1
        for entry in [lease.held[number] for number in numbers]:
            if entry.lost_at is not None and now - entry.lost_at > _FORGIVEN_AFTER:
                entry.forgive()
            entry.losses, entry.deaths, entry.lost_at = entry.losses + 1, entry.deaths + was_alone, now
            if entry.deaths >= _POISONOUS_DEATHS:
                self._dead_letter(entry, now, "WorkerLost", "three workers died while they ran this job and no other")
                self.tally.dead_lettered += 1
                poisoned += 1
            else:
                self._put_back(entry, now)
        self.leases.pop(lease.number, None)
        return [str(number) for number in numbers], poisoned

    def expire(self, now: datetime) -> int:
        """Give up what was not started in time."""
        self.order.advance(now)
        late = [self.order.overdue[number] for number in sorted(self.order.overdue)]
        for entry in late:
            self._dead_letter(entry, now, "Expired")
        self.tally.dead_lettered += len(late)
        return len(late)

    def catch_up_cancellations(self, now: datetime) -> int:
        """End what was cancelled while it ran, and has been handed back since."""
        idle = [self.entries[number] for number in sorted(self._cancelled) if self.entries[number].lease is None]
        for entry in idle:
            self.end(entry, now, "cancelled")
        return len(idle)

    def prune(self, now: datetime) -> int:
        """Forget what is older than the queue keeps it."""
        self._keys.prune(now)
        return sum(
            _prune(ended, now - keep)
            for ended, keep in (
                (self.dead, timedelta(days=self.settings.dead_letter_retention_days)),
                (self.finished, timedelta(seconds=self.settings.completed_retention_seconds)),
            )
        )


def _prune(ended: dict[int, EndedJob], until: datetime) -> int:
    """They stand in the order in which they ended."""
    pruned = 0
    while ended and (first := next(iter(ended.values()))).ended_at <= until:
        del ended[int(first.job.id)]
        pruned += 1
    return pruned
