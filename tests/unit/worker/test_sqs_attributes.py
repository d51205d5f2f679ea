"""From what is wanted of a queue in SQS to what must be set: a function."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.queues.base import QueueSettings
from headrace.queues.errors import UnsupportedCapabilityError
from headrace.queues.sqs.attributes import (
    MAX_RECEIVE_COUNT,
    canonical,
    changes,
    check_settings,
    held,
    max_receive_count,
    redrive_target,
    to_create,
    wanted_dead_letter_queue,
    wanted_queue,
)
from headrace.queues.sqs.spec import SqsQueueSpec, SqsSpecError, check

SETTINGS = QueueSettings()
DEAD = "arn:aws:sqs:eu-central-1:123456789012:orders-dead"
SOURCE = "arn:aws:sqs:eu-central-1:123456789012:orders"
POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Sid": "bucket",
            "Effect": "Allow",
            "Principal": {"Service": "s3.amazonaws.com"},
            "Action": ["sqs:SendMessage", "sqs:GetQueueUrl"],
            "Resource": SOURCE,
            "Condition": {"ArnLike": {"aws:SourceArn": ["arn:aws:s3:::a", "arn:aws:s3:::b"]}},
        }
    ],
}

settings = st.builds(
    QueueSettings,
    visibility_timeout_seconds=st.floats(0, 43_200),
    max_retries=st.integers(0, 1000),
    message_retention_seconds=st.none() | st.floats(1, 1e7),
    dead_letter_enabled=st.booleans(),
    dead_letter_retention_days=st.floats(0.001, 14),
)
specs = st.builds(
    SqsQueueSpec,
    wait_time_seconds=st.integers(0, 20),
    dead_letter_retention_confirmed=st.booleans(),
    kms_key_id=st.none() | st.sampled_from(["alias/ours", "arn:aws:kms:eu-central-1:123456789012:key/1"]),
    policy=st.none() | st.just(json.dumps(POLICY)),
)
attributes = st.dictionaries(
    st.sampled_from(
        ["VisibilityTimeout", "MessageRetentionPeriod", "Policy", "RedrivePolicy", "KmsMasterKeyId", "DelaySeconds"]
    )
    | st.sampled_from(["SqsManagedSseEnabled", "RedriveAllowPolicy", "QueueArn"]),
    st.sampled_from(["", "0", "30", "true", "false", "{", "{}", "[]", json.dumps(POLICY)]),
)


@given(observed=attributes, settings=settings, spec=specs, has_dead_letter_queue=st.booleans())
def test_what_was_set_needs_no_more_setting(
    observed: dict[str, str], settings: QueueSettings, spec: SqsQueueSpec, has_dead_letter_queue: bool
) -> None:
    for wanted in (
        wanted_queue(settings, spec, dead_letter_arn=DEAD if has_dead_letter_queue else None),
        wanted_dead_letter_queue(settings, spec, source_arn=SOURCE),
    ):
        assert changes(observed | changes(observed, wanted), wanted) == {}


@given(settings=settings, spec=specs)
def test_what_a_queue_was_made_with_needs_no_setting_either(settings: QueueSettings, spec: SqsQueueSpec) -> None:
    wanted = wanted_queue(settings, spec, dead_letter_arn=DEAD)
    assert changes(to_create(wanted), wanted) == {}


documents: st.SearchStrategy[Any] = st.recursive(
    st.text(max_size=3) | st.integers(0, 9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def shuffled(value: Any) -> Any:
    """The same, with every order turned round."""
    if isinstance(value, dict):
        return {key: shuffled(of) for key, of in reversed(value.items())}
    if isinstance(value, list):
        return [shuffled(one) for one in reversed(value)]
    return value


@given(document=st.dictionaries(st.text(max_size=3), documents), indent=st.sampled_from([None, 1, 4]))
@pytest.mark.parametrize("name", ["Policy", "RedrivePolicy", "RedriveAllowPolicy"])
def test_the_order_and_the_look_of_a_document_say_nothing(
    name: str, document: dict[str, Any], indent: int | None
) -> None:
    assert canonical(name, json.dumps(document)) == canonical(name, json.dumps(shuffled(document), indent=indent))


@pytest.mark.parametrize(
    "change",
    [
        {"Action": ["SQS:GetQueueUrl", "sqs:sendmessage"]},
        {"Resource": [SOURCE]},
        {"Principal": {"Service": ["s3.amazonaws.com"]}},
        {"Condition": {"ArnLike": {"AWS:SourceArn": ["arn:aws:s3:::b", "arn:aws:s3:::a"]}}},
    ],
)
def test_a_policy_is_what_it_means(change: dict[str, Any]) -> None:
    spelled_otherwise = {**POLICY, "Statement": {**POLICY["Statement"][0], **change}}  # type: ignore[dict-item]
    assert canonical("Policy", json.dumps(POLICY)) == canonical("Policy", json.dumps(spelled_otherwise))


@pytest.mark.parametrize(
    ("one", "other"),
    [("*", {"AWS": "*"}), ({"AWS": "123456789012"}, {"AWS": "arn:aws:iam::123456789012:root"})],
)
def test_an_account_is_the_same_by_its_number_and_by_its_root(one: object, other: object) -> None:
    # The service writes one for the other: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_principal.html
    policies = [{"Statement": [{"Effect": "Allow", "Principal": whom, "Action": "sqs:*"}]} for whom in (one, other)]
    first, second = (canonical("Policy", json.dumps(policy)) for policy in policies)
    assert first == second


@pytest.mark.parametrize(
    "change",
    [
        {"Action": ["sqs:SendMessage"]},
        {"Effect": "Deny"},
        {"Principal": {"Service": "sns.amazonaws.com"}},
        {"Condition": {"ArnLike": {"aws:SourceArn": ["arn:aws:s3:::a"]}}},
        {"Condition": {"StringLike": {"aws:SourceArn": ["arn:aws:s3:::a", "arn:aws:s3:::b"]}}},
    ],
)
def test_a_policy_that_means_something_else_is_another(change: dict[str, Any]) -> None:
    another = {**POLICY, "Statement": [{**POLICY["Statement"][0], **change}]}  # type: ignore[dict-item]
    assert canonical("Policy", json.dumps(POLICY)) != canonical("Policy", json.dumps(another))


@pytest.mark.parametrize(("max_retries", "count"), [(0, 10), (2, 10), (3, 12), (9, 30), (999, MAX_RECEIVE_COUNT)])
def test_only_what_kills_its_workers_reaches_the_services_own_limit(max_retries: int, count: int) -> None:
    assert max_receive_count(max_retries) == count
    wanted = wanted_queue(replace(SETTINGS, max_retries=max_retries), SqsQueueSpec(), dead_letter_arn=DEAD)
    assert redrive_target(wanted) == (DEAD, count)


def test_a_queue_without_dead_letters_has_no_redrive_policy() -> None:
    wanted = wanted_queue(SETTINGS, SqsQueueSpec(), dead_letter_arn=None)
    assert changes({"RedrivePolicy": '{"deadLetterTargetArn":"x","maxReceiveCount":3}'}, wanted)["RedrivePolicy"] == ""


@pytest.mark.parametrize(("is_confirmed", "seconds"), [(False, "1209600"), (True, "259200")])
def test_dead_letters_are_kept_shorter_only_where_that_is_confirmed(is_confirmed: bool, seconds: str) -> None:
    three_days = replace(SETTINGS, dead_letter_retention_days=3)
    spec = SqsQueueSpec(dead_letter_retention_confirmed=is_confirmed)
    assert wanted_dead_letter_queue(three_days, spec, source_arn=SOURCE)["MessageRetentionPeriod"] == seconds
    # A job's own expiry is in its envelope; what the service drops, it drops in silence.
    assert wanted_queue(three_days, spec, dead_letter_arn=DEAD)["MessageRetentionPeriod"] == "1209600"


def test_one_kind_of_encryption_ends_the_other() -> None:
    by_sqs = wanted_queue(SETTINGS, SqsQueueSpec(), dead_letter_arn=None)
    by_key = wanted_queue(SETTINGS, SqsQueueSpec(kms_key_id="alias/ours"), dead_letter_arn=None)
    assert changes(to_create(by_sqs), by_key) == {"KmsMasterKeyId": "alias/ours", "SqsManagedSseEnabled": "false"}
    assert changes(to_create(by_key), by_sqs) == {"KmsMasterKeyId": "", "SqsManagedSseEnabled": "true"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"visibility_timeout_seconds": 43_201}, "visibility_timeout_seconds"),
        ({"visibility_timeout_seconds": -1}, "visibility_timeout_seconds"),
        ({"max_retries": -1}, "max_retries"),
        ({"dead_letter_retention_days": 15}, "dead_letter_retention_days"),
        ({"dead_letter_retention_days": 0}, "dead_letter_retention_days"),
    ],
)
def test_settings_out_of_bounds_are_refused_by_their_field(change: dict[str, float], field: str) -> None:
    with pytest.raises(SqsSpecError) as caught:
        check_settings(replace(SETTINGS, **change))  # type: ignore[arg-type]
    assert caught.value.field == field


@pytest.mark.parametrize("change", [{"paused": True}, {"completed_retention_seconds": 1.0}])
def test_what_no_queue_in_sqs_does_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedCapabilityError):
        check_settings(replace(SETTINGS, **change))


@pytest.mark.parametrize(
    ("queue", "spec", "field"),
    [
        ("orders.fifo", SqsQueueSpec(), "queue_name"),
        ("or ders", SqsQueueSpec(), "queue_name"),
        ("", SqsQueueSpec(), "queue_name"),
        ("o" * 76, SqsQueueSpec(), "queue_name"),
        ("orders", SqsQueueSpec(wait_time_seconds=21), "wait_time_seconds"),
        ("orders", SqsQueueSpec(kms_key_id=""), "kms_key_id"),
        ("orders", SqsQueueSpec(tags=(("aws:x", "1"),)), "tags"),
        ("orders", SqsQueueSpec(tags=(("headrace.dev/uid", "1"),)), "tags"),
        ("orders", SqsQueueSpec(tags=(("", "1"),)), "tags"),
        ("orders", SqsQueueSpec(tags=(("k", "v" * 257),)), "tags"),
        ("orders", SqsQueueSpec(tags=tuple((f"k{n}", "") for n in range(36))), "tags"),
        ("x", SqsQueueSpec(queue_url="https://sqs.eu-central-1.amazonaws.com/1/o.fifo"), "queue_url"),
        ("x", SqsQueueSpec(queue_url="https://a/1/o", dead_letter_queue_url="https://a/1/o"), "dead_letter_queue_url"),
        ("x", SqsQueueSpec(queue_url="https://a/1/o", policy="{}"), "policy"),
        ("x", SqsQueueSpec(queue_url="https://a/1/o", kms_key_id="k"), "kms_key_id"),
    ],
)
def test_a_spec_that_cant_be_is_refused_by_its_field(queue: str, spec: SqsQueueSpec, field: str) -> None:
    with pytest.raises(SqsSpecError) as caught:
        check(queue, spec)
    assert caught.value.field == field


def test_a_name_may_be_longer_where_no_dead_letter_queue_is_named_after_it() -> None:
    check("o" * 75, SqsQueueSpec())
    check("o" * 80, SqsQueueSpec(dead_letter_queue_url="https://sqs.eu-central-1.amazonaws.com/1/dead"))


@pytest.mark.parametrize(
    ("policy", "problem"),
    [
        ("{", "is no JSON"),
        ("[]", "is no JSON object"),
        ("{}", "no Statement"),
        ('{"Statement": ["x"]}', "statement 1 is no JSON object"),
        ('{"Statement": {"Effect": "allow"}}', "Allow or Deny"),
        ('{"Statement": {"Effect": "Allow", "Action": "sqs:*"}}', "no Principal"),
        ('{"Statement": {"Effect": "Allow", "Principal": "*"}}', "no Action"),
    ],
)
def test_a_policy_that_is_none_is_refused_with_what_it_lacks(policy: str, problem: str) -> None:
    with pytest.raises(SqsSpecError, match=problem) as caught:
        wanted_queue(SETTINGS, SqsQueueSpec(policy=policy), dead_letter_arn=None)
    assert caught.value.field == "policy"


names = st.sampled_from(["Statement", "Action", "Principal", "Condition", "Resource", "AWS", "Effect"])
policies: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from(["*", "Allow", "123456789012", None, True, 1]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)


@given(document=policies)
def test_whatever_a_server_calls_a_policy_is_compared(document: Any) -> None:
    assert canonical("Policy", json.dumps(document)) == canonical("Policy", json.dumps(shuffled(document), indent=1))


@pytest.mark.parametrize("text", ["[" * 100_000, "{", '"' * 9])
def test_what_is_no_document_at_all_is_another(text: str) -> None:
    assert canonical("Policy", text) != canonical("Policy", json.dumps(POLICY))
    assert redrive_target({"RedrivePolicy": text}) is None
    with pytest.raises(SqsSpecError):
        wanted_queue(SETTINGS, SqsQueueSpec(policy=text), dead_letter_arn=None)


def test_numbers_that_are_none_are_as_if_they_were_not_told() -> None:
    assert held({"ApproximateNumberOfMessages": "-5", "ApproximateNumberOfMessagesNotVisible": "9" * 5000}) == 0
    assert canonical("VisibilityTimeout", "030") == canonical("VisibilityTimeout", "30")
    assert canonical("VisibilityTimeout", "9" * 5000) != canonical("VisibilityTimeout", "30")


def test_what_a_queue_holds_is_what_waits_is_held_and_is_delayed() -> None:
    told = {"ApproximateNumberOfMessages": "5", "ApproximateNumberOfMessagesNotVisible": "3"}
    assert held(told | {"ApproximateNumberOfMessagesDelayed": "2"}) == 10
    assert held({}) == 0
