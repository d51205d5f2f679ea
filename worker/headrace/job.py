"""The job envelope: what a producer says and what a handler gets, the same on every backend. Pure values."""

from __future__ import annotations

import json
import math
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
"""Of a group, a deduplication key or a fairness key (SQS: 128)."""

IDEMPOTENCY_KEY_HEADER = "idempotency-key"
"""The header in which a producer says what stands for a job's effect: of jobs with one key, one runs to its end."""

JSON_CONTENT_TYPE = "application/json"
BYTES_CONTENT_TYPE = "application/octet-stream"

MAX_DELAY_SECONDS = 10_000_000_000
"""Three hundred years: of a delay, or a deduplication window."""
MIN_YEAR = 2
"""Of a moment, so that it is one in every time zone."""
MAX_YEAR = 8999
"""Of a moment, so that a queue's retention can be added to it."""

_NAME = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]*")
_TEXT = re.compile(r"[^\x00\ud800-\udfff]*")
# What SQS takes for a message's group.
_FAIRNESS_KEY = re.compile(rf"[!-~]{{1,{MAX_KEY_LENGTH}}}")


class InvalidJobError(ValueError):
    """A job that no backend would take; the message names the field, what is wrong with it and the fix."""


class NewJob(Struct, frozen=True, kw_only=True, gc=False):
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
    fairness_key: str | None = None
    """Whose job this is, such as a tenant's: while one key's jobs keep most of the workers busy, those of others come
    first. It orders nothing. Letters, digits and punctuation of ASCII. Where the backend has the capability."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Of the envelope, what this release does not know: JSON, as a newer one put it in. It travels along."""

    def __post_init__(self) -> None:
        try:
            _check(self)
        except (TypeError, AttributeError) as error:
            raise InvalidJobError(_wrong_type(self) or str(error)) from None
        except RecursionError:
            raise InvalidJobError("extra: nested too deeply") from None


def _check(job: NewJob) -> None:
    # Millions of jobs pass here: what is right is found right by few steps.
    if len(job.name) > MAX_NAME_LENGTH or not _NAME.fullmatch(job.name):
        raise InvalidJobError(
            f"name {job.name[:40]!r}: at most {MAX_NAME_LENGTH} characters, none of them a control character "
            "or half a surrogate pair"
        )
    if not isinstance(job.payload, bytes):
        raise InvalidJobError(f"payload: must be bytes, not {type(job.payload).__name__}; new_job() encodes it")
    if len(job.payload) > MAX_PAYLOAD_BYTES:
        raise InvalidJobError(
            f"payload of {len(job.payload)} bytes: the limit is {MAX_PAYLOAD_BYTES}; "
            "store the data elsewhere and enqueue its address"
        )
    if type(job.priority) is not int or not MIN_PRIORITY <= job.priority <= MAX_PRIORITY:
        raise InvalidJobError(
            f"priority {job.priority!r}: must be a whole number from {MIN_PRIORITY} to {MAX_PRIORITY}"
        )
    if job.content_type != JSON_CONTENT_TYPE and not _NAME.fullmatch(job.content_type):
        raise InvalidJobError(f"content_type {job.content_type[:40]!r}: must have no control character")
    for name, value in job.headers.items():
        if not (_TEXT.fullmatch(name) and _TEXT.fullmatch(value)):
            raise InvalidJobError(f"header {name[:40]!r}: must have no zero character and no half a surrogate pair")
    if not 0 <= job.delay_seconds <= MAX_DELAY_SECONDS:
        raise InvalidJobError(f"delay_seconds {job.delay_seconds}: must be from 0 to {MAX_DELAY_SECONDS}")
    if job.deduplication_window_seconds is not None and not (
        job.deduplication_key is not None and 0 < job.deduplication_window_seconds <= MAX_DELAY_SECONDS
    ):
        raise InvalidJobError(
            f"deduplication_window_seconds {job.deduplication_window_seconds}: must be more than 0 and at most "
            f"{MAX_DELAY_SECONDS}, beside a deduplication_key"
        )
    for name, key in (("group", job.group), ("deduplication_key", job.deduplication_key)):
        if key is not None and not (1 <= len(key) <= MAX_KEY_LENGTH and _NAME.fullmatch(key)):
            raise InvalidJobError(
                f"{name} {key[:40]!r}: 1 to {MAX_KEY_LENGTH} characters, none of them a control character "
                "or half a surrogate pair"
            )
    if job.fairness_key is not None and not _FAIRNESS_KEY.fullmatch(job.fairness_key):
        raise InvalidJobError(
            f"fairness_key {job.fairness_key[:40]!r}: 1 to {MAX_KEY_LENGTH} letters, digits and punctuation "
            "marks, all of ASCII and no space among them"
        )
    if job.delay_seconds and job.run_at is not None:
        raise InvalidJobError("delay_seconds and run_at: give one of them")
    for name, moment in (("run_at", job.run_at), ("expires_at", job.expires_at)):
        if moment is None:
            continue
        if moment.tzinfo is None:
            raise InvalidJobError(f"{name} {moment}: needs a time zone, such as datetime.now(UTC)")
        if not MIN_YEAR <= moment.year <= MAX_YEAR:
            raise InvalidJobError(
                f"{name} {moment}: must be of the year {MIN_YEAR} or later, before the year {MAX_YEAR + 1}"
            )
    if type(job.extra) is not dict or job.extra:
        _check_extra(job.extra)


def _check_extra(extra: Mapping[Any, Any]) -> None:
    for name, value in extra.items():
        if name in _FIELDS:
            raise InvalidJobError(f"extra {name!r}: is a field of the envelope itself")
        if name == "version" and not (type(value) is int and value > ENVELOPE_VERSION):
            raise InvalidJobError(f"extra 'version': must be a whole number above {ENVELOPE_VERSION}")
        if not (isinstance(name, str) and _is_json(name) and _is_json(value)):
            raise InvalidJobError(f"extra {name!r}: must be JSON, without a zero character or half a surrogate pair")


def _is_json(value: Any) -> bool:
    match value:
        case str():
            return _TEXT.fullmatch(value) is not None
        case float():
            return math.isfinite(value)
        case None | bool() | int():
            return True
        case list():
            return all(map(_is_json, value))
        case dict():
            return all(isinstance(name, str) and _is_json(name) and _is_json(value[name]) for name in value)
        case _:
            return False


def _wrong_type(job: NewJob) -> str | None:
    """Which field is of no type that it can have."""
    for name, (wanted, words) in _TYPES.items():
        if not isinstance(value := getattr(job, name), wanted):
            return f"{name}: must be {words}, not {type(value).__name__}"
    odd = {header: value for header, value in job.headers.items() if {type(header), type(value)} != {str}}
    for header, value in odd.items():
        return f"header {header!r}: must be a string to a string, not to {type(value).__name__}"
    return None


_TYPES: dict[str, tuple[Any, str]] = {
    "name": (str, "a string"),
    "content_type": (str, "a string"),
    "headers": (Mapping, "a mapping of strings to strings"),
    "delay_seconds": ((int, float), "a number of seconds"),
    "run_at": (datetime | None, "a datetime"),
    "expires_at": (datetime | None, "a datetime"),
    "group": (str | None, "a string"),
    "deduplication_key": (str | None, "a string"),
    "deduplication_window_seconds": (int | float | None, "a number of seconds"),
    "fairness_key": (str | None, "a string"),
    "extra": (Mapping, "a mapping of strings to JSON"),
}


class Job(Struct, frozen=True, kw_only=True, gc=False):
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
    fairness_key: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What a newer release put into the envelope and this one does not know: carried on, never dropped."""


# And how the payload travels, see `queues.envelope`.
_FIELDS = frozenset((*NewJob.__struct_fields__, *Job.__struct_fields__, "body"))


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
        key: object = idempotency_key
        if not (isinstance(key, str) and 1 <= len(key) <= MAX_IDEMPOTENCY_KEY_LENGTH):
            raise InvalidJobError(
                f"idempotency_key {str(key)[:40]!r}: a string of 1 to {MAX_IDEMPOTENCY_KEY_LENGTH} characters"
            )
        headers = fields.get("headers", {})
        if isinstance(headers, Mapping):  # Else it is refused below, as it would be without a key.
            fields["headers"] = {**headers, IDEMPOTENCY_KEY_HEADER: idempotency_key}
    if isinstance(payload, bytes):
        return NewJob(name=name, payload=payload, **{"content_type": BYTES_CONTENT_TYPE, **fields})
    try:
        encoded = json.dumps(payload, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except RecursionError:
        raise InvalidJobError("payload: can't be JSON: nested too deeply") from None
    except (TypeError, ValueError) as error:
        raise InvalidJobError(f"payload: can't be JSON: {error}") from None
    return NewJob(name=name, payload=encoded, **fields)
