"""What was just set and can't be seen yet."""

from __future__ import annotations

from headrace.queues.sqs.recent import RESTLESS, Memory, Recent

URL = "https://sqs.eu-central-1.amazonaws.com/123456789012/orders"


def test_what_was_set_counts_until_it_can_be_seen() -> None:
    memory = Memory()
    memory.note({"VisibilityTimeout": "60", "MessageRetentionPeriod": "1209600", "Tag": None}, now=0)
    observed = {"VisibilityTimeout": "30", "MessageRetentionPeriod": "345600", "Tag": "x", "DelaySeconds": "0"}
    at_once = {"VisibilityTimeout": "60", "MessageRetentionPeriod": "1209600", "DelaySeconds": "0"}
    assert memory.overlaid(observed, now=59) == at_once
    # A retention takes 15 minutes: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SetQueueAttributes.html
    assert memory.overlaid(observed, now=60) == observed | {"MessageRetentionPeriod": "1209600"}
    assert memory.overlaid(observed, now=900) == observed


def test_what_is_set_again_within_that_time_counts_from_then_on() -> None:
    memory = Memory()
    memory.note({"VisibilityTimeout": "60"}, now=0)
    memory.note({"VisibilityTimeout": "90"}, now=50)
    assert memory.overlaid({"VisibilityTimeout": "30"}, now=100) == {"VisibilityTimeout": "90"}


def test_what_is_set_again_and_again_and_never_seen_is_told() -> None:
    memory = Memory()
    for now in range(RESTLESS):
        assert memory.restless() == []
        memory.note({"Policy": "{}"}, now=now * 100)
    assert memory.restless() == ["Policy"]
    memory.confirm("Policy")
    assert memory.restless() == []


def test_a_deleted_queue_may_be_told_for_a_minute_as_if_it_were_there() -> None:
    recent = Recent()
    recent.of(URL).refused.add("RedriveAllowPolicy")
    recent.note_deleted(URL, now=0)
    assert recent.is_going(URL, now=59)
    assert not recent.is_going(URL, now=60)
    assert recent.of(URL).refused == set()
    recent.note_deleted(URL, now=100)
    recent.note_made(URL)
    assert not recent.is_going(URL, now=101)


def test_the_time_until_a_name_is_free_falls_from_when_it_was_heard_to_be_taken() -> None:
    recent = Recent()
    assert [recent.seconds_until_free("orders", now) for now in (0, 20, 59, 60)] == [60, 40, 1, 60]


def test_what_is_known_of_one_endpoint_says_nothing_of_another() -> None:
    recent = Recent()
    recent.within(None).note_deleted(URL, now=0)
    assert not recent.within("http://127.0.0.1:9324").is_going(URL, now=1)
    assert recent.within(None).is_going(URL, now=1)


class Client:
    """Whoever calls: only that it is the same one counts."""


def test_a_thousand_queues_are_not_asked_for_their_tags_faster_than_an_account_may() -> None:
    recent, client = Recent(), Client()
    # An account has 30 calls about tags a second: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-queue-tags.html
    turns = sorted(recent.seconds_until_tags(client, now=1000.0) for _ in range(2000))
    assert turns[0] == turns[7] == 0
    for second in range(int(turns[-1])):
        assert sum(second <= turn < second + 1 for turn in turns) <= 30
    assert turns[-1] > 95


def test_who_asks_for_tags_now_and_then_does_not_wait_nor_does_another_client() -> None:
    recent, client, other = Recent(), Client(), Client()
    assert {recent.seconds_until_tags(client, now=now / 10) for now in range(1000)} == {0}
    for _ in range(2000):
        recent.seconds_until_tags(client, now=100)
    assert recent.seconds_until_tags(other, now=100) == 0
