from __future__ import annotations

from datetime import datetime, timedelta, timezone
from http import HTTPStatus

from headrace_operator.core.external_metrics import EXTERNAL_METRICS, MetricValue
from headrace_operator.metrics_api import documents


def test_every_metric_is_discoverable_as_a_namespaced_resource() -> None:
    resources = documents.api_resource_list()["resources"]
    assert [resource["name"] for resource in resources] == list(EXTERNAL_METRICS)
    assert all(resource["namespaced"] for resource in resources)


def test_a_value_is_a_quantity_and_its_time_is_in_utc() -> None:
    noon_in_paris = datetime(2026, 7, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    value = MetricValue(labels={"queue": "thumbnails"}, value=12.0, sampled_at=noon_in_paris)
    assert documents.external_metric_value_list("background_jobs_queue_load", [value])["items"] == [
        {
            "metricName": "background_jobs_queue_load",
            "metricLabels": {"queue": "thumbnails"},
            "timestamp": "2026-07-01T10:00:00Z",
            "value": "12",
        }
    ]


def test_a_failure_is_a_kubernetes_status() -> None:
    status = documents.failure(HTTPStatus.NOT_FOUND, "there is none")
    assert (status["kind"], status["status"], status["reason"], status["code"]) == (
        "Status",
        "Failure",
        "NotFound",
        404,
    )
    assert status["message"] == "there is none"
