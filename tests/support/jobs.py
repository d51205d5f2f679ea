"""A job as a handler gets it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from headrace.job import Job

ENQUEUED_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def job(**fields: Any) -> Job:
    """One with these fields, and plain ones beside them."""
    plain: dict[str, Any] = {
        "id": "17",
        "queue": "orders",
        "name": "resize",
        "payload": b"{}",
        "content_type": "application/json",
        "headers": {},
        "priority": 0,
        "group": None,
        "deduplication_key": None,
        "attempt": 1,
        "enqueued_at": ENQUEUED_AT,
        "run_at": ENQUEUED_AT,
        "expires_at": None,
    }
    return Job(**plain | fields)
