"""The JSON documents of the API: discovery, values, errors."""

from __future__ import annotations

from datetime import UTC
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from headrace_operator.core.external_metrics import EXTERNAL_METRICS
from headrace_operator.metrics_api.quantity import format_quantity

if TYPE_CHECKING:
    from collections.abc import Iterable

    from headrace_operator.core.external_metrics import MetricValue

    Document = dict[str, Any]

GROUP = "external.metrics.k8s.io"
VERSION = "v1beta1"
GROUP_VERSION = f"{GROUP}/{VERSION}"

_REASONS = {
    HTTPStatus.BAD_REQUEST: "BadRequest",
    HTTPStatus.FORBIDDEN: "Forbidden",
    HTTPStatus.NOT_FOUND: "NotFound",
    HTTPStatus.METHOD_NOT_ALLOWED: "MethodNotAllowed",
    HTTPStatus.INTERNAL_SERVER_ERROR: "InternalError",
}


def api_group() -> Document:
    """What `/apis/external.metrics.k8s.io` says."""
    version = {"groupVersion": GROUP_VERSION, "version": VERSION}
    return {
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": GROUP,
        "versions": [version],
        "preferredVersion": version,
    }


def api_resource_list() -> Document:
    """What `/apis/external.metrics.k8s.io/v1beta1` says: each metric stands as a resource."""
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": GROUP_VERSION,
        "resources": [
            {
                "name": metric,
                "singularName": "",
                "namespaced": True,
                "kind": "ExternalMetricValueList",
                "verbs": ["get"],
            }
            for metric in EXTERNAL_METRICS
        ],
    }


def openapi_v2() -> Document:
    """An empty schema: the aggregation layer asks every server for one, and logs an error without."""
    return {"swagger": "2.0", "info": {"title": GROUP, "version": VERSION}, "paths": {}}


def openapi_v3() -> Document:
    """The empty index of schemas, for the same reason."""
    return {"paths": {}}


def external_metric_value_list(metric: str, values: Iterable[MetricValue]) -> Document:
    """What a HorizontalPodAutoscaler reads."""
    return {
        "kind": "ExternalMetricValueList",
        "apiVersion": GROUP_VERSION,
        "metadata": {},
        "items": [
            {
                "metricName": metric,
                "metricLabels": dict(value.labels),
                "timestamp": value.sampled_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "value": format_quantity(value.value),
            }
            for value in values
        ],
    }


def failure(code: HTTPStatus, message: str) -> Document:
    """A Kubernetes Status that tells what went wrong."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": _REASONS.get(code, code.phrase.replace(" ", "")),
        "code": int(code),
    }
