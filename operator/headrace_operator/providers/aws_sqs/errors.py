"""The failures of queues in SQS, as reconciling knows them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from headrace.queues.errors import PlaceTakenError, QueueError, QueueNotFoundError, QueueUnavailableError
from headrace.queues.sqs.errors import (
    InFlightLimitError,
    QueueDeletedRecentlyError,
    SqsAccessError,
    SqsUnavailableError,
    ThrottledError,
)
from headrace.queues.sqs.spec import SqsSpecError
from headrace_operator.core.model import OperatorError, RefusedError, TransientError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_FIELDS: Mapping[str, str] = {
    "kms_key_id": "awsSqs.encryption.kmsKeyId",
    "policy": "awsSqs.policy",
    "queue_name": "awsSqs.queueName",
    "queue_url": "awsSqs.queueUrl",
    "dead_letter_queue_url": "awsSqs.deadLetterQueueUrl",
    "tags": "awsSqs.tags",
    "wait_time_seconds": "awsSqs.waitTimeSeconds",
    "visibility_timeout_seconds": "visibilityTimeoutSeconds",
    "message_retention_seconds": "messageRetentionSeconds",
    "dead_letter_retention_days": "deadLetter.retentionDays",
    "dead_letter_enabled": "deadLetter.enabled",
    "max_retries": "maxRetries",
}
"""Of the JobQueue's spec, by the names that provisioning has for them."""


@contextmanager
def operator_errors() -> Iterator[None]:
    """Tell failures as conditions do."""
    try:
        yield
    except QueueError as error:
        raise translated(error) from None
    except TimeoutError:
        raise TransientError("BackendUnreachable", "SQS did not answer in time") from None


def translated(error: QueueError) -> OperatorError:
    """What to do is the user's to read in a condition; what the spec must mend can't heal by trying again."""
    message = str(error)
    match error:
        case SqsSpecError():
            field = _FIELDS.get(error.field, error.field)
            return RefusedError("InvalidSpec", f"spec.{field}: {error.problem}")
        case PlaceTakenError():
            return RefusedError("NameTaken", message)
        case QueueDeletedRecentlyError():
            return TransientError(
                "QueueDeletedRecently",
                f"{message}: it is made then, by itself",
                retry_after_seconds=error.retry_after_seconds,
            )
        case ThrottledError():
            return TransientError("Throttled", message, retry_after_seconds=_THROTTLED_SECONDS)
        case InFlightLimitError():
            return TransientError("InFlightLimit", message)
        case SqsAccessError() if error.kind in _OF_WHO_CALLS:
            return TransientError(error.kind, message, retry_after_seconds=_REFUSED_SECONDS, is_of_all=True)
        case SqsAccessError():
            return TransientError(error.kind, message)
        case QueueNotFoundError():
            return TransientError("QueueNotFound", message)
        case SqsUnavailableError():
            # What answers that it can't serve now does so for one call.
            return TransientError("BackendUnreachable", message, is_of_all=error.status is None)
        case QueueUnavailableError():
            return TransientError("BackendUnreachable", message)
        case _:
            return TransientError("ProvisioningFailed", message)


_THROTTLED_SECONDS = 20.0
"""Trying again sooner would only add to it."""

_OF_WHO_CALLS = frozenset({"CredentialsExpired", "CredentialsRefused", "CredentialsMissing", "ClockSkewed"})
_REFUSED_SECONDS = 20.0
"""Other keys in the Secret are tried at once."""
