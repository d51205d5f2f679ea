"""A PgBouncer in transaction mode before a PostgreSQL."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from support.postgres import START_TIMEOUT_SECONDS, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIGURATION = """\
[databases]
* = host=127.0.0.1 port={server_port} user=postgres

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {server_connections}
"""


@contextmanager
def running_pooler(server_port: int, *, server_connections: int) -> Iterator[str]:
    """Yield the DSN that leads through the pooler, which keeps no prepared statements (before 1.21 none does)."""
    binary = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
    if not Path(binary).exists():
        raise RuntimeError("no PgBouncer here: install the package `pgbouncer`")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="headrace-pgbouncer-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        configuration = directory / "pgbouncer.ini"
        configuration.write_text(
            CONFIGURATION.format(server_port=server_port, port=port, server_connections=server_connections)
        )
        if _knows_prepared_statements(binary):
            configuration.write_text(configuration.read_text() + "max_prepared_statements = 0\n")
        log = (directory / "log").open("wb")
        if os.geteuid() == 0:
            # It refuses to run as root.
            for path in (directory, configuration):
                shutil.chown(path, "postgres", "postgres")
        user = ["-u", "postgres"] if os.geteuid() == 0 else []
        process = subprocess.Popen([binary, *user, str(configuration)], stdout=log, stderr=log, cwd="/")
        try:
            _await_port(port, process, directory / "log")
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
        finally:
            process.terminate()
            process.wait(START_TIMEOUT_SECONDS)
            log.close()


def _knows_prepared_statements(binary: str) -> bool:
    words = subprocess.run([binary, "--version"], check=True, capture_output=True, text=True).stdout.split()
    major, minor = (int(number) for number in words[1].split(".")[:2])
    return (major, minor) >= (1, 21)


def _await_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PgBouncer did not start:\n{log.read_text(errors='replace')}") from None
            time.sleep(0.02)
        else:
            return
