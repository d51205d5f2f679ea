"""A dead letter as people look at it, and as the job that its redrive brings back. Pure.

Letters are received with all that the service tells (``AttributeNames`` and ``MessageAttributeNames`` ``All``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec import structs

from headrace.queues.envelope import MalformedMessage
from headrace.queues.inspection import FailedAttempt, JobRecord
from headrace.queues.sqs.messages import RECEIVED_TOO_OFTEN, as_it_came, incoming, mark_of, moment, outgoing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from headrace.queues.inspection import JobFilter
    from headrace.queues.sqs.messages import Outgoing

# The queue that the service moved a letter from; of letters that were sent, it says nothing.
_SOURCE = "DeadLetterQueueSourceArn"
_GROUP = "MessageGroupId"


class Letter(NamedTuple):
    """A dead letter, read."""

    message: Mapping[str, Any]
    """As ``ReceiveMessage`` gave it."""
    record: JobRecord
    source: str
    """The queue that it died in, by its own name; empty where nobody says. Several may share one dead-letter queue."""

    @property
    def id(self) -> str:
        """The message's own."""
        found: str = self.message["MessageId"]
        return found

    @property
    def died_at(self) -> datetime:
        """As far as that is known: of what the service moved, it tells when it was sent alone."""
        return self.record.ended_at or moment(self.message, "SentTimestamp")


def read(message: Mapping[str, Any], queue: str) -> Letter:
    """A dead letter as people look at it.

    Parameters
    ----------
    message
        As ``ReceiveMessage`` gives it.
    queue
        What people call the queue that the job died in.
    """
    moved_from = message.get("Attributes", {}).get(_SOURCE, "")
    # A mark of before: the job was put back as it was by the service's own move, and then received too often.
    mark = None if moved_from else mark_of(message)
    found = incoming(message, queue)
    job = found.job if isinstance(found, MalformedMessage) else found
    if mark is None:
        record = JobRecord(
            job=structs.replace(job, attempt=job.attempt - 1), state="dead", reason=RECEIVED_TOO_OFTEN, ended_at=None
        )
        return Letter(message, record, moved_from.rpartition(":")[2])
    failures = () if mark.failure is None else (FailedAttempt(attempt=mark.attempts, at=mark.at, failure=mark.failure),)
    record = JobRecord(
        job=structs.replace(job, attempt=mark.attempts, expires_at=mark.expires_at or job.expires_at),
        state="dead",
        failures=failures,
        ended_at=mark.at,
        reason=mark.reason,
    )
    return Letter(message, record, mark.source)


def is_meant(record: JobRecord, which: JobFilter, now: datetime) -> bool:
    """Whether all conditions hold."""
    if which.older_than_seconds is not None:
        since = record.ended_at or record.job.enqueued_at
        if (now - since).total_seconds() < which.older_than_seconds:
            return False
    return (
        (which.ids is None or record.job.id in which.ids)
        and which.state in {None, "dead"}
        and which.name in {None, record.job.name}
        and which.reason in {None, record.reason}
    )


def revived(message: Mapping[str, Any], queue: str) -> Outgoing:
    """What a redrive sends: the job under its id, with all attempts before it and as long to start as a new one.

    What can't be understood goes as it came: a newer release may understand it.
    """
    found = incoming(message, queue)
    if isinstance(found, MalformedMessage):
        sent = as_it_came(message)
    else:
        sent = outgoing(structs.replace(found, attempt=1, run_at=found.enqueued_at, expires_at=None))
    # A plain producer's tenants take turns, too.
    group = message.get("Attributes", {}).get(_GROUP)
    if group is not None:
        sent.entry.setdefault(_GROUP, group)
    return sent


def packs(sent: Sequence[Outgoing], *, most: int, most_bytes: int) -> Iterator[list[Outgoing]]:
    """As many as one call takes: of messages, and of bytes."""
    pack: list[Outgoing] = []
    size = 0
    for one in sent:
        if pack and (len(pack) == most or size + one.size_bytes > most_bytes):
            yield pack
            pack, size = [], 0
        pack.append(one)
        size += one.size_bytes
    if pack:
        yield pack
