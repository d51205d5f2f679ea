"""The labels of what is ours."""

from __future__ import annotations

from headrace_operator.core.model import FIELD_MANAGER, POOL_LABEL, QUEUE_LABEL


def queue_labels(queue: str) -> dict[str, str]:
    """The labels of what belongs to a JobQueue."""
    return _labels(instance=queue, component="queue") | {QUEUE_LABEL: queue}


def pool_labels(pool: str, queue: str) -> dict[str, str]:
    """The labels of what belongs to a JobWorkerPool, its pods included. Of several queues it is the first."""
    return _labels(instance=pool, component="worker") | {QUEUE_LABEL: queue} | pool_selector(pool)


def pool_selector(pool: str) -> dict[str, str]:
    """What alone selects a pool's pods. A Deployment's selector never changes, so neither may this."""
    return {POOL_LABEL: pool}


def _labels(*, instance: str, component: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "headrace",
        "app.kubernetes.io/instance": instance,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/part-of": "headrace",
        "app.kubernetes.io/managed-by": FIELD_MANAGER,
    }
