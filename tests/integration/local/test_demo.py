"""The demo's story where no container can run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from demo import laptop, story
from demo.summary import FEWEST_REPLICAS_AT_PEAK

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_without_an_engine_what_is_missing_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    missing = story._what_is_missing("")
    assert missing is not None
    assert "no Docker engine answers at DOCKER_HOST=unix:///nowhere.sock" in missing
    assert "\n" not in missing


def test_the_story_is_the_same_one(tmp_path: Path) -> None:
    jobs = 200
    summary = laptop.tell(story.EXAMPLE, story.NAME, jobs, pictures=tmp_path / "pictures", pictures_kept=5)
    assert summary.failures == []
    assert (summary.cluster, summary.kubernetes_version, summary.jobs_completed) == ("none", None, jobs)
    assert summary.peak_replicas >= FEWEST_REPLICAS_AT_PEAK
    assert len(list((tmp_path / "pictures").iterdir())) == 5
