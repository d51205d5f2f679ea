"""What the operator remembers: the newest objects, and samples while they are fresh."""

from __future__ import annotations

from typing import Any, cast

import pytest

from headrace_operator.core.model import (
    ObjectKey,
    PassingError,
    QueueDepth,
    Reading,
    Sample,
    SampleSource,
    TransientError,
)
from headrace_operator.core.scaling import History
from headrace_operator.metrics import OperatorMetrics
from headrace_operator.reconcile.objects import ObjectStore
from headrace_operator.reconcile.observations import Observations, PoolMemory
from support.memory_cluster import SetClock

KEY = ObjectKey("shop", "workers")
QUEUE = ObjectKey("shop", "thumbnails")


def pool(version: int, uid: str = "1", **metadata: Any) -> dict[str, Any]:
    named = {"namespace": "shop", "name": "workers", "uid": uid, "resourceVersion": str(version), **metadata}
    return {"kind": "JobWorkerPool", "metadata": named, "spec": {"queueRef": {"name": "thumbnails"}}}


def version(store: ObjectStore) -> str | None:
    found = store.get("JobWorkerPool", KEY)
    return None if found is None else str(found["metadata"]["resourceVersion"])


def test_an_older_state_never_replaces_a_newer_one() -> None:
    store = ObjectStore()
    store.seen(pool(9))
    store.written(pool(10), 0, guarded=False)
    store.seen(pool(9))
    assert version(store) == "10"


def test_what_is_gone_does_not_come_back_by_a_late_answer() -> None:
    store = ObjectStore()
    store.seen(pool(9))
    store.gone(pool(10))
    store.written(pool(10), 0, guarded=False)
    assert version(store) is None
    store.seen(pool(12, uid="2"))
    store.written(pool(13, uid="1"), 0, guarded=False)
    assert version(store) == "12"


def test_the_watch_lags_while_it_owes_us_a_write() -> None:
    store = ObjectStore()
    store.seen(pool(1))
    assert store.watch_lag_seconds(100) == 0
    store.written(pool(2), 100, guarded=False)
    store.written(pool(3), 150, guarded=False)
    store.seen(pool(2))
    assert store.watch_lag_seconds(160) == 60
    store.seen(pool(3))
    assert store.watch_lag_seconds(160) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"uid": "2"},
        {"generation": 2},
        {"annotations": {"headrace.dev/paused": "true"}},
        {"labels": {"team": "a"}},
        {"finalizers": ["a"]},
        {"deletionTimestamp": "2026-01-01T00:00:00Z"},
    ],
)
def test_what_reconciling_reads_of_an_object_is_news_when_it_changes(change: dict[str, Any]) -> None:
    store = ObjectStore()
    assert store.seen(pool(1, generation=1))
    assert not store.seen({**pool(2, generation=1), "status": {"replicas": 3}})
    assert store.seen(pool(3, **{"generation": 1, **change}))
    assert not store.seen(pool(4, **{"generation": 1, **change}))


def test_an_echo_of_our_own_write_is_no_news() -> None:
    store = ObjectStore()
    store.seen(pool(1, generation=1))
    store.written(pool(2, generation=1), 0, guarded=False)
    store.written(pool(3, generation=2), 0, guarded=True)
    assert not store.seen(pool(2, generation=1))
    assert not store.seen(pool(3, generation=2))


def test_somebodys_change_is_news_though_a_write_of_ours_returned_it_first() -> None:
    store = ObjectStore()
    store.seen(pool(1, generation=1))
    store.written(pool(3, generation=2), 0, guarded=False)
    assert store.seen(pool(2, generation=2))
    assert not store.seen(pool(3, generation=2))


def test_somebodys_change_is_news_though_a_write_of_ours_came_on_top_of_it() -> None:
    store = ObjectStore()
    store.seen(pool(1, generation=1))
    store.written(pool(3, generation=2), 0, guarded=False)
    store.written(pool(4, generation=3), 0, guarded=True)
    assert store.seen(pool(2, generation=2))


def test_an_object_that_is_made_anew_is_news() -> None:
    store = ObjectStore()
    store.seen(pool(1))
    store.gone(pool(2))
    assert store.seen(pool(3, uid="2"))


def test_pools_are_found_by_their_queue() -> None:
    store = ObjectStore()
    store.seen(pool(1))
    assert store.pools_of(QUEUE) == [KEY]
    assert store.pools_of(ObjectKey("other", "thumbnails")) == []
    store.gone(pool(2))
    assert store.pools_of(QUEUE) == []


def test_pools_are_found_by_each_of_their_queues_and_no_more_by_the_ones_they_leave() -> None:
    store = ObjectStore()
    several = {"queueRefs": [{"name": "thumbnails"}, {"name": "mail"}]}
    store.seen({**pool(1), "spec": several})
    mail = ObjectKey("shop", "mail")
    assert (store.pools_of(QUEUE), store.pools_of(mail)) == ([KEY], [KEY])
    store.seen({**pool(2), "spec": {"queueRefs": [{"name": "mail"}]}})
    assert (store.pools_of(QUEUE), store.pools_of(mail)) == ([], [KEY])


def read(depth: QueueDepth, clock: SetClock, source: SampleSource = SampleSource.BACKEND) -> Reading:
    sample = Sample(depth=depth, sampled_at=clock.now(), source=source)
    return Reading(sample=sample, failure=None, tried_at=clock.now())


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def observations(clock: SetClock) -> Observations:
    made = Observations(clock)
    depth = QueueDepth(ready=7, in_flight=5, arrived=30)
    made.remember_reading(QUEUE, read(depth, clock))
    made.remember_pool(KEY, PoolMemory(uid="1", queues=(QUEUE,), history=History(), wanted_replicas=2))
    return made


@pytest.mark.parametrize(
    ("metric", "value", "labels"),
    [
        ("background_jobs_queue_depth", 7, {"queue": "thumbnails"}),
        ("background_jobs_queue_load", 12, {"queue": "thumbnails"}),
        ("background_jobs_desired_workers", 2, {"pool": "workers"}),
    ],
)
def test_autoscalers_are_given_fresh_values_of_their_namespace_alone(
    observations: Observations, clock: SetClock, metric: str, value: float, labels: dict[str, str]
) -> None:
    [found] = observations.values(metric, "shop")
    assert (found.value, found.labels, found.sampled_at) == (value, labels, clock.now())
    assert observations.values(metric, "other") == []
    clock.move(16)
    assert observations.values(metric, "shop") == []


@pytest.mark.parametrize("metric", ["background_jobs_queue_load", "background_jobs_desired_workers"])
def test_what_an_autoscaler_asks_costs_nothing_for_what_is_in_other_namespaces(
    observations: Observations, metric: str
) -> None:
    # Whoever looks at these fails.
    observations.remember_reading(ObjectKey("other", "thumbnails"), cast("Reading", None))
    observations.remember_pool(ObjectKey("other", "workers"), cast("PoolMemory", None))
    assert len(observations.values(metric, "shop")) == 1


def test_autoscalers_are_given_no_load_that_a_paused_queue_can_not_start(
    observations: Observations, clock: SetClock
) -> None:
    depth = QueueDepth(ready=500, in_flight=5, paused=True)
    observations.remember_reading(QUEUE, read(depth, clock))
    values = {
        metric: observations.values(metric, "shop")[0].value
        for metric in ("background_jobs_queue_depth", "background_jobs_queue_load")
    }
    assert values == {"background_jobs_queue_depth": 500, "background_jobs_queue_load": 5}


@pytest.mark.parametrize(("depth", "seconds"), [(QueueDepth(in_flight=1), 15), (QueueDepth(delayed=1), 30)])
def test_what_was_counted_long_ago_is_shown_to_nobody_and_later_so_where_there_was_nothing_to_do(
    observations: Observations, clock: SetClock, depth: QueueDepth, seconds: float
) -> None:
    observations.remember_reading(QUEUE, read(depth, clock))
    clock.move(seconds)
    assert observations.values("background_jobs_queue_load", "shop")
    clock.move(1)
    assert not observations.values("background_jobs_queue_load", "shop")


def test_a_failure_does_not_hide_what_is_still_fresh(observations: Observations, clock: SetClock) -> None:
    known = observations.reading(QUEUE)
    assert known is not None
    failed = TransientError("DepthUnknown", "the database can't be reached")
    observations.remember_reading(QUEUE, Reading(sample=known.sample, failure=failed, tried_at=clock.now()))
    assert observations.values("background_jobs_queue_load", "shop")


def test_an_unknown_metric_has_no_values(observations: Observations) -> None:
    assert observations.values("background_jobs_weather", "shop") == []


def test_the_operator_publishes_the_depth_of_queues_that_no_worker_publishes(
    observations: Observations, clock: SetClock
) -> None:
    metrics = OperatorMetrics(observations)
    labels = {"namespace": "shop", "queue": "thumbnails"}
    assert metrics.registry.get_sample_value("background_jobs_queue_depth", labels) == 7
    assert metrics.registry.get_sample_value("background_jobs_queue_in_flight", labels) == 5
    assert metrics.registry.get_sample_value("background_jobs_queue_arrived_total", labels) == 30
    observations.remember_reading(QUEUE, read(QueueDepth(ready=1), clock, SampleSource.WORKERS))
    assert metrics.registry.get_sample_value("background_jobs_queue_depth", labels) is None


def test_looks_are_counted_by_how_they_ended(observations: Observations) -> None:
    metrics = OperatorMetrics(observations)
    metrics.observe("JobQueue", 0.1, None)
    metrics.observe("JobQueue", 0.1, RuntimeError())
    get = metrics.registry.get_sample_value
    assert get("headrace_operator_reconciles_total", {"kind": "JobQueue", "outcome": "failed"}) == 1
    assert get("headrace_operator_reconciles_total", {"kind": "JobQueue", "outcome": "succeeded"}) == 1
    assert get("headrace_operator_reconcile_errors_total", {"kind": "JobQueue", "reason": "RuntimeError"}) == 1


def test_how_many_objects_wait_for_their_look_is_shown(observations: Observations) -> None:
    metrics = OperatorMetrics(observations)
    metrics.show_waiting({"JobQueue": lambda: 3})
    assert metrics.registry.get_sample_value("headrace_operator_waiting_looks", {"kind": "JobQueue"}) == 3


def test_requests_to_the_api_are_counted_by_what_became_of_them(observations: Observations) -> None:
    metrics = OperatorMetrics(observations)
    metrics.requested("PATCH", None)
    metrics.requested("PATCH", PassingError("ApiServerTimeout", "no answer"))
    get = metrics.registry.get_sample_value
    assert get("headrace_operator_api_requests_total", {"method": "PATCH", "outcome": "Succeeded"}) == 1
    assert get("headrace_operator_api_requests_total", {"method": "PATCH", "outcome": "ApiServerTimeout"}) == 1
