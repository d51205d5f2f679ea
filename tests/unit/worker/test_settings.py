from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from headrace.settings import RetrySettings, SettingsError, connection_binding, queue_binding, worker_settings

if TYPE_CHECKING:
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


def test_little_is_enough_and_the_rest_has_the_documented_defaults() -> None:
    settings = worker_settings(ENOUGH)
    assert (settings.binding.dsn, settings.binding.queue, settings.binding.schema) == (DSN, "orders", "headrace")
    assert (settings.python_app, settings.exec_command) == ("shop.jobs:app", None)
    assert (settings.max_concurrent_jobs, settings.poll_interval_seconds) == (10, 5)
    assert settings.listens
    assert settings.binding.direct_dsn is None
    assert (settings.job_timeout_seconds, settings.drain_timeout_seconds) == (1800, 300)
    assert settings.retry == RetrySettings(initial_delay_seconds=1, multiplier=2, max_delay_seconds=600, jitter=0.2)
    assert (settings.metrics_host, settings.metrics_port) == ("0.0.0.0", 8080)


def test_everything_the_operator_writes_is_read() -> None:
    settings = worker_settings(
        {
            "HEADRACE_DSN": DSN,
            "HEADRACE_METRICS_ADDRESS": "127.0.0.1:9000",
            "HEADRACE_WORKER_NAME": "pod-1",
            "HEADRACE_LOG_LEVEL": "debug",
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
    assert settings.exec_command == ("/bin/render", "--fast")
    assert (settings.namespace, settings.worker_name, settings.log_level) == ("shop", "pod-1", "DEBUG")
    assert (settings.max_concurrent_jobs, settings.poll_interval_seconds) == (3, 0.5)
    assert (settings.job_timeout_seconds, settings.drain_timeout_seconds) == (90, 0)
    assert settings.retry == RetrySettings(initial_delay_seconds=5, multiplier=3, max_delay_seconds=60, jitter=0)
    assert (settings.binding.schema, settings.metrics_port) == ("jobs", 9000)


def test_minutes_do_where_seconds_are_not_given() -> None:
    assert worker_settings(ENOUGH | {"BACKGROUND_JOBS__JOBTIMEOUTMINUTES": "2"}).job_timeout_seconds == 120


@pytest.mark.parametrize(
    ("variable", "value", "fix"),
    [
        ("BACKGROUND_JOBS__PROVIDER", "AwsSqs", "must be Postgres"),
        ("BACKGROUND_JOBS__MODE", "Sometimes", "must be Polling or MessageQueue"),
        ("BACKGROUND_JOBS__MAXCONCURRENTJOBS", "0", "at least 1"),
        ("BACKGROUND_JOBS__MAXCONCURRENTJOBS", "1.5", "whole number"),
        ("BACKGROUND_JOBS__POLLINTERVALSECONDS", "0", "above 0"),
        ("BACKGROUND_JOBS__JOBTIMEOUTSECONDS", "nan", "must be a number"),
        ("BACKGROUND_JOBS__DRAINTIMEOUTSECONDS", "soon", "must be a number"),
        ("BACKGROUND_JOBS__RETRY__JITTER", "2", "at most 1"),
        ("BACKGROUND_JOBS__RETRY__MULTIPLIER", "0.5", "at least 1"),
        ("BACKGROUND_JOBS__HANDLER__PYTHON__APP", "shop", "MODULE:ATTRIBUTE"),
        ("BACKGROUND_JOBS__HANDLER__EXEC__COMMAND", '["/bin/x"]', "exactly one"),
        ("BACKGROUND_JOBS__HANDLER__EXEC__COMMAND", "/bin/x", "JSON list"),
        ("BACKGROUND_JOBS__MAXRETRIES", "5", "spec.maxRetries"),
        ("BACKGROUND_JOBS__VISIBILITYTIMEOUTSECONDS", "5", "spec.visibilityTimeoutSeconds"),
        ("BACKGROUND_JOBS__ENABLEIDEMPOTENCY", "true", "no such setting"),
        ("BACKGROUND_JOBS__QUEUENAME", "", "no queue"),
        ("HEADRACE_DSN", "", "no connection"),
        ("BACKGROUND_JOBS__POSTGRES__DIRECTCONNECTIONSTRING", "db:5432", r"\(--direct-dsn\): must be postgresql://"),
        ("HEADRACE_METRICS_ADDRESS", "8080", "HOST:PORT"),
        ("HEADRACE_LOG_LEVEL", "chatty", "DEBUG, INFO"),
    ],
)
def test_a_wrong_value_is_named_with_the_fix(variable: str, value: str, fix: str) -> None:
    with pytest.raises(SettingsError, match=fix):
        worker_settings(ENOUGH | {variable: value})


def test_polling_is_looking_alone_at_the_users_own_interval() -> None:
    settings = worker_settings(
        ENOUGH | {"BACKGROUND_JOBS__MODE": "Polling", "BACKGROUND_JOBS__POLLINTERVALSECONDS": "30"}
    )
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
    bind(tmp_path, "cache", type="redis", uri="redis://")
    bind(tmp_path, "queue", type="postgresql", uri=DSN, schema="jobs", queue="orders", ca_crt="PEM")
    binding = worker_settings(
        {"SERVICE_BINDING_ROOT": str(tmp_path), "BACKGROUND_JOBS__HANDLER__PYTHON__APP": "a:b"}
    ).binding
    assert (binding.dsn, binding.queue, binding.schema, binding.ca_certificates) == (DSN, "orders", "jobs", "PEM")
    assert connection_binding({"SERVICE_BINDING_ROOT": str(tmp_path)}).dsn == DSN


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
        connection_binding(environ)


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
