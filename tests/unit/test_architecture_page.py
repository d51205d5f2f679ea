"""docs/architecture.md says where things are: its tables are the tree, its chart the states."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from headrace.queues.inspection import JobState

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()


@pytest.mark.parametrize("package", ["worker/headrace", "operator/headrace_operator"])
def test_each_package_and_each_module_at_the_top_has_its_line(package: str) -> None:
    root = ROOT / package
    modules = {path.stem for path in root.glob("*.py") if not path.stem.startswith("__")}
    packages = {f"{path.parent.relative_to(root)}/" for path in root.rglob("*/__init__.py")}
    table = re.search(rf"^\| `{package}/` \|.*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert table
    lines = re.findall(r"^\| `([^`]+)` \|", table[1], re.MULTILINE)
    assert len(lines) == len(set(lines))
    assert set(lines) == modules | packages


def test_the_chart_has_every_state_and_no_other() -> None:
    chart = re.search(r"stateDiagram-v2\n(.*?)```", PAGE, re.DOTALL)
    assert chart
    arrows = re.findall(r"^  (\S+) --> (\S+?)(?::|$)", chart[1], re.MULTILINE)
    assert {state for arrow in arrows for state in arrow} - {"[*]"} == set(get_args(JobState))
