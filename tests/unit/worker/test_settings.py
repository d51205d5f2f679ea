from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.queues.base import QueueSettings
from headrace.settings import (
    Binding,
    ExecHandlerSettings,
    HttpHandlerSettings,
    IdempotencySettings,
    PythonHandlerSettings,
    QueueWorkerSettings,
    RedisSettings,
    RetrySettings,
    SettingsError,
    as_yaml,
    is_secret_variable,
    queue_binding,
    resolve,
    worker_settings,
)
from headrace.settings.table import TABLE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DSN = "postgresql://me:secret@db/jobs"
ENOUGH = {
    "HEADRACE_DSN": DSN,
    "BACKGROUND_JOBS__QUEUENAME": "orders",
    "BACKGROUND_JOBS__HANDLER__PYTHON__APP": "shop.jobs:app",
}


def bind(root: Path, directory: str, **entries: str) -> None:
    place = root / directory
    place.mkdir()
    (place / "..data").mkdir()
    for name, value in entries.items():
        (place / name.replace("_", ".")).write_text(value + "\n")


def only(environ: Mapping[str, str], **options: str) -> QueueWorkerSettings:
    (queue,) = worker_settings(environ, {name.replace("__", "."): text for name, text in options.items()}).queues
    return queue


def configured(tmp_path: Path, text: str, **others: str) -> dict[str, str]:
    """An environment whose settings are in a file."""
    file = tmp_path / "worker.yaml"
    file.write_text(text)
    return {"HEADRACE_CONFIG": str(file), **others}


def complaints(environ: Mapping[str, str]) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        worker_settings(environ)
    return caught.value.problems


def test_little_is_enough_and_the_rest_has_the_documented_defaults() -> None:
    settings = worker_settings(ENOUGH)
    (queue,) = settings.queues
    assert queue == QueueWorkerSettings(
        binding=Binding(dsn=DSN, queue="orders", schema="headrace"),
        handler=PythonHandlerSettings(app="shop.jobs:app"),
        max_concurrent_jobs=10,
        poll_interval_seconds=5,
        listens=True,
        job_timeout_seconds=1800,
        retry=RetrySettings(initial_delay_seconds=1, multiplier=2, max_delay_seconds=600, jitter=0.2),
    )
    assert settings.drain_timeout_seconds == 300
    assert settings.redis is None
    assert (settings.metrics_host, settings.metrics_port) == ("0.0.0.0", 8080)
    assert (settings.log_level, settings.log_format) == ("INFO", "text")


def test_everything_the_operator_writes_is_read() -> None:
    settings = worker_settings(
        {
            "HEADRACE_DSN": DSN,
            "HEADRACE_METRICS_ADDRESS": "127.0.0.1:9000",
            "HEADRACE_WORKER_NAME": "pod-1",
            "HEADRACE_LOG_LEVEL": "debug",
            "HEADRACE_LOG_FORMAT": "json",
            "BACKGROUND_JOBS__PROVIDER": "Postgres",
            "BACKGROUND_JOBS__MODE": "MessageQueue",
            "BACKGROUND_JOBS__QUEUENAME": "orders",
            "BACKGROUND_JOBS__NAMESPACE": "shop",
            "BACKGROUND_JOBS__MAXCONCURRENTJOBS": "3",
            "BACKGROUND_JOBS__POLLINTERVALSECONDS": "0.5",
            "BACKGROUND_JOBS__JOBTIMEOUTSECONDS": "90",
            "BACKGROUND_JOBS__JOBTIMEOUTMINUTES": "30",
            "BACKGROUND_JOBS__DRAINTIMEOUTSECONDS": "0",
            "BACKGROUND_JOBS__RETRY__INITIALDELAYSECONDS": "5",
            "BACKGROUND_JOBS__RETRY__MULTIPLIER": "3",
            "BACKGROUND_JOBS__RETRY__MAXDELAYSECONDS": "60",
            "BACKGROUND_JOBS__RETRY__JITTER": "0",
            "BACKGROUND_JOBS__POSTGRES__SCHEMA": "jobs",
            "BACKGROUND_JOBS__HANDLER__EXEC__COMMAND": '["/bin/render", "--fast"]',
        }
    )
    (queue,) = settings.queues
    assert queue.handler == ExecHandlerSettings(command=("/bin/render", "--fast"))
    assert (settings.namespace, settings.worker_name, settings.log_level) == ("shop", "pod-1", "DEBUG")
    assert settings.log_format == "json"
    assert (queue.max_concurrent_jobs, queue.poll_interval_seconds) == (3, 0.5)
    assert (queue.job_timeout_seconds, settings.drain_timeout_seconds) == (90, 0)
    assert queue.retry == RetrySettings(initial_delay_seconds=5, multiplier=3, max_delay_seconds=60, jitter=0)
    assert (queue.binding.schema, settings.metrics_port) == ("jobs", 9000)


def test_minutes_do_where_seconds_are_not_given() -> None:
    assert only(ENOUGH | {"BACKGROUND_JOBS__JOBTIMEOUTMINUTES": "2"}).job_timeout_seconds == 120


@pytest.mark.parametrize(
    ("variable", "value", "fix"),
    [
        ("BACKGROUND_JOBS__PROVIDER", "RabbitMq", "must be Postgres or AwsSqs"),
        ("BACKGROUND_JOBS__AWSSQS__WAITTIMESECONDS", "60", "at least 0 and at most 20"),
        ("BACKGROUND_JOBS__MODE", "Sometimes", "must be Polling or MessageQueue"),
        ("BACKGROUND_JOBS__MAXCONCURRENTJOBS", "0", "at least 1"),
        ("BACKGROUND_JOBS__MAXCONCURRENTJOBS", "1.5", "whole number"),
        ("BACKGROUND_JOBS__POLLINTERVALSECONDS", "0", "above 0"),
        ("BACKGROUND_JOBS__JOBTIMEOUTSECONDS", "nan", "must be a number"),
        ("BACKGROUND_JOBS__DRAINTIMEOUTSECONDS", "soon", "must be a number"),
        ("BACKGROUND_JOBS__RETRY__JITTER", "2", "at most 1"),
        ("BACKGROUND_JOBS__RETRY__MULTIPLIER", "0.5", "at least 1"),
        ("BACKGROUND_JOBS__HANDLER__PYTHON__APP", "shop", "MODULE:ATTRIBUTE"),
        ("BACKGROUND_JOBS__HANDLER__PYTHON__APP", "", "no handler for queue orders: set exactly one of --app"),
        ("BACKGROUND_JOBS__HANDLER__EXEC__COMMAND", '["/bin/x"]', "exactly one"),
        ("BACKGROUND_JOBS__HANDLER__HTTP__URL", "127.0.0.1:8080", "must be http://HOST:PORT/PATH"),
        ("BACKGROUND_JOBS__HANDLER__EXEC__COMMAND", "/bin/x", "JSON list"),
        ("BACKGROUND_JOBS__MAXRETRIES", "-1", "whole number, at least 0"),
        ("BACKGROUND_JOBS__VISIBILITYTIMEOUTSECONDS", "0", "above 0"),
        ("BACKGROUND_JOBS__ENABLEIDEMPOTENCY", "1", "must be true or false"),
        ("BACKGROUND_JOBS__ENABLEIDEMPOTENCY", "true", "needs a Redis to keep records in; give --redis"),
        ("BACKGROUND_JOBS__REDIS__CONNECTIONSTRING", "localhost:6379,password=x", "must be redis://:PASSWORD@HOST"),
        ("BACKGROUND_JOBS__REDIS__MODE", "Ring", "must be Standalone, Sentinel or Cluster"),
        ("BACKGROUND_JOBS__IDEMPOTENCYTTLDAYS", "0", "above 0"),
        ("BACKGROUND_JOBS__IDEMPOTENCY__ONUNAVAILABLE", "Wait", "must be Retry or Proceed"),
        ("BACKGROUND_JOBS__QUEUENAME", "", "no queue"),
        ("HEADRACE_DSN", "", "no connection"),
        (
            "HEADRACE_DSN",
            "Host=db;Username=me;Password=x",
            "an Npgsql string, Host=…;Username=…, is to be written that",
        ),
        ("BACKGROUND_JOBS__POSTGRES__DIRECTCONNECTIONSTRING", "db:5432", "leading to the database itself"),
        ("BACKGROUND_JOBS__POSTGRES__CAFILE", "/no/such/file", "No such file or directory"),
        ("HEADRACE_METRICS_ADDRESS", "8080", "HOST:PORT"),
        ("HEADRACE_LOG_LEVEL", "chatty", "DEBUG, INFO, WARNING or ERROR"),
        ("HEADRACE_LOG_FORMAT", "xml", "must be text or json"),
        ("BACKGROUND_JOBS__MAXCONCURENTJOBS", "3", r"did you mean BACKGROUND_JOBS__MAXCONCURRENTJOBS\?"),
        (
            "BACKGROUND_JOBS__POSTGRES__CONNECTIONSTR",
            "x",
            r"did you mean BACKGROUND_JOBS__POSTGRES__CONNECTIONSTRING\?",
        ),
        ("BACKGROUND_JOBS__XYZ", "3", "BACKGROUND_JOBS__XYZ: there is no such setting$"),
        ("BACKGROUND_JOBS__QUEUES__0__DRAINTIMEOUTSECONDS", "3", "give it beside Queues, not in it"),
        ("HEADRACE_CONFIG", "/no/such/file", "--config or HEADRACE_CONFIG must name a file"),
    ],
)
def test_a_wrong_value_is_named_with_the_fix(variable: str, value: str, fix: str) -> None:
    with pytest.raises(SettingsError, match=fix) as caught:
        worker_settings(ENOUGH | {variable: value})
    assert variable in str(caught.value) or not value
    assert "password=x" not in str(caught.value).lower()


def test_polling_is_looking_alone_at_the_users_own_interval() -> None:
    settings = only(ENOUGH | {"BACKGROUND_JOBS__MODE": "Polling", "BACKGROUND_JOBS__POLLINTERVALSECONDS": "30"})
    assert (settings.listens, settings.poll_interval_seconds) == (False, 30)


def test_a_wrong_direct_connection_is_not_repeated() -> None:
    with pytest.raises(SettingsError) as caught:
        worker_settings(ENOUGH | {"BACKGROUND_JOBS__POSTGRES__DIRECTCONNECTIONSTRING": "me:secret@db"})
    assert "secret" not in str(caught.value)


def test_all_that_is_wrong_is_named_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        worker_settings({"BACKGROUND_JOBS__MAXCONCURRENTJOBS": "x", "BACKGROUND_JOBS__RETRY__JITTER": "x"})
    assert len(caught.value.problems) == 5


def test_a_binding_directory_says_how_to_connect(tmp_path: Path) -> None:
    bind(tmp_path, "bucket", type="s3", uri="https://s3")
    bind(tmp_path, "queue", type="postgresql", uri=DSN, schema="jobs", queue="orders", ca_crt="PEM")
    binding = only({"SERVICE_BINDING_ROOT": str(tmp_path)}, Handler__Python__App="a:b").binding
    assert (binding.dsn, binding.queue, binding.schema, binding.ca_certificates) == (DSN, "orders", "jobs", "PEM")
    assert queue_binding({"SERVICE_BINDING_ROOT": str(tmp_path)}, needs_queue=False).dsn == DSN


def test_a_binding_says_how_to_get_past_a_pooler_and_a_setting_goes_before_it(tmp_path: Path) -> None:
    bind(tmp_path, "queue", type="postgresql", uri=DSN, queue="orders")
    (tmp_path / "queue" / "direct-uri").write_text("postgresql://me:secret@db-0/jobs")
    environ = {"SERVICE_BINDING_ROOT": str(tmp_path)}
    assert queue_binding(environ).direct_dsn == "postgresql://me:secret@db-0/jobs"
    environ["BACKGROUND_JOBS__POSTGRES__DIRECTCONNECTIONSTRING"] = "postgresql://me:secret@db-1/jobs"
    binding = queue_binding(environ)
    assert (binding.dsn, binding.direct_dsn) == (DSN, "postgresql://me:secret@db-1/jobs")
    assert "secret" not in repr(binding)


def test_of_several_bindings_the_queues_own_is_taken(tmp_path: Path) -> None:
    bind(tmp_path, "a", type="postgresql", uri="postgresql://a", queue="a")
    bind(tmp_path, "b", type="postgresql", uri="postgresql://b", queue="b")
    environ = {"SERVICE_BINDING_ROOT": str(tmp_path)}
    assert queue_binding(environ, queue="b").dsn == "postgresql://b"
    with pytest.raises(SettingsError, match="several bindings"):
        queue_binding(environ, needs_queue=False)


def test_a_connection_given_outright_goes_before_a_binding(tmp_path: Path) -> None:
    bind(tmp_path, "queue", type="postgresql", uri="postgresql://binding", queue="orders", schema="jobs")
    environ = {"SERVICE_BINDING_ROOT": str(tmp_path), "BACKGROUND_JOBS__POSTGRES__CONNECTIONSTRING": DSN}
    assert queue_binding(environ, queue="orders").dsn == DSN


def test_a_binding_directory_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="can't be read"):
        queue_binding({"SERVICE_BINDING_ROOT": str(tmp_path / "none")}, queue="orders")


def test_no_secret_shows_in_repr() -> None:
    settings = worker_settings(ENOUGH)
    assert "secret" not in repr(settings)


# Where a setting comes from


def test_an_option_goes_before_a_variable_before_the_file_before_the_default(tmp_path: Path) -> None:
    environ = configured(
        tmp_path,
        "BackgroundJobs: {MaxConcurrentJobs: 1, PollIntervalSeconds: 1, JobTimeoutMinutes: 1, Mode: Polling}",
        **ENOUGH,
        BACKGROUND_JOBS__MAXCONCURRENTJOBS="2",
        BACKGROUND_JOBS__POLLINTERVALSECONDS="2",
    )
    queue = only(environ, MaxConcurrentJobs="3")
    assert (queue.max_concurrent_jobs, queue.poll_interval_seconds, queue.job_timeout_seconds) == (3, 2, 60)
    assert (queue.listens, queue.retry) == (False, RetrySettings())


def test_an_empty_option_ends_what_others_say() -> None:
    with pytest.raises(SettingsError, match="no connection"):
        worker_settings(ENOUGH, {"Postgres.ConnectionString": ""})


def test_the_file_of_the_original_systems_workers_is_read_whatever_the_case(tmp_path: Path) -> None:
    appsettings = """\ufeff{
\t"Logging": {"LogLevel": {"Default": "Information"}},
\t"BackgroundJobs": {
\t\t"Mode": "messagequeue",
\t\t"Provider": "Postgres",
\t\t"maxConcurrentJobs": 4,
\t\t"JobTimeoutMinutes": 15,
\t\t"VisibilityTimeoutSeconds": 1800,
\t\t"MaxRetries": 3,
\t\t"EnableIdempotency": false,
\t\t"QueueName": "orders",
\t\t"Postgres": {"ConnectionString": "postgresql://me:secret@db/jobs"},
\t\t"AwsSqs": {"QueueUrl": "", "WaitTimeSeconds": 20, "UseFifoQueue": false},
\t\t"Handler": {"Exec": {"Command": ["/bin/render", "a b"]}}
\t}
}"""
    queue = only(configured(tmp_path, appsettings))
    assert queue.binding == Binding(dsn=DSN, queue="orders")
    assert queue.handler == ExecHandlerSettings(command=("/bin/render", "a b"))
    assert (queue.max_concurrent_jobs, queue.listens, queue.job_timeout_seconds) == (4, True, 900)
    assert queue.disagreements(QueueSettings(max_retries=3, visibility_timeout_seconds=1800)) == []


@pytest.mark.parametrize("prefix", ["BackgroundJobs__", "Background_Jobs__", "background_jobs__"])
def test_the_case_of_variables_says_nothing(prefix: str) -> None:
    assert only(ENOUGH | {f"{prefix}maxConcurrentJobs": "7"}).max_concurrent_jobs == 7


def test_two_variables_for_one_setting_must_agree() -> None:
    twice = ENOUGH | {"BACKGROUND_JOBS__MODE": "Polling", "BackgroundJobs__Mode": "MessageQueue"}
    assert complaints(twice) == (
        "BackgroundJobs__Mode, BACKGROUND_JOBS__MODE: two variables for one setting; leave one out",
    )
    assert not only(twice | {"BackgroundJobs__Mode": "Polling"}).listens


def test_whoever_gives_a_handler_speaks_for_all_of_them(tmp_path: Path) -> None:
    environ = configured(
        tmp_path,
        "BackgroundJobs: {QueueName: orders, Handler: {Python: {App: 'a:b'}, Http: {CaFile: /etc/hosts}}}",
        HEADRACE_DSN=DSN,
    )
    assert only(environ).handler == PythonHandlerSettings(app="a:b")
    environ["BACKGROUND_JOBS__HANDLER__EXEC__COMMAND"] = '["/bin/x"]'
    assert only(environ).handler == ExecHandlerSettings(command=("/bin/x",))
    handler = only(environ, Handler__Http__Url="http://127.0.0.1/jobs").handler
    assert isinstance(handler, HttpHandlerSettings)
    assert handler.ca_certificates is not None


def test_of_two_time_limits_the_stronger_source_decides_and_then_seconds_before_minutes(tmp_path: Path) -> None:
    environ = configured(tmp_path, "BackgroundJobs: {JobTimeoutSeconds: 5, JobTimeoutMinutes: 1}", **ENOUGH)
    assert only(environ).job_timeout_seconds == 5
    assert only(environ | {"BACKGROUND_JOBS__JOBTIMEOUTMINUTES": "2"}).job_timeout_seconds == 120


def test_what_is_wrong_in_a_file_is_named_by_its_line(tmp_path: Path) -> None:
    text = """\
BackgroundJobs:
  MaxConcurentJobs: 3
  PollIntervalSeconds: [1]
  ConnectionString: postgresql://me:secret@db/jobs
  QueueName: orders
  Handler:
    Python: jobs:app
  Retry:
    Jiter: 2
    Multiplier: 2
    multiplier: 0.5
  Postgres:
    ConnectionString: me:secret@db
"""
    assert complaints(configured(tmp_path, text)) == (
        "worker.yaml line 2: MaxConcurentJobs: there is no such setting; did you mean MaxConcurrentJobs?",
        "worker.yaml line 3: PollIntervalSeconds: must be a number, above 0",
        "worker.yaml line 4: ConnectionString: there is no such setting; did you mean Postgres.ConnectionString?",
        "worker.yaml line 7: Handler.Python: must be a mapping, NAME: VALUE",
        "worker.yaml line 11: Retry.multiplier: is given twice",
        "worker.yaml line 9: Retry.Jiter: there is no such setting; did you mean Retry.Jitter?",
        (
            "worker.yaml line 13: Postgres.ConnectionString: must be postgresql://USER:PASSWORD@HOST:PORT/DATABASE "
            "(an Npgsql string, Host=…;Username=…, is to be written that way), or sqs://HOST/ACCOUNT/NAME"
        ),
        (
            "no handler for queue orders: set exactly one of --app (BACKGROUND_JOBS__HANDLER__PYTHON__APP), "
            "--http (BACKGROUND_JOBS__HANDLER__HTTP__URL), --exec (BACKGROUND_JOBS__HANDLER__EXEC__COMMAND)"
        ),
        "worker.yaml line 11: Retry.Multiplier=0.5: must be a number, at least 1 and at most 100",
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("BackgroundJobs: {Mode: 'secret", "worker.yaml line 1: must be YAML or JSON: found unexpected end of stream"),
        ("Dsn: *secret", "worker.yaml line 1: must be YAML or JSON: found undefined alias …"),
        ("BackgroundJobs: [1]", "worker.yaml line 1: BackgroundJobs: must be a mapping, NAME: VALUE"),
        ("BackgroundJobs: {Namespace: {a: b}}", "worker.yaml line 1: Namespace: must be text"),
        ("BackgroundJobs: {Namespace: [a]}", "worker.yaml line 1: Namespace: must be text"),
        ("BackgroundJob: {}", "worker.yaml: has no BackgroundJobs: at its root; put the settings below it"),
        ("BackgroundJobs: {Queues: {}}", "worker.yaml line 1: Queues: must be a list, an item a queue"),
        ("BackgroundJobs: {Queus: []}", "worker.yaml line 1: Queus: there is no such setting; did you mean Queues?"),
        ("\x00", "worker.yaml: must be YAML or JSON, without control characters"),
        ("[" * 5_000, "worker.yaml: is nested too deeply"),
        ('{"a":' * 5_000, "worker.yaml: is nested too deeply"),
        ("--- 1\n--- 2", "worker.yaml line 2: must be YAML or JSON: but found another document"),
    ],
)
def test_a_file_that_is_none_is_said_and_not_repeated(tmp_path: Path, text: str, complaint: str) -> None:
    problems = complaints(configured(tmp_path, text, **ENOUGH))
    assert problems == (complaint,)


def test_a_file_that_is_empty_says_nothing(tmp_path: Path) -> None:
    for text in ("", "BackgroundJobs:", "BackgroundJobs: {Queues: [], Retry: , Mode: }"):
        assert worker_settings(configured(tmp_path, text, **ENOUGH)).queues == worker_settings(ENOUGH).queues


# Several queues

SEVERAL = """
BackgroundJobs:
  MaxConcurrentJobs: 4
  DrainTimeoutSeconds: 60
  Handler: {Python: {App: "shop.jobs:app"}}
  Postgres: {ConnectionString: "postgresql://me:secret@db/jobs", DirectConnectionString: "postgresql://direct/jobs"}
  Queues:
    - QueueName: orders
    - QueueName: mails
      MaxConcurrentJobs: 1
      JobTimeoutMinutes: 1
      Handler: {Exec: {Command: [/bin/send]}}
      Postgres: {ConnectionString: "postgresql://elsewhere/mails"}
"""


def test_each_queue_takes_what_it_does_not_say_itself_from_beside_the_list(tmp_path: Path) -> None:
    orders, mails = worker_settings(configured(tmp_path, SEVERAL)).queues
    assert orders.binding == Binding(dsn=DSN, queue="orders", direct_dsn="postgresql://direct/jobs")
    assert (orders.max_concurrent_jobs, orders.job_timeout_seconds) == (4, 1800)
    assert orders.handler == PythonHandlerSettings(app="shop.jobs:app")
    assert (mails.max_concurrent_jobs, mails.job_timeout_seconds) == (1, 60)
    assert mails.handler == ExecHandlerSettings(command=("/bin/send",))
    # Nothing of another connection's.
    assert mails.binding == Binding(dsn="postgresql://elsewhere/mails", queue="mails")


def test_queues_may_share_what_yaml_can_merge_and_say_their_own_beside_it(tmp_path: Path) -> None:
    text = """
Patient: &patient {MaxConcurrentJobs: 2, Retry: {MaxDelaySeconds: 3600}}
BackgroundJobs:
  Handler: {Python: {App: "shop.jobs:app"}}
  Queues:
    - {QueueName: a, <<: *patient}
    - {QueueName: b, <<: *patient, MaxConcurrentJobs: 5}
    - {QueueName: c, <<: *patient, Retry: {Jitter: 0}}
"""
    queues = worker_settings(configured(tmp_path, text, HEADRACE_DSN=DSN)).queues
    assert [queue.max_concurrent_jobs for queue in queues] == [2, 5, 2]
    assert [queue.retry.max_delay_seconds for queue in queues] == [3600, 3600, 600]


def test_a_variable_reaches_into_the_list_and_adds_to_it(tmp_path: Path) -> None:
    environ = configured(
        tmp_path,
        SEVERAL,
        BACKGROUND_JOBS__QUEUES__1__MAXCONCURRENTJOBS="9",
        BACKGROUND_JOBS__QUEUES__2__QUEUENAME="bills",
    )
    assert [(queue.binding.queue, queue.max_concurrent_jobs) for queue in worker_settings(environ).queues] == [
        ("orders", 4),
        ("mails", 9),
        ("bills", 4),
    ]


def test_an_empty_variable_lists_no_queue(tmp_path: Path) -> None:
    environ = configured(tmp_path, SEVERAL, BACKGROUND_JOBS__QUEUES__2__QUEUENAME="")
    assert len(worker_settings(environ).queues) == 2


def test_what_a_queue_says_itself_holds_whatever_stands_beside_the_list(tmp_path: Path) -> None:
    settings = worker_settings(configured(tmp_path, SEVERAL), {"MaxConcurrentJobs": "20"})
    assert [queue.max_concurrent_jobs for queue in settings.queues] == [20, 1]


def test_a_list_and_a_single_name_are_one_too_much_and_so_are_two_of_a_name(tmp_path: Path) -> None:
    environ = configured(tmp_path, SEVERAL.replace("mails\n", "orders\n"), BACKGROUND_JOBS__QUEUENAME="orders")
    assert complaints(environ) == (
        "BACKGROUND_JOBS__QUEUENAME: Queues names the queues already; leave one of the two out",
        "Queues: queue orders is listed twice; give it one item",
    )


def test_a_fault_beside_the_list_is_named_once(tmp_path: Path) -> None:
    environ = configured(tmp_path, SEVERAL, BACKGROUND_JOBS__RETRY__JITTER="2")
    assert len(complaints(environ)) == 1


def test_each_queue_finds_its_own_binding(tmp_path: Path) -> None:
    bindings = tmp_path / "bindings"
    bindings.mkdir()
    bind(bindings, "a", type="postgresql", uri="postgresql://a", queue="a")
    bind(bindings, "b", type="postgresql", uri="postgresql://b", queue="b")
    environ = configured(
        tmp_path,
        "BackgroundJobs: {Handler: {Python: {App: 'a:b'}}, Queues: [{QueueName: b}, {QueueName: a}]}",
        SERVICE_BINDING_ROOT=str(bindings),
    )
    assert [queue.binding.dsn for queue in worker_settings(environ).queues] == ["postgresql://b", "postgresql://a"]


# What the original system's workers were told


def test_what_is_the_queues_own_to_say_is_compared_and_the_queues_holds() -> None:
    told = only(
        ENOUGH | {"BACKGROUND_JOBS__MAXRETRIES": "5", "BACKGROUND_JOBS__VISIBILITYTIMEOUTSECONDS": "60"}
    ).disagreements(QueueSettings())
    assert told == [
        (
            "MaxRetries is 5 in the settings and 3 in the queue, and the queue's holds: leave it out here, and set "
            "spec.maxRetries of its JobQueue, or `headrace migrate --queue orders --max-retries`"
        ),
        (
            "VisibilityTimeoutSeconds is 60 in the settings and 1800 in the queue, and the queue's holds: leave it out "
            "here, and set spec.visibilityTimeoutSeconds of its JobQueue, or `headrace migrate --queue orders "
            "--visibility-timeout`"
        ),
    ]


# Idempotency


def test_idempotency_is_on_where_a_redis_is_given_and_it_is_not_switched_off() -> None:
    environ = ENOUGH | {"BACKGROUND_JOBS__REDIS__CONNECTIONSTRING": "redis://:secret@cache/0"}
    settings = worker_settings(environ)
    assert settings.redis == RedisSettings(url="redis://:secret@cache/0")
    assert settings.queues[0].idempotency == IdempotencySettings(ttl_days=7, on_unavailable="Retry")
    assert only(environ | {"BACKGROUND_JOBS__ENABLEIDEMPOTENCY": "false"}).idempotency is None
    further = {"BACKGROUND_JOBS__IDEMPOTENCYTTLDAYS": "1", "BACKGROUND_JOBS__IDEMPOTENCY__ONUNAVAILABLE": "proceed"}
    assert only(environ | further).idempotency == IdempotencySettings(ttl_days=1, on_unavailable="Proceed")


def test_a_binding_of_type_redis_is_a_redis(tmp_path: Path) -> None:
    bind(tmp_path, "queue", type="postgresql", uri=DSN, queue="orders")
    bind(tmp_path, "records", type="redis", uri="rediss://:secret@sentinel/0", mode="Sentinel", ca_crt="PEM")
    (tmp_path / "records" / "sentinel-master").write_text("main\n")
    settings = worker_settings({"SERVICE_BINDING_ROOT": str(tmp_path)}, {"Handler.Python.App": "a:b"})
    assert settings.redis == RedisSettings(
        url="rediss://:secret@sentinel/0", mode="Sentinel", sentinel_master="main", ca_certificates="PEM"
    )
    assert settings.queues[0].idempotency is not None
    bind(tmp_path, "more", type="redis", uri="redis://other")
    with pytest.raises(SettingsError, match="several bindings of type redis; give one"):
        worker_settings({"SERVICE_BINDING_ROOT": str(tmp_path)}, {"Handler.Python.App": "a:b"})


def test_sentinels_need_the_name_of_the_master() -> None:
    problems = complaints(
        ENOUGH
        | {"BACKGROUND_JOBS__REDIS__CONNECTIONSTRING": "redis://cache", "BACKGROUND_JOBS__REDIS__MODE": "Sentinel"}
    )
    assert problems == (
        (
            "Redis.Mode=Sentinel: needs Redis.SentinelMaster (BACKGROUND_JOBS__REDIS__SENTINELMASTER), the name that "
            "the sentinels know the master by"
        ),
    )


# What is shown


def test_what_holds_is_shown_as_a_file_with_where_it_comes_from(tmp_path: Path) -> None:
    environ = configured(tmp_path, "BackgroundJobs:\n  PollIntervalSeconds: 0.5\n", **ENOUGH)
    shown = as_yaml(resolve(environ, {"MaxConcurrentJobs": "3"})).splitlines()
    for line in (
        "  QueueName: orders  # variable BACKGROUND_JOBS__QUEUENAME",
        "  MaxConcurrentJobs: 3  # option --concurrency",
        "  PollIntervalSeconds: 0.5  # worker.yaml line 2",
        "  JobTimeoutMinutes: 30  # default",
        "  EnableIdempotency: false  # default: no Redis is given",
        "    ConnectionString: postgresql://me:***@db/jobs  # variable HEADRACE_DSN",
    ):
        assert line in shown


def test_what_was_shown_makes_the_same_settings_once_secrets_are_filled_in(tmp_path: Path) -> None:
    text = SEVERAL.replace("BackgroundJobs:", "BackgroundJobs:\n  Redis: {ConnectionString: 'redis://:secret@r/0'}")
    environ = {
        "HEADRACE_WORKER_NAME": "one",
        "BACKGROUND_JOBS__QUEUES__1__HANDLER__EXEC__COMMAND": '["a # b", "ü\\n: x"]',
    }
    for source in (configured(tmp_path, text, **environ), ENOUGH | {"HEADRACE_WORKER_NAME": "one"}):
        resolved = resolve(source)
        shown = as_yaml(resolved)
        assert "secret" not in shown
        masked = configured(tmp_path, shown)
        assert any("must be postgresql://USER" in problem for problem in complaints(masked)), "a mask is no password"
        filled_in = configured(tmp_path, shown.replace("***", "secret"))
        assert worker_settings(filled_in) == resolved.settings


@settings(deadline=None)
@given(argument=st.text(min_size=1), name=st.text().map(str.strip))
def test_whatever_a_text_holds_it_is_shown_on_one_line_and_read_back(
    tmp_path_factory: pytest.TempPathFactory, argument: str, name: str
) -> None:
    options = {"Handler.Exec.Command": json.dumps([argument]), "Namespace": name}
    resolved = resolve(
        {"HEADRACE_DSN": DSN, "BACKGROUND_JOBS__QUEUENAME": "orders", "HEADRACE_WORKER_NAME": "one"}, options
    )
    shown = as_yaml(resolved).replace("***", "secret")
    file = tmp_path_factory.mktemp("any") / "worker.yaml"
    file.write_text(shown, "utf-8", newline="")
    assert shown.count("\n") == len(shown.splitlines())
    assert worker_settings({"HEADRACE_CONFIG": str(file), "HEADRACE_WORKER_NAME": "one"}) == resolved.settings


def test_a_bindings_certificate_is_shown_as_its_file(tmp_path: Path) -> None:
    bind(tmp_path, "queue", type="postgresql", uri=DSN, queue="orders", ca_crt="PEM")
    shown = as_yaml(resolve({"SERVICE_BINDING_ROOT": str(tmp_path)}, {"Handler.Python.App": "a:b"}))
    assert f"CaFile: {tmp_path}/queue/ca.crt  # binding {tmp_path}/queue" in shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (
            "postgresql://me:secret@a:1,b:2/jobs?sslpassword=secret&x=1",
            "postgresql://me:***@a:1,b:2/jobs?sslpassword=***&x=1",
        ),
        ("postgresql://db/jobs?user=me&password=secret", "postgresql://db/jobs?user=me&password=***"),
        ("postgresql://me@[::1]/jobs", "postgresql://me@[::1]/jobs"),
        ("postgresql:///jobs?host=/run", "postgresql:///jobs?host=/run"),
    ],
)
def test_no_password_of_a_url_is_shown_wherever_it_stands(url: str, shown: str) -> None:
    assert f"ConnectionString: {shown}  #" in as_yaml(resolve(ENOUGH | {"HEADRACE_DSN": url}))


@pytest.mark.parametrize(
    "variable",
    [
        "HEADRACE_DSN",
        "BACKGROUND_JOBS__POSTGRES__CONNECTIONSTRING",
        "BACKGROUND_JOBS__POSTGRES__DIRECTCONNECTIONSTRING",
        "BackgroundJobs__Redis__ConnectionString",
        "BACKGROUND_JOBS__QUEUES__1__POSTGRES__CONNECTIONSTRING",
    ],
)
def test_a_variable_that_may_hold_a_password_is_known_as_such(variable: str) -> None:
    assert is_secret_variable(variable)
    assert not is_secret_variable("HEADRACE_LOG_LEVEL")
    assert not is_secret_variable("BACKGROUND_JOBS__MODE")
    assert not is_secret_variable("DATABASE_URL")


def test_every_default_is_a_value_of_its_kind_and_every_option_and_variable_is_one_settings() -> None:
    for setting in TABLE:
        if setting.default not in (None, ""):
            plain = setting.kind.plain(setting.default)
            assert setting.kind.read(str(plain)) == setting.default
    for names in ([setting.variable for setting in TABLE], [setting.option for setting in TABLE if setting.option]):
        assert len(names) == len(set(names))
