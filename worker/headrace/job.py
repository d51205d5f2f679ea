"""The job envelope: what a producer says and what a handler gets, the same on every backend. Pure values."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from msgspec import Struct, field

ENVELOPE_VERSION = 1
"""Version of the envelope's fields; a backend stores it where foreign readers may meet its jobs."""

MIN_PRIORITY = 0
MAX_PRIORITY = 10
MAX_PAYLOAD_BYTES = 1024 * 1024
"""The largest payload every backend takes (SQS: 1 MiB a message). Store larger data elsewhere, enqueue its address."""

MAX_NAME_LENGTH = 255
MAX_IDEMPOTENCY_KEY_LENGTH = 1024
MAX_KEY_LENGTH = 128
"""Of a group or a deduplication key (SQS: 128)."""

IDEMPOTENCY_KEY_HEADER = "idempotency-key"
"""The header in which a producer says what stands for a job's effect: of jobs with one key, one runs to its end."""

JSON_CONTENT_TYPE = "application/json"
BYTES_CONTENT_TYPE = "application/octet-stream"

MAX_DELAY_SECONDS = 10_000_000_000
"""Three hundred years: of a delay, or a deduplication window."""
MAX_YEAR = 8999
"""Of a moment, so that a queue's retention can be added to it."""

_PRIORITIES = range(MIN_PRIORITY, MAX_PRIORITY + 1)
_NAME = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]*")
_TEXT = re.compile(r"[^\x00\ud800-\udfff]*")


class InvalidJobError(ValueError):
    """A job that no backend would take; the message names the field, its value and the fix."""


class NewJob(Struct, frozen=True, kw_only=True):
    """A job as its producer describes it; validated when made.

    Raises
    ------
    InvalidJobError
        When a field is out of its range; nothing has been sent.
    """

    name: str = ""
    """What ``@app.job("resize")`` dispatches on. Empty for jobs without an envelope."""
    payload: bytes = b"null"
    """The encoded payload; at most `MAX_PAYLOAD_BYTES`."""
    content_type: str = JSON_CONTENT_TYPE
    headers: Mapping[str, str] = field(default_factory=dict)
    """String to string; trace context travels here."""
    priority: int = 0
    """0 to 10, higher first. Defaults to 0."""
    delay_seconds: float = 0.0
    """How long the job waits before it may start. Defaults to 0."""
    run_at: datetime | None = None
    """The earliest start, instead of a delay; timezone-aware."""
    expires_at: datetime | None = None
    """A job not started by then is dead-lettered as expired. Defaults to the queue's own retention."""
    group: str | None = None
    """Jobs of one group run in the order in which they were enqueued, one at a time; a retry or a delay of the first
    holds the others. Where the backend has the capability."""
    deduplication_key: str | None = None
    """While a job with this key is unfinished, another is not enqueued. Where the backend has the capability."""
    deduplication_window_seconds: float | None = None
    """How long the key is taken at least, counted from now, also when the job is finished before. Defaults to no longer
    than the job is unfinished."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Of the envelope, what this release does not know: JSON, as a newer one put it in. It travels along."""

    def __post_init__(self) -> None:
        if len(self.name) > MAX_NAME_LENGTH or not _NAME.fullmatch(self.name):
            raise InvalidJobError(
                f"name {self.name[:40]!r}: at most {MAX_NAME_LENGTH} characters, none of them a control character "
                "or half a surrogate pair"
            )
        if not isinstance(self.payload, bytes):
            raise InvalidJobError(f"payload: must be bytes, not {type(self.payload).__name__}; new_job() encodes it")
        if len(self.payload) > MAX_PAYLOAD_BYTES:
            raise InvalidJobError(
                f"payload of {len(self.payload)} bytes: the limit is {MAX_PAYLOAD_BYTES}; "
                "store the data elsewhere and enqueue its address"
            )
        if self.priority not in _PRIORITIES:
            raise InvalidJobError(
                f"priority {self.priority!r}: must be a whole number from {MIN_PRIORITY} to {MAX_PRIORITY}"
            )
        if self.content_type != JSON_CONTENT_TYPE and not _NAME.fullmatch(self.content_type):
            raise InvalidJobError(f"content_type {self.content_type[:40]!r}: must have no control character")
        for name, value in self.headers.items() if self.headers else ():
            if not (_TEXT.fullmatch(name) and _TEXT.fullmatch(value)):
                raise InvalidJobError(f"header {name[:40]!r}: must have no zero character and no half a surrogate pair")
        if not 0 <= self.delay_seconds <= MAX_DELAY_SECONDS:
            raise InvalidJobError(f"delay_seconds {self.delay_seconds}: must be from 0 to {MAX_DELAY_SECONDS}")
        if self.deduplication_window_seconds is not None and not (
            self.deduplication_key is not None and 0 < self.deduplication_window_seconds <= MAX_DELAY_SECONDS
        ):
            raise InvalidJobError(
                f"deduplication_window_seconds {self.deduplication_window_seconds}: must be more than 0 and at most "
                f"{MAX_DELAY_SECONDS}, beside a deduplication_key"
            )
        for name, key in (("group", self.group), ("deduplication_key", self.deduplication_key)):
            if key is not None and not (1 <= len(key) <= MAX_KEY_LENGTH and _NAME.fullmatch(key)):
                raise InvalidJobError(
                    f"{name} {key[:40]!r}: 1 to {MAX_KEY_LENGTH} characters, none of them a control character "
                    "or half a surrogate pair"
                )
        if self.delay_seconds and self.run_at is not None:
            raise InvalidJobError("delay_seconds and run_at: give one of them")
        for name, moment in (("run_at", self.run_at), ("expires_at", self.expires_at)):
            if moment is not None and moment.tzinfo is None:
                raise InvalidJobError(f"{name} {moment}: needs a time zone, such as datetime.now(UTC)")
            if moment is not None and moment.year > MAX_YEAR:
                raise InvalidJobError(f"{name} {moment}: must be before the year {MAX_YEAR + 1}")


class Job(Struct, frozen=True, kw_only=True):
    """A job as a handler gets it."""

    id: str
    queue: str
    name: str
    payload: bytes
    content_type: str
    headers: Mapping[str, str]
    priority: int
    group: str | None
    deduplication_key: str | None
    attempt: int
    """1 for the first run. Interruptions (a drain, a lost worker) charge none."""
    enqueued_at: datetime
    run_at: datetime
    """When the job could first start (equal to `enqueued_at` without a delay; a retry moves it)."""
    expires_at: datetime | None
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What a newer release put into the envelope and this one does not know: carried on, never dropped."""


def new_job(name: str, payload: Any = None, *, idempotency_key: str | None = None, **fields: Any) -> NewJob:
    """A job with its payload encoded: bytes go as they are, all else as JSON.

    Parameters
    ----------
    name
        What ``@app.job(…)`` dispatches on.
    payload
        Anything that JSON can say, or bytes. Defaults to null.
    idempotency_key
        What stands for the job's effect, where workers have an idempotency store; it travels as a header.
    **fields
        The other fields of `NewJob`.

    Raises
    ------
    InvalidJobError
        When the payload can't be JSON (NaN and infinity can't), or a field is out of its range.
    """
    if idempotency_key is not None:
        if not 1 <= len(idempotency_key) <= MAX_IDEMPOTENCY_KEY_LENGTH:
            raise InvalidJobError(
                f"idempotency_key {idempotency_key[:40]!r}: 1 to {MAX_IDEMPOTENCY_KEY_LENGTH} characters"
            )
        fields["headers"] = {**fields.get("headers", {}), IDEMPOTENCY_KEY_HEADER: idempotency_key}
    if isinstance(payload, bytes):
        return NewJob(name=name, payload=payload, **{"content_type": BYTES_CONTENT_TYPE, **fields})
    try:
        encoded = json.dumps(payload, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except RecursionError:
        raise InvalidJobError("payload: can't be JSON: nested too deeply") from None
    except (TypeError, ValueError) as error:
        raise InvalidJobError(f"payload: can't be JSON: {error}") from None
    return NewJob(name=name, payload=encoded, **fields)
