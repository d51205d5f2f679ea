"""The external metrics that scaling works with: names, labels and values, for those who fill and who serve them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

QUEUE_DEPTH_METRIC = "background_jobs_queue_depth"
"""Jobs that are ready. Carries `QUEUE_METRIC_LABEL`."""

QUEUE_LOAD_METRIC = "background_jobs_queue_load"
"""Ready (unless the queue is paused) plus in flight: leasing a job is no less work. Carries `QUEUE_METRIC_LABEL`."""

DESIRED_WORKERS_METRIC = "background_jobs_desired_workers"
"""What a pool's load wants, within its bounds: its HorizontalPodAutoscaler follows it. Carries `POOL_METRIC_LABEL`."""

EXTERNAL_METRICS = (QUEUE_DEPTH_METRIC, QUEUE_LOAD_METRIC, DESIRED_WORKERS_METRIC)

QUEUE_METRIC_LABEL = "queue"
POOL_METRIC_LABEL = "pool"


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricValue:
    """One series' newest value. A HorizontalPodAutoscaler adds up what its selector matches: one series a number."""

    labels: Mapping[str, str]
    value: float
    sampled_at: datetime
