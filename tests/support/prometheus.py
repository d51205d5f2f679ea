"""A real Prometheus, and its promtool."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from support.postgres import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

START_TIMEOUT_SECONDS = 60.0


class PrometheusNotFoundError(RuntimeError):
    """The machine has no Prometheus; the message says how to get one."""


@dataclass(frozen=True, kw_only=True)
class Prometheus:
    """A running server."""

    port: int

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The instant query's vector: for each series its ``metric`` (labels) and ``value`` (time, number as text)."""
        answer = self._get("/api/v1/query", query=expression)
        assert answer["status"] == "success", answer
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def value(self, expression: str) -> float | None:
        """The value of the query's only series; None where there is none."""
        series = self.query(expression)
        assert len(series) <= 1, series
        return float(series[0]["value"][1]) if series else None

    def rules(self) -> list[dict[str, Any]]:
        """The rules that it has loaded, each with its ``health``."""
        return [rule for group in self._get("/api/v1/rules")["data"]["groups"] for rule in group["rules"]]

    def _get(self, path: str, **parameters: str) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.port}{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as response:
            answer: dict[str, Any] = json.load(response)
        return answer


def _program(name: str) -> str:
    if (found := shutil.which(name)) is None:
        raise PrometheusNotFoundError(f"no {name} here: install the package `prometheus` (tests/setup-machine does)")
    return found


def promtool(*arguments: str | Path) -> str:
    """Run promtool; its complaints are the assertion's message."""
    done = subprocess.run([_program("promtool"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def running_prometheus(directory: Path, targets: Sequence[int], *, rules: Sequence[Path] = ()) -> Iterator[Prometheus]:
    """A server that scrapes these ports of this machine every second, gone afterwards."""
    port = free_port()
    configuration = directory / "prometheus.yaml"
    configuration.write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(file) for file in rules],
                "scrape_configs": [
                    {
                        "job_name": "workers",
                        "honor_labels": True,
                        "static_configs": [{"targets": [f"127.0.0.1:{target}" for target in targets]}],
                    }
                ],
            }
        )
    )
    log_file = directory / "prometheus.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [
                *(_program("prometheus"), f"--config.file={configuration}"),
                *(f"--storage.tsdb.path={directory / 'tsdb'}", f"--web.listen-address=127.0.0.1:{port}"),
            ],
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not _is_up(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Prometheus did not start:\n{log_file.read_text()[-2000:]}")
            time.sleep(0.1)
        yield Prometheus(port=port)
    finally:
        process.terminate()
        process.wait()


def _is_up(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=5):
            return True
    except OSError:
        return False
