"""A worker's settings, read in one place. All that is wrong is named at once, where it stands, with its fix.

`table` has every setting once. `sources` find what was given, `reader` says what of it holds, `model` is the result,
and `effective` shows it.
"""

from __future__ import annotations

from headrace.settings.effective import as_yaml
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
from headrace.settings.reader import CONFIG_VARIABLE, Resolved, queue_binding, resolve, worker_settings
from headrace.settings.sources import is_secret_variable

__all__ = [
    "CONFIG_VARIABLE",
    "Binding",
    "ExecHandlerSettings",
    "HandlerSettings",
    "HttpHandlerSettings",
    "IdempotencySettings",
    "PythonHandlerSettings",
    "QueueWorkerSettings",
    "RedisSettings",
    "Resolved",
    "RetrySettings",
    "SettingsError",
    "WorkerSettings",
    "as_yaml",
    "is_secret_variable",
    "queue_binding",
    "resolve",
    "worker_settings",
]
