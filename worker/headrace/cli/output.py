"""What commands print: tables for people, JSON for programs."""

from __future__ import annotations

import base64
import json
import re
import unicodedata
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from headrace.job import Job
    from headrace.queues.base import Depth, Totals
    from headrace.queues.inspection import JobRecord, QueueRecord

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_WIDEST_CELL = 60
_HALF_A_PAIR = re.compile("[\ud800-\udfff]")


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    # Halves of surrogate pairs, which a payload may hold, can't be written in UTF-8.
    click.echo(_HALF_A_PAIR.sub(lambda half: f"\\u{ord(half[0]):x}", text))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Aligned columns; numbers to the right."""
    lines = [[_cell(value) for value in row] for row in rows]
    is_number = [
        bool(lines) and all(re.fullmatch(r"\d+\+?", line[place]) for line in lines) for place in range(len(columns))
    ]
    widths = [max(map(len, column)) for column in zip(columns, *lines, strict=True)]
    for line in [list(columns), *lines]:
        cells = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, is_number, strict=True)
        )
        click.echo("  ".join(cells).rstrip())


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """A name and its value a line; what is empty is left out."""
    shown = [(name, value) for name, value in fields if value not in (None, "", {})]
    width = max(len(name) for name, _ in shown) + 2
    for name, value in shown:
        click.echo(f"{printable(name) + ':':<{width}}{printable(str(value))}")


def counted(number: int, noun: str) -> str:
    """``1 job``, ``2 jobs``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def count_of(number: int, depth: Depth) -> str:
    """A count: with a + where counting stopped and there are more, with a ~ where the backend tells it about."""
    about = "~" if depth.is_approximate else ""
    return f"{about}{number}+" if depth.is_lower_bound and number else f"{about}{number}"


def printable(text: str) -> str:
    """The text without what would steer a terminal."""
    return "".join(
        character if character in "\n\t" or unicodedata.category(character)[0] != "C" else "\N{REPLACEMENT CHARACTER}"
        for character in text
    )


def age(seconds: float) -> str:
    """How long, in two units at most."""
    remaining = max(0, round(seconds))
    parts = []
    for unit, size in _UNITS.items():
        if remaining >= size:
            parts.append(f"{remaining // size}{unit}")
            remaining %= size
    return "".join(parts[:2]) or "0s"


def ago(moment: datetime | None) -> str:
    """How long ago, or in how long."""
    if moment is None:
        return ""
    seconds = (datetime.now(UTC) - moment).total_seconds()
    return f"{age(seconds)} ago" if seconds >= 0 else f"in {age(-seconds)}"


def queue_json(record: QueueRecord) -> dict[str, Any]:
    """A queue, for programs; null is what the backend can't tell."""
    told = {
        "name": record.name,
        "ready": record.depth.ready,
        "blocked": record.depth.blocked,
        "delayed": record.depth.delayed,
        "in_flight": record.depth.in_flight,
        "dead_lettered": record.depth.dead_lettered,
        "is_lower_bound": record.depth.is_lower_bound,
        "is_approximate": record.depth.is_approximate,
        "oldest_ready_age_seconds": record.depth.oldest_ready_age_seconds,
        "totals": _totals_json(record.depth.totals),
        "paused": record.settings.paused or record.paused_by_hand,
        "paused_by_hand": record.paused_by_hand,
        "owner": {"namespace": record.owner.namespace, "name": record.owner.name} if record.owner else None,
        "max_retries": record.settings.max_retries,
        "visibility_timeout_seconds": record.settings.visibility_timeout_seconds,
        "message_retention_seconds": record.settings.message_retention_seconds,
        "completed_retention_seconds": record.settings.completed_retention_seconds,
        "dead_letter_enabled": record.settings.dead_letter_enabled,
        "dead_letter_retention_days": record.settings.dead_letter_retention_days,
    }
    return {name: None if name in record.unknown else value for name, value in told.items()}


def job_json(record: JobRecord) -> dict[str, Any]:
    """A job, for programs."""
    job = record.job
    return {
        "id": job.id,
        "queue": job.queue,
        "name": job.name,
        "state": record.state,
        "priority": job.priority,
        "attempt": job.attempt,
        "group": job.group,
        "deduplication_key": job.deduplication_key,
        "fairness_key": job.fairness_key,
        **_payload_json(job),
        "content_type": job.content_type,
        "headers": dict(job.headers),
        "enqueued_at": _moment(job.enqueued_at),
        "run_at": _moment(job.run_at),
        "expires_at": _moment(job.expires_at),
        "worker": record.holder,
        "progress": {"fraction": record.progress.fraction, "message": record.progress.message}
        if record.progress
        else None,
        "ended_at": _moment(record.ended_at),
        "reason": record.reason,
        "failures": [
            {
                "attempt": attempt.attempt,
                "at": _moment(attempt.at),
                "error": attempt.failure.error,
                "error_type": attempt.failure.error_type,
                "fingerprint": attempt.failure.fingerprint,
                "traceback": attempt.failure.traceback,
            }
            for attempt in record.failures
        ],
    }


def payload_text(job: Job) -> str:
    """The payload, as far as it can be shown."""
    try:
        return job.payload.decode()
    except UnicodeDecodeError:
        return f"{len(job.payload)} bytes of {job.content_type}"


def _payload_json(job: Job) -> dict[str, Any]:
    """The payload as what it is, where it is JSON that can be said again; else its bytes."""
    if job.content_type.endswith("json"):
        try:
            value = json.loads(job.payload)
            json.dumps(value, allow_nan=False)
        except (ValueError, RecursionError):
            pass
        else:
            return {"payload": value}
    return {"payload_base64": base64.b64encode(job.payload).decode()}


def _totals_json(totals: Totals | None) -> dict[str, Any] | None:
    """What has happened in a queue since it was made."""
    if totals is None:
        return None
    return {
        "arrived": totals.arrived,
        "completed": totals.completed,
        "failed": totals.failed,
        "dead_lettered": totals.dead_lettered,
        "service_seconds": totals.service_seconds,
    }


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _cell(value: object) -> str:
    text = " ".join(printable("" if value is None else str(value)).split())
    return text if len(text) <= _WIDEST_CELL else text[: _WIDEST_CELL - 1] + "…"
