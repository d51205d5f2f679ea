"""Settling deliveries: one statement a kind, with arrays, and what to make of answers that were lost."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from headrace.queues.errors import QueueError, QueueUnavailableError
from headrace.queues.postgres.rows import storable
from headrace.queues.settlement import Complete, DeadLetter, Discard, Release, Retry, Settled

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from headrace.queues.postgres.database import Database
    from headrace.queues.postgres.holdings import Holdings
    from headrace.queues.postgres.queue_row import QueueRow
    from headrace.queues.settlement import Failure, Settlement
    from headrace.queues.tally import Tally

_Columns: TypeAlias = "list[list[object]]"

# A statement is about so many jobs at most: no lock is held for long.
_MAX_JOBS = 1000

_ACKNOWLEDGE = "acknowledge_completed"

# A zero character, as JSON has it.
_UNSTORABLE = b"\\u0000"


def _none(_settlements: Sequence[Settlement]) -> _Columns:
    return []


def _delays(settlements: Sequence[Settlement]) -> _Columns:
    return [[release.delay_seconds for release in settlements if isinstance(release, Release)]]


def _retries(settlements: Sequence[Settlement]) -> _Columns:
    retries = [retry for retry in settlements if isinstance(retry, Retry)]
    return [[retry.delay_seconds for retry in retries], [_described(retry.failure) for retry in retries]]


def _burials(settlements: Sequence[Settlement]) -> _Columns:
    burials = [burial for burial in settlements if isinstance(burial, DeadLetter)]
    return [
        [storable(burial.reason) for burial in burials],
        [None if burial.failure is None else _described(burial.failure) for burial in burials],
    ]


def _described(failure: Failure) -> str:
    try:
        described = msgspec.json.encode(failure)
    except UnicodeEncodeError:
        described = _UNSTORABLE
    if _UNSTORABLE in described:
        fields = {name: storable(value) for name, value in msgspec.structs.asdict(failure).items() if value is not None}
        described = msgspec.json.encode(fields)
    return described.decode()


_KINDS: Mapping[type[Settlement], tuple[str, Callable[[Sequence[Settlement]], _Columns]]] = {
    Complete: ("complete", _none),
    Retry: ("retry", _retries),
    Release: ("release", _delays),
    DeadLetter: ("dead_letter", _burials),
    Discard: ("discard", _none),
}
"""The query of each kind, and what it takes beside lease, claims and ids."""


_BACK = frozenset((Retry, Release))


def may_bring_jobs(settlements: Sequence[Settlement]) -> bool:
    """Whether another look may find a job for one of them: the same again, at once or soon, or the next of its group.

    It is asked of every job: a list is a fourth of what a call for each would be.
    """
    of_groups = [settlement for settlement in settlements if settlement.delivery.job.group is not None]
    return bool(of_groups) or not _BACK.isdisjoint(map(type, settlements))


class Settling:
    """Settles what is held."""

    def __init__(self, database: Database, row: QueueRow, holdings: Holdings, tally: Tally) -> None:
        self._database = database
        self._row = row
        self._holdings = holdings
        self._tally = tally

    async def settle(self, settlements: Sequence[Settlement]) -> Settled:
        """See `headrace.queues.base.Queue`."""
        lots, refused = self._holdings.sorted(settlements)
        answers = _Answers(refused)
        for lot in lots:
            for start in range(0, len(lot.settlements), _MAX_JOBS):
                part = lot.settlements[start : start + _MAX_JOBS]
                if answers.is_away:
                    answers.unsettled += part
                    continue
                try:
                    await self._settle(lot.lease, lot.kind, part, answers)
                except QueueError as error:
                    answers.failed(part, error)
        return answers.settled()

    async def _settle(
        self, lease: int, kind: type[Settlement], settlements: Sequence[Settlement], answers: _Answers
    ) -> None:
        if fenced := self._holdings.fenced(settlements):
            done = await self._acknowledge(lease, fenced)
            answers.accepted += len(done)
            await self._drop_empty_leases(done)
            keys = {settlement.delivery.key for settlement in done}
            settlements = [settlement for settlement in settlements if settlement.delivery.key not in keys]
            if not settlements:
                return
        query, columns = _KINDS[kind]
        claims, ids = _addresses(settlements)
        done, dead = await self._ask(query, lease, settlements, lease, claims, ids, *columns(settlements))
        answers.add(settlements, done, dead)
        self._tally.count(done, dead)
        await self._drop_empty_leases(settlements)

    async def _acknowledge(self, lease: int, fenced: Sequence[Settlement]) -> list[Settlement]:
        """Those that were completed in a transaction: whatever their handlers said later comes too late."""
        claims, ids = _addresses(fenced)
        groups = list({job.delivery.job.group for job in fenced if job.delivery.job.group is not None})
        done, _ = await self._ask(_ACKNOWLEDGE, lease, fenced, self._row.id, lease, claims, ids, groups)
        self._tally.completed += len(done)
        return done

    async def _ask(
        self, query: str, lease: int, settlements: Sequence[Settlement], *arguments: object
    ) -> tuple[list[Settlement], list[Settlement]]:
        """Those that this query settles, or has settled before in a call that got no answer; and of these, the dead."""
        try:
            rows = await self._database.fetch(query, *arguments)
            before: set[str] = set()
            if len(rows) < len(settlements):
                before = await self._settled_before(query, lease, settlements)
        except QueueUnavailableError:
            self._holdings.unanswered(query, settlements)
            raise
        done = list(settlements)
        if len(rows) < len(settlements):
            told = {str(row[0]) for row in rows} | before
            done = [settlement for settlement in settlements if settlement.delivery.job.id in told]
        if query == "dead_letter":
            return done, done
        if query != "retry":
            return done, []
        dead_ids = {str(job_id) for job_id, is_dead in rows if is_dead}
        last_attempt = self._row.settings.max_retries
        return done, [
            settlement
            for settlement in done
            if settlement.delivery.job.id in dead_ids
            or (settlement.delivery.job.id in before and settlement.delivery.job.attempt > last_attempt)
        ]

    async def _settled_before(self, query: str, lease: int, settlements: Sequence[Settlement]) -> set[str]:
        asked = self._holdings.asked_before(query, settlements)
        if not asked:
            return set()
        claims = [int(settlement.delivery.receipt) for settlement in asked]
        ids = [int(settlement.delivery.job.id) for settlement in asked]
        return {str(row[0]) for row in await self._database.fetch("settled_before", lease, claims, ids)}

    async def _drop_empty_leases(self, settlements: Sequence[Settlement]) -> None:
        """Drop the leases that a receive without heartbeats made, once nothing is held under them."""
        if leases := self._holdings.settled(settlements):
            with contextlib.suppress(QueueError):  # The jobs are settled, and the lease runs out by itself.
                await self._database.fetch("end_leases", list(leases))


class _Answers:
    """What one call has heard of its settlements so far."""

    def __init__(self, refused: Sequence[Settlement]) -> None:
        self.accepted = 0
        self.refused = list(refused)
        self.dead_lettered: list[Settlement] = []
        self.unsettled: list[Settlement] = []
        self.is_away = False
        self._has_answer = False
        self._error: QueueError | None = None

    def add(self, asked: Sequence[Settlement], done: Sequence[Settlement], dead: Sequence[Settlement]) -> None:
        self._has_answer = True
        self.accepted += len(done)
        self.dead_lettered += dead
        if len(done) < len(asked):
            accepted = {settlement.delivery.key for settlement in done}
            self.refused += [settlement for settlement in asked if settlement.delivery.key not in accepted]

    def failed(self, settlements: Sequence[Settlement], error: QueueError) -> None:
        self.unsettled += settlements
        self._error = self._error or error
        # What the database refuses of one kind says nothing of the others.
        self.is_away = self.is_away or isinstance(error, QueueUnavailableError)

    def settled(self) -> Settled:
        if self._error is not None and not (self._has_answer or self.accepted):
            raise self._error
        return Settled(
            accepted=self.accepted,
            refused=tuple(self.refused),
            dead_lettered=tuple(self.dead_lettered),
            unsettled=tuple(self.unsettled),
            error="" if self._error is None else str(self._error),
        )


def _addresses(settlements: Sequence[Settlement]) -> tuple[list[int], list[int]]:
    """Their claims, and the ids of their jobs."""
    claims = [int(receipt) for receipt in {settlement.delivery.receipt for settlement in settlements}]
    return claims, [int(settlement.delivery.job.id) for settlement in settlements]
