"""The fewest rights of operator, workers and producers. That they suffice is tried on a server that checks them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headrace.queues.sqs.policies import PolicyScope, iam_policy, partition_of
from headrace.queues.sqs.rights import ROLES, Role
from headrace.queues.sqs.spec import SqsSpecError

KEY = "arn:aws:kms:eu-central-1:123456789012:key/0"
QUEUES = "arn:aws:sqs:eu-central-1:123456789012:"


def scope(**given: Any) -> PolicyScope:
    return PolicyScope(**{"region": "eu-central-1", "account": "123456789012"} | given)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("given", [{"queues": ("orders", "mails")}, {"prefix": "shop_"}], ids=["queues", "prefix"])
def test_no_policy_is_about_more_than_these_queues(role: Role, given: dict[str, Any]) -> None:
    for statement in iam_policy(role, scope(**given))["Statement"]:
        assert statement["Effect"] == "Allow"
        assert not any("*" in action for action in statement["Action"])
        for arn in statement["Resource"]:
            name = arn.removeprefix(QUEUES)
            assert name in {"orders", "mails", "orders-dead", "mails-dead", "shop_*", "shop_*-dead"}


def test_a_worker_takes_nothing_from_the_dead_letter_queue() -> None:
    queues, dead = iam_policy("worker", scope(queues=("orders",)))["Statement"]
    assert queues["Resource"] == [f"{QUEUES}orders"]
    assert dead["Resource"] == [f"{QUEUES}orders-dead"]
    assert "sqs:ReceiveMessage" not in dead["Action"]


def test_the_operator_manages_a_queue_and_its_dead_letter_queue_and_reads_no_job() -> None:
    (statement,) = iam_policy("operator", scope(queues=("orders",), keys=(KEY,)))["Statement"]
    assert statement["Resource"] == [f"{QUEUES}orders", f"{QUEUES}orders-dead"]
    assert not {"sqs:ReceiveMessage", "sqs:SendMessage", "sqs:PurgeQueue"} & set(statement["Action"])


@pytest.mark.parametrize("role", ["worker", "producer"])
def test_a_key_is_used_by_way_of_the_queue_alone(role: Role) -> None:
    *_, keys = iam_policy(role, scope(queues=("orders",), keys=(KEY,)))["Statement"]
    assert keys["Resource"] == [KEY]
    assert keys["Condition"] == {"StringEquals": {"kms:ViaService": "sqs.eu-central-1.amazonaws.com"}}


@pytest.mark.parametrize(
    ("region", "partition"),
    [
        ("eu-central-1", "aws"),
        ("cn-north-1", "aws-cn"),
        ("us-gov-west-1", "aws-us-gov"),
        ("us-isob-east-1", "aws-iso-b"),
    ],
)
def test_the_partition_is_the_regions(region: str, partition: str) -> None:
    assert partition_of(region) == partition
    document = iam_policy("producer", scope(region=region, queues=("orders",)))
    assert document["Statement"][0]["Resource"] == [f"arn:{partition}:sqs:{region}:123456789012:orders"]


@pytest.mark.parametrize(
    ("given", "option"),
    [
        ({}, "queue"),
        ({"prefix": ""}, "prefix"),
        ({"queues": ("*",)}, "queue"),
        ({"queues": ("o",), "account": "1"}, "account"),
        ({"queues": ("o",), "region": "*"}, "region"),
        ({"queues": ("o",), "keys": ("alias/ours",)}, "kms_key"),
    ],
)
def test_a_scope_that_says_too_little_is_refused_by_its_option(given: dict[str, Any], option: str) -> None:
    with pytest.raises(SqsSpecError) as caught:
        scope(**given)
    assert caught.value.field == option


@pytest.mark.parametrize("role", ROLES)
def test_a_policy_is_small_enough_for_a_role(role: Role) -> None:
    # https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html: 6,144 characters of a managed policy
    assert len(json.dumps(iam_policy(role, scope(queues=tuple(f"queue-{n}" for n in range(10)))))) < 6144
