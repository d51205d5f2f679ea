"""What the service says, in our words: what to do about it, and what kind of error it is."""

from __future__ import annotations

import pytest
from botocore.retries.standard import ThrottledRetryableChecker, TransientRetryableChecker

from headrace.queues.errors import QueueAccessError, QueueError, QueueNotFoundError, QueueUnavailableError
from headrace.queues.sqs.errors import (
    InFlightLimitError,
    QueueDeletedRecentlyError,
    SqsAccessError,
    SqsError,
    SqsUnavailableError,
    ThrottledError,
    are_credentials_refused,
    is_clock_skewed,
    plain,
    translated,
)
from headrace.queues.sqs.rights import ROLES, actions, dead_letter_actions, least_actions

TABLE: list[tuple[str, str, int, type[QueueError], str]] = [
    ("com.amazonaws.sqs#QueueDoesNotExist", "gone", 400, QueueNotFoundError, "apply its JobQueue"),
    ("AWS.SimpleQueueService.NonExistentQueue", "gone", 400, QueueNotFoundError, "apply its JobQueue"),
    ("AccessDenied", "no", 403, QueueAccessError, "allow sqs:SendMessage to these credentials"),
    ("com.amazon.coral.service#AccessDeniedException", "no", 400, QueueAccessError, "allow sqs:SendMessage"),
    ("ExpiredToken", "old", 403, QueueAccessError, "have expired: renew them"),
    ("InvalidClientTokenId", "who?", 403, QueueAccessError, "unknown or its session token wrong"),
    ("SignatureDoesNotMatch", "no", 403, QueueAccessError, "mend the secret access key"),
    ("InvalidSignatureException", "Signature expired: 1 is now", 403, QueueAccessError, "the clock here is wrong"),
    ("SignatureDoesNotMatch", "Signature not yet current: 1", 403, QueueAccessError, "the clock here is wrong"),
    ("RequestTimeTooSkewed", "", 403, QueueAccessError, "the clock here is wrong"),
    (
        "SignatureDoesNotMatch",
        "Credential should be scoped to a valid region, not 'eu-west-9'.",
        403,
        QueueAccessError,
        "set region to the queue's own",
    ),
    ("com.amazonaws.sqs#KmsDisabled", "arn:aws:kms:…", 400, QueueAccessError, "the KMS key of the queue is disabled"),
    ("KMS.NotFoundException", "", 400, QueueAccessError, "mend its name"),
    ("MissingAuthenticationToken", "", 403, QueueAccessError, "needs credentials"),
    ("InvalidAddress", "", 404, QueueAccessError, "mend region, account and endpoint"),
    ("AWS.SimpleQueueService.QueueDeletedRecently", "", 400, QueueDeletedRecentlyError, "less than 60 s ago"),
    ("com.amazonaws.sqs#OverLimit", "", 403, InFlightLimitError, "120,000"),
    ("RequestThrottled", "", 403, ThrottledError, "fewer calls, or later"),
    ("ThrottlingException", "", 400, ThrottledError, "fewer calls, or later"),
    ("429", "", 429, ThrottledError, "fewer calls, or later"),
    ("InternalFailure", "", 500, SqsUnavailableError, "can't serve now"),
    ("502", "<html>", 502, SqsUnavailableError, "can't serve now"),
    (
        "403",
        "<ErrorResponse><Errors><Error><Code>AccessDenied</Code><Message>User: a &lt;b&gt;</Message>",
        403,
        QueueAccessError,
        r"allow sqs:SendMessage to these credentials \(User: a <b>\)",
    ),
    ("InvalidParameterValue", "bad", 400, SqsError, r"is refused \(InvalidParameterValue\): bad"),
]


@pytest.mark.parametrize(("code", "message", "status", "kind", "words"), TABLE)
def test_each_error_is_of_a_kind_and_says_what_to_do(
    code: str, message: str, status: int, kind: type[QueueError], words: str
) -> None:
    error = translated(code, message, status=status, operation="SendMessageBatch")
    assert isinstance(error, kind)
    assert isinstance(error, SqsError)
    assert (error.code, error.status, error.operation) == (plain(code, message)[0], status, "SendMessageBatch")
    with pytest.raises(kind, match=words):
        raise error


@pytest.mark.parametrize("code", sorted(ThrottledRetryableChecker._THROTTLED_ERROR_CODES))
def test_what_botocore_takes_for_throttling_is_that(code: str) -> None:
    assert isinstance(translated(code, "", status=400), ThrottledError)


@pytest.mark.parametrize("code", sorted(TransientRetryableChecker._TRANSIENT_ERROR_CODES))
def test_what_botocore_takes_for_passing_is_unavailability(code: str) -> None:
    assert isinstance(translated(code, "", status=400), QueueUnavailableError)


@pytest.mark.parametrize(
    ("message", "action"),
    [
        (
            "User: arn:aws:iam::1:user/x is not authorized to perform: sqs:sendmessage on resource: arn:aws:sqs:::q",
            "sqs:SendMessage",
        ),
        ("User: arn:aws:sts::1:x is not authorized to perform: kms:GenerateDataKey on ...", "kms:GenerateDataKey"),
        ("Access to the resource https://sqs.eu-central-1.amazonaws.com/ is denied.", "sqs:SendMessage"),
    ],
)
def test_a_missing_right_is_named_as_iam_spells_it(message: str, action: str) -> None:
    error = translated("AccessDenied", message, status=403, operation="SendMessageBatch")
    assert isinstance(error, SqsAccessError)
    assert error.action == action


def test_a_role_that_can_t_be_assumed_is_no_right_of_sqs() -> None:
    error = translated("AccessDenied", "Not authorized", operation="AssumeRoleWithWebIdentity")
    assert isinstance(error, SqsAccessError)
    assert error.action == "sts:AssumeRoleWithWebIdentity"


def test_a_wrong_clock_is_told_with_how_wrong_it_is() -> None:
    error = translated("RequestTimeTooSkewed", "", operation="SendMessageBatch", skew_seconds=-620.4)
    assert "the clock here is 620 s ahead: set it" in str(error)


def test_a_refused_secret_is_no_skewed_clock_and_neither_are_its_credentials_replaceable() -> None:
    assert not is_clock_skewed("SignatureDoesNotMatch", "The request signature we calculated does not match")
    assert not are_credentials_refused("SignatureDoesNotMatch")
    assert are_credentials_refused("ExpiredToken")


def test_batches_need_the_right_to_the_single_call() -> None:
    assert actions("SendMessageBatch") == ("sqs:SendMessage",)
    assert actions("ListQueueTags") == ("sqs:ListQueueTags",)


def test_each_role_has_the_rights_it_needs_and_no_other() -> None:
    assert least_actions("producer") == ("sqs:SendMessage",)
    assert "sqs:DeleteQueue" not in least_actions("worker")
    assert "sqs:ReceiveMessage" not in least_actions("operator")
    assert dead_letter_actions("producer") == ()
    assert "sqs:ReceiveMessage" not in dead_letter_actions("worker")
    for role in ROLES:
        assert list(least_actions(role)) == sorted(set(least_actions(role)))


@pytest.mark.parametrize("status", [403, 404, 500])
def test_what_another_service_answers_is_not_repeated(status: int) -> None:
    # An endpoint may be any server that the operator reaches, and its author reads the JobQueue's conditions.
    told = str(translated(str(status), "the password is hunter2", status=status, operation="GetQueueUrl"))
    assert "hunter2" not in told
    assert "what answered was not SQS" in told
