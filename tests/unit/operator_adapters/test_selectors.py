from __future__ import annotations

import pytest

from headrace_operator.metrics_api.selectors import InvalidSelectorError, parse_selector

LABELS = {"queue": "thumbnails", "pool": "small"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "queue=thumbnails",
        "queue==thumbnails",
        "queue = thumbnails",
        "queue=thumbnails,pool=small",
        "queue!=mails",
        "queue in (mails,thumbnails)",
        "queue in ( thumbnails )",
        "queue in(thumbnails)",
        "queue notin (mails)",
        "queue notin (mails,invoices),pool=small",
        "queue",
        "!priority",
        "priority!=high",
        "priority notin (high, low)",
    ],
)
def test_a_selector_matches_labels_that_meet_every_requirement(text: str) -> None:
    assert parse_selector(text).matches(LABELS)


@pytest.mark.parametrize(
    "text",
    [
        "queue=mails",
        "queue=",
        "queue!=thumbnails",
        "queue=thumbnails,pool=large",
        "queue in (mails,invoices)",
        "queue notin (thumbnails)",
        "priority",
        "priority=high",
        "priority in (high)",
        "!queue",
    ],
)
def test_a_selector_does_not_match_labels_that_miss_one_requirement(text: str) -> None:
    assert not parse_selector(text).matches(LABELS)


def test_keys_may_have_a_prefix() -> None:
    assert parse_selector("headrace.dev/queue=a").matches({"headrace.dev/queue": "a"})


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("queue>3", "queue>3"),
        ("queue in ()x", "queue in ()x"),
        ("queue in (a", "queue in (a"),
        ("queue=a,,pool=b", ""),
        ("queue=a,", ""),
        ("=a", "=a"),
        ("queue=a b", "queue=a b"),
        ("queue near (a)", "queue near (a)"),
        ("queue=-a", "queue=-a"),
        ("queue=" + "a" * 64, "queue=" + "a" * 64),
        ("!queue=a", "!queue=a"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_part_quoted(text: str, part: str) -> None:
    with pytest.raises(InvalidSelectorError) as refused:
        parse_selector(text)
    assert repr(part) in str(refused.value)
    assert "key notin (value,…)" in str(refused.value)
