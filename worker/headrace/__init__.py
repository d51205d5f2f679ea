"""Headrace's SDK and worker: enqueue jobs, declare handlers, run them.

Layers, each importing only what stands below it: ``cli`` > ``runtime`` > ``app`` > ``metrics``, ``health``,
``settings`` > ``queues`` > ``job``. Nothing here knows the operator or Kubernetes: a worker runs anywhere.
"""

from __future__ import annotations

from headrace.app import App, Context, DeadLetterError
from headrace.job import InvalidJobError, Job, NewJob, new_job
from headrace.queues import from_url
from headrace.queues.base import QueueError

__all__ = [
    "App",
    "Context",
    "DeadLetterError",
    "InvalidJobError",
    "Job",
    "NewJob",
    "QueueError",
    "from_url",
    "new_job",
]
