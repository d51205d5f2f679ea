"""What of a queue is not as it should be, and is not ours to change or can't be. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from headrace.queues.sqs.attributes import (
    MAX_MESSAGE_BYTES,
    max_receive_count,
    number,
    redrive_target,
)
from headrace.queues.sqs.documents import names_a_service
from headrace.queues.sqs.spec import MAX_RETENTION_DAYS, RETENTION_SECONDS, Finding

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from headrace.queues.base import QueueSettings
    from headrace.queues.sqs.spec import SqsQueueSpec

_SECONDS_PER_DAY = 86_400
_AWS_MANAGED_KEY = "alias/aws/sqs"


def of_spec(settings: QueueSettings, spec: SqsQueueSpec) -> Iterator[Finding]:
    """What is asked for and does not do what it seems to."""
    days = settings.dead_letter_retention_days
    if settings.dead_letter_enabled and days < MAX_RETENTION_DAYS and not spec.dead_letter_retention_confirmed:
        yield Finding(
            "DeadLetterRetentionUnconfirmed",
            f"dead letters are kept for {MAX_RETENTION_DAYS} days: SQS would delete those older than {days:g} "
            f"days at once; if you mean that, annotate the JobQueue with headrace.dev/confirm-dead-letter-retention: "
            f'"{days:g}"',
        )
    if spec.kms_key_id == _AWS_MANAGED_KEY and spec.policy is not None and names_a_service(spec.policy):
        yield Finding(
            "KeyRefusesAwsServices",
            f"AWS services that the policy lets in (S3, SNS, EventBridge) can't use {_AWS_MANAGED_KEY}: "
            "encrypt with a customer managed key whose policy allows them kms:GenerateDataKey and kms:Decrypt, or with "
            "keys of SQS",
        )


def of_adopted(
    name: str, attributes: Mapping[str, str], dead_letter_arn: str | None, settings: QueueSettings
) -> Iterator[Finding]:
    """What of a queue that is used and not changed should be otherwise.

    Parameters
    ----------
    dead_letter_arn
        The dead-letter queue that is used for it; None without one.
    """
    yield from _retention(name, attributes, "RetentionTooShort", "jobs")
    yield from _common(name, attributes)
    if not settings.dead_letter_enabled:
        return
    wanted = max_receive_count(settings.max_retries)
    target = redrive_target(attributes)
    if target is None or dead_letter_arn is None:
        yield Finding(
            "NoDeadLetterQueue",
            f"queue {name} has no dead-letter queue of its own: a job that kills its workers starts again and "
            f"again, until its retention ends. Give the queue a RedrivePolicy with a maxReceiveCount of {wanted}",
        )
        return
    arn, count = target
    if count < wanted:
        yield Finding(
            "MaxReceiveCountTooLow",
            f"queue {name} gives a job up after {count} receives, be they failures or not: jobs that were only "
            f"drained or lost would be dead. Set maxReceiveCount to {wanted} or more (three times the attempts)",
        )
    if arn != dead_letter_arn:
        yield Finding(
            "DeadLetterQueueElsewhere",
            f"queue {name} sends what its workers never settle to {arn}, and workers send what failed to "
            f"{dead_letter_arn}: let both name one queue",
        )


def of_adopted_dead_letters(name: str, attributes: Mapping[str, str], source_arn: str) -> Iterator[Finding]:
    """As `of_adopted`, of a dead-letter queue."""
    yield from _retention(name, attributes, "DeadLetterRetentionTooShort", "dead letters")
    yield from _common(name, attributes)
    try:
        allowed = json.loads(attributes.get("RedriveAllowPolicy") or "{}")
        permission, sources = allowed.get("redrivePermission", "allowAll"), allowed.get("sourceQueueArns", [])
    except (ValueError, AttributeError, RecursionError):
        return
    if permission == "denyAll" or (permission == "byQueue" and source_arn not in sources):
        yield Finding(
            "DeadLetterQueueRefuses",
            f"queue {name} refuses the dead letters of {source_arn}: allow it in its RedriveAllowPolicy",
        )


def of_refusals(name: str, refused: Collection[str]) -> Iterator[Finding]:
    """What the endpoint does not know, and is done without: attributes by their names, or ``tags``."""
    if attributes := sorted(set(refused) - {"tags"}):
        yield Finding(
            "AttributesRefused",
            f"the endpoint takes no {', '.join(attributes)} of queue {name}: it is done without",
        )
    if "tags" in refused:
        yield Finding(
            "TagsRefused",
            f"the endpoint keeps no tags of queue {name}: nothing proves whose it is, so that it is never "
            "deleted, and workers take maxRetries from their own settings",
        )


def of_restless(name: str, what: list[str]) -> Iterator[Finding]:
    """What does not stay as it is set."""
    if what:
        yield Finding(
            "DoesNotStay",
            f"{', '.join(what)} of queue {name} was set again and again and does not stay: find who else sets "
            "it (another operator, Terraform, CloudFormation), and let one of the two",
        )


def _retention(name: str, attributes: Mapping[str, str], reason: str, what: str) -> Iterator[Finding]:
    seconds = number(attributes, "MessageRetentionPeriod", RETENTION_SECONDS)
    if seconds < RETENTION_SECONDS:
        yield Finding(
            "RetentionTooShort" if reason == "RetentionTooShort" else "DeadLetterRetentionTooShort",
            f"queue {name} drops {what} after {seconds / _SECONDS_PER_DAY:.3g} days, in silence: set its "
            f"MessageRetentionPeriod to {RETENTION_SECONDS} ({MAX_RETENTION_DAYS} days)",
        )


def _common(name: str, attributes: Mapping[str, str]) -> Iterator[Finding]:
    if number(attributes, "DelaySeconds", 0):
        yield Finding(
            "DeliveryDelayed",
            f"queue {name} holds every message back for {attributes['DelaySeconds']} s: set its DelaySeconds "
            "to 0, and delay jobs one by one",
        )
    largest = number(attributes, "MaximumMessageSize", MAX_MESSAGE_BYTES)
    if largest < MAX_MESSAGE_BYTES:
        yield Finding(
            "MessageSizeTooSmall",
            f"queue {name} takes messages of {largest} bytes at the most: set its MaximumMessageSize to "
            f"{MAX_MESSAGE_BYTES}, or enqueue no larger jobs",
        )
