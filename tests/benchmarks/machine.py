"""The facts of the machine that figures depend on."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import asyncpg

from support.elasticmq import SERVER_JAR
from support.postgres import PostgresServer

_PEERS = (
    *("pgqueuer", "procrastinate", "psycopg", "asyncpg", "uvloop"),
    *("sqs-workers", "taskiq", "taskiq-aio-sqs", "aiobotocore", "boto3"),
)
_SETTINGS = (
    *("fsync", "synchronous_commit", "full_page_writes", "wal_sync_method", "wal_level", "shared_buffers"),
    *("max_wal_size", "autovacuum", "server_encoding", "lc_collate"),
)
_SYNC_SECONDS = 1


async def facts(server: PostgresServer, peers_python: Path) -> dict[str, str]:
    """What there is to know, in the order to say it."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    return {
        "day": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{memory_gib:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "load before the run": f"{load} (1, 5, 15 minutes)",
        "file system of the database": _file_system(server.directory),
        "fdatasync of 8 kB": _sync_time(server),
        "PostgreSQL": await _postgres(server),
        "ElasticMQ": f"{SERVER_JAR.removesuffix('.jar').rpartition('-')[2]}, Java {_java()}",
        "Python": f"{platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in ("asyncpg", "uvloop", "aiohttp", "aiobotocore")),
        "peers": ", ".join(_versions(peers_python, _PEERS)),
    }


def commit() -> str:
    """The commit that is measured, and whether files differ from it."""
    return _output(["git", "describe", "--always", "--dirty"])


def sync_time(output: str) -> str | None:
    """The time of one fdatasync in what pg_test_fsync says: that of one 8 kB write, which stands first."""
    found = re.search(r"^\s+fdatasync\s.*?(\d+) usecs/op", output, re.MULTILINE)
    return f"{found[1]} µs" if found else None


def _java() -> str:
    said = subprocess.run(["java", "-version"], check=False, capture_output=True, text=True).stderr
    found = re.search(r'version "([^"]+)"', said)
    return found[1] if found else "unknown"


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.machine()


def _file_system(directory: Path) -> str:
    return _output(["stat", "--file-system", "--format=%T", str(directory)])


def _sync_time(server: PostgresServer) -> str:
    program = server.binaries / "pg_test_fsync"
    if not program.exists():
        return "not measured: there is no pg_test_fsync"
    probe = server.directory / "fsync-probe"
    try:
        output = _output([str(program), "-s", str(_SYNC_SECONDS), "-f", str(probe)])
    finally:
        probe.unlink(missing_ok=True)
    return sync_time(output) or "not measured"


async def _postgres(server: PostgresServer) -> str:
    connection = await asyncpg.connect(server.dsn)
    try:
        number = await connection.fetchval("SHOW server_version")
        settings = await connection.fetch(
            "SELECT name, current_setting(name) AS value FROM pg_settings WHERE name = ANY ($1)", list(_SETTINGS)
        )
    finally:
        await connection.close()
    by_name = {row["name"]: row["value"] for row in settings}
    said = ", ".join(f"{name} {by_name[name]}" for name in _SETTINGS if name in by_name)
    return f"{number}; stock settings: {said}"


def _versions(python: Path, packages: Iterable[str]) -> list[str]:
    names = tuple(packages)
    wanted = f"(f'{{name}} {{version(name)}}' for name in {names!r})"
    program = f"from importlib.metadata import version; print(*{wanted}, sep='\\n')"
    return _output([str(python), "-c", program]).splitlines()


def _output(command: list[str]) -> str:
    finished = subprocess.run(command, check=False, capture_output=True, text=True)
    return finished.stdout.strip() or "unknown"
