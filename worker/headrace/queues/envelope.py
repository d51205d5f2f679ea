"""A job as a broker carries it: the payload as the message's body, and all else in one attribute. Pure.

One attribute, since SQS allows ten to a message and applications have their own. Its value is JSON; what stands at its
default is left out::

    body                          headrace
    {"picture":"a.png","width":1} {"version":1,"id":"019a…","name":"resize","enqueued_at":"2026-03-01T12:00:00Z"}

Both hold only what XML 1.0 has characters for, since SQS takes nothing else. In the attribute, others are escaped as
JSON does it. A payload that has others, or is no text, goes as base64, and the attribute's ``body`` says so; so JSON
stays readable where people look at messages.

Fields are only ever added. Those that this release does not know are `Job.extra`, and are written back where they were,
as is a newer ``version``. Id and ``enqueued_at`` are the job's own: whoever sends it on, back or elsewhere gives
`encode` the job as it came.

A message without the attribute comes from somebody who does not know Headrace: a job with an empty name, whose payload
is the body. One whose attribute can't be understood is a `MalformedMessage`, to be dead-lettered for
`INVALID_ENVELOPE`, body and attribute unchanged: run as somebody else's it would reach the wrong handler, and a redrive
brings it back once whoever made it, or a newer release, can read it.

What became of earlier attempts is no part of the job: a backend that keeps it has an attribute of its own for it.
"""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

from headrace.job import (
    BYTES_CONTENT_TYPE,
    ENVELOPE_VERSION,
    JSON_CONTENT_TYPE,
    MAX_YEAR,
    MIN_YEAR,
    InvalidJobError,
    Job,
    NewJob,
)
from headrace.queues.errors import UnsupportedCapabilityError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ATTRIBUTE = "headrace"
"""The attribute's name."""

INVALID_ENVELOPE = "InvalidEnvelope"
"""The reason for which a `MalformedMessage` is dead-lettered."""

TEXT_CONTENT_TYPE = "text/plain; charset=utf-8"

GROWTH_BYTES = 256
"""What a job may grow by on its way (attempts, a retry's time): kept free when it is enqueued."""

# SQS counts an attribute's name and type, too.
_OVERHEAD_BYTES = len(ATTRIBUTE) + len("String")

# What XML 1.0 has no character for. A carriage return is one, but a parser of XML makes a line feed of it.
_FOREIGN = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# Names as most jobs have them, a part of those that they may have.
_PLAIN_NAME = re.compile(r"[\w.:/-]{0,255}", re.ASCII)

# No message has an empty body.
_NOTHING = "-"


class Message(Struct, frozen=True, kw_only=True):
    """A job on its way."""

    body: str
    attribute: str
    """The value of `ATTRIBUTE`."""

    @property
    def size_bytes(self) -> int:
        """As SQS counts it: the body, and the attribute's name, type and value."""
        return len(self.body.encode()) + len(self.attribute.encode()) + _OVERHEAD_BYTES


class MalformedMessage(Struct, frozen=True, kw_only=True):
    """A message whose attribute can't be understood."""

    error: str
    """Where and why."""
    job: Job
    """A stand-in for it, under the broker's id, with the body for a payload: for a delivery, and for people to read."""


class _Fields(Struct, kw_only=True, omit_defaults=True):
    """The attribute's fields."""

    version: Annotated[int, Meta(ge=1)]
    id: Annotated[str, Meta(min_length=1)]
    enqueued_at: Annotated[datetime, Meta(tz=True)]
    name: str = ""
    content_type: str = JSON_CONTENT_TYPE
    headers: dict[str, str] = field(default_factory=dict)
    priority: int = 0
    group: str | None = None
    deduplication_key: str | None = None
    fairness_key: str | None = None
    attempt: Annotated[int, Meta(ge=1)] = 1
    run_at: Annotated[datetime, Meta(tz=True)] | None = None
    expires_at: Annotated[datetime, Meta(tz=True)] | None = None
    body: Literal["text", "base64", "empty"] = "text"


class _ExactFields(_Fields, forbid_unknown_fields=True):
    """The same, and nothing else beside them."""


_KNOWN = frozenset(_Fields.__struct_fields__)
_exactly = msgspec.json.Decoder(_ExactFields).decode


def job_id(now: datetime, chance: bytes) -> str:
    """An id for a job that no database numbers: a UUID of version 7, so that younger jobs sort after older ones.

    Parameters
    ----------
    now
        The time.
    chance
        Ten random bytes.
    """
    milliseconds = int(now.timestamp() * 1000)
    number = int.from_bytes(milliseconds.to_bytes(6, "big") + chance, "big")
    number = number & ~(0xF << 76) | 0x7 << 76
    number = number & ~(0x3 << 62) | 0x2 << 62
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def made(new: NewJob, *, queue: str, id: str, now: datetime) -> Job:  # noqa: A002 - the field's name
    """The job that a producer's description becomes where no backend makes it: its first attempt is to come."""
    run_at = new.run_at or now + timedelta(seconds=new.delay_seconds)
    return Job(
        id=id,
        queue=queue,
        name=new.name,
        payload=new.payload,
        content_type=new.content_type,
        headers=new.headers,
        priority=new.priority,
        group=new.group,
        deduplication_key=new.deduplication_key,
        fairness_key=new.fairness_key,
        attempt=1,
        enqueued_at=now,
        run_at=max(run_at, now),
        expires_at=new.expires_at,
        extra=new.extra,
    )


def encode(job: Job) -> Message:
    """A job as a message; `Job.attempt` is the one that its receiver makes."""
    body, form = _body(job.payload)
    # As its writer said it, where that was a newer release: the fields it added travel with it.
    version = job.extra.get("version", ENVELOPE_VERSION) if job.extra else ENVELOPE_VERSION
    fields: Any = _Fields(
        version=version,
        id=job.id,
        name=job.name,
        content_type=job.content_type,
        headers=dict(job.headers),
        priority=job.priority,
        group=job.group,
        deduplication_key=job.deduplication_key,
        fairness_key=job.fairness_key,
        attempt=job.attempt,
        enqueued_at=job.enqueued_at.astimezone(UTC),
        run_at=None if job.run_at == job.enqueued_at else job.run_at.astimezone(UTC),
        expires_at=job.expires_at and job.expires_at.astimezone(UTC),
        body=form,
    )
    if job.extra:
        unknown = {name: value for name, value in job.extra.items() if name not in _KNOWN}
        fields = {**msgspec.to_builtins(fields), **unknown}
    return Message(body=body, attribute=carriable(msgspec.json.encode(fields).decode()))


def carriable(json: str) -> str:
    """JSON with escapes for what XML has no character for: they stand within its strings, so their escapes do, too."""
    return _FOREIGN.sub(lambda found: f"\\u{ord(found[0]):04x}", json)


def decode(
    body: str | bytes,
    attribute: str | None,
    *,
    queue: str,
    id: str,  # noqa: A002 - the field's name
    sent_at: datetime,
    headers: Mapping[str, str] | None = None,
) -> Job | MalformedMessage:
    """The job that a message is.

    Parameters
    ----------
    body
        Its body; bytes where the broker carries bytes.
    attribute
        The value of `ATTRIBUTE`. None: it has none.
    queue
        The queue's name.
    id, sent_at, headers
        The broker's own id of the message, when it was sent, and what other attributes of text it has: what the job is
        made of where it has no `ATTRIBUTE`. Headers that no job could have are left out.
    """
    if attribute is None:
        return _foreign(body, queue, id, sent_at, headers or {})
    try:
        return _known(body, attribute, queue)
    except RecursionError:
        error = "nested too deeply"
    except ValueError as problem:
        error = str(problem)
    stand_in = _foreign(body, queue, id, sent_at, {})
    return MalformedMessage(error=f"the attribute {ATTRIBUTE} can't be understood: {error}", job=stand_in)


def enqueued_bytes(job: Job) -> int:
    """How large a job is that is being enqueued, with what is kept free for its way."""
    return encode(job).size_bytes + GROWTH_BYTES


def refuse_oversized(jobs: Iterable[Job], max_bytes: int) -> None:
    """Raise where a job, encoded, is larger than a backend's message may be.

    Raises
    ------
    UnsupportedCapabilityError
        It says how large the job is. Nothing has been sent.
    """
    for job in jobs:
        if (size := enqueued_bytes(job)) > max_bytes:
            raise UnsupportedCapabilityError(
                f"a job of {len(job.payload)} bytes of payload makes a message of {size}: this queue's backend takes "
                f"{max_bytes} at most, headers and other fields included; store the data elsewhere and enqueue its "
                "address"
            )


def _body(payload: bytes) -> tuple[str, Literal["text", "base64", "empty"]]:
    if not payload:
        return _NOTHING, "empty"
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        text = ""
    if text and not _FOREIGN.search(text):
        return text, "text"
    return base64.b64encode(payload).decode(), "base64"


def _payload(body: str | bytes, form: Literal["text", "base64", "empty"]) -> bytes:
    match form:
        case "text":
            return body if isinstance(body, bytes) else body.encode()
        case "base64":
            try:
                return base64.b64decode(body, validate=True)
            except ValueError as error:
                raise ValueError(f"the body is no base64: {error}") from None
        case "empty":
            return b""


def _known(body: str | bytes, attribute: str, queue: str) -> Job:
    fields, extra = _fields(attribute)
    if fields.version > ENVELOPE_VERSION:
        extra["version"] = fields.version
    if not MIN_YEAR <= fields.enqueued_at.year <= MAX_YEAR:
        # In another time zone, or when the job is sent on, it would be no moment at all.
        raise ValueError(f"enqueued_at {fields.enqueued_at}: must be of the years {MIN_YEAR} to {MAX_YEAR}")
    if not _is_plain(fields, extra):
        # What no producer could say, nobody else may.
        NewJob(
            name=fields.name,
            content_type=fields.content_type,
            headers=fields.headers,
            priority=fields.priority,
            group=fields.group,
            deduplication_key=fields.deduplication_key,
            fairness_key=fields.fairness_key,
            run_at=fields.run_at,
            expires_at=fields.expires_at,
            extra=extra,
        )
    return Job(
        id=fields.id,
        queue=queue,
        name=fields.name,
        payload=_payload(body, fields.body),
        content_type=fields.content_type,
        headers=fields.headers,
        priority=fields.priority,
        group=fields.group,
        deduplication_key=fields.deduplication_key,
        fairness_key=fields.fairness_key,
        attempt=fields.attempt,
        enqueued_at=fields.enqueued_at,
        run_at=fields.run_at or fields.enqueued_at,
        expires_at=fields.expires_at,
        extra=extra,
    )


def _fields(attribute: str) -> tuple[_Fields, dict[str, Any]]:
    """The fields of an attribute, and what else it has. Most have nothing else, which is read in half the time."""
    try:
        return _exactly(attribute), {}
    except (ValueError, RecursionError):
        said = msgspec.json.decode(attribute)
        fields = msgspec.convert(said, _Fields)
        return fields, {name: value for name, value in said.items() if name not in _KNOWN}


def _is_plain(fields: _Fields, extra: dict[str, Any]) -> bool:
    """Whether nothing is said but a name that any job may have: then any producer could say it."""
    return (
        _PLAIN_NAME.fullmatch(fields.name) is not None
        and fields.content_type == JSON_CONTENT_TYPE
        and fields.priority == 0
        and fields.run_at is None
        and fields.expires_at is None
        and fields.group is None
        and fields.deduplication_key is None
        and fields.fairness_key is None
        and not fields.headers
        and not extra
    )


def _foreign(
    body: str | bytes,
    queue: str,
    id: str,  # noqa: A002
    sent_at: datetime,
    headers: Mapping[str, str],
) -> Job:
    payload = body if isinstance(body, bytes) else body.encode("utf-8", "surrogatepass")
    return Job(
        id=id,
        queue=queue,
        name="",
        payload=payload,
        content_type=_content_type(payload),
        headers={name: value for name, value in headers.items() if _is_header(name, value)},
        priority=0,
        group=None,
        deduplication_key=None,
        attempt=1,
        enqueued_at=sent_at,
        run_at=sent_at,
        expires_at=None,
    )


def _is_header(name: str, value: str) -> bool:
    try:
        NewJob(headers={name: value})
    except InvalidJobError:
        return False
    return True


def _content_type(payload: bytes) -> str:
    """What a payload is of which nobody says it: JSON where it can be, else text where it is some."""
    try:
        msgspec.json.decode(payload.decode(), type=msgspec.Raw)
    except (UnicodeDecodeError, RecursionError):
        return BYTES_CONTENT_TYPE
    except ValueError:
        return TEXT_CONTENT_TYPE
    return JSON_CONTENT_TYPE
