from __future__ import annotations

from datetime import UTC, datetime, timedelta

from headrace_operator.core import conditions
from headrace_operator.core.conditions import Condition

NOW = datetime(2026, 1, 1, 12, 0, 0, 999, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)


def ready(*, status: bool = True, reason: str = "Ready", message: str = "") -> Condition:
    return Condition(type="Ready", status=status, reason=reason, message=message)


def test_a_message_that_the_api_server_would_refuse_is_cut() -> None:
    (told,) = conditions.merge(
        [], [Condition(type="Ready", status=False, reason="Away", message="x" * 40_000)], generation=1, now=NOW
    )
    assert len(told["message"]) == 4096


def test_a_new_condition_is_stamped_with_the_generation_and_the_time() -> None:
    [written] = conditions.merge([], [ready(message="fine")], generation=3, now=NOW)
    assert written == {
        "type": "Ready",
        "status": "True",
        "reason": "Ready",
        "message": "fine",
        "observedGeneration": 3,
        "lastTransitionTime": "2026-01-01T12:00:00Z",
    }


def test_the_transition_time_moves_only_when_the_status_flips() -> None:
    first = conditions.merge([], [ready()], generation=1, now=NOW)
    [other_reason] = conditions.merge(first, [ready(reason="Better", message="new")], generation=2, now=LATER)
    assert other_reason["lastTransitionTime"] == "2026-01-01T12:00:00Z"
    assert (other_reason["reason"], other_reason["observedGeneration"]) == ("Better", 2)
    [flipped] = conditions.merge(first, [ready(status=False)], generation=2, now=LATER)
    assert flipped["lastTransitionTime"] == "2026-01-01T12:01:00Z"


def test_the_list_is_whole_and_keeps_its_order() -> None:
    previous = [{"type": "Theirs", "status": "True"}, {"type": "Ready", "status": "False"}]
    merged = conditions.merge(previous, [ready()], generation=1, now=NOW)
    assert [condition["type"] for condition in merged] == ["Theirs", "Ready"]
    assert merged[0] == previous[0]


def test_nothing_new_is_nothing_changed() -> None:
    first = conditions.merge([], [ready()], generation=1, now=NOW)
    assert conditions.merge(first, [ready()], generation=1, now=LATER) == first
