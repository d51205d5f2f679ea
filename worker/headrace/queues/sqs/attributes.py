"""What a queue's attributes are to be, and what is to be done for it: observed → diff. Pure.

An attribute that is not there is the same as an empty one, which is how SQS takes one away.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from headrace.queues.errors import UnsupportedCapabilityError
from headrace.queues.sqs.documents import canonical_document, canonical_policy, parse_policy
from headrace.queues.sqs.spec import MAX_RETENTION_DAYS, MAX_VISIBILITY_SECONDS, RETENTION_SECONDS, SqsSpecError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headrace.queues.base import QueueSettings
    from headrace.queues.sqs.spec import SqsQueueSpec

MAX_MESSAGE_BYTES = 1_048_576
MAX_RECEIVE_COUNT = 1000
"""The most that a redrive policy takes."""

OPTIONAL = frozenset({"RedriveAllowPolicy", "MaximumMessageSize", "SqsManagedSseEnabled", "DelaySeconds"})
"""What a queue works without, where an endpoint does not know it."""

ALWAYS_SHOWN = frozenset(
    {
        "VisibilityTimeout",
        "ReceiveMessageWaitTimeSeconds",
        "MessageRetentionPeriod",
        "MaximumMessageSize",
        "DelaySeconds",
        "SqsManagedSseEnabled",
    }
)
"""What every queue has: where one is not told, the endpoint does not know it. Others may have been taken away."""

_MIN_RECEIVE_COUNT = 10
_RECEIVES_PER_ATTEMPT = 3
_SECONDS_PER_DAY = 86_400
_MOST_DIGITS = 18
_PROPAGATION_SECONDS = 60.0
_RETENTION_PROPAGATION_SECONDS = 900.0


def max_receive_count(max_retries: int) -> int:
    """How often a message is received before SQS itself moves it to the dead-letter queue.

    An attempt is a failed run, and not a receive: this is only for what kills its workers.
    """
    return min(MAX_RECEIVE_COUNT, max(_MIN_RECEIVE_COUNT, _RECEIVES_PER_ATTEMPT * (max_retries + 1)))


def propagation_seconds(attribute: str) -> float:
    """How long it may take until a change of this attribute shows.

    https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SetQueueAttributes.html
    """
    return _RETENTION_PROPAGATION_SECONDS if attribute == "MessageRetentionPeriod" else _PROPAGATION_SECONDS


def check_settings(settings: QueueSettings) -> None:
    """See that SQS can do this.

    Raises
    ------
    SqsSpecError
        With the field, and the fix.
    UnsupportedCapabilityError
        For what no queue in SQS does.
    """
    if not 0 <= settings.visibility_timeout_seconds <= MAX_VISIBILITY_SECONDS:
        raise SqsSpecError(
            "visibility_timeout_seconds",
            f"{settings.visibility_timeout_seconds:g}: SQS hides a message for 12 hours at the most: "
            f"give 0 to {MAX_VISIBILITY_SECONDS}",
        )
    if settings.max_retries < 0:
        raise SqsSpecError("max_retries", f"{settings.max_retries}: give 0 or more")
    if not 0 < settings.dead_letter_retention_days <= MAX_RETENTION_DAYS:
        raise SqsSpecError(
            "dead_letter_retention_days",
            f"{settings.dead_letter_retention_days:g}: SQS keeps a message for {MAX_RETENTION_DAYS} days at the most",
        )
    if settings.completed_retention_seconds:
        raise UnsupportedCapabilityError("completed_retention_seconds: SQS keeps no finished jobs: give 0")
    if settings.paused:
        raise UnsupportedCapabilityError("paused: a queue in SQS can't be paused: pause its pools instead")


def dead_letter_retention_seconds(settings: QueueSettings, spec: SqsQueueSpec) -> int:
    """How long dead letters are kept: less than 14 days, which deletes, only where it is confirmed."""
    if not spec.dead_letter_retention_confirmed:
        return RETENTION_SECONDS
    return max(60, min(RETENTION_SECONDS, round(settings.dead_letter_retention_days * _SECONDS_PER_DAY)))


def wanted_queue(settings: QueueSettings, spec: SqsQueueSpec, *, dead_letter_arn: str | None) -> dict[str, str]:
    """The queue's attributes.

    Raises
    ------
    SqsSpecError
        When the policy is none.
    """
    redrive = ""
    if dead_letter_arn is not None:
        redrive = _document(
            {"deadLetterTargetArn": dead_letter_arn, "maxReceiveCount": max_receive_count(settings.max_retries)}
        )
    policy = "" if spec.policy is None else _document(parse_policy(spec.policy))
    return {
        "VisibilityTimeout": str(math.ceil(settings.visibility_timeout_seconds)),
        "ReceiveMessageWaitTimeSeconds": str(spec.wait_time_seconds),
        "MessageRetentionPeriod": str(RETENTION_SECONDS),
        "RedrivePolicy": redrive,
        "Policy": policy,
        **_common(spec),
    }


def wanted_dead_letter_queue(settings: QueueSettings, spec: SqsQueueSpec, *, source_arn: str) -> dict[str, str]:
    """The dead-letter queue's attributes; no other queue's dead letters may go there."""
    return {
        "MessageRetentionPeriod": str(dead_letter_retention_seconds(settings, spec)),
        "RedrivePolicy": "",
        "RedriveAllowPolicy": _document({"redrivePermission": "byQueue", "sourceQueueArns": [source_arn]}),
        "Policy": "",
        **_common(spec),
    }


def _common(spec: SqsQueueSpec) -> dict[str, str]:
    return {
        "MaximumMessageSize": str(MAX_MESSAGE_BYTES),
        "DelaySeconds": "0",
        "KmsMasterKeyId": spec.kms_key_id or "",
        "SqsManagedSseEnabled": "true" if spec.kms_key_id is None else "false",
    }


def changes(observed: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str]:
    """What must be set, of what is wanted; attributes that nobody wants anything of are left alone."""
    return {
        name: value
        for name, value in wanted.items()
        if canonical(name, observed.get(name, "")) != canonical(name, value)
    }


def to_create(wanted: Mapping[str, str]) -> dict[str, str]:
    """What a new queue is made with: nothing has to be taken away from it."""
    return {name: value for name, value in wanted.items() if value and name != "RedriveAllowPolicy"}


def canonical(name: str, value: str) -> Any:
    """What an attribute means: equal where order and spelling alone differ."""
    if value == "":
        # A queue without either has no managed keys, too.
        return False if name == "SqsManagedSseEnabled" else None
    match name:
        case "Policy":
            return canonical_policy(value)
        case "RedrivePolicy" | "RedriveAllowPolicy":
            return canonical_document(value)
        case "SqsManagedSseEnabled":
            return value.lower() == "true"
        case "KmsMasterKeyId":
            return value
        case _:
            return number({name: value}, name, -1) if value.isdecimal() else value


def redrive_target(attributes: Mapping[str, str]) -> tuple[str, int] | None:
    """The ARN of a queue's dead-letter queue, and its maxReceiveCount; None without one."""
    try:
        document = json.loads(attributes.get("RedrivePolicy") or "null")
        return str(document["deadLetterTargetArn"]), int(document["maxReceiveCount"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def held(attributes: Mapping[str, str]) -> int:
    """How many messages a queue holds, by SQS's own count: waiting, in flight and delayed."""
    return sum(
        max(0, number(attributes, f"ApproximateNumberOfMessages{state}", 0)) for state in ("", "NotVisible", "Delayed")
    )


def number(attributes: Mapping[str, str], name: str, otherwise: int) -> int:
    """An attribute that is a number; `otherwise` where it is not told, or is none."""
    value = attributes.get(name, "")
    return int(value) if value.isascii() and value.isdecimal() and len(value) <= _MOST_DIGITS else otherwise


def sibling_arn(arn: str, name: str) -> str:
    """The ARN of another queue of the same account and region."""
    return f"{arn.rpartition(':')[0]}:{name}"


def _document(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
