"""What tags say: whose a queue is, and what it does with its jobs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.queues.base import Owner, QueueSettings
from headrace.queues.errors import PlaceTakenError
from headrace.queues.sqs.ownership import check_owned, check_usable
from headrace.queues.sqs.spec import MAX_TAGS
from headrace.queues.sqs.tags import NAMESPACE, OWN_TAGS, owner_in, settings_in, tag_changes, wanted_tags

OWNER = Owner(namespace="shop", name="orders", uid="1", cluster="here")
TAGS = wanted_tags(OWNER, QueueSettings(), ())
URL = "https://sqs.eu-central-1.amazonaws.com/123456789012/orders"

keys = st.text("abcdef /=", min_size=1, max_size=5)
users_tags = st.dictionaries(keys, st.text("xyz", max_size=3), max_size=6).map(lambda tags: tuple(tags.items()))


def applied(observed: dict[str, str], wanted: dict[str, str]) -> dict[str, str]:
    found = tag_changes(observed, wanted)
    return {key: value for key, value in observed.items() if key not in found.untag} | dict(found.tag)


@given(first=users_tags, then=users_tags, others=st.dictionaries(keys.map("other-{}".format), st.just("x"), max_size=3))
def test_tags_of_the_user_come_and_go_and_others_stay(
    first: tuple[tuple[str, str], ...], then: tuple[tuple[str, str], ...], others: dict[str, str]
) -> None:
    before = applied(others, wanted_tags(OWNER, QueueSettings(), first))
    wanted = wanted_tags(OWNER, QueueSettings(), then)
    after = applied(before, wanted)
    assert not tag_changes(after, wanted)
    assert {key: value for key, value in after.items() if key not in OWN_TAGS} == others | dict(then)


def test_as_many_tags_as_one_may_have_fit_into_the_record_of_them() -> None:
    wanted = wanted_tags(OWNER, QueueSettings(), tuple((f"key {n}", "") for n in range(MAX_TAGS)))
    assert max(len(value) for value in wanted.values()) <= 256
    assert len(wanted) <= 50


@given(
    max_retries=st.integers(0, 1000),
    retention=st.none() | st.integers(1, 10**7).map(float),
    dead_letters=st.booleans(),
)
def test_workers_read_from_tags_what_was_written(max_retries: int, retention: float | None, dead_letters: bool) -> None:
    settings = QueueSettings(
        max_retries=max_retries, message_retention_seconds=retention, dead_letter_enabled=dead_letters
    )
    otherwise = QueueSettings(max_retries=7, message_retention_seconds=99.0, visibility_timeout_seconds=5.0)
    told = settings_in(wanted_tags(OWNER, settings, ()), otherwise)
    assert told == replace(settings, visibility_timeout_seconds=5.0)


@pytest.mark.parametrize("value", ["", "x", "-1", "nan", "inf", "9" * 400])
def test_tags_that_cant_be_read_change_nothing(value: str) -> None:
    tags = {
        f"headrace.dev/{name}": value for name in ("max-retries", "message-retention-seconds", "dead-letter-enabled")
    }
    otherwise = QueueSettings(max_retries=7, message_retention_seconds=60.0, dead_letter_enabled=False)
    assert settings_in(tags, otherwise) == otherwise


def test_a_queue_without_our_tags_is_nobodys() -> None:
    assert owner_in(TAGS) == OWNER
    assert owner_in({}) is None
    assert owner_in({NAMESPACE: "shop"}) is None


def test_an_object_made_anew_takes_back_its_queue() -> None:
    assert check_owned("q", TAGS, OWNER)
    assert not check_owned("q", TAGS, replace(OWNER, uid="2"))


@pytest.mark.parametrize(
    ("tags", "owner", "told"),
    [
        ({}, OWNER, "queueUrl"),
        ({}, OWNER, "headrace.dev/namespace=shop"),
        (TAGS, replace(OWNER, namespace="other"), "belongs to JobQueue shop/orders"),
        (TAGS, replace(OWNER, name="other"), "belongs to JobQueue shop/orders"),
        (TAGS, replace(OWNER, cluster="there"), 'headrace.dev/adopt: "1"'),
    ],
)
def test_anothers_queue_and_nobodys_are_refused_with_the_way_out(tags: dict[str, str], owner: Owner, told: str) -> None:
    with pytest.raises(PlaceTakenError, match=told):
        check_owned("q", tags, owner)


def test_a_queue_is_taken_over_from_another_cluster_where_that_is_asked_for() -> None:
    assert not check_owned("q", TAGS, replace(OWNER, cluster="there", uid="2"), adopts_from="1")
    with pytest.raises(PlaceTakenError):
        check_owned("q", TAGS, replace(OWNER, cluster="there", uid="2"), adopts_from="3")


def test_with_the_operators_identity_only_what_is_tagged_for_the_namespace_is_used() -> None:
    check_usable("q", URL, {NAMESPACE: "shop"}, OWNER, needs_tag=True)
    check_usable("q", URL, {}, OWNER, needs_tag=False)
    check_usable("q", URL, None, OWNER, needs_tag=False)
    for tags in ({}, {NAMESPACE: "other"}, None):
        with pytest.raises(PlaceTakenError, match=r"--tags headrace\.dev/namespace=shop"):
            check_usable("q", URL, tags, OWNER, needs_tag=True)


def test_a_queue_that_is_another_jobqueues_is_not_used_beside_it() -> None:
    with pytest.raises(PlaceTakenError, match="shop/orders"):
        check_usable("q", URL, TAGS, replace(OWNER, name="other"), needs_tag=False)
