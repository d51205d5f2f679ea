"""What people ask of the queues in a process's memory."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, get_args

from msgspec import structs

from headrace.queues.inspection import FilterField, JobFilter, JobRecord, QueueRecord, Redrive
from headrace.queues.memory import counting
from headrace.queues.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from types import TracebackType
    from typing import Self

    from headrace.queues.inspection import Cancel, JobState, Pause, Purge, RecoverStuck, RetryNow
    from headrace.queues.memory.backend import MemoryBackend
    from headrace.queues.memory.entries import EndedJob, Entry
    from headrace.queues.memory.place import Place


class MemoryInspector:
    """The `Inspector` of a backend in memory, in all its roles."""

    def __init__(self, backend: MemoryBackend) -> None:
        self._backend = backend

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    async def queues(self) -> list[QueueRecord]:
        """See `headrace.queues.inspection.Queues`."""
        return [self._record(place) for _, place in sorted(self._backend.places.items())]

    async def queue(self, name: str) -> QueueRecord:
        """See `headrace.queues.inspection.Queues`."""
        return self._record(self._backend.place(name))

    def _record(self, place: Place) -> QueueRecord:
        return QueueRecord(
            name=place.name,
            settings=place.settings,
            depth=counting.depth(place, self._backend.now()),
            paused_by_hand=place.paused_by_hand,
            owner=place.owner,
        )

    async def pause(self, queue: str, change: Pause) -> None:
        """See `headrace.queues.inspection.Pauses`."""
        self._backend.place(queue).paused_by_hand = change.paused
        self._backend.changed()

    async def job(self, queue: str, job_id: str) -> JobRecord | None:
        """See `headrace.queues.inspection.Jobs`."""
        return next(self._records(queue, JobFilter(ids=(job_id,))), None)

    async def jobs(self, queue: str, which: JobFilter, *, limit: int = 100) -> list[JobRecord]:
        """See `headrace.queues.inspection.Jobs`."""
        shown = (record for record in self._records(queue, which) if record.state != "dead" or which.state == "dead")
        return list(itertools.islice(shown, limit))

    def _records(self, queue: str, which: JobFilter) -> Iterator[JobRecord]:
        """Those that can be claimed or are, in claiming order, those that wait, then the ended, newest first.

        Delayed jobs come by their time, blocked ones group by group.
        """
        place, now = self._backend.place(queue), self._backend.now()
        place.order.advance(now)
        entries = place.entries if which.ids is None else _named(place.entries, which.ids)
        dead = place.dead if which.ids is None else _named(place.dead, which.ids)
        finished = place.finished if which.ids is None else _named(place.finished, which.ids)
        live = sorted(map(_live_record, entries.values()), key=_order)
        ended = sorted([*dead.values(), *finished.values()], key=lambda job: job.ended_at, reverse=True)
        for record in itertools.chain(live, map(_ended_record, ended)):
            if _is_meant(record, which, now):
                yield record

    async def cancel(self, queue: str, change: Cancel) -> Literal["cancelled", "requested"] | None:
        """See `headrace.queues.inspection.Jobs`."""
        place = self._backend.place(queue)
        entry = place.entries.get(_number(change.job_id))
        if entry is None:
            return None
        outcome = place.cancel(entry, self._backend.now())
        self._backend.changed()
        return outcome

    async def retry_now(self, queue: str, change: RetryNow) -> bool:
        """See `headrace.queues.inspection.Jobs`."""
        place = self._backend.place(queue)
        entry = place.entries.get(_number(change.job_id))
        if entry is None:
            return await self.redrive(queue, Redrive(which=JobFilter(ids=(change.job_id,)))) == 1
        is_due = place.hurry(entry, self._backend.now())
        self._backend.changed()
        return is_due

    @property
    def filters(self) -> frozenset[FilterField]:
        """See `headrace.queues.inspection.DeadLetters`. All there are."""
        return frozenset(get_args(FilterField))

    async def letters(self, queue: str, which: JobFilter, *, limit: int = 100) -> list[JobRecord]:
        """See `headrace.queues.inspection.DeadLetters`."""
        return await self.jobs(queue, replace(which, state="dead"), limit=limit) if _means_dead(which) else []

    async def redrive(self, queue: str, change: Redrive) -> int:
        """See `headrace.queues.inspection.DeadLetters`."""
        place, pace, put_back = self._backend.place(queue), Pace(change.per_second), 0
        for number in self._dead(queue, change.which):
            await pace.turn(1)
            put_back += number in place.dead and place.redrive(number, self._backend.now())
            self._backend.changed()
        return put_back

    async def purge(self, queue: str, change: Purge) -> int:
        """See `headrace.queues.inspection.DeadLetters`."""
        meant = self._dead(queue, change.which)
        for number in meant:
            del self._backend.place(queue).dead[number]
        return len(meant)

    def _dead(self, queue: str, which: JobFilter) -> list[int]:
        """The dead jobs that are meant."""
        return [int(record.job.id) for record in self._records(queue, which) if record.state == "dead"]

    async def recover_stuck(self, queue: str, change: RecoverStuck) -> list[str]:
        """See `headrace.queues.inspection.Stuck`. A lease is judged whole, and no death is charged."""
        place, now = self._backend.place(queue), self._backend.now()
        since = now - timedelta(seconds=change.older_than_seconds)
        stuck = [
            lease
            for lease in place.leases.values()
            if lease.ends_at <= now
            and any(entry.claimed_at is not None and entry.claimed_at <= since for entry in lease.held.values())
        ]
        recovered = [job_id for lease in stuck for job_id in place.lose(lease, now, charges=False)[0]]
        self._backend.changed()
        return recovered


def _means_dead(which: JobFilter) -> bool:
    return which.state in {None, "dead"}


def _number(job_id: str) -> int:
    """What is no number is the number of no job."""
    return int(job_id) if job_id.isascii() and job_id.isdigit() else 0


def _named(jobs: dict[int, Any], ids: tuple[str, ...]) -> dict[int, Any]:
    return {number: jobs[number] for number in map(_number, ids) if number in jobs}


def _live_record(entry: Entry) -> JobRecord:
    if entry.lease is not None:
        job = structs.replace(entry.job, attempt=entry.job.attempt + 1)
        return JobRecord(
            job=job, state="running", holder=entry.lease.holder, failures=entry.failures, progress=entry.progress
        )
    state: JobState
    match entry.standing:
        case "blocked" | "delayed" as waits:
            state = waits
        case _:
            # What is overdue is claimed by nobody, and still stands where it stood.
            state = "suspect" if entry.is_suspect else "ready"
    return JobRecord(job=entry.job, state=state, failures=entry.failures)


def _order(record: JobRecord) -> tuple[Any, ...]:
    number = int(record.job.id)
    if record.state == "delayed":
        return (1, record.job.run_at, number)
    if record.state == "blocked":
        return (2, record.job.group, number)
    return (0, -record.job.priority, number)


def _ended_record(ended: EndedJob) -> JobRecord:
    return JobRecord(
        job=ended.job, state=ended.outcome, failures=ended.failures, ended_at=ended.ended_at, reason=ended.reason
    )


def _is_meant(record: JobRecord, which: JobFilter, now: datetime) -> bool:
    age_seconds = (now - (record.ended_at or record.job.enqueued_at)).total_seconds()
    return (
        (which.ids is None or record.job.id in which.ids)
        and which.state in (None, record.state)
        and which.name in (None, record.job.name)
        and which.reason in (None, record.reason)
        and (which.older_than_seconds is None or age_seconds >= which.older_than_seconds)
    )
