"""The demo is a success only when every job ran once and the pool came back to zero."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cluster import deploy
from cluster.errors import ClusterError
from demo import story
from demo.summary import Run, Summary, summarize

START = datetime(2026, 1, 1, tzinfo=UTC)


def run(job_id: str, *, started: float, finished: float, enqueued: float = 0.0) -> Run:
    return Run(
        job_id=job_id,
        enqueued_at=START + timedelta(seconds=enqueued),
        started_at=START + timedelta(seconds=started),
        finished_at=START + timedelta(seconds=finished),
    )


RUNS = [run("1", started=2, finished=3), run("2", enqueued=0.5, started=2.5, finished=9)]


def summary(runs: list[Run], *, jobs_enqueued: int = 2, peak_replicas: int = 5, final_replicas: int = 0) -> Summary:
    return summarize(
        runs,
        cluster="kind",
        kubernetes_version="v1.37.2",
        jobs_enqueued=jobs_enqueued,
        peak_replicas=peak_replicas,
        final_replicas=final_replicas,
    )


def test_every_job_once_and_back_at_zero_is_a_success() -> None:
    result = summary(RUNS)

    assert result.failures == []
    assert (result.wake_seconds, result.drain_seconds) == (2.0, 9.0)


def test_each_promise_broken_is_named() -> None:
    good = summary(RUNS)

    assert replace(good, jobs_lost=1).failures == ["1 jobs lost"]
    assert replace(good, jobs_run_twice=3).failures == ["3 jobs run twice"]
    assert replace(good, peak_replicas=2).failures == ["the pool peaked at 2, below 3"]
    assert replace(good, final_replicas=1).failures == ["the pool is at 1, not back at 0"]


def test_a_job_without_a_run_is_lost_and_one_with_two_was_run_twice() -> None:
    result = summary([*RUNS, run("2", started=4, finished=5)], jobs_enqueued=3)

    assert (result.jobs_lost, result.jobs_run_twice, result.jobs_completed) == (1, 1, 2)


def test_an_empty_ledger_loses_everything_and_divides_by_nothing() -> None:
    result = summary([], jobs_enqueued=5)

    assert (result.jobs_lost, result.wake_seconds, result.drain_seconds) == (5, 0.0, 0.0)


def test_a_run_that_comes_to_nothing_leaves_no_summary_of_an_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ClusterError("no cluster")

    results = tmp_path / "demo"
    results.mkdir()
    (results / "summary.json").write_text("{}")
    monkeypatch.setattr(story, "RESULTS", results)
    monkeypatch.setattr(deploy, "deploy", fail)
    monkeypatch.setattr(sys, "argv", ["demo"])
    monkeypatch.setenv("HEADRACE_DEMO_CLUSTER", "kind")

    assert story.main() == 1

    assert not (results / "summary.json").exists()
