"""A job as a message of SQS, there and back; and a dead letter's own mark. Pure.

A message has the payload as its body and one attribute of ours (`headrace.queues.envelope`). A dead letter has a second
one: why it is dead, and what its redrive must not bring back. Its envelope is that of a job that starts anew, so that
the service's own move of a whole queue gives it all its attempts again, too.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec import Struct, structs

from headrace.queues import envelope
from headrace.queues.envelope import MalformedMessage
from headrace.queues.settlement import Failure
from headrace.queues.sqs.capabilities import MAX_DELAY_SECONDS, MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headrace.job import Job

DEAD_ATTRIBUTE = "headrace-dead"
"""The name of a dead letter's own attribute."""

RECEIVED_TOO_OFTEN = "ReceivedTooOften"
"""Why the service itself gives a message up: that has no attribute of ours to say so."""

SYSTEM_ATTRIBUTES = ("ApproximateReceiveCount", "ApproximateFirstReceiveTimestamp", "SentTimestamp")
"""What a receive asks to be told of each message."""

_TYPE = "String"
_EPOCH = datetime.fromtimestamp(0, UTC)
_MOST_REASON = 100
_LEAST_REASON = 40
_MOST_TEXT = 4_000

# Half a surrogate pair is no character of any encoding.
_SURROGATE = re.compile("[\ud800-\udfff]")


class DeadMark(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is said of a dead letter, as JSON in `DEAD_ATTRIBUTE`."""

    reason: str
    at: datetime
    """When it was given up."""
    source: str = ""
    """The queue that it died in, by its own name: several may share one dead-letter queue."""
    attempts: int = 0
    """How many of its attempts had failed."""
    failure: Failure | None = None
    """The last one's."""
    expires_at: datetime | None = None
    """By when it should have started; a redriven job has no such moment."""


class Outgoing(NamedTuple):
    """A message on its way."""

    id: str
    """The job's."""
    entry: dict[str, Any]
    """As ``SendMessageBatch`` takes it, but for its ``Id``."""
    size_bytes: int
    """As SQS counts it."""

    @property
    def fits(self) -> bool:
        """Whether SQS takes it. Of what somebody else sent there may be no room for anything of ours beside it."""
        return self.size_bytes <= MAX_MESSAGE_BYTES


def outgoing(job: Job, *, delay_seconds: float = 0.0) -> Outgoing:
    """A job as a message; the delay is rounded up to whole seconds, and at most as long as SQS takes it."""
    message = envelope.encode(job)
    entry: dict[str, Any] = {
        "MessageBody": message.body,
        "MessageAttributes": {envelope.ATTRIBUTE: {"DataType": _TYPE, "StringValue": message.attribute}},
    }
    if delay_seconds > 0:
        entry["DelaySeconds"] = math.ceil(min(delay_seconds, MAX_DELAY_SECONDS))
    if job.fairness_key is not None:
        entry["MessageGroupId"] = job.fairness_key
    return Outgoing(job.id, entry, message.size_bytes)


def dead_letter(job: Job, mark: DeadMark) -> Outgoing:
    """A dead job as a message: as if it was to start anew, and marked."""
    anew = structs.replace(job, attempt=1, run_at=job.enqueued_at, expires_at=None)
    return _marked(outgoing(anew), structs.replace(mark, expires_at=job.expires_at))


def malformed_letter(message: Mapping[str, Any], mark: DeadMark) -> Outgoing:
    """A message that can't be understood, as it came, and marked."""
    return _marked(as_it_came(message), mark)


def as_it_came(message: Mapping[str, Any]) -> Outgoing:
    """A message that can't be understood, to be sent on; a dead letter without its mark."""
    attributes = {
        name: {key: value for key, value in attribute.items() if key in {"DataType", "StringValue", "BinaryValue"}}
        for name, attribute in message.get("MessageAttributes", {}).items()
        if name != DEAD_ATTRIBUTE
    }
    size = len(message["Body"].encode()) + sum(
        len(name)
        + len(attribute["DataType"])
        + len(attribute.get("StringValue", "").encode())
        + len(attribute.get("BinaryValue", b""))
        for name, attribute in attributes.items()
    )
    entry = {"MessageBody": message["Body"], "MessageAttributes": attributes}
    return Outgoing(message["MessageId"], entry, size)


def mark_of(message: Mapping[str, Any]) -> DeadMark | None:
    """What is said of a dead letter; None where the service gave it up, or nobody can read what is said."""
    value = message.get("MessageAttributes", {}).get(DEAD_ATTRIBUTE, {}).get("StringValue")
    if value is None:
        return None
    try:
        return msgspec.json.decode(value, type=DeadMark)
    except (msgspec.ValidationError, msgspec.DecodeError, RecursionError):
        return None


def incoming(message: Mapping[str, Any], queue: str) -> Job | MalformedMessage:
    """The job that a received message is.

    Parameters
    ----------
    message
        As ``ReceiveMessage`` gives it, with `SYSTEM_ATTRIBUTES` and all attributes.
    queue
        The queue's name.
    """
    attributes = message.get("MessageAttributes") or {}
    ours = attributes.get(envelope.ATTRIBUTE)
    headers = None
    if ours is None and attributes:
        headers = {
            name: attribute["StringValue"]
            for name, attribute in attributes.items()
            if "StringValue" in attribute and name != DEAD_ATTRIBUTE
        }
    # One of bytes is as little ours as one that is no JSON, and says so.
    attribute = None if ours is None else ours.get("StringValue", "")
    body, message_id = message["Body"], message["MessageId"]
    # One of ours says itself when it was enqueued: so most messages are read without it.
    sent_at = _EPOCH if ours is not None else moment(message, "SentTimestamp")
    found = envelope.decode(body, attribute, queue=queue, id=message_id, sent_at=sent_at, headers=headers)
    if isinstance(found, MalformedMessage):
        stand_in = structs.replace(found.job, enqueued_at=(at := moment(message, "SentTimestamp")), run_at=at)
        return structs.replace(found, job=stand_in)
    return found


def moment(message: Mapping[str, Any], attribute: str) -> datetime:
    """A moment of the service's clock."""
    return datetime.fromtimestamp(int((message.get("Attributes") or {}).get(attribute, 0)) / 1000, UTC)


def _marked(letter: Outgoing, mark: DeadMark) -> Outgoing:
    """With as much of the mark as there is room for: the job itself must fit."""
    room = MAX_MESSAGE_BYTES - letter.size_bytes - len(DEAD_ATTRIBUTE) - len(_TYPE)
    texts = (_json(_shortened(mark, most)) for most in (_MOST_TEXT, _MOST_TEXT // 10))
    text = next((text for text in texts if len(text.encode()) <= room), None) or _json(_shortened(mark, 0))
    letter.entry["MessageAttributes"][DEAD_ATTRIBUTE] = {"DataType": _TYPE, "StringValue": text}
    size = letter.size_bytes + len(text.encode()) + len(DEAD_ATTRIBUTE) + len(_TYPE)
    return letter._replace(size_bytes=size)


def _shortened(mark: DeadMark, most: int) -> DeadMark:
    failure = mark.failure if most else None
    if failure is not None:
        failure = Failure(
            error=_plain(failure.error, most) or "",
            error_type=_plain(failure.error_type, most),
            fingerprint=_plain(failure.fingerprint, most),
            # Where it ends is what people look for.
            traceback=_plain(failure.traceback, -most),
        )
    reason = _plain(mark.reason, _MOST_REASON if most else _LEAST_REASON) or ""
    return structs.replace(mark, reason=reason, failure=failure)


def _plain(text: str | None, most: int) -> str | None:
    if text is None:
        return None
    text = text[:most] if most >= 0 else text[most:]
    return _SURROGATE.sub("\ufffd", text)


def _json(mark: DeadMark) -> str:
    return envelope.carriable(msgspec.json.encode(mark).decode())
