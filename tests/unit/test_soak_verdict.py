"""The soak's judge must see what is wrong, and only that."""

from __future__ import annotations

from dataclasses import replace

import pytest

from soak.verdict import Asked, Blow, Evidence, Finish, Run, judge

ASKED = Asked(token="t1", called_at=1.0, answered_at=1.1, job_id="1")
RUN = Run(name="r1", job_id="1", token="t1", attempt=1, process=70, began_at=2.0, ended="done", ended_at=3.0)
GROUPED = replace(ASKED, group="g")
NEXT = replace(GROUPED, token="t2", job_id="2", called_at=1.2, answered_at=1.3)
NEXT_RUN = replace(RUN, name="r2", job_id="2", token="t2", group="g", began_at=3.5, ended_at=4.0)
ONCE = replace(ASKED, idempotency_key="k")
ONCE_MORE = replace(ONCE, token="t2", job_id="2", called_at=1.2, answered_at=1.3)
FINISH = Finish(key="k", token="f1", at=3.1)


def evidence(
    *,
    asked: tuple[Asked, ...] = (ASKED,),
    runs: tuple[Run, ...] = (RUN,),
    blows: tuple[Blow, ...] = (),
    exits: dict[int, float] | None = None,
    left: tuple[str, ...] = (),
    dead: dict[str, str] | None = None,
    finishes: tuple[Finish, ...] = (),
    finished: dict[str, str] | None = None,
) -> Evidence:
    return Evidence(
        asked=asked,
        runs=runs,
        blows=blows,
        exits=exits or {},
        left=left,
        dead=dead or {},
        finishes=finishes,
        finished=finished or {},
    )


def test_each_job_done_once_is_well() -> None:
    verdict = judge(evidence())
    assert verdict.wrong == []
    assert verdict.counts["completed"] == 1


@pytest.mark.parametrize(
    ("found", "complaint"),
    [
        (evidence(runs=()), "job 1 is lost"),
        (evidence(runs=(replace(RUN, ended="stopped"),)), "job 1 is lost"),
        (evidence(left=("1",)), "left in the queue"),
        (evidence(runs=(RUN, replace(RUN, job_id="9", token="t9"))), "nobody asked"),
        (evidence(runs=(replace(RUN, job_id="9"),)), "ran what job 1 was to run"),
        (evidence(dead={"1": "WorkerLost"}), "without cause"),
        (evidence(dead={"1": "RetriesExhausted"}), "without cause"),
        (evidence(dead={"9": "Expired"}), "nobody asked"),
        (evidence(asked=(replace(ASKED, delay_seconds=5.0),)), "too early"),
        (evidence(runs=(RUN, replace(RUN, name="r2", began_at=4.0, ended_at=5.0))), "again without cause"),
        (evidence(runs=(RUN, replace(RUN, name="r2", began_at=2.5, ended_at=5.0))), "two runs at a time"),
        (evidence(runs=(replace(RUN, attempt=2),)), "charged attempt 1"),
    ],
)
def test_what_is_wrong_with_a_job_is_seen(found: Evidence, complaint: str) -> None:
    assert any(complaint in line for line in judge(found).wrong)


def test_a_call_that_was_not_answered_may_have_made_a_job_or_not() -> None:
    unanswered = replace(ASKED, answered_at=None, job_id=None)
    assert judge(evidence(asked=(unanswered,))).wrong == []
    assert judge(evidence(asked=(unanswered,), runs=())).wrong == []


@pytest.mark.parametrize(
    ("first", "blow"),
    [
        (replace(RUN, ended="stopped"), None),
        (replace(RUN, ended=None), Blow(kind="kill", at=3.0, until=3.0, process=70)),
        (RUN, Blow(kind="kill", at=3.01, until=3.01, process=70)),
        (RUN, Blow(kind="crash", at=2.5, until=9.0)),
    ],
)
def test_a_run_that_was_cut_off_or_could_not_be_reported_explains_another(first: Run, blow: Blow | None) -> None:
    runs = (first, replace(RUN, name="r2", process=71, began_at=30.0, ended_at=31.0))
    assert judge(evidence(runs=runs, blows=(blow,) if blow else (), exits={70: 3.0})).wrong == []


def test_what_happened_to_another_worker_explains_nothing() -> None:
    runs = (RUN, replace(RUN, name="r2", process=71, began_at=30.0, ended_at=31.0))
    blow = Blow(kind="kill", at=3.01, until=3.01, process=99)
    assert judge(evidence(runs=runs, blows=(blow,))).wrong != []


def test_a_group_in_order_one_at_a_time_is_well() -> None:
    found = evidence(asked=(GROUPED, NEXT), runs=(replace(RUN, group="g"), NEXT_RUN))
    assert judge(found).wrong == []


@pytest.mark.parametrize(("began_at", "complaint"), [(2.5, "two runs at a time"), (1.5, "began before job 1 ended")])
def test_a_group_out_of_order_or_beside_itself_is_seen(began_at: float, complaint: str) -> None:
    next_run = replace(NEXT_RUN, began_at=began_at, ended_at=began_at + 0.1)
    wrong = judge(evidence(asked=(GROUPED, NEXT), runs=(replace(RUN, group="g"), next_run))).wrong
    assert any(complaint in line for line in wrong)


@pytest.mark.parametrize(("paused_seconds", "is_fair"), [(30.0, True), (5.0, False)])
def test_only_who_was_paused_beyond_its_lease_may_end_late(paused_seconds: float, is_fair: bool) -> None:
    late = replace(RUN, group="g", ended_at=40.0)
    again = replace(RUN, name="r2", group="g", process=71, began_at=32.0, ended_at=33.0)
    pause = Blow(kind="pause", at=2.5, until=2.5 + paused_seconds, process=70)
    wrong = judge(evidence(asked=(GROUPED,), runs=(late, again), blows=(pause,))).wrong
    assert (wrong == []) is is_fair


@pytest.mark.parametrize(("answered_at", "is_fair"), [(2.5, False), (3.5, True)])
def test_a_key_is_taken_while_its_job_is_unfinished(answered_at: float, is_fair: bool) -> None:
    first = replace(ASKED, key="k")
    second = replace(first, token="t2", job_id="2", called_at=answered_at - 0.1, answered_at=answered_at)
    second_run = replace(RUN, name="r2", job_id="2", token="t2", began_at=4.0, ended_at=5.0)
    wrong = judge(evidence(asked=(first, second), runs=(RUN, second_run))).wrong
    assert (wrong == []) is is_fair


def test_a_call_whose_key_is_taken_is_answered_with_the_job_that_has_it() -> None:
    first = replace(ASKED, key="k")
    second = replace(first, token="t2", called_at=1.2, answered_at=1.3)
    verdict = judge(evidence(asked=(first, second)))
    assert verdict.wrong == []
    assert verdict.counts["deduplicated"] == 1


def test_three_workers_lost_are_a_cause_of_death() -> None:
    runs = tuple(replace(RUN, name=f"r{process}", process=process, ended=None) for process in (70, 71, 72))
    exits = {70: 3.0, 71: 30.0, 72: 60.0}
    runs = tuple(replace(run, began_at=exits[run.process] - 0.5) for run in runs)
    assert judge(evidence(runs=runs, exits=exits, dead={"1": "WorkerLost"})).wrong == []


def of_one_key(
    *runs: Run,
    blows: tuple[Blow, ...] = (),
    finishes: tuple[Finish, ...] = (FINISH,),
    finished: dict[str, str] | None = None,
) -> list[str]:
    """What is wrong with two jobs of one idempotency key."""
    finished = {"k": "f1"} if finished is None else finished
    found = evidence(asked=(ONCE, ONCE_MORE), runs=runs, blows=blows, finishes=finishes, finished=finished)
    return judge(found).wrong


def test_a_job_whose_key_another_has_finished_is_completed_without_a_run() -> None:
    assert of_one_key(RUN) == []


def test_a_key_may_be_finished_though_nobody_lived_to_note_it() -> None:
    assert of_one_key(RUN, finishes=()) == []


def test_a_job_that_was_not_run_is_lost_where_its_key_is_not_finished() -> None:
    (wrong,) = of_one_key(RUN, finishes=(), finished={})
    assert "job 2 is lost" in wrong


def test_a_job_without_a_key_of_its_own_has_its_id_for_one() -> None:
    finish = Finish(key="job:1", token="f1", at=3.1)
    again = replace(RUN, name="r2", process=71, began_at=30.0, ended_at=31.0)
    found = evidence(runs=(RUN, again), finishes=(finish,), finished={"job:1": "f1"})
    assert any("after a finish" in line for line in judge(found).wrong)


def test_a_run_that_starts_after_a_finish_has_no_excuse() -> None:
    late = replace(RUN, name="r2", job_id="2", token="t2", process=71, began_at=3.2, ended_at=4.0)
    blows = (Blow(kind="crash", at=2.5, until=9.0), Blow(kind="redis paused", at=2.5, until=30.0))
    (wrong,) = of_one_key(RUN, late, blows=blows)
    assert "job 2 began at 3.20 after a finish" in wrong


@pytest.mark.parametrize(
    ("finishes", "finished", "complaint"),
    [
        ((FINISH,), {}, "is forgotten"),
        ((FINISH, replace(FINISH, token="f2")), {"k": "f1"}, "finished by several"),
        ((FINISH,), {"k": "f2"}, "finished by several"),
        ((FINISH,), {"k": "f1", "other": "f9"}, "no run of it came to its end"),
    ],
)
def test_a_key_has_one_finish_that_stands(
    finishes: tuple[Finish, ...], finished: dict[str, str], complaint: str
) -> None:
    assert any(complaint in line for line in of_one_key(RUN, finishes=finishes, finished=finished))


@pytest.mark.parametrize(
    ("ended", "blow", "is_fair"),
    [
        ("done", None, False),
        ("done", Blow(kind="redis paused", at=2.9, until=28.0), True),
        ("done", Blow(kind="kill", at=3.01, until=3.01, process=70), True),
        ("done", Blow(kind="kill", at=3.01, until=3.01, process=99), False),
        ("failed", None, True),
    ],
)
def test_a_key_is_run_again_only_where_its_finish_could_not_be_recorded(
    ended: str, blow: Blow | None, is_fair: bool
) -> None:
    first = replace(RUN, ended=ended)
    again = replace(RUN, name="r2", job_id="2", token="t2", process=71, began_at=30.0, ended_at=31.0)
    finish = replace(FINISH, at=31.1)
    wrong = of_one_key(first, again, blows=(blow,) if blow else (), finishes=(finish,))
    assert (wrong == []) is is_fair


@pytest.mark.parametrize(
    ("away", "is_fair"),
    [
        ((), False),
        (((2.5, 28.0),), True),
        (((2.5, 6.0),), False),
        (((2.5, 8.0), (12.0, 18.0)), True),
        (((2.5, 4.0), (20.0, 22.0)), False),
    ],
)
def test_two_runs_of_a_key_are_fair_only_where_redis_was_away_beyond_a_claim(
    away: tuple[tuple[float, float], ...], is_fair: bool
) -> None:
    long = replace(RUN, ended_at=40.0)
    beside = replace(RUN, name="r2", job_id="2", token="t2", process=71, began_at=29.0, ended_at=30.0)
    blows = tuple(Blow(kind="redis paused", at=at, until=until) for at, until in away)
    wrong = of_one_key(long, beside, blows=blows, finishes=())
    assert any("two runs at a time" in line for line in wrong) is not is_fair
