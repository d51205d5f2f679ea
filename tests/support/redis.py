"""A real Redis for tests: alone, behind Sentinels, as a Cluster; on free loopback ports, stopped by pid.

TEST_REDIS_CONNECTION names a server to use where any will do; TEST_REDIS_BINARY another program, such as Valkey's.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import redis

from support.certificates import Authority
from support.postgres import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ENVIRONMENT_VARIABLE = "TEST_REDIS_CONNECTION"
BINARY_VARIABLE = "TEST_REDIS_BINARY"
START_TIMEOUT_SECONDS = 120.0

PRIMARY = "shop"
"""The name by which `running_sentinels` know their primary."""


class RedisNotFoundError(RuntimeError):
    """The machine has no Redis; the message says how to give one."""


@dataclass(kw_only=True)
class RedisServer:
    """A process of our own, in a directory of its own. Started again it is empty, unless its lines have it save."""

    directory: Path
    port: int
    lines: Sequence[str] = ()
    """Of its configuration."""
    arguments: Sequence[str] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    has_plain_port: bool = True

    @property
    def url(self) -> str:
        """Without credentials."""
        return f"redis{'' if self.has_plain_port else 's'}://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start, and wait until it listens."""
        self.directory.mkdir(exist_ok=True)
        port = [f"port {self.port}"] if self.has_plain_port else ["port 0", f"tls-port {self.port}"]
        ours = [*port, "bind 127.0.0.1", f"dir {self.directory}", 'save ""', "appendonly no", *self.lines]
        configuration = self.directory / "redis.conf"
        if not configuration.exists():
            # A Sentinel, and a server that is told to, writes into it what it learns.
            configuration.write_text("\n".join(ours) + "\n")
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [find_binary(), str(configuration), *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
            )
        log_file = self.directory / "log"
        ready = (b"eady to accept connections", b"monitor master")
        eventually(
            lambda: any(word in log_file.read_bytes() for word in ready),
            lambda: f"Redis did not start:\n{log_file.read_text(errors='replace')[-2000:]}",
        )

    def stop(self) -> None:
        """End at once, as a crash would; what is paused, too."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(START_TIMEOUT_SECONDS)
            self.process = None
            (self.directory / "log").unlink()

    def pause(self) -> None:
        """Fall silent; connections stay open, and the kernel still takes new ones."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Speak again."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def command(self, *words: object) -> object:
        """Say something to it as its administrator, on a plain port."""
        with redis.Redis(host="127.0.0.1", port=self.port, socket_timeout=5, protocol=2) as client:
            return client.execute_command(*words)


@dataclass(frozen=True, kw_only=True)
class SentinelSetup:
    """A primary, its replica and three Sentinels."""

    primary: RedisServer
    replica: RedisServer
    sentinels: tuple[RedisServer, ...]

    @property
    def url(self) -> str:
        """Of the Sentinels."""
        return "redis://" + ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)


@dataclass(frozen=True, kw_only=True)
class ClusterSetup:
    """Three primaries, and a replica of the first."""

    primaries: tuple[RedisServer, ...]
    replica: RedisServer

    @property
    def url(self) -> str:
        """Of two nodes; they tell of the others."""
        return "redis://" + ",".join(f"127.0.0.1:{server.port}" for server in self.primaries[1:])


def find_binary() -> str:
    """The given program, else the one on PATH."""
    found = os.environ.get(BINARY_VARIABLE) or shutil.which("redis-server")
    if found is None:
        raise RedisNotFoundError(
            f"no Redis here: install the package `redis-server`, or set {BINARY_VARIABLE} to the path of a server"
        )
    return found


@contextmanager
def running_redis(*lines: str) -> Iterator[RedisServer]:
    """One server, with these lines in its configuration."""
    with _directory() as directory:
        server = RedisServer(directory=directory, port=free_port(), lines=lines)
        try:
            server.start()
            yield server
        finally:
            server.stop()


@contextmanager
def redis_url() -> Iterator[str]:
    """Some server: the given one, else one of our own."""
    if given := os.environ.get(ENVIRONMENT_VARIABLE):
        yield given
        return
    with running_redis() as server:
        yield server.url


@contextmanager
def running_tls_redis(authority: Authority, *lines: str) -> Iterator[RedisServer]:
    """One server that speaks TLS alone, with a certificate for 127.0.0.1; it wants one of its clients, unless told."""
    with _directory() as directory:
        pair = authority.sign(address="127.0.0.1")
        files = {"server.crt": pair.certificate, "server.key": pair.key, "ca.crt": authority.certificate.encode()}
        for name, content in files.items():
            (directory / name).write_bytes(content)
        tls = [
            f"tls-cert-file {directory}/server.crt",
            f"tls-key-file {directory}/server.key",
            f"tls-ca-cert-file {directory}/ca.crt",
        ]
        server = RedisServer(directory=directory, port=free_port(), lines=[*tls, *lines], has_plain_port=False)
        try:
            server.start()
            yield server
        finally:
            server.stop()


@contextmanager
def running_sentinels(*lines: str) -> Iterator[SentinelSetup]:
    """A primary and a replica that three Sentinels watch: they fail over when it is silent for a second."""
    with _directory() as directory, ExitStack() as stack:
        primary = RedisServer(directory=directory / "primary", port=free_port())
        replica = RedisServer(
            directory=directory / "replica", port=free_port(), lines=[f"replicaof 127.0.0.1 {primary.port}"]
        )
        watch = [
            f"sentinel monitor {PRIMARY} 127.0.0.1 {primary.port} 2",
            f"sentinel down-after-milliseconds {PRIMARY} 1000",
            f"sentinel failover-timeout {PRIMARY} 3000",
            *lines,
        ]
        sentinels = tuple(
            RedisServer(
                directory=directory / f"sentinel-{number}", port=free_port(), lines=watch, arguments=["--sentinel"]
            )
            for number in range(3)
        )
        for server in (primary, replica):
            stack.callback(server.stop)
            server.start()
        eventually(lambda: b"master_link_status:up" in _info(replica), lambda: "the replica found no primary")
        for sentinel in sentinels:
            stack.callback(sentinel.stop)
            sentinel.start()
        setup = SentinelSetup(primary=primary, replica=replica, sentinels=sentinels)
        if not lines:
            eventually(
                lambda: all(b"slaves=1,sentinels=3" in _info(sentinel) for sentinel in sentinels),
                lambda: "the Sentinels did not find each other",
            )
        yield setup


@contextmanager
def running_cluster() -> Iterator[ClusterSetup]:
    """A Cluster that fails over when a primary is silent for a second."""
    with _directory() as directory, ExitStack() as stack:
        servers = [
            RedisServer(
                directory=directory / f"node-{number}",
                port=free_port(),
                lines=["cluster-enabled yes", "cluster-node-timeout 1000", f"cluster-port {free_port()}"],
            )
            for number in range(4)
        ]
        for server in servers:
            stack.callback(server.stop)
            server.start()
        *primaries, replica = servers
        bounds = (0, 5461, 10923, 16384)
        for number, server in enumerate(primaries):
            server.command("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
            server.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for server in servers[1:]:
            bus = next(line.split()[1] for line in servers[0].lines if line.startswith("cluster-port"))
            server.command("CLUSTER", "MEET", "127.0.0.1", servers[0].port, bus)
        knows_all = b"cluster_known_nodes:4"
        eventually(
            lambda: all(knows_all in _cluster_info(server) for server in servers),
            lambda: "the nodes of the Cluster did not find each other",
        )
        replica.command("CLUSTER", "REPLICATE", node_id(primaries[0]))
        eventually(
            lambda: (
                all(b"cluster_state:ok" in _cluster_info(server) for server in servers)
                and b"master_link_status:up" in _info(replica)
            ),
            lambda: "the Cluster did not come up",
        )
        yield ClusterSetup(primaries=tuple(primaries), replica=replica)


def node_id(server: RedisServer) -> str:
    """The name of a Cluster's node."""
    answer = server.command("CLUSTER", "MYID")
    assert isinstance(answer, bytes)
    return answer.decode()


def eventually(
    is_so: Callable[[], bool], complaint: Callable[[], str], *, seconds: float = START_TIMEOUT_SECONDS
) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise RuntimeError(complaint())
        time.sleep(0.02)


def _info(server: RedisServer) -> bytes:
    return _raw(server, "INFO")


def _cluster_info(server: RedisServer) -> bytes:
    return _raw(server, "CLUSTER", "INFO")


def _raw(server: RedisServer, *words: str) -> bytes:
    """The answer as the server gave it."""
    with redis.Redis(host="127.0.0.1", port=server.port, socket_timeout=5, protocol=2) as client:
        client.response_callbacks.clear()
        answer = client.execute_command(*words)
    assert isinstance(answer, bytes)
    return answer


@contextmanager
def _directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="headrace-redis-", ignore_cleanup_errors=True) as name:
        yield Path(name)
