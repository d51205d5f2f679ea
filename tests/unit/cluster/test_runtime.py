"""The runtime that asks runc for one capability less."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from cluster.places import NODE_SOURCES

CAPABILITIES = {"bounding": ["CAP_SYS_ADMIN", "CAP_SYS_RESOURCE"], "effective": ["CAP_SYS_RESOURCE"], "ambient": []}
LESS = {"bounding": ["CAP_SYS_ADMIN"], "effective": [], "ambient": []}


@pytest.fixture
def runc(tmp_path: Path) -> dict[str, str]:
    """The environment of a PATH with a runc that tells the arguments it got."""
    command = tmp_path / "bin" / "runc"
    command.parent.mkdir()
    command.write_text('#!/bin/sh\nprintf "%s " "$@"\n')
    command.chmod(0o755)
    return {"PATH": f"{command.parent}:{os.environ['PATH']}"}


def call(runc: dict[str, str], *arguments: str) -> str:
    return subprocess.run(
        [NODE_SOURCES / "runc-lesscaps", *arguments],
        env=runc,
        check=True,
        capture_output=True,
        text=True,
    ).stdout


@pytest.mark.parametrize("option", [["--bundle", "{}"], ["--bundle={}"], ["-b", "{}"]])
def test_a_container_is_made_without_the_capability(runc: dict[str, str], tmp_path: Path, option: list[str]) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"ociVersion": "1.0.2", "process": {"capabilities": CAPABILITIES}}))
    arguments = ["--root", "/run", "create", *(word.format(tmp_path) for word in option), "name"]

    assert call(runc, *arguments).split() == arguments

    assert json.loads(config.read_text()) == {"ociVersion": "1.0.2", "process": {"capabilities": LESS}}


def test_a_command_in_a_container_is_run_without_the_capability(runc: dict[str, str], tmp_path: Path) -> None:
    process = tmp_path / "process.json"
    process.write_text(json.dumps({"args": ["sh"], "capabilities": CAPABILITIES}))

    call(runc, "exec", "--process", str(process), "name")

    assert json.loads(process.read_text()) == {"args": ["sh"], "capabilities": LESS}


def test_everything_else_goes_through_unchanged(runc: dict[str, str]) -> None:
    assert call(runc, "delete", "--force", "name").split() == ["delete", "--force", "name"]
