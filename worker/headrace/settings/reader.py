"""From what was given to settings: options go before variables, these before the file, the binding and the defaults.

In a list of queues, what an item says goes before what stands beside the list, whatever either comes from.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace.settings import table
from headrace.settings.connections import queue_connection, refuse_together
from headrace.settings.model import (
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
from headrace.settings.scope import Scope
from headrace.settings.sources import Tree, from_binding, from_environment, from_file, from_options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headrace.settings.model import Binding
    from headrace.settings.scope import Effective
    from headrace.settings.sources import Layer

CONFIG_VARIABLE = "HEADRACE_CONFIG"


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
    shared = Scope(layers, problems)
    redis = _redis(shared, environ)
    own = [[tree.queues[number] for tree in trees if number in tree.queues] for number in numbers] or [[]]
    scopes = [Scope([*mine, *_beside(mine, layers)], problems) for mine in own]
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
    scope = Scope([from_options(given).shared, from_environment(environ, []).shared], problems)
    binding = queue_connection(scope, environ, needs_queue=needs_queue)
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
    hidden: set[str] = set()
    if any(table.CONNECTION.key in layer for layer in own):
        hidden |= {setting.key for setting in table.TABLE if setting.section == table.CONNECTION.section}
    if any(table.QUEUE_URL.key in layer for layer in own):
        hidden |= {table.QUEUE_URL.key, table.DEAD_LETTER_QUEUE_URL.key}
    return [{key: given for key, given in layer.items() if key not in hidden} for layer in layers]


def _queue(scope: Scope, environ: Mapping[str, str], *, has_redis: bool) -> QueueWorkerSettings:
    binding = queue_connection(scope, environ, works=True)
    # Other commands leave it to the queue to refuse; and what is of another provider is checked all the same.
    for setting in (table.CONNECTION, *table.SQS):
        if scope.given(setting):
            scope[setting]
    seconds = scope[table.JOB_TIMEOUT_SECONDS]
    if seconds is None:
        seconds = scope[table.JOB_TIMEOUT_MINUTES] * 60
    refuse_together(scope, binding, seconds)
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


def _handler(scope: Scope) -> HandlerSettings:
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


def _redis(scope: Scope, environ: Mapping[str, str]) -> RedisSettings | None:
    if scope.given(table.REDIS_CONNECTION) is None:
        scope.add(from_binding(environ, ("redis",), None, scope.problems)[1])
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


def _idempotency(scope: Scope, *, has_redis: bool) -> IdempotencySettings | None:
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
