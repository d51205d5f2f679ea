"""Headrace's SDK and worker: enqueue jobs, declare handlers, run them.

Layers, each importing only what stands below it: ``cli``, ``testing`` > ``composition``, ``embedded`` > ``otel`` >
``runtime`` > ``app`` > ``metrics``, ``health``, ``settings`` > ``logs`` > ``queues``, ``idempotency`` >
``trace_context`` > ``job``, ``retry``. Nothing here knows the operator or Kubernetes: a worker runs anywhere.
"""

from __future__ import annotations

from headrace.app import App, AppError, Context, DeadLetter, Retry, Snooze
from headrace.embedded import Working, working
from headrace.job import InvalidJobError, Job, NewJob, new_job
from headrace.queues import from_url
from headrace.queues.base import Enqueued
from headrace.queues.errors import QueueError
from headrace.retry import RetryPolicy

__all__ = [
    "App",
    "AppError",
    "Context",
    "DeadLetter",
    "Enqueued",
    "InvalidJobError",
    "Job",
    "NewJob",
    "QueueError",
    "Retry",
    "RetryPolicy",
    "Snooze",
    "Working",
    "from_url",
    "new_job",
    "working",
]
