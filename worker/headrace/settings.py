"""A worker's settings, read from the environment in one place. All that is wrong is named at once, with the fix."""

from __future__ import annotations

import json
import math
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.queues import DEFAULT_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "BACKGROUND_JOBS__"

# Settings that the original system's workers had and that stand elsewhere here.
_ELSEWHERE = {
    "MAXRETRIES": "is the queue's own: set spec.maxRetries of its JobQueue, or `headrace migrate --max-retries`",
    "VISIBILITYTIMEOUTSECONDS": "is the queue's own: set spec.visibilityTimeoutSeconds of its JobQueue",
}


class SettingsError(ValueError):
    """What is wrong with the settings, one problem a line."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """How to reach a queue. `repr` shows no secret."""

    dsn: str = field(repr=False)
    queue: str
    schema: str = DEFAULT_SCHEMA
    ca_certificates: str | None = field(default=None, repr=False)
    direct_dsn: str | None = field(default=None, repr=False)
    """Past a connection pooler, to be told of new jobs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySettings:
    """How long a failed job waits for its next attempt."""

    initial_delay_seconds: float = 1.0
    multiplier: float = 2.0
    max_delay_seconds: float = 600.0
    jitter: float = 0.2
    """The part of the delay that chance decides, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """Everything a worker is told."""

    binding: Binding
    python_app: str | None = None
    """``module:attribute`` of an `App`; else `exec_command`."""
    exec_command: tuple[str, ...] | None = None
    namespace: str = ""
    worker_name: str = ""
    max_concurrent_jobs: int = 10
    poll_interval_seconds: float = 5.0
    """How often an idle worker looks for jobs, at most."""
    listens: bool = True
    """Whether it is told of new jobs beside that (``MODE=MessageQueue``)."""
    job_timeout_seconds: float = 1800.0
    drain_timeout_seconds: float = 300.0
    retry: RetrySettings = field(default_factory=RetrySettings)
    metrics_host: str = "0.0.0.0"  # noqa: S104 - the cluster scrapes it
    metrics_port: int = 8080
    log_level: str = "INFO"


def worker_settings(environ: Mapping[str, str]) -> WorkerSettings:
    """All of a worker's settings.

    Raises
    ------
    SettingsError
        Naming every problem.
    """
    reader = _Reader(environ)
    reader.refuse_others()
    reader.one_of("PROVIDER", ("Postgres",), "Postgres")
    mode = reader.one_of("MODE", ("Polling", "MessageQueue"), "MessageQueue")
    minutes = reader.number("JOBTIMEOUTMINUTES", 30.0, above=0)
    app, command = reader.handler()
    host, port = reader.metrics_address()
    settings = WorkerSettings(
        binding=reader.binding(),
        python_app=app,
        exec_command=command,
        namespace=reader.text("NAMESPACE", ""),
        worker_name=environ.get("HEADRACE_WORKER_NAME") or f"{socket.gethostname()}:{os.getpid()}",
        max_concurrent_jobs=reader.integer("MAXCONCURRENTJOBS", 10, at_least=1),
        poll_interval_seconds=reader.number("POLLINTERVALSECONDS", 5.0, above=0),
        listens=mode == "MessageQueue",
        job_timeout_seconds=reader.number("JOBTIMEOUTSECONDS", minutes * 60, above=0),
        drain_timeout_seconds=reader.number("DRAINTIMEOUTSECONDS", 300.0, at_least=0),
        retry=RetrySettings(
            initial_delay_seconds=reader.number("RETRY__INITIALDELAYSECONDS", 1.0, at_least=0),
            multiplier=reader.number("RETRY__MULTIPLIER", 2.0, at_least=1),
            max_delay_seconds=reader.number("RETRY__MAXDELAYSECONDS", 600.0, at_least=0),
            jitter=reader.number("RETRY__JITTER", 0.2, at_least=0, at_most=1),
        ),
        metrics_host=host,
        metrics_port=port,
        log_level=reader.log_level(),
    )
    reader.raise_problems()
    return settings


def queue_binding(environ: Mapping[str, str], *, queue: str | None = None) -> Binding:
    """How to reach a queue: what commands other than the worker need.

    Raises
    ------
    SettingsError
        Where nothing says how.
    """
    reader = _Reader(environ)
    binding = reader.binding(queue=queue)
    reader.raise_problems()
    return binding


def connection_binding(environ: Mapping[str, str]) -> Binding:
    """How to reach the database, whatever the queue.

    Raises
    ------
    SettingsError
        Where nothing says how.
    """
    reader = _Reader(environ)
    binding = reader.binding(needs_queue=False)
    reader.raise_problems()
    return binding


class _Reader:
    """Reads variables and remembers what is wrong; then every getter gives its default."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._problems: list[str] = []

    def raise_problems(self) -> None:
        if self._problems:
            raise SettingsError(self._problems)

    def refuse_others(self) -> None:
        """A setting that nobody reads would silently not do what it says."""
        for variable in sorted(self._environ):
            if not variable.startswith(PREFIX):
                continue
            name = variable.removeprefix(PREFIX)
            if name in _ELSEWHERE:
                self._problems.append(f"{variable} {_ELSEWHERE[name]}")
            elif name not in _KNOWN:
                self._problems.append(f"{variable}: there is no such setting; remove it")

    def text(self, name: str, default: str) -> str:
        return self._environ.get(PREFIX + name, "").strip() or default

    def one_of(self, name: str, choices: tuple[str, ...], default: str) -> str:
        value = self.text(name, default)
        if value not in choices:
            self._problems.append(f"{PREFIX}{name}={value}: must be {' or '.join(choices)}")
            return default
        return value

    def number(
        self,
        name: str,
        default: float,
        *,
        above: float = -math.inf,
        at_least: float = -math.inf,
        at_most: float = math.inf,
    ) -> float:
        raw = self.text(name, str(default))
        bounds = [
            f"{words} {bound:g}"
            for words, bound in (("above", above), ("at least", at_least), ("at most", at_most))
            if math.isfinite(bound)
        ]
        try:
            value = float(raw)
        except ValueError:
            value = math.nan
        if math.isfinite(value) and value > above and at_least <= value <= at_most:
            return value
        self._problems.append(f"{PREFIX}{name}={raw}: must be a number, {' and '.join(bounds)}")
        return default

    def integer(self, name: str, default: int, *, at_least: int) -> int:
        raw = self.text(name, str(default))
        if raw.isdecimal() and int(raw) >= at_least:
            return int(raw)
        self._problems.append(f"{PREFIX}{name}={raw}: must be a whole number, at least {at_least}")
        return default

    def handler(self) -> tuple[str | None, tuple[str, ...] | None]:
        app_name, command_name = "HANDLER__PYTHON__APP", "HANDLER__EXEC__COMMAND"
        app, raw_command = self.text(app_name, ""), self.text(command_name, "")
        if bool(app) == bool(raw_command):
            self._problems.append(
                f"{PREFIX}{app_name} (--app), {PREFIX}{command_name} (--exec): "
                'set exactly one, such as shop.jobs:app or ["/bin/render"]'
            )
        if app and not all(part for part in (app.partition(":")[0], app.partition(":")[2])):
            self._problems.append(f"{PREFIX}{app_name}={app}: must be MODULE:ATTRIBUTE, such as shop.jobs:app")
        if not raw_command:
            return app or None, None
        try:
            command = json.loads(raw_command)
        except ValueError:
            command = None
        if isinstance(command, list) and command and all(isinstance(part, str) and part for part in command):
            return app or None, tuple(command)
        self._problems.append(f'{PREFIX}{command_name}: must be a JSON list of strings, such as ["/bin/render"]')
        return app or None, None

    def metrics_address(self) -> tuple[str, int]:
        raw = self._environ.get("HEADRACE_METRICS_ADDRESS") or "0.0.0.0:8080"
        host, _, port = raw.rpartition(":")
        if not (host and port.isdecimal() and int(port) <= 65535):
            self._problems.append(f"HEADRACE_METRICS_ADDRESS={raw}: must be HOST:PORT, such as 0.0.0.0:8080")
            return "", 0
        return host.strip("[]"), int(port)

    def log_level(self) -> str:
        level = (self._environ.get("HEADRACE_LOG_LEVEL") or "INFO").upper()
        if level not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            self._problems.append(f"HEADRACE_LOG_LEVEL={level}: must be DEBUG, INFO, WARNING or ERROR")
            return "INFO"
        return level

    def binding(self, *, queue: str | None = None, needs_queue: bool = True) -> Binding:
        """The connection: given outright, else from a directory of the Service Binding specification."""
        wanted = queue or self.text("QUEUENAME", "")
        dsn = self._environ.get("HEADRACE_DSN") or self.text("POSTGRES__CONNECTIONSTRING", "")
        files = self._binding_files(wanted) if not dsn else {}
        dsn = dsn or files.get("uri", "")
        name = wanted or files.get("queue", "")
        if not dsn:
            self._problems.append(
                "no connection: give --dsn, HEADRACE_DSN, or SERVICE_BINDING_ROOT with a binding of type postgresql"
            )
        if not name and needs_queue:
            self._problems.append(f"no queue: give --queue, or {PREFIX}QUEUENAME")
        return Binding(
            dsn=dsn,
            queue=name,
            schema=self.text("POSTGRES__SCHEMA", "") or files.get("schema") or DEFAULT_SCHEMA,
            ca_certificates=files.get("ca.crt"),
            direct_dsn=self._direct_dsn() or files.get("direct-uri"),
        )

    def _direct_dsn(self) -> str | None:
        name = "POSTGRES__DIRECTCONNECTIONSTRING"
        dsn = self.text(name, "")
        if dsn and not dsn.startswith(("postgresql://", "postgres://")):
            # The value may hold a password.
            self._problems.append(
                f"{PREFIX}{name} (--direct-dsn): must be postgresql://USER:PASSWORD@HOST:PORT/DATABASE, leading to the "
                "database itself; without a connection pooler, leave it out"
            )
            return None
        return dsn or None

    def _binding_files(self, queue: str) -> dict[str, str]:
        root = self._environ.get("SERVICE_BINDING_ROOT")
        if not root:
            return {}
        try:
            directories = sorted(path for path in Path(root).iterdir() if path.is_dir())
        except OSError as error:
            self._problems.append(f"SERVICE_BINDING_ROOT={root}: can't be read ({error.strerror})")
            return {}
        bindings = [_files(directory) for directory in directories]
        bindings = [files for files in bindings if files.get("type") == "postgresql"]
        for files in bindings:
            if queue and files.get("queue") == queue:
                return files
        if len(bindings) > 1:
            self._problems.append(f"SERVICE_BINDING_ROOT={root}: several bindings; say which queue")
        return bindings[0] if len(bindings) == 1 else {}


def _files(directory: Path) -> dict[str, str]:
    """A binding's entries: a file each. Kubernetes' own bookkeeping among them begins with dots."""
    files = (path for path in directory.iterdir() if not path.name.startswith(".") and path.is_file())
    return {path.name: path.read_text("utf-8").strip() for path in files}


_KNOWN = frozenset(
    {
        "PROVIDER",
        "MODE",
        "QUEUENAME",
        "NAMESPACE",
        "MAXCONCURRENTJOBS",
        "POLLINTERVALSECONDS",
        "JOBTIMEOUTSECONDS",
        "JOBTIMEOUTMINUTES",
        "DRAINTIMEOUTSECONDS",
        "RETRY__INITIALDELAYSECONDS",
        "RETRY__MULTIPLIER",
        "RETRY__MAXDELAYSECONDS",
        "RETRY__JITTER",
        "POSTGRES__SCHEMA",
        "POSTGRES__CONNECTIONSTRING",
        "POSTGRES__DIRECTCONNECTIONSTRING",
        "HANDLER__PYTHON__APP",
        "HANDLER__EXEC__COMMAND",
    }
)
