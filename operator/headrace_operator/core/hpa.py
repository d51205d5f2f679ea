"""The HorizontalPodAutoscaler of a pool in mode HPA."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace_operator.core.external_metrics import DESIRED_WORKERS_METRIC, POOL_METRIC_LABEL
from headrace_operator.core.labels import pool_labels
from headrace_operator.core.scaling import SCALE_DOWN_WINDOW

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headrace_operator.core.spec import JobWorkerPool

    Manifest = Mapping[str, Any]

_PERIOD_SECONDS = 15

_TOLERANCE = "0"
"""Else a tenth more or less is ignored. Kubernetes takes it from 1.35 on, and drops it before."""


def pool_autoscaler(pool: JobWorkerPool) -> dict[str, Any]:
    """The HorizontalPodAutoscaler, to be applied. Zero is not its business, but the operator's."""
    scaling = pool.spec.autoscaling
    # The decision's own number, so that both modes take the same: a queue's load alone knows nothing of other queues,
    # nor of other pools on it. AverageValue of one divides by no number of pods that may be too old.
    metric = {
        "name": DESIRED_WORKERS_METRIC,
        "selector": {"matchLabels": {POOL_METRIC_LABEL: pool.metadata.name}},
    }
    target = {"type": "AverageValue", "averageValue": "1"}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {
            "namespace": pool.metadata.namespace,
            "name": pool.metadata.name,
            "labels": pool_labels(pool.metadata.name, pool.spec.queue_names[0]),
            "ownerReferences": [pool.owner_reference],
        },
        "spec": {
            "scaleTargetRef": {"apiVersion": pool.api_version, "kind": pool.kind, "name": pool.metadata.name},
            "minReplicas": max(1, scaling.min_replicas),
            "maxReplicas": scaling.max_replicas,
            "metrics": [{"type": "External", "external": {"metric": metric, "target": target}}],
            # Always explicit: without it, recommendations of five minutes ago come back after a wake.
            "behavior": {
                "scaleUp": {
                    "stabilizationWindowSeconds": 0,
                    "tolerance": _TOLERANCE,
                    "selectPolicy": "Max",
                    "policies": [_policy("Pods", scaling.max_replicas), _policy("Percent", 100)],
                },
                "scaleDown": {
                    "stabilizationWindowSeconds": int(SCALE_DOWN_WINDOW.total_seconds()),
                    "tolerance": _TOLERANCE,
                    "selectPolicy": "Max",
                    "policies": [_policy("Percent", 100)],
                },
            },
        },
    }


def autoscaler_of_deployment(pool: JobWorkerPool, autoscalers: Sequence[Manifest]) -> Manifest | None:
    """Somebody's autoscaler that writes the number of the pool's Deployment, past the pool's own."""
    return next(
        (
            each
            for each in autoscalers
            if not pool.owns(each) and each["spec"]["scaleTargetRef"]["kind"] == "Deployment"
        ),
        None,
    )


def _policy(type_: str, value: int) -> dict[str, Any]:
    return {"type": type_, "value": value, "periodSeconds": _PERIOD_SECONDS}
