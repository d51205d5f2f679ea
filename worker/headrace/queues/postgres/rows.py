"""Rows to values and back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from headrace.job import Job
from headrace.queues.base import Delivery, Depth, QueueSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from headrace.job import NewJob

_SETTINGS = (
    "visibility_timeout_seconds",
    "max_retries",
    "message_retention_seconds",
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
        in_flight=row["in_flight"],
        dead_lettered=row["dead_lettered"],
        oldest_ready_age_seconds=max(0.0, row["oldest_ready_age_seconds"]),
    )


def delivery_from(queue: str, row: asyncpg.Record) -> Delivery:
    """A leased job; the hot path, so by position (the order of `claim`'s RETURNING)."""
    (
        job_id,
        lease_id,
        attempt,
        priority,
        name,
        payload,
        content_type,
        headers,
        enqueued_at,
        run_at,
        expires_at,
        group,
        deduplication_key,
    ) = row
    return Delivery(
        job=Job(
            id=str(job_id),
            queue=queue,
            name=name,
            payload=payload,
            content_type=content_type,
            headers=json.loads(headers) if headers else {},
            priority=priority,
            group=group,
            deduplication_key=deduplication_key,
            attempt=attempt,
            enqueued_at=enqueued_at,
            run_at=run_at,
            expires_at=expires_at,
        ),
        lease=str(lease_id),
    )


def enqueue_columns(jobs: Sequence[NewJob]) -> tuple[list[object], ...]:
    """One array a column, as `enqueue` takes them."""
    return (
        [job.run_at for job in jobs],
        [job.delay_seconds for job in jobs],
        [job.expires_at for job in jobs],
        [job.priority for job in jobs],
        [job.name for job in jobs],
        [job.payload for job in jobs],
        [job.content_type for job in jobs],
        [json.dumps(dict(job.headers)) if job.headers else None for job in jobs],
    )


def storable(text: str) -> str:
    """The text without what PostgreSQL can't store: zero bytes and lone surrogates."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode()
