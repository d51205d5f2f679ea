"""One effect a key: what may run, and what was done already.

A delivered job claims its key before it waits for a slot, all of a batch in one round trip. What has a recorded finish
is completed without a run; what somebody else runs is put back for a while. A finish is recorded before the queue is
told of the completion, so that no run starts after it, wherever this process dies in between. All else frees the key
first.

The key is what the job's declaration makes of its payload, else what its producer gave (`IDEMPOTENCY_KEY_HEADER`), else
its id with the moment it was enqueued: an id alone may be issued again, after a failover or to a schema made anew.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

from headrace.idempotency.base import ClaimState, Hold, IdempotencyError
from headrace.job import IDEMPOTENCY_KEY_HEADER
from headrace.queues.clock import lease_clock as now
from headrace.runtime.lease import TRUSTED_SHARE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headrace.idempotency.base import IdempotencyStore
    from headrace.job import Job
    from headrace.metrics import QueueMetrics
    from headrace.queues.base import Delivery, DeliveryKey
    from headrace.runtime.handlers import Terms

log = logging.getLogger(__name__)

DEFAULT_TTL_SECONDS = 7 * 24 * 3600.0

# A job whose key another run has comes back after that run's lease at the latest; mostly it ends much sooner.
_LATER_SECONDS = 5.0
# Where the store is away, its jobs wait so long in the queue, for others whose store is not.
_AWAY_SECONDS = 5.0

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

OnUnavailable = Literal["Retry", "Proceed"]
"""What to do without the store: let jobs wait for it, or run them without."""


@dataclass(slots=True, kw_only=True)
class Admission:
    """What is to become of deliveries."""

    run: list[Delivery] = field(default_factory=list)
    finished: list[Delivery] = field(default_factory=list)
    """Done already: complete them."""
    later: list[tuple[Delivery, float]] = field(default_factory=list)
    """Put back for so many seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Idempotency:
    """A store, and how a worker uses it."""

    store: IdempotencyStore
    """Opened and closed by whoever made it."""
    ttl_seconds: float = DEFAULT_TTL_SECONDS
    """How long a finish is remembered."""
    on_unavailable: OnUnavailable = "Retry"


@dataclass(slots=True, eq=False)
class _Held:
    """A claim of ours."""

    hold: Hold
    trusted_until: float
    """By the leases' clock; then the key may be another's, if nothing was heard of the store since."""


class IdempotencyGuard:
    """Claims, keeps and ends the keys of one worker's jobs.

    Parameters
    ----------
    idempotency
        The store, and how it is used.
    metrics
        Counts hits, misses and failures.
    terms
        On what terms jobs of a name run.
    lease_seconds
        For how long keys are claimed.
    """

    def __init__(
        self,
        idempotency: Idempotency,
        metrics: QueueMetrics,
        *,
        terms: Callable[[str], Terms | None],
        lease_seconds: float,
    ) -> None:
        self._store = idempotency.store
        self._metrics = metrics
        self._terms = terms
        self._ttl_seconds = idempotency.ttl_seconds
        self._proceeds = idempotency.on_unavailable == "Proceed"
        self._lease_seconds = lease_seconds
        self._trusted_seconds = lease_seconds * TRUSTED_SHARE
        self._held: dict[DeliveryKey, _Held] = {}
        self._process = secrets.token_hex(8)
        self._claims = 0
        self._complained = False
        self.is_away = False
        """Whether the store did not answer, the last time, and jobs wait for it."""

    async def admit(self, deliveries: Sequence[Delivery]) -> Admission:
        """Claim the keys of deliveries."""
        admission = Admission()
        wanted: list[tuple[Delivery, Hold]] = []
        for delivery in deliveries:
            key = self._key(delivery.job)
            if key is None:
                admission.run.append(delivery)
                continue
            self._claims += 1
            wanted.append((delivery, Hold(key, f"{self._process}:{self._claims}")))
        if not wanted:
            return admission
        trusted_until = now() + self._trusted_seconds
        try:
            claims = await self._store.claim([hold for _, hold in wanted], lease_seconds=self._lease_seconds)
        except IdempotencyError as error:
            self._failed("claimed", error)
            if self._proceeds:
                admission.run += [delivery for delivery, _ in wanted]
            else:
                self.is_away = True
                admission.later += [(delivery, _AWAY_SECONDS) for delivery, _ in wanted]
            return admission
        self._answered()
        for (delivery, hold), claim in zip(wanted, claims, strict=True):
            match claim.state:
                case ClaimState.CLAIMED:
                    self._metrics.idempotency_misses.inc()
                    self._held[delivery.key] = _Held(hold, trusted_until)
                    admission.run.append(delivery)
                case ClaimState.FINISHED:
                    self._metrics.idempotency_hits.inc()
                    admission.finished.append(delivery)
                case ClaimState.IN_PROGRESS:
                    self._metrics.idempotency_in_progress.inc()
                    admission.later.append((delivery, min(claim.retry_after_seconds, _LATER_SECONDS)))
        return admission

    def may_start(self, delivery: Delivery) -> bool:
        """Whether its claim still stands at this moment: since it was admitted, it may have run out."""
        held = self._held.get(delivery.key)
        return held is None or now() < held.trusted_until

    def _key(self, job: Job) -> str | None:
        terms = self._terms(job.name)
        if terms is None:
            return None  # It does not run here.
        try:
            own = terms.idempotency_key(job) if terms.idempotency_key is not None else None
        except Exception as error:  # noqa: BLE001 - the application's own code
            log.warning("no key of its own, by its id instead job=%s name=%s: %r", job.id, job.name, error)
            own = None
        return own or job.headers.get(IDEMPOTENCY_KEY_HEADER) or _own_key(job)

    async def finish(self, deliveries: Sequence[Delivery], *, is_last_try: bool) -> list[Delivery]:
        """Record that these are done; returns those whose key belongs to somebody else.

        Raises
        ------
        IdempotencyError
            When the store can't take it now and jobs wait for it; not at the last try, when the queue alone is told.
        """
        held = [(delivery, held.hold) for delivery in deliveries if (held := self._held.get(delivery.key))]
        if not held:
            return []
        try:
            recorded = await self._store.finish([hold for _, hold in held], ttl_seconds=self._ttl_seconds)
        except IdempotencyError as error:
            self._failed("finished", error)
            if self._proceeds or is_last_try:
                return []
            raise
        self._answered()
        return [delivery for (delivery, _), is_recorded in zip(held, recorded, strict=True) if not is_recorded]

    async def release(self, deliveries: Sequence[Delivery]) -> None:
        """Free the keys of jobs that were not done. Where the store is away, they become free by themselves."""
        held = [held.hold for delivery in deliveries if (held := self._held.pop(delivery.key, None))]
        if held:
            try:
                await self._store.release(held)
            except IdempotencyError as error:
                self._failed("freed", error)

    def forget(self, deliveries: Sequence[Delivery]) -> None:
        """These are settled."""
        for delivery in deliveries:
            self._held.pop(delivery.key, None)

    async def keep(self) -> frozenset[DeliveryKey]:
        """Keep the claims; with every heartbeat. Gives the jobs whose keys others have by now: they must not run."""
        if not self._held:
            return frozenset()
        entries = list(self._held.items())
        holds = [held.hold for held in self._held.values()]
        trusted_until = now() + self._trusted_seconds
        try:
            extended = await self._store.extend(holds, lease_seconds=self._lease_seconds)
            doubtful: list[tuple[DeliveryKey, _Held]] = []
            for (key, held), is_ours in zip(entries, extended, strict=True):
                if is_ours:
                    held.trusted_until = trusted_until
                elif self._held.get(key) is held:
                    doubtful.append((key, held))
            # A claim that ran out is taken again, unless somebody has it.
            return await self._claimed_by_others(doubtful) if doubtful else frozenset()
        except IdempotencyError as error:
            self._failed("extended", error)
            return frozenset()

    async def _claimed_by_others(self, doubtful: Sequence[tuple[DeliveryKey, _Held]]) -> frozenset[DeliveryKey]:
        trusted_until = now() + self._trusted_seconds
        claims = await self._store.claim([held.hold for _, held in doubtful], lease_seconds=self._lease_seconds)
        lost: set[DeliveryKey] = set()
        for (key, held), claim in zip(doubtful, claims, strict=True):
            if claim.state is ClaimState.CLAIMED:
                held.trusted_until = trusted_until
            # Finished may be by ourselves: such a job has ended, and is not there any more to be stopped.
            elif self._held.get(key) is held:
                lost.add(key)
        return frozenset(lost)

    def _failed(self, what: str, error: IdempotencyError) -> None:
        self._metrics.idempotency_failures.inc()
        if not self._complained:
            then = "running jobs without" if self._proceeds else "jobs wait for it"
            log.warning("the idempotency store fails, %s: keys can't be %s: %s", then, what, error)
        self._complained = True

    def _answered(self) -> None:
        self.is_away = False
        if self._complained:
            log.info("the idempotency store answers again")
        self._complained = False


def _own_key(job: Job) -> str:
    """What stands for this one job, through its retries, rescues and redrives."""
    return f"job:{job.id}:{(job.enqueued_at - _EPOCH) // _MICROSECOND}"
