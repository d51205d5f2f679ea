"""docs/laptop.md: its files and its commands, as a reader takes them over."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from click.testing import CliRunner

from headrace_operator.cli import dev
from headrace_operator.cli import main as headrace_operator
from support.dev_process import eventually

if TYPE_CHECKING:
    import pytest

PAGE = (Path(__file__).parents[3] / "docs" / "laptop.md").read_text()


def block(language: str, index: int = 0) -> str:
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return found[index]


def commands(index: int) -> list[str]:
    return [line.removeprefix("$ ") for line in block("console", index).splitlines()]


def test_a_reader_gets_from_nothing_to_a_pool_that_scales(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # The programs of the virtual environment that the page has made.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert "`shop.py`" in PAGE
    assert "`shop.yaml`" in PAGE
    Path("shop.py").write_text(block("python"))
    Path("shop.yaml").write_text(block("yaml"))
    assert commands(0)[-1] == "pip install 'headrace[dev]'"
    [start] = commands(1)
    export, enqueue = commands(2)

    with Path("terminal").open("w") as terminal:
        running = subprocess.Popen(shlex.split(start), stdout=terminal, stderr=subprocess.STDOUT)

    def shown() -> str:
        return Path("terminal").read_text()

    def has_shown(pattern: str) -> None:
        eventually(lambda: re.search(pattern, shown()) is not None, what=pattern, log=shown)

    try:
        has_shown(r"queue orders: ready 0")
        found = re.search(r"^  (export HEADRACE_DSN=\S+)$", shown(), re.MULTILINE)
        assert found is not None
        assert re.fullmatch(export.replace("…", r"\S+").replace("/", r"\/"), found[1]), "as the page shows it"
        done = subprocess.run(f"{found[1]}; {enqueue}", shell=True, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        has_shown(r"pool receipts: 4 ready of 4, 4 desired")
        has_shown(r"receipts-\d \| a receipt for order 17")
        has_shown(r"(?s)from 4 workers to zero.*pool receipts: 0 ready of 0, 0 desired")
        assert shown().count("a receipt for order 17") == 500
    finally:
        running.terminate()
        assert running.wait(60) == 0


def test_the_page_and_the_command_know_the_same_options() -> None:
    for parameter in dev.params:
        names = set(parameter.opts)
        assert names & {"--namespace", "--port"} or any(name in PAGE for name in names), names
    told = CliRunner().invoke(headrace_operator, ["dev", "--help"]).output
    assert "headrace-operator dev -f queue.yaml -f pool.yaml --reload" in told
