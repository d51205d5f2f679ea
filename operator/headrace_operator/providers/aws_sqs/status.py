"""``status.awsSqs`` of a JobQueue. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_FIELDS = {
    "queueUrl": "queue_url",
    "queueArn": "queue_arn",
    "deadLetterQueueUrl": "dead_letter_queue_url",
    "deadLetterQueueArn": "dead_letter_queue_arn",
    "messageRetentionSeconds": "message_retention_seconds",
    "unsupported": "unsupported",
}
"""By the names that provisioning gives to what it found."""


def sqs_status(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a JobQueue's status says of its queues."""
    told = {field: facts.get(name) for field, name in _FIELDS.items()}
    return {field: list(value) if isinstance(value, tuple) else value for field, value in told.items() if value}
