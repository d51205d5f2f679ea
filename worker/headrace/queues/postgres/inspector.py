"""What people ask of queues, and do to them by hand."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, get_args

from headrace.job import Job
from headrace.queues.base import LEASE_SECONDS, Owner, Progress
from headrace.queues.errors import QueueError, QueueNotFoundError
from headrace.queues.inspection import FailedAttempt, FilterField, JobFilter, JobRecord, QueueRecord, Redrive
from headrace.queues.pace import Pace
from headrace.queues.postgres.database import Database
from headrace.queues.postgres.rows import depth_from, settings_from
from headrace.queues.settlement import Failure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from types import TracebackType
    from typing import Self

    from asyncpg import Record

    from headrace.queues.inspection import Cancel, Change, JobState, Pause, Purge, RecoverStuck, RetryNow
    from headrace.queues.postgres.connection import Place

log = logging.getLogger(__name__)

# Counting a queue of many millions, or walking it for a rare name, takes its time.
_COMMAND_TIMEOUT_SECONDS = 60.0

# So many jobs are read, redriven or purged in one statement: no lock is held for long.
_BATCH = 1000

_CLAIMABLE: tuple[JobState, ...] = ("ready", "running", "suspect")
_WAITING: tuple[JobState, ...] = ("delayed", "blocked")
_FINISHED: tuple[JobState, ...] = ("completed", "cancelled")

_EARLIEST = datetime.min.replace(tzinfo=UTC)
_LARGEST_ID = 2**63 - 1
_NUMBER = re.compile(r"[0-9]{1,19}")


class PostgresInspector:
    """The `Inspector` of one schema, in all its roles. Use it as an async context manager; it reconnects by itself.

    Lists are walks along indexes that end at the limit; a filter by name walks past what it leaves out.

    Parameters
    ----------
    place
        The database and the schema.
    lease_seconds
        How long a heartbeat lease lasts: so long are workers given to report. Defaults to `LEASE_SECONDS`.
    """

    def __init__(self, place: Place, *, lease_seconds: float = LEASE_SECONDS) -> None:
        self._database = Database(
            place,
            application_name="headrace-inspector",
            command_timeout_seconds=_COMMAND_TIMEOUT_SECONDS,
        )
        self._lease_seconds = lease_seconds

    async def __aenter__(self) -> Self:
        try:
            await self._database.open()
        except BaseException:
            await self._database.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._database.close()

    # Queues

    async def queues(self) -> list[QueueRecord]:
        """See `headrace.queues.inspection.Queues`."""
        return await self._queue_records(await self._database.fetch("inspect_queues"))

    async def queue(self, name: str) -> QueueRecord:
        """See `headrace.queues.inspection.Queues`."""
        records = await self._queue_records(await self._database.fetch("inspect_queue", name))
        if not records:
            raise self._not_found(name)
        return records[0]

    async def _queue_records(self, rows: Sequence[Record]) -> list[QueueRecord]:
        counted = await self._database.fetch("depths", [row["name"] for row in rows])
        depths = {row["name"]: depth_from(row) for row in counted}
        return [
            QueueRecord(
                name=row["name"],
                settings=settings_from(row),
                depth=depths[row["name"]],
                paused_by_hand=row["paused_by_hand"],
                owner=_owner_from(row),
            )
            for row in rows
            if row["name"] in depths
        ]

    async def pause(self, queue: str, change: Pause) -> None:
        """See `headrace.queues.inspection.Pauses`."""
        queue_id = await self._database.fetch_value("inspect_pause", queue, change.paused)
        if queue_id is None:
            raise self._not_found(queue)
        _note(queue, change, "paused" if change.paused else "resumed")
        if not change.paused:
            await self._wake(queue_id)

    # Jobs

    async def job(self, queue: str, job_id: str) -> JobRecord | None:
        """See `headrace.queues.inspection.Jobs`. Finished jobs are found only where the queue keeps a history."""
        await self._look_up(queue)
        records = await self._records(queue, _numbers([job_id]))
        return records[0] if records else None

    async def jobs(self, queue: str, which: JobFilter, *, limit: int = 100) -> list[JobRecord]:
        """See `headrace.queues.inspection.Jobs`. Delayed jobs come by their time, blocked ones group by group."""
        queue_id = await self._look_up(queue)
        if which.ids is not None:
            found = await self._records(queue, _numbers(which.ids), which)
            return sorted((record for record in found if record.state != "dead" or which.state == "dead"), key=_place)[
                :limit
            ]
        records: list[JobRecord] = []
        for states in (_CLAIMABLE, _WAITING, _FINISHED, ("dead",)):
            wanted = [state for state in states if which.state == state or (which.state is None and state != "dead")]
            if wanted and len(records) < limit:
                ids = await _walked(self._database, queue_id, wanted, which, limit - len(records))
                # Whatever has moved on since is no longer what was asked for.
                found = await self._records(queue, ids, which)
                by_id = {int(record.job.id): record for record in found}
                records += [by_id[job_id] for job_id in ids if job_id in by_id and by_id[job_id].state in wanted]
        return records

    async def _records(self, queue: str, ids: Sequence[int], which: JobFilter | None = None) -> list[JobRecord]:
        filters = (which.state, which.name, which.reason, which.older_than_seconds) if which else (None,) * 4
        return [
            _record_from(row)
            for batch in _batches(ids)
            for row in await self._database.fetch("inspect_ids", queue, batch, *filters)
        ]

    async def cancel(self, queue: str, change: Cancel) -> Literal["cancelled", "requested"] | None:
        """See `headrace.queues.inspection.Jobs`."""
        queue_id = await self._look_up(queue)
        for number in _numbers([change.job_id]):
            answer: Literal["cancelled", "requested"] | None = await self._database.fetch_value(
                "inspect_cancel", queue_id, number
            )
            _note(queue, change, f"cancel job {change.job_id}: {answer or 'there is none'}")
            return answer
        return None

    async def retry_now(self, queue: str, change: RetryNow) -> bool:
        """See `headrace.queues.inspection.Jobs`. False, too, for a dead job whose deduplication key another has."""
        queue_id = await self._look_up(queue)
        for number in _numbers([change.job_id]):
            if await self._database.fetch_value("inspect_make_due", queue_id, number):
                _note(queue, change, f"job {change.job_id} made due")
                await self._wake(queue_id)
                return True
        which = JobFilter(ids=(change.job_id,))
        return await self.redrive(queue, Redrive(by=change.by, why=change.why, which=which)) == 1

    # Dead jobs

    @property
    def filters(self) -> frozenset[FilterField]:
        """See `headrace.queues.inspection.DeadLetters`."""
        return frozenset(get_args(FilterField))

    async def letters(self, queue: str, which: JobFilter, *, limit: int = 100) -> list[JobRecord]:
        """See `headrace.queues.inspection.DeadLetters`."""
        if which.state not in {None, "dead"}:
            return []
        return await self.jobs(queue, replace(which, state="dead"), limit=limit)

    async def redrive(self, queue: str, change: Redrive) -> int:
        """See `headrace.queues.inspection.DeadLetters`.

        A job takes its deduplication key again; where another has it by now, it stays dead and does not count. A job
        of a group arrives anew. The time within which a job must start counts from now. What dies again meanwhile is
        left alone.
        """
        queue_id = await self._look_up(queue)
        meant = _paced(self._dead(queue, queue_id, change.which), Pace(change.per_second))
        done = await self._in_batches("inspect_redrive", queue_id, meant)
        _note(queue, change, f"{done} dead jobs put back")
        if done:
            await self._wake(queue_id)
        return done

    async def purge(self, queue: str, change: Purge) -> int:
        """See `headrace.queues.inspection.DeadLetters`. What dies meanwhile is left alone."""
        queue_id = await self._look_up(queue)
        done = await self._in_batches("inspect_purge", queue_id, self._dead(queue, queue_id, change.which))
        _note(queue, change, f"{done} dead jobs removed")
        return done

    async def _in_batches(self, query: str, queue_id: int, batches: AsyncIterator[list[int]]) -> int:
        done = 0
        try:
            async for batch in batches:
                done += len(await self._database.fetch(query, queue_id, batch))
        except QueueError as error:
            raise type(error)(f"{error} ({done} jobs were done before)") from None
        return done

    async def _dead(self, queue: str, queue_id: int, which: JobFilter) -> AsyncIterator[list[int]]:
        """The ids of the dead jobs that are meant, batch by batch."""
        if which.state not in {None, "dead"}:
            return
        if which.ids is not None:
            for batch in _batches(_numbers(which.ids)):
                yield [int(record.job.id) for record in await self._records(queue, batch, which) if record.reason]
            return
        until = await self._database.fetch_value("inspect_clock", which.older_than_seconds)
        dead_at, last_id = _EARLIEST, 0
        while rows := await self._database.fetch(
            "inspect_dead_from", queue_id, which.name, which.reason, until, dead_at, last_id, _BATCH
        ):
            dead_at, last_id = rows[-1]["dead_at"], rows[-1]["id"]
            yield [row["id"] for row in rows]

    # Stuck jobs

    async def recover_stuck(self, queue: str, change: RecoverStuck) -> list[str]:
        """See `headrace.queues.inspection.Stuck`.

        A lease is judged whole: where one of its jobs has been held for so long, all go back, and nobody is charged.
        Where no worker has looked after the queue, and one was there until lately, that takes a lease's time: who
        lives reports meanwhile. What somebody has locked is left for later.
        """
        queue_id = await self._look_up(queue)
        older_than_seconds = change.older_than_seconds
        if not await self._database.fetch_value("inspect_has_ended_leases", queue_id, older_than_seconds):
            return []
        while (ended_by := await self._judged_until(queue_id, older_than_seconds)) is None:  # noqa: ASYNC110 - nothing tells us
            await asyncio.sleep(self._lease_seconds)
        recovered: list[str] = []
        while rows := await self._database.fetch(
            "inspect_recover_stuck", queue_id, older_than_seconds, ended_by, _BATCH
        ):
            recovered += [str(row[0]) for row in rows]
        _note(queue, change, f"{len(recovered)} stuck jobs put back")
        if recovered:
            await self._wake(queue_id)
        return recovered

    async def _judged_until(self, queue_id: int, older_than_seconds: float) -> datetime | None:
        found: datetime | None = await self._database.fetch_value(
            "inspect_judged_until", queue_id, self._lease_seconds, older_than_seconds
        )
        return found

    async def _wake(self, queue_id: int) -> None:
        """Tell idle workers that there is something to do; they look by themselves, too."""
        with contextlib.suppress(QueueError):
            await self._database.fetch("wake", queue_id)

    async def _look_up(self, queue: str) -> int:
        rows = await self._database.fetch("find_queue", queue)
        if not rows:
            raise self._not_found(queue)
        queue_id: int = rows[0]["id"]
        return queue_id

    def _not_found(self, queue: str) -> QueueNotFoundError:
        return QueueNotFoundError(
            f"queue {queue!r} does not exist in schema {self._database.place.schema!r}: "
            f"apply its JobQueue, or run `headrace migrate --queue {queue}`"
        )


_WALKS: dict[JobState, str] = {
    "ready": "inspect_ready",
    "running": "inspect_running",
    "suspect": "inspect_suspect",
    "delayed": "inspect_delayed",
    "blocked": "inspect_blocked",
}


async def _walked(
    database: Database, queue_id: int, states: Sequence[JobState], which: JobFilter, limit: int
) -> list[int]:
    """The ids of the first jobs in these states, which share an order."""
    condition = (which.name, which.older_than_seconds, limit)
    if "dead" in states:
        rows = await database.fetch("inspect_dead", queue_id, *condition, which.reason)
    elif which.reason is not None:
        return []  # Only the dead have one.
    elif set(states) <= set(_FINISHED):
        outcome = states[0] if len(states) == 1 else None
        rows = await database.fetch("inspect_finished", queue_id, *condition, outcome)
    else:
        rows = []
        for state in states:
            rows += await database.fetch(_WALKS[state], queue_id, *condition)
        if set(states) <= set(_CLAIMABLE):
            rows.sort(key=lambda row: (-row["priority"], row["id"]))
    return list(dict.fromkeys(row["id"] for row in rows))[:limit]


async def _paced(batches: AsyncIterator[list[int]], pace: Pace) -> AsyncIterator[list[int]]:
    async for batch in batches:
        while batch:
            turns = await pace.turn(len(batch))
            yield batch[:turns]
            batch = batch[turns:]  # noqa: PLW2901 - what is left of it


def _batches(ids: Sequence[int]) -> list[Sequence[int]]:
    return [ids[start : start + _BATCH] for start in range(0, len(ids), _BATCH)]


def _numbers(job_ids: Sequence[str]) -> list[int]:
    """Ids as the database has them; what is no number is the id of no job."""
    numbers = (int(job_id) for job_id in dict.fromkeys(job_ids) if _NUMBER.fullmatch(job_id))
    return [number for number in numbers if number <= _LARGEST_ID]


def _place(record: JobRecord) -> tuple[float, ...]:
    """Where a job stands in a list."""
    number = int(record.job.id)
    if record.state in _CLAIMABLE:
        return (0, -record.job.priority, number)
    if record.ended_at is None:
        return (1, record.state == "blocked", record.job.run_at.timestamp(), number)
    return (2, -record.ended_at.timestamp(), -number)


def _note(queue: str, change: Change, what: str) -> None:
    """Who did what, and why: for the logs."""
    log.info("queue %s: %s, by %s: %s", queue, what, change.by or "somebody", change.why or "no reason given")


def _owner_from(row: Record) -> Owner:
    return Owner(namespace=row["owner_namespace"], name=row["owner_name"], uid=row["owner_uid"])


def _record_from(row: Record) -> JobRecord:
    return JobRecord(
        job=Job(
            id=str(row["id"]),
            queue=row["queue"],
            name=row["name"],
            payload=row["payload_bytes"],
            content_type=row["content_type"],
            headers=json.loads(row["headers"]),
            priority=row["priority"],
            group=row["message_group"],
            deduplication_key=row["deduplication_key"],
            attempt=row["attempt"],
            enqueued_at=row["enqueued_at"],
            run_at=row["run_at"],
            expires_at=row["expires_at"],
            extra=json.loads(row["extra"]),
        ),
        state=row["status"],
        holder=row["worker"],
        progress=Progress(**json.loads(row["progress"])) if row["progress"] else None,
        failures=tuple(
            FailedAttempt(
                attempt=failure["attempt"],
                at=datetime.fromisoformat(failure["at"]),
                failure=Failure(
                    error=failure["error"],
                    error_type=failure.get("error_type"),
                    fingerprint=failure.get("fingerprint"),
                    traceback=failure.get("traceback"),
                ),
            )
            for failure in json.loads(row["failures"])
        ),
        ended_at=row["ended_at"],
        reason=row["reason"],
    )
