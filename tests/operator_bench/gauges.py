"""What a window of time has cost: the operator's process, the API's requests, the database's connections."""

from __future__ import annotations

import math
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

if TYPE_CHECKING:
    from collections.abc import Sequence

_TICKS = os.sysconf("SC_CLK_TCK")
_SAMPLE = re.compile(r"^(?P<name>\w+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_WRITES = ("POST", "PUT", "PATCH", "DELETE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What counters stood at."""

    at: float
    cpu_seconds: float
    writes: float
    """Requests of the operator that change something in the API."""
    requests: float
    logins: int
    """Sessions that any database of the server has seen begin."""


def cpu_seconds(pid: int) -> float:
    """What the process has used of processors, all its threads together."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def memory_mib(pid: int) -> float:
    """The process's resident memory."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def total(page: str, metric: str, **labels: str | Sequence[str]) -> float:
    """The sum of a metric's samples that have these labels, each with one of these values."""
    return sum(
        float(found["value"])
        for found in _SAMPLE.finditer(page)
        if found["name"] == metric
        if _has(dict(_LABEL.findall(found["labels"] or "")), labels)
    )


def requests(page: str) -> float:
    """All requests to the API."""
    return total(page, "headrace_operator_api_requests_total")


def writes(page: str) -> float:
    """Those that change something."""
    return total(page, "headrace_operator_api_requests_total", method=_WRITES)


async def logins(dsn: str) -> int:
    """Sessions that have begun, but for ours that ask."""
    connection = await asyncpg.connect(dsn)
    try:
        begun = await connection.fetchval(
            "SELECT sum(sessions) FROM pg_stat_database WHERE datname <> current_database()"
        )
        return int(begun)
    finally:
        await connection.close()


async def connections(dsn: str) -> int:
    """Those that clients hold, but for ours that asks."""
    connection = await asyncpg.connect(dsn)
    try:
        held: int = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        return held
    finally:
        await connection.close()


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of them is at or below."""
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)]


def monotonic() -> float:
    """The clock of all readings, in seconds."""
    return time.monotonic()


def _has(labels: dict[str, str], wanted: dict[str, str | Sequence[str]]) -> bool:
    return all(
        labels.get(name) == value if isinstance(value, str) else labels.get(name) in value
        for name, value in wanted.items()
    )
