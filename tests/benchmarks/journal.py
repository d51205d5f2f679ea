"""The figures of a run as they come, so that one that is broken off can go on where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.report import Figure, Result


class Journal:
    """A file with a line for each benchmark that was measured.

    Parameters
    ----------
    path
        The file.
    commit
        What is measured: lines of another commit are none of this run's.
    """

    def __init__(self, path: Path, commit: str) -> None:
        self._path = path
        self._commit = commit

    def begin_anew(self) -> None:
        """Forget earlier runs."""
        self._path.unlink(missing_ok=True)

    def measured(self) -> Mapping[str, Result]:
        """What this commit's runs have measured so far, by the benchmark's id."""
        return {line["result"]["id"]: _result(line["result"]) for line in self._lines()}

    def seconds(self) -> float:
        """How long that took."""
        seconds: list[float] = [line["seconds"] for line in self._lines()]
        return sum(seconds)

    def note(self, result: Result, seconds: float) -> None:
        """It was measured, and took so long."""
        line = {"commit": self._commit, "seconds": seconds, "result": asdict(result)}
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _lines(self) -> list[dict[str, Any]]:
        if not self._path.exists():
            return []
        lines = [json.loads(line) for line in self._path.read_text().splitlines()]
        return [line for line in lines if line["commit"] == self._commit]


def _result(said: dict[str, Any]) -> Result:
    return Result(**{**said, "figures": [Figure(**figure) for figure in said["figures"]]})
