"""What a queue in SQS fails with, as a JobQueue's conditions tell it."""

from __future__ import annotations

import pytest

from headrace.queues.errors import PlaceTakenError, QueueError
from headrace.queues.sqs.errors import translated as said_by_the_service
from headrace.queues.sqs.errors import unreachable
from headrace.queues.sqs.spec import SqsSpecError
from headrace_operator.core.model import OperatorError, RefusedError, TransientError
from headrace_operator.providers.aws_sqs.errors import operator_errors, translated


@pytest.mark.parametrize(
    ("code", "message", "reason", "words"),
    [
        ("AccessDenied", "", "AccessDenied", "allow sqs:CreateQueue"),
        ("AccessDenied", "not authorized to perform: sqs:tagqueue on it", "AccessDenied", "allow sqs:TagQueue"),
        ("KMS.AccessDeniedException", "", "AccessDenied", "kms:Decrypt and kms:GenerateDataKey"),
        ("ExpiredToken", "", "CredentialsExpired", "renew them"),
        ("InvalidClientTokenId", "", "CredentialsRefused", "the access key is unknown"),
        ("SignatureDoesNotMatch", "", "CredentialsRefused", "mend the secret access key"),
        ("SignatureDoesNotMatch", "Credential should be scoped to a valid region", "WrongRegion", "another region"),
        ("InvalidAddress", "", "WrongRegion", "mend region, account and endpoint"),
        ("RequestTimeTooSkewed", "", "ClockSkewed", "the clock here is wrong"),
        ("RequestThrottled", "", "Throttled", "fewer calls, or later"),
        ("OverLimit", "", "InFlightLimit", "120,000"),
        ("QueueDoesNotExist", "", "QueueNotFound", "no such queue"),
        ("QueueDeletedRecently", "", "QueueDeletedRecently", "it is made then, by itself"),
        ("InternalError", "", "BackendUnreachable", "can't serve now"),
        ("SomethingNew", "", "ProvisioningFailed", "is refused (SomethingNew)"),
    ],
)
def test_each_refusal_has_a_reason_and_says_what_to_do(code: str, message: str, reason: str, words: str) -> None:
    told = translated(said_by_the_service(code, message, operation="CreateQueue"))
    assert isinstance(told, TransientError)
    assert told.reason == reason
    assert words in told.message


def test_nobody_there_is_told_as_with_every_backend() -> None:
    assert translated(unreachable(OSError("no route to host"))).reason == "BackendUnreachable"
    with pytest.raises(TransientError) as told, operator_errors():
        raise TimeoutError
    assert told.value.reason == "BackendUnreachable"


@pytest.mark.parametrize(
    ("code", "is_of_all"),
    [
        ("ExpiredToken", True),
        ("InvalidClientTokenId", True),
        ("SignatureDoesNotMatch", True),
        ("MissingAuthenticationToken", True),
        ("RequestTimeTooSkewed", True),
        # These may be about one queue alone.
        ("AccessDenied", False),
        ("InvalidAddress", False),
        ("InternalError", False),
        ("RequestThrottled", False),
    ],
)
def test_what_is_wrong_with_who_calls_is_true_of_all_queues_and_is_not_tried_for_each(
    code: str, is_of_all: bool
) -> None:
    told = translated(said_by_the_service(code, "", status=400, operation="GetQueueUrl"))
    assert isinstance(told, TransientError)
    assert told.is_of_all is is_of_all
    # A thousand queues that ask every few seconds would only be refused: another Secret is tried at once.
    assert told.retry_after_seconds == 20 or not is_of_all


def test_nobody_there_is_true_of_all_queues() -> None:
    told = translated(unreachable(OSError("no route to host")))
    assert isinstance(told, TransientError)
    assert told.is_of_all


@pytest.mark.parametrize(
    ("error", "reason", "message"),
    [
        (SqsSpecError("kms_key_id", "is empty"), "InvalidSpec", "spec.awsSqs.encryption.kmsKeyId: is empty"),
        (SqsSpecError("max_retries", "too many"), "InvalidSpec", "spec.maxRetries: too many"),
        (PlaceTakenError("it is theirs"), "NameTaken", "it is theirs"),
    ],
)
def test_what_the_object_must_mend_is_told_by_its_own_field(error: QueueError, reason: str, message: str) -> None:
    told: OperatorError = translated(error)
    assert isinstance(told, RefusedError)
    assert (told.reason, told.message) == (reason, message)


def test_when_to_come_again_is_told_where_it_is_known() -> None:
    deleted = translated(said_by_the_service("QueueDeletedRecently", ""))
    denied = translated(said_by_the_service("AccessDenied", ""))
    assert isinstance(deleted, TransientError)
    assert isinstance(denied, TransientError)
    assert (deleted.retry_after_seconds, denied.retry_after_seconds) == (60.0, None)


def test_a_session_token_that_the_service_repeats_goes_no_further() -> None:
    said = "does not match. The Canonical String for this request should have been 'x-amz-security-token:hunter2'"
    assert "hunter2" not in translated(said_by_the_service("SignatureDoesNotMatch", said)).message
