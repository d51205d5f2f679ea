from __future__ import annotations

import importlib.util
from dataclasses import fields

import pytest
from click.testing import CliRunner

from headrace_operator.cli import main
from headrace_operator.settings import Settings


def test_help_teaches_every_setting() -> None:
    told = CliRunner().invoke(main, ["run", "--help"]).output
    for field in fields(Settings):
        assert f"HEADRACE_{field.name.upper()}" in told


def test_wrong_settings_are_told_and_nothing_is_started() -> None:
    result = CliRunner().invoke(main, ["run", "--log-level", "loud"], env={"HEADRACE_LISTEN_ADDRESS": "here"})
    assert result.exit_code == 1
    assert "HEADRACE_LOG_LEVEL='loud'" in result.output
    assert "HEADRACE_LISTEN_ADDRESS='here'" in result.output


def test_without_the_extra_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "kopf" else found(name))
    result = CliRunner().invoke(main, ["run"])
    assert result.exit_code == 1
    assert "kopf not installed" in result.output
    assert "pip install 'headrace[operator]'" in result.output
