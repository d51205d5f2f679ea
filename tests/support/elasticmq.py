"""ElasticMQ for tests: a server that speaks the protocol of SQS, fast enough for load. It checks no signature.

It runs on Java 17 and is fetched by Maven, once, into the user's cache. A process of its own on a free loopback port,
stopped by pid; TEST_ELASTICMQ_URL names a server to use instead.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from support.postgres import free_port
from support.redis import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

ENVIRONMENT_VARIABLE = "TEST_ELASTICMQ_URL"
POM = Path(__file__).parents[1] / "elasticmq" / "pom.xml"
SERVER_JAR = "elasticmq-server_2.13-1.7.1.jar"
SERVER_JAR_SHA256 = "351c9b339aed90809b21dfa0cf4103f57b38544c97e24295216bf4b04e471489"

REGION = "elasticmq"
ACCOUNT = "000000000000"
START_TIMEOUT_SECONDS = 120.0
"""A JVM on a busy machine takes its time."""
STOP_TIMEOUT_SECONDS = 30.0


class ElasticMqNotFoundError(RuntimeError):
    """The machine can't have an ElasticMQ; the message says what is missing."""


@dataclass(frozen=True, kw_only=True)
class ElasticMq:
    """A server that runs."""

    port: int
    pid: int | None = None
    """None: somebody else's."""

    @property
    def endpoint_url(self) -> str:
        """For clients of AWS."""
        return f"http://127.0.0.1:{self.port}"

    def queue_url(self, name: str) -> str:
        """A queue as the service names it."""
        return f"{self.endpoint_url}/{ACCOUNT}/{name}"

    def url(self, name: str) -> str:
        """A queue as `headrace.from_url` takes it, without credentials."""
        return f"sqs+http://127.0.0.1:{self.port}/{ACCOUNT}/{name}?region=eu-central-1"


def jars() -> Path:
    """The folder with the server and what it needs; fetched where it is not there."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headrace"
    folder = cache / "elasticmq" / SERVER_JAR.removesuffix(".jar")
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "elasticmq.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            _fetch(folder)
    return folder


def _fetch(folder: Path) -> None:
    if shutil.which("mvn") is None:
        raise ElasticMqNotFoundError("mvn is missing, which fetches ElasticMQ: install the package maven")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        fetched = Path(work) / "jars"
        done = subprocess.run(
            ["mvn", "-q", "-B", "-f", str(POM), "dependency:copy-dependencies", f"-DoutputDirectory={fetched}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ElasticMqNotFoundError(
                f"Maven could not fetch ElasticMQ:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
            )
        found = hashlib.sha256((fetched / SERVER_JAR).read_bytes()).hexdigest()
        if found != SERVER_JAR_SHA256:
            raise ElasticMqNotFoundError(f"{SERVER_JAR} has the checksum {found}, not {SERVER_JAR_SHA256}")
        fetched.rename(folder)


@contextmanager
def running_elasticmq(*, memory_mib: int = 512) -> Iterator[ElasticMq]:
    """A server of our own, empty."""
    java = shutil.which("java")
    if java is None:
        raise ElasticMqNotFoundError("java is missing, which ElasticMQ runs on: install openjdk-17-jre-headless")
    with tempfile.TemporaryDirectory(prefix="headrace-elasticmq-") as name:
        log_file = Path(name) / "log"
        port = free_port()
        with log_file.open("ab") as log:
            process = subprocess.Popen(
                [
                    java,
                    f"-Xmx{memory_mib}m",
                    "-cp",
                    f"{jars()}/*",
                    "-Dnode-address.host=127.0.0.1",
                    f"-Dnode-address.port={port}",
                    "-Drest-sqs.bind-hostname=127.0.0.1",
                    f"-Drest-sqs.bind-port={port}",
                    "-Drest-stats.enabled=false",
                    "org.elasticmq.server.Main",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=name,
            )
        try:
            eventually(
                lambda: process.poll() is not None or b" started in " in log_file.read_bytes(),
                lambda: f"ElasticMQ did not start:\n{log_file.read_text(errors='replace')[-2000:]}",
                seconds=START_TIMEOUT_SECONDS,
            )
            assert process.poll() is None, log_file.read_text(errors="replace")[-2000:]
            yield ElasticMq(port=port, pid=process.pid)
        finally:
            process.kill()
            process.wait(STOP_TIMEOUT_SECONDS)


@contextmanager
def elasticmq() -> Iterator[ElasticMq]:
    """Some server: the given one, else one of our own."""
    if given := os.environ.get(ENVIRONMENT_VARIABLE):
        port = urlsplit(given).port
        assert port is not None, f"{ENVIRONMENT_VARIABLE}: write http://127.0.0.1:PORT"
        yield ElasticMq(port=port)
        return
    with running_elasticmq() as server:
        yield server
