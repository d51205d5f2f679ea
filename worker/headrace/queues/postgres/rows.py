"""Rows to values and back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from headrace.job import JSON_CONTENT_TYPE, Job
from headrace.queues.base import SERVICE_BUCKETS_SECONDS, Delivery, Depth, QueueSettings, Totals

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from headrace.job import NewJob

_SETTINGS = (
    "visibility_timeout_seconds",
    "max_retries",
    "message_retention_seconds",
    "completed_retention_seconds",
    "dead_letter_enabled",
    "dead_letter_retention_days",
    "paused",
)


def settings_from(row: asyncpg.Record) -> QueueSettings:
    """A queue's settings."""
    return QueueSettings(**{name: row[name] for name in _SETTINGS})


def depth_from(row: asyncpg.Record) -> Depth:
    """A count."""
    return Depth(
        ready=row["ready"],
        delayed=row["delayed"],
        blocked=row["blocked"],
        in_flight=row["in_flight"],
        in_flight_seconds=max(0.0, row["in_flight_seconds"]),
        dead_lettered=row["dead_lettered"],
        oldest_ready_age_seconds=max(0.0, row["oldest_ready_age_seconds"]),
        next_due_seconds=row["next_due_seconds"],
        paused=row["paused"],
        is_lower_bound=row["is_lower_bound"],
        counted_at=row["counted_at"],
        age_seconds=max(0.0, row["age_seconds"]),
        totals=Totals(
            arrived=row["arrived"],
            completed=row["completed"],
            failed=row["failed"],
            dead_lettered=row["dead_lettered_ever"],
            service_seconds=row["service_seconds"],
            # Of a queue in which nothing has ended yet, it is empty.
            service_histogram=tuple(row["service_histogram"] or [0] * (len(SERVICE_BUCKETS_SECONDS) + 1)),
        ),
    )


def deliveries_from(queue: str, rows: Sequence[asyncpg.Record]) -> list[Delivery]:
    """Leased jobs; the hot path, so by position (the order of the function ``claim``)."""
    deliveries = []
    for (
        claim_id,
        job_id,
        attempt,
        priority,
        is_suspect,
        name,
        payload,
        content_type,
        headers,
        enqueued_at,
        run_at,
        expires_at,
        group,
        deduplication_key,
        extra,
        _came_back,
        _look,
    ) in rows:
        job = Job(
            id=str(job_id),
            queue=queue,
            name=name,
            payload=payload,
            content_type=content_type or JSON_CONTENT_TYPE,
            headers=json.loads(headers) if headers else {},
            priority=priority,
            group=group,
            deduplication_key=deduplication_key,
            attempt=attempt,
            enqueued_at=enqueued_at,
            run_at=run_at or enqueued_at,
            expires_at=expires_at,
            extra=json.loads(extra) if extra else {},
        )
        deliveries.append(Delivery(job=job, receipt=str(claim_id), is_suspect=is_suspect))
    return deliveries


def plain_columns(jobs: Sequence[NewJob]) -> tuple[list[object], ...]:
    """One array a column, as `enqueue` takes them; empty where every job has the default, and one name for all alike.

    What need not be sent need not be encoded, parsed and stored, which is most of what enqueuing costs here.
    """
    return (*_common_columns(jobs), _extra_column(jobs))


def all_columns(jobs: Sequence[NewJob]) -> tuple[list[object], ...]:
    """One array a column, as `put` takes them."""
    return (
        *_common_columns(jobs),
        [job.run_at for job in jobs],
        [job.delay_seconds for job in jobs],
        [job.group for job in jobs],
        [job.deduplication_key for job in jobs],
        [job.deduplication_window_seconds for job in jobs],
        _extra_column(jobs),
    )


def _common_columns(jobs: Sequence[NewJob]) -> tuple[list[object], ...]:
    names = {job.name for job in jobs}
    content_types = {job.content_type for job in jobs}
    return (
        [job.payload for job in jobs],
        list(names) if len(names) == 1 else [job.name for job in jobs],
        _unless_default([job.priority for job in jobs]),
        []
        if content_types == {JSON_CONTENT_TYPE}
        else [None if job.content_type == JSON_CONTENT_TYPE else job.content_type for job in jobs],
        _unless_default([json.dumps(dict(job.headers)) if job.headers else None for job in jobs]),
        _unless_default([job.expires_at for job in jobs]),
    )


def _extra_column(jobs: Sequence[NewJob]) -> list[object]:
    return _unless_default([json.dumps(dict(job.extra)) if job.extra else None for job in jobs])


def _unless_default(column: list[object]) -> list[object]:
    return column if any(column) else []


def is_plain(job: NewJob) -> bool:
    """Whether the job can start at once, whatever else there is."""
    return job.group is None and job.deduplication_key is None and not job.delay_seconds and job.run_at is None


def storable(text: str) -> str:
    """The text without what PostgreSQL can't store: zero bytes and lone surrogates."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode()
