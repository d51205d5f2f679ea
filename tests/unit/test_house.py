"""Rules of the house that no tool checks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import headrace

ROOT = Path(__file__).parents[2]


def test_the_folder_operator_is_no_package_or_it_would_shadow_pythons_own() -> None:
    assert (ROOT / "operator").is_dir()
    assert not (ROOT / "operator" / "__init__.py").exists()


def test_tests_are_no_packages() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@pytest.mark.parametrize("package", ["kopf", "kubernetes"])
def test_the_workers_lock_holds_nothing_of_the_operators(package: str) -> None:
    locked = (ROOT / "locks" / "worker.txt").read_text()
    assert re.search(r"^asyncpg==", locked, re.MULTILINE), "it is the lock"
    assert not re.search(rf"^{package}\b", locked, re.MULTILINE)


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("headrace.cli", ("kopf", "kubernetes", "headrace_operator", "asyncpg", "prometheus_client", "uvloop", "yaml")),
        ("headrace.runtime.worker", ("kopf", "kubernetes", "headrace_operator")),
        ("headrace", ("kopf", "kubernetes", "headrace_operator", "asyncpg", "prometheus_client", "click")),
    ],
)
def test_importing_the_worker_imports_no_more_than_it_needs(module: str, unwanted: tuple[str, ...]) -> None:
    program = f"import sys, {module}; print(*(name for name in {unwanted!r} if name in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert loaded.split() == []


def test_the_public_names_are_sorted_and_there() -> None:
    assert list(headrace.__all__) == sorted(headrace.__all__)
    assert all(hasattr(headrace, name) for name in headrace.__all__)
    public = {name for name, value in vars(headrace).items() if not name.startswith("_") and callable(value)}
    assert public == set(headrace.__all__)
