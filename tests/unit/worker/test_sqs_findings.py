"""What is told of a queue that is not as it should be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headrace.queues.base import QueueSettings
from headrace.queues.sqs.findings import of_adopted, of_adopted_dead_letters, of_refusals, of_spec
from headrace.queues.sqs.spec import SqsQueueSpec

ARN = "arn:aws:sqs:eu-central-1:123456789012:orders"
DEAD = f"{ARN}-dead"
FINE = {
    "MessageRetentionPeriod": "1209600",
    "MaximumMessageSize": "1048576",
    "DelaySeconds": "0",
    "RedrivePolicy": json.dumps({"deadLetterTargetArn": DEAD, "maxReceiveCount": "12"}),
}
POLICY_FOR_S3 = '{"Statement": {"Effect": "Allow", "Principal": {"Service": "s3.amazonaws.com"}, "Action": "sqs:*"}}'


@pytest.mark.parametrize(
    ("change", "reason", "told"),
    [
        ({}, [], ""),
        ({"MessageRetentionPeriod": "345600"}, ["RetentionTooShort"], "after 4 days"),
        ({"MaximumMessageSize": "262144"}, ["MessageSizeTooSmall"], "262144 bytes"),
        ({"DelaySeconds": "30"}, ["DeliveryDelayed"], "for 30 s"),
        ({"RedrivePolicy": ""}, ["NoDeadLetterQueue"], "maxReceiveCount of 12"),
        (
            {"RedrivePolicy": json.dumps({"deadLetterTargetArn": DEAD, "maxReceiveCount": 5})},
            ["MaxReceiveCountTooLow"],
            "Set maxReceiveCount to 12",
        ),
        (
            {"RedrivePolicy": json.dumps({"deadLetterTargetArn": "arn:other", "maxReceiveCount": 12})},
            ["DeadLetterQueueElsewhere"],
            "arn:other",
        ),
    ],
)
def test_what_a_queue_of_somebody_elses_lacks_is_told_with_the_fix(
    change: dict[str, str], reason: list[str], told: str
) -> None:
    found = list(of_adopted("orders", FINE | change, DEAD, QueueSettings(max_retries=3)))
    assert [finding.reason for finding in found] == reason
    assert all(told in finding.message for finding in found)


def test_without_dead_letters_nothing_is_told_of_them() -> None:
    assert (
        list(of_adopted("orders", FINE | {"RedrivePolicy": ""}, None, QueueSettings(dead_letter_enabled=False))) == []
    )


@pytest.mark.parametrize(
    ("allows", "refuses"),
    [
        (None, False),
        ({"redrivePermission": "allowAll"}, False),
        ({"redrivePermission": "denyAll"}, True),
        ({"redrivePermission": "byQueue", "sourceQueueArns": [ARN]}, False),
        ({"redrivePermission": "byQueue", "sourceQueueArns": ["arn:other"]}, True),
    ],
)
def test_a_dead_letter_queue_that_refuses_this_queues_is_told(allows: dict[str, Any] | None, refuses: bool) -> None:
    attributes = {} if allows is None else {"RedriveAllowPolicy": json.dumps(allows)}
    found = list(of_adopted_dead_letters("orders-dead", attributes, ARN))
    assert [finding.reason for finding in found] == (["DeadLetterQueueRefuses"] if refuses else [])


def test_a_shorter_time_for_dead_letters_waits_for_the_annotation() -> None:
    (found,) = of_spec(QueueSettings(dead_letter_retention_days=3), SqsQueueSpec())
    assert found.reason == "DeadLetterRetentionUnconfirmed"
    assert 'headrace.dev/confirm-dead-letter-retention: "3"' in found.message
    confirmed = SqsQueueSpec(dead_letter_retention_confirmed=True)
    assert list(of_spec(QueueSettings(dead_letter_retention_days=3), confirmed)) == []


@pytest.mark.parametrize(
    ("key", "policy", "reason"),
    [
        ("alias/aws/sqs", POLICY_FOR_S3, ["KeyRefusesAwsServices"]),
        ("alias/aws/sqs", None, []),
        ("alias/ours", POLICY_FOR_S3, []),
        (None, POLICY_FOR_S3, []),
    ],
)
def test_a_key_that_services_cant_use_is_told_where_one_is_let_in(
    key: str | None, policy: str | None, reason: list[str]
) -> None:
    found = of_spec(QueueSettings(), SqsQueueSpec(kms_key_id=key, policy=policy))
    assert [finding.reason for finding in found] == reason


def test_what_an_endpoint_lacks_is_told_once_a_queue() -> None:
    found = list(of_refusals("orders", {"tags", "RedriveAllowPolicy", "MaximumMessageSize"}))
    assert [finding.reason for finding in found] == ["AttributesRefused", "TagsRefused"]
    assert "MaximumMessageSize, RedriveAllowPolicy of queue orders" in found[0].message
