"""What a queue in SQS is to be beyond `QueueSettings`, and what was found of one that is otherwise. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from headrace.queues.errors import QueueError

MAX_NAME_LENGTH = 80
"""Of a queue's name, as SQS has it."""
DEAD_LETTER_SUFFIX = "-dead"
"""What a dead-letter queue's name has behind the queue's own."""
MAX_WAIT_SECONDS = 20
MAX_VISIBILITY_SECONDS = 43_200
RETENTION_SECONDS = 1_209_600
"""14 days, the most that SQS keeps a message: what it drops, it drops in silence."""
MAX_RETENTION_DAYS = 14
MAX_TAGS = 35
"""Of one's own on a queue: SQS takes 50, and needs none so long that ours would not fit."""

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_RESERVED_TAGS = ("headrace.dev/", "aws:")
_MAX_TAG_KEY_LENGTH = 128
_MAX_TAG_VALUE_LENGTH = 256


class SqsSpecError(QueueError):
    """What is asked for can't be.

    Attributes
    ----------
    field
        Which one, as `SqsQueueSpec` and `QueueSettings` name it.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


@dataclass(frozen=True, slots=True, kw_only=True)
class SqsQueueSpec:
    """What SQS needs to know of a queue beyond `QueueSettings`. Hashable."""

    wait_time_seconds: int = 20
    """How long a receiver waits that says nothing itself."""
    dead_letter_retention_confirmed: bool = False
    """That a dead-letter retention of less than 14 days is meant: it deletes older dead letters at once."""
    kms_key_id: str | None = None
    """None: encrypted with keys of SQS (SSE-SQS)."""
    policy: str | None = None
    """Who else may do what: a JSON document. None: nobody, so that one of somebody else's is taken away."""
    tags: tuple[tuple[str, str], ...] = ()
    """Of the user's, beside ours."""
    queue_url: str | None = None
    """A queue that is there already: used, never changed nor removed."""
    dead_letter_queue_url: str | None = None
    """A dead-letter queue that is there already: used, never changed nor removed."""
    adoption_needs_tag: bool = False
    """Whether a queue is used by its URL only where its tag ``headrace.dev/namespace`` names the owner's namespace."""


FindingReason: TypeAlias = Literal[
    "MaxReceiveCountTooLow",
    "RetentionTooShort",
    "DeadLetterRetentionTooShort",
    "DeadLetterRetentionUnconfirmed",
    "NoDeadLetterQueue",
    "DeadLetterQueueElsewhere",
    "DeadLetterQueueRefuses",
    "DeliveryDelayed",
    "MessageSizeTooSmall",
    "KeyRefusesAwsServices",
    "AttributesRefused",
    "TagsRefused",
    "DoesNotStay",
]


@dataclass(frozen=True, slots=True)
class Finding:
    """What of a queue is not as it should be and is not ours to change, or can't be. The queue works all the same."""

    reason: FindingReason
    message: str
    """What it means, and what to do."""


def check(queue: str, spec: SqsQueueSpec) -> None:
    """See that a queue of this name can be as its spec says.

    Raises
    ------
    SqsSpecError
        With the field, and the fix.
    """
    if spec.queue_url is None:
        _check_name(queue, has_dead_letter_queue=spec.dead_letter_queue_url is None)
    for field, url in (("queue_url", spec.queue_url), ("dead_letter_queue_url", spec.dead_letter_queue_url)):
        if url is not None and url.endswith(".fifo"):
            raise SqsSpecError(field, f"{url} is a FIFO queue: give a standard one")
    if spec.queue_url is not None and spec.queue_url == spec.dead_letter_queue_url:
        raise SqsSpecError("dead_letter_queue_url", "is the queue itself: give another one")
    if not 0 <= spec.wait_time_seconds <= MAX_WAIT_SECONDS:
        raise SqsSpecError("wait_time_seconds", f"{spec.wait_time_seconds}: give 0 to {MAX_WAIT_SECONDS}")
    if spec.queue_url is not None:
        for field, given in (("kms_key_id", spec.kms_key_id), ("policy", spec.policy), ("tags", spec.tags)):
            if given:
                raise SqsSpecError(field, "does nothing beside queue_url, whose queue is never changed: leave it out")
    if spec.kms_key_id == "":
        raise SqsSpecError("kms_key_id", "is empty: name a key, or leave it out for keys of SQS")
    _check_tags(spec.tags)


def _check_name(queue: str, *, has_dead_letter_queue: bool) -> None:
    if queue.endswith(".fifo"):
        raise SqsSpecError("queue_name", f"{queue!r} is the name of a FIFO queue: leave .fifo out for a standard one")
    if not _NAME.fullmatch(queue):
        raise SqsSpecError("queue_name", f"{queue!r}: give letters, digits, hyphens and underscores")
    longest = MAX_NAME_LENGTH - (len(DEAD_LETTER_SUFFIX) if has_dead_letter_queue else 0)
    if len(queue) > longest:
        raise SqsSpecError(
            "queue_name",
            f"{queue!r} has {len(queue)} characters: give {longest} at the most"
            + (
                f", so that the dead-letter queue's {DEAD_LETTER_SUFFIX!r} fits behind it"
                if has_dead_letter_queue
                else ""
            ),
        )


def _check_tags(tags: tuple[tuple[str, str], ...]) -> None:
    if len(tags) > MAX_TAGS:
        raise SqsSpecError("tags", f"there are {len(tags)}: give {MAX_TAGS} at the most")
    for key, value in tags:
        if key.startswith(_RESERVED_TAGS):
            raise SqsSpecError(
                "tags", f"{key!r}: tags that begin with {' or '.join(_RESERVED_TAGS)} are not yours to set"
            )
        if not 1 <= len(key) <= _MAX_TAG_KEY_LENGTH:
            raise SqsSpecError("tags", f"{key!r}: give a key of 1 to {_MAX_TAG_KEY_LENGTH} characters")
        if len(value) > _MAX_TAG_VALUE_LENGTH:
            raise SqsSpecError("tags", f"{key!r}: give a value of {_MAX_TAG_VALUE_LENGTH} characters at the most")
