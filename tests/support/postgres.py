"""A real PostgreSQL for tests: the one TEST_DATABASE_CONNECTION names, else one from the machine's binaries.

TEST_POSTGRES_BINARIES names the directory of other binaries: those of another major version, say.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

ENVIRONMENT_VARIABLE = "TEST_DATABASE_CONNECTION"
BINARIES_VARIABLE = "TEST_POSTGRES_BINARIES"
START_TIMEOUT_SECONDS = 30.0

_database_numbers = itertools.count(1)


class PostgresNotFoundError(RuntimeError):
    """The machine has no PostgreSQL server; the message says how to give one."""


@dataclass(kw_only=True)
class PostgresServer:
    """A server of our own, in a directory of its own, on a free loopback port. It can be stopped and started again."""

    binaries: Path
    directory: Path
    port: int
    stock: bool = False
    """With initdb's settings, as durable as they are; otherwise it is quick and has room for many connections."""
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def dsn(self) -> str:
        """The maintenance database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def initialize(self) -> None:
        """Make the data directory."""
        subprocess.run(
            [
                self.binaries / "initdb",
                "-D",
                self.directory,
                "-A",
                "trust",
                "-U",
                "postgres",
                "--no-sync",
                "-E",
                "UTF8",
            ],
            check=True,
            capture_output=True,
            cwd="/",
            **_unprivileged(),
        )

    def start(self, *settings: str) -> None:
        """Start with these settings (``name=value``), and wait until it answers."""
        with (self.directory / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(str(self.binaries / "postgres"), "-D", str(self.directory), "-p", str(self.port)),
                    *("-k", str(self.directory)),
                    *("-c", "listen_addresses=127.0.0.1"),
                    *(() if self.stock else ("-c", "fsync=off", "-c", "max_connections=200")),
                    *(word for setting in settings for word in ("-c", setting)),
                ],
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd="/",
                **_unprivileged(),
            )
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not self._is_up(self.process.pid):
            if self.process.poll() is not None or time.monotonic() > deadline:
                complaints = (self.directory / "server.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"PostgreSQL did not start:\n{complaints}")
            time.sleep(0.02)

    def _is_up(self, pid: int) -> bool:
        """What pg_ctl looks at, too: the server's own word, in its lock file."""
        try:
            lines = (self.directory / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and int(lines[0]) == pid and lines[7].strip() in {"ready", "standby"}

    def promote(self) -> None:
        """Let a standby take over."""
        subprocess.run(
            [self.binaries / "pg_ctl", "promote", "-w", "-D", self.directory],
            check=True,
            capture_output=True,
            cwd="/",
            **_unprivileged(),
        )

    def give(self, name: str, content: bytes) -> Path:
        """A file that only the server may read, such as a key."""
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_bytes(content)
        if os.geteuid() == 0:
            shutil.chown(path, "postgres", "postgres")
        return path

    def stop(self, *, immediately: bool = False) -> None:
        """Stop at once, breaking connections off; immediately: as a crash would."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT if immediately else signal.SIGINT)
            self.process.wait(START_TIMEOUT_SECONDS)
            self.process = None


def find_binaries() -> Path:
    """The given binaries, else the newest server's, on PATH or where Debian and pg_config keep them."""
    if given := os.environ.get(BINARIES_VARIABLE):
        return Path(given)
    candidates = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    if pg_config := shutil.which("pg_config"):
        output = subprocess.run([pg_config, "--bindir"], check=True, capture_output=True, text=True).stdout
        candidates.append(Path(output.strip()))
    if on_path := shutil.which("initdb"):
        candidates.append(Path(on_path).resolve().parent)
    for candidate in reversed(candidates):
        # Client packages bring some of these; a server has them all.
        if all((candidate / program).exists() for program in ("initdb", "postgres")):
            return candidate
    raise PostgresNotFoundError(
        f"no PostgreSQL server here: install the package `postgresql`, or set {ENVIRONMENT_VARIABLE} to a DSN "
        "whose user may create databases"
    )


@contextmanager
def running_server(*, stock: bool = False, settings: tuple[str, ...] = ()) -> Iterator[PostgresServer]:
    """A server of the caller's own, gone afterwards; with stock settings, on what lasts: /tmp may be memory."""
    parent = "/var/tmp" if stock else None
    with tempfile.TemporaryDirectory(prefix="headrace-postgres-", dir=parent, ignore_cleanup_errors=True) as name:
        directory = Path(name)
        if os.geteuid() == 0:
            shutil.chown(directory, "postgres", "postgres")
        server = PostgresServer(binaries=find_binaries(), directory=directory, port=free_port(), stock=stock)
        server.initialize()
        try:
            server.start(*settings)
            yield server
        finally:
            server.stop()


@contextmanager
def standby_of(primary: PostgresServer) -> Iterator[PostgresServer]:
    """A server that follows another, which is stopped just now."""
    with running_server() as standby:
        standby.stop()
        subprocess.run(
            f"rm -rf {standby.directory}/* && cp -a {primary.directory}/. {standby.directory}", shell=True, check=True
        )
        standby.give("standby.signal", b"")
        standby.give(
            "postgresql.auto.conf",
            f"primary_conninfo = 'host=127.0.0.1 port={primary.port} user=postgres'\n".encode(),
        )
        yield standby


@contextmanager
def maintenance_dsn() -> Iterator[str]:
    """A server to make databases in: the given one, else one of our own."""
    if given := os.environ.get(ENVIRONMENT_VARIABLE):
        yield given
        return
    with running_server() as server:
        yield server.dsn


@asynccontextmanager
async def fresh_database(dsn: str) -> AsyncIterator[str]:
    """A new, empty database on this server; dropped afterwards."""
    name = f"headrace_test_{os.getpid()}_{next(_database_numbers)}"
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
        try:
            yield urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))
        finally:
            await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await connection.close()


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _unprivileged() -> dict[str, Any]:
    """The server refuses to run as root."""
    return {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
