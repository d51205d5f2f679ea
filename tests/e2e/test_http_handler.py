"""A server beside the worker: it is there from the first job to the last, and costs none of them an attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.kubectl import eventually
from support.stage import POOL

if TYPE_CHECKING:
    from support.stage import Stage

RUNS = "SELECT count(*) AS runs, count(finished_at) AS finished, max(attempt) AS attempts FROM public.runs"


def test_a_pool_with_a_server_goes_from_zero_up_and_back_with_every_job_run_once(stage: Stage) -> None:
    stage.apply_queue()
    stage.apply_http_pool(
        maxConcurrentJobs=4,
        autoscaling={
            "mode": "Direct",
            "minReplicas": 0,
            "maxReplicas": 2,
            "target": {"queueDepthPerReplica": 20},
            "sampleIntervalSeconds": 1,
            "scaleToZeroAfterSeconds": 5,
        },
    )
    stage.kubectl.run("wait", f"jwp/{POOL}", "--for=condition=Ready", "--timeout=60s", timeout_seconds=70)
    assert stage.worker_pods() == []

    stage.enqueue(60, seconds=0.5)

    stage.wait_replicas(2)
    stage.wait_finished(60)
    stage.wait_replicas(0)
    stage.wait_no_workers()
    assert stage.sql(RUNS) == [(60, 60, 1)]


def test_the_server_outlives_its_worker_while_that_drains(stage: Stage) -> None:
    stage.apply_queue()
    stage.apply_http_pool(replicas=2, maxConcurrentJobs=4, drainTimeoutSeconds=60)
    stage.wait_ready(2)
    stage.enqueue(8, seconds=12)
    eventually(stage.ledger, until=lambda seen: seen.started == 8, what="all jobs to start")

    stage.kubectl.run("scale", f"jwp/{POOL}", "--replicas=0")

    stage.wait_finished(8)
    stage.wait_no_workers()
    stage.wait_empty()
    assert stage.sql(RUNS) == [(8, 8, 1)]
