"""From what was given to settings: options go before variables, these before the file, the binding and the defaults.

In a list of queues, what an item says goes before what stands beside the list, whatever either comes from.
"""

from __future__ import annotations

import os
import socket
from collections import ChainMap
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from headrace.settings import table
from headrace.settings.model import (
    Binding,
    ExecHandlerSettings,
    HandlerSettings,
    HttpHandlerSettings,
    IdempotencySettings,
    PythonHandlerSettings,
    QueueWorkerSettings,
    RedisSettings,
    RetrySettings,
    SettingsError,
    WorkerSettings,
)
from headrace.settings.sources import Given, Layer, Tree, from_binding, from_environment, from_file, from_options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headrace.settings.table import Setting

CONFIG_VARIABLE = "HEADRACE_CONFIG"

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Effective:
    """A value that holds, and where it comes from."""

    value: Any = field(repr=False)
    origin: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """A worker's settings; and for people, what of each scope holds and why."""

    settings: WorkerSettings
    shared: Mapping[str, Effective]
    """By `Setting.key`: what is not any queue's."""
    queues: tuple[Mapping[str, Effective], ...]


def worker_settings(environ: Mapping[str, str], options: Mapping[str, str | None] | None = None) -> WorkerSettings:
    """All of a worker's settings.

    Parameters
    ----------
    environ
        The environment. Its ``HEADRACE_CONFIG`` names a file.
    options
        What the command line says, by the settings' paths.

    Raises
    ------
    SettingsError
        Naming every problem, where it stands, with its fix.
    """
    return resolve(environ, options).settings


def resolve(environ: Mapping[str, str], options: Mapping[str, str | None] | None = None) -> Resolved:
    """As `worker_settings`, with where each value comes from."""
    problems: list[str] = []
    trees = _trees(environ, options or {}, problems)
    layers = [tree.shared for tree in trees]
    numbers = sorted({number for tree in trees for number in tree.queues})
    given = [layer[table.QUEUE_NAME.key] for layer in layers if table.QUEUE_NAME.key in layer]
    if numbers and given:
        problems.append(f"{given[0].where}: {table.QUEUES} names the queues already; leave one of the two out")
    shared = _Scope(layers, problems)
    redis = _redis(shared, environ)
    own = [[tree.queues[number] for tree in trees if number in tree.queues] for number in numbers] or [[]]
    scopes = [_Scope([*mine, *_beside(mine, layers)], problems) for mine in own]
    host, port = shared[table.METRICS_ADDRESS]
    settings = WorkerSettings(
        queues=tuple(_queue(scope, environ, has_redis=redis is not None) for scope in scopes),
        redis=redis,
        shared_slots=shared[table.SHARED_SLOTS],
        namespace=shared[table.NAMESPACE],
        worker_name=shared[table.WORKER_NAME] or f"{socket.gethostname()}:{os.getpid()}",
        drain_timeout_seconds=shared[table.DRAIN_TIMEOUT],
        metrics_host=host,
        metrics_port=port,
        log_level=shared[table.LOG_LEVEL],
        log_format="json" if shared[table.LOG_FORMAT] == "json" else "text",
        stuck_after_seconds=shared[table.STUCK_AFTER],
    )
    names = [queue.binding.queue for queue in settings.queues]
    problems += [
        f"{table.QUEUES}: queue {name} is listed twice; give it one item"
        for name in sorted(set(names))
        if name and names.count(name) > 1
    ]
    if problems:
        # What stands beside a list of queues is read once for each.
        raise SettingsError(list(dict.fromkeys(problems)))
    return Resolved(settings, shared.read, tuple(scope.read for scope in scopes))


def queue_binding(
    environ: Mapping[str, str],
    options: Mapping[str, str | None] | None = None,
    *,
    queue: str | None = None,
    needs_queue: bool = True,
) -> Binding:
    """How to reach a queue, or with ``needs_queue=False`` the database: what commands other than the worker need.

    Raises
    ------
    SettingsError
        Where nothing says how.
    """
    problems: list[str] = []
    given = dict(options or {}) | ({table.QUEUE_NAME.path: queue} if queue else {})
    # What is wrong with settings that are a worker's alone is not in the way here.
    scope = _Scope([from_options(given).shared, from_environment(environ, []).shared], problems)
    binding = _binding(scope, environ, needs_queue=needs_queue)
    if problems:
        raise SettingsError(problems)
    return binding


def _trees(environ: Mapping[str, str], options: Mapping[str, str | None], problems: list[str]) -> list[Tree]:
    """What each source gives, the strongest first."""
    path = environ.get(CONFIG_VARIABLE)
    return [
        from_options(options),
        from_environment(environ, problems),
        from_file(path, problems) if path else Tree(),
    ]


def _beside(own: list[Layer], layers: list[Layer]) -> list[Layer]:
    """What of the shared settings a queue takes: a connection of its own needs nothing of another's."""
    if not any(table.CONNECTION.key in layer for layer in own):
        return layers
    return [
        {key: given for key, given in layer.items() if table.BY_KEY[key].section != table.CONNECTION.section}
        for layer in layers
    ]


class _Scope:
    """Reads what holds in one place, and remembers it and what is wrong; then every value is the default."""

    def __init__(self, layers: list[Layer], problems: list[str]) -> None:
        self.problems = problems
        self.read: dict[str, Effective] = {}
        self._layers: list[Layer] = []
        for layer in layers:
            self.add(layer)

    def add(self, layer: Layer) -> None:
        """What is weaker than all that is here."""
        decided = [choice for choice in table.CHOICES if any(choice & known.keys() for known in self._layers)]
        hidden = frozenset[str]().union(*decided)
        self._layers.append({key: given for key, given in layer.items() if key not in hidden})

    def given(self, setting: Setting[Any]) -> Given | None:
        """What somebody gave."""
        given = ChainMap(*self._layers).get(setting.key)
        return given if given is not None and given.text else None

    def __getitem__(self, setting: Setting[Value]) -> Value:
        given, value = self.given(setting), setting.default
        origin = "default"
        if given is not None:
            try:
                value, origin = setting.kind.read(given.text), given.origin
            except ValueError:
                shown = "" if setting.kind.may_hold_secrets else f"={given.text}"
                self.problems.append(f"{given.where}{shown}: must be {setting.kind.words}")
        if value is not None and value != "":
            self.read[setting.key] = Effective(value, origin)
        return value

    def conclude(self, setting: Setting[Value], value: Any, origin: str) -> None:
        """A value that follows from others."""
        self.read[setting.key] = Effective(value, origin)

    def certificates(self, setting: Setting[str | None]) -> str | None:
        """The text of a file of certificates."""
        path = self[setting]
        if path is None:
            return None
        try:
            return Path(path).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not in UTF-8"
            given = self.given(setting)
            assert given is not None, "there is no default file"
            self.problems.append(f"{given.where}={path}: can't be read ({reason}); must be {setting.kind.words}")
            return None


def _queue(scope: _Scope, environ: Mapping[str, str], *, has_redis: bool) -> QueueWorkerSettings:
    binding = _binding(scope, environ)
    _refuse_sqs(scope)
    scope[table.CONNECTION]  # Other commands leave it to the queue to refuse.
    seconds = scope[table.JOB_TIMEOUT_SECONDS]
    if seconds is None:
        seconds = scope[table.JOB_TIMEOUT_MINUTES] * 60
    return QueueWorkerSettings(
        binding=binding,
        handler=_handler(scope),
        max_concurrent_jobs=scope[table.MAX_CONCURRENT_JOBS],
        poll_interval_seconds=scope[table.POLL_INTERVAL],
        listens=scope[table.MODE] == "MessageQueue",
        job_timeout_seconds=seconds,
        retry=RetrySettings(
            initial_delay_seconds=scope[table.RETRY_INITIAL_DELAY],
            multiplier=scope[table.RETRY_MULTIPLIER],
            max_delay_seconds=scope[table.RETRY_MAX_DELAY],
            jitter=scope[table.RETRY_JITTER],
        ),
        idempotency=_idempotency(scope, has_redis=has_redis),
        expected_max_retries=scope[table.MAX_RETRIES],
        expected_visibility_timeout_seconds=scope[table.VISIBILITY_TIMEOUT],
    )


def _binding(scope: _Scope, environ: Mapping[str, str], *, needs_queue: bool = True) -> Binding:
    """The connection: given outright, else from a binding's directory."""
    if scope.given(table.CONNECTION) is None:
        wanted = scope.given(table.QUEUE_NAME)
        scope.add(from_binding(environ, "postgresql", wanted.text if wanted else None, scope.problems))
    queue = scope[table.QUEUE_NAME]
    given = scope.given(table.CONNECTION)
    if given is None:
        scope.problems.append(
            "no connection: give --dsn, HEADRACE_DSN, or SERVICE_BINDING_ROOT with a binding of type postgresql"
        )
    if not queue and needs_queue:
        scope.problems.append(f"no queue: give --queue, {table.QUEUE_NAME.variable}, or {table.QUEUES} in a file")
    return Binding(
        dsn=given.text if given is not None else "",
        queue=queue or "",
        schema=scope[table.SCHEMA],
        ca_certificates=scope.certificates(table.POSTGRES_CA),
        direct_dsn=scope[table.DIRECT_CONNECTION],
    )


def _refuse_sqs(scope: _Scope) -> None:
    for setting in table.SQS:
        if scope.given(setting):
            scope[setting]
    if scope[table.PROVIDER] != "AwsSqs":
        return
    provider, mode = scope.given(table.PROVIDER), scope.given(table.MODE)
    assert provider is not None, "it is not the default"
    scope.problems.append(
        f"{provider.where}=AwsSqs: this release has no such backend; set {table.PROVIDER.path} to Postgres, with a "
        "connection to a PostgreSQL"
    )
    if mode is not None and scope[table.MODE] == "Polling":
        scope.problems.append(
            f"{mode.where}=Polling: with AwsSqs there is no table to poll; set {table.MODE.path} to MessageQueue, "
            "which is how its queues are received from"
        )


def _handler(scope: _Scope) -> HandlerSettings:
    choices = (table.APP, table.HTTP_URL, table.COMMAND)
    given = [found for setting in choices if (found := scope.given(setting))]
    if len(given) != 1:
        ways = ", ".join(f"{setting.option} ({setting.variable})" for setting in choices)
        queue = scope.given(table.QUEUE_NAME)
        complaint = f"{' and '.join(each.where for each in given)}: too much" if given else "no handler"
        scope.problems.append(f"{complaint}{f' for queue {queue.text}' if queue else ''}: set exactly one of {ways}")
    app, url, command = scope[table.APP], scope[table.HTTP_URL], scope[table.COMMAND]
    if url is not None:
        return HttpHandlerSettings(url=url, ca_certificates=scope.certificates(table.HTTP_CA))
    if command is not None:
        return ExecHandlerSettings(command=command)
    return PythonHandlerSettings(app=app or "")


def _redis(scope: _Scope, environ: Mapping[str, str]) -> RedisSettings | None:
    if scope.given(table.REDIS_CONNECTION) is None:
        scope.add(from_binding(environ, "redis", None, scope.problems))
    url, mode, master = scope[table.REDIS_CONNECTION], scope[table.REDIS_MODE], scope[table.SENTINEL_MASTER]
    if url is None:
        return None
    if mode == "Sentinel" and not master:
        scope.problems.append(
            f"{table.REDIS_MODE.path}=Sentinel: needs {table.SENTINEL_MASTER.path} ({table.SENTINEL_MASTER.variable}), "
            f"the name that the sentinels know the master by"
        )
    certificates = scope.certificates(table.REDIS_CA)
    return RedisSettings(
        url=url,
        mode="Sentinel" if mode == "Sentinel" else "Cluster" if mode == "Cluster" else "Standalone",
        sentinel_master=master,
        ca_certificates=certificates,
    )


def _idempotency(scope: _Scope, *, has_redis: bool) -> IdempotencySettings | None:
    given, wanted = scope.given(table.ENABLE_IDEMPOTENCY), scope[table.ENABLE_IDEMPOTENCY]
    ttl_days, on_unavailable = scope[table.IDEMPOTENCY_TTL], scope[table.ON_UNAVAILABLE]
    if wanted is None:
        wanted = has_redis
        scope.conclude(table.ENABLE_IDEMPOTENCY, wanted, f"default: {'a' if has_redis else 'no'} Redis is given")
    if wanted and not has_redis:
        assert given is not None, "without a Redis it is off by default"
        scope.problems.append(
            f"{given.where}=true: needs a Redis to keep records in; give --redis, {table.REDIS_CONNECTION.variable}, "
            "or a binding of type redis"
        )
    if not wanted:
        return None
    return IdempotencySettings(ttl_days=ttl_days, on_unavailable="Proceed" if on_unavailable == "Proceed" else "Retry")
