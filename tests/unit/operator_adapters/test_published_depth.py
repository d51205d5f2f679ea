from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from headrace.metrics import Metrics
from headrace.queues.base import Depth
from headrace_operator.core.model import ObjectKey, QueueDepth
from headrace_operator.sampling.published import parse_depth

QUEUE = ObjectKey("shop", "thumbnails")

SERIES = {
    "background_jobs_queue_depth": 12.0,
    "background_jobs_queue_blocked": 2.0,
    "background_jobs_queue_delayed": 3.0,
    "background_jobs_queue_in_flight": 4.0,
    "background_jobs_queue_dead_lettered": 1.0,
    "background_jobs_queue_oldest_age_seconds": 7.5,
    "background_jobs_queue_paused": 1.0,
    "background_jobs_queue_depth_is_lower_bound": 1.0,
}


def page(series: dict[str, float], queue: ObjectKey = QUEUE, **further_labels: str) -> str:
    registry = CollectorRegistry()
    for name, value in series.items():
        gauge = Gauge(name, "For a test.", ["namespace", "queue", *further_labels], registry=registry)
        gauge.labels(namespace=queue.namespace, queue=queue.name, **further_labels).set(value)
    return generate_latest(registry).decode()


def test_the_whole_depth_is_read_from_its_series() -> None:
    assert parse_depth(page(SERIES), QUEUE) == QueueDepth(
        ready=12,
        blocked=2,
        delayed=3,
        in_flight=4,
        dead_lettered=1,
        oldest_ready_age_seconds=7.5,
        paused=True,
        is_lower_bound=True,
    )


def test_they_are_the_series_that_a_worker_publishes() -> None:
    metrics = Metrics()
    published = Depth(ready=12, blocked=2, delayed=3, in_flight=4, dead_lettered=1, oldest_ready_age_seconds=7.5)
    metrics.of(QUEUE.namespace, QUEUE.name).observe_depth(published)
    assert parse_depth(metrics.render().decode(), QUEUE) == QueueDepth(
        ready=12, blocked=2, delayed=3, in_flight=4, dead_lettered=1, oldest_ready_age_seconds=7.5
    )


def test_an_empty_queue_is_a_depth_of_zero() -> None:
    assert parse_depth(page(dict.fromkeys(SERIES, 0.0)), QUEUE) == QueueDepth()


@pytest.mark.parametrize("missing", SERIES)
def test_a_missing_series_means_unknown_and_never_zero(missing: str) -> None:
    assert parse_depth(page({name: value for name, value in SERIES.items() if name != missing}), QUEUE) is None


@pytest.mark.parametrize("other", [ObjectKey("shop", "mails"), ObjectKey("elsewhere", "thumbnails")])
def test_another_queue_says_nothing_about_this_one(other: ObjectKey) -> None:
    assert parse_depth(page(SERIES, other), QUEUE) is None


def test_series_with_further_labels_are_not_the_ones() -> None:
    assert parse_depth(page(SERIES, pod="a"), QUEUE) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_a_count_that_is_none_makes_the_depth_unknown(value: float) -> None:
    assert parse_depth(page({**SERIES, "background_jobs_queue_depth": value}), QUEUE) is None


@pytest.mark.parametrize("text", ["", "<html>not found</html>", 'background_jobs_queue_depth{queue="x" 3', "\x00\x01"])
def test_what_is_no_page_of_metrics_means_unknown(text: str) -> None:
    assert parse_depth(text, QUEUE) is None


def test_other_metrics_on_the_page_do_not_matter() -> None:
    text = page(SERIES) + "# TYPE python_info gauge\npython_info 1.0\nwhatever_total 3\n"
    assert parse_depth(text, QUEUE) is not None
