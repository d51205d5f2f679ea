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


@pytest.mark.parametrize(
    ("arguments", "missing", "extra"),
    [(["run"], "kopf", "operator"), (["dev", "-f", "queue.yaml"], "watchfiles", "dev")],
)
def test_without_its_extra_a_command_tells_the_way_out(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], missing: str, extra: str
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else found(name))
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert f"{missing} not installed" in result.output
    assert f"pip install 'headrace[{extra}]'" in result.output
