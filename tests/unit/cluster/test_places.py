from __future__ import annotations

from pathlib import Path

import pytest

from cluster import places


def test_the_fingerprint_of_sources_changes_with_any_content_and_any_name(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "main.go").write_text("package main")
    before = places.fingerprint(tmp_path)

    (tmp_path / "inner" / "main.go").write_text("package other")
    edited = places.fingerprint(tmp_path)
    (tmp_path / "inner" / "main.go").rename(tmp_path / "inner" / "other.go")
    renamed = places.fingerprint(tmp_path)

    assert len({before, edited, renamed}) == 3


def test_the_fingerprint_of_the_same_sources_is_the_same_wherever_they_are(tmp_path: Path) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "go.mod").write_text("module example")

    assert places.fingerprint(tmp_path / "here") == places.fingerprint(tmp_path / "there")


def test_parts_of_a_fingerprint_do_not_run_into_each_other() -> None:
    assert places.fingerprint("ab", "c") != places.fingerprint("a", "bc")


def test_what_is_compiled_is_kept_where_the_user_keeps_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert places.cache() == Path("/somewhere/headrace")

    monkeypatch.delenv("XDG_CACHE_HOME")
    assert places.cache() == Path.home() / ".cache" / "headrace"
