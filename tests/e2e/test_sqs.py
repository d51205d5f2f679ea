"""A queue in SQS, spoken to a server in the cluster: made, worked on from zero and back, and removed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from support.kubectl import eventually
from support.stage import LEDGER_DSN, POOL, QUEUE, REDIS

if TYPE_CHECKING:
    from support.stage import Stage

JOBS = 3_000
PASSWORD = "only-for-trying"
"""Of the servers that last for one test."""


def autoscaling(mode: str, **more: object) -> dict[str, object]:
    return {
        "mode": mode,
        "minReplicas": 0,
        "maxReplicas": 4,
        "target": {"queueDepthPerReplica": 100},
        "scaleToZeroAfterSeconds": 5,
        **more,
    }


def queue_status(stage: Stage) -> dict[str, Any]:
    status: dict[str, Any] = stage.kubectl.get("jobqueue", QUEUE)["status"]
    return status


@pytest.mark.parametrize("mode", ["HPA", "Direct"])
def test_a_pool_on_sqs_goes_from_zero_up_and_back_with_every_job_run_once(stage: Stage, mode: str) -> None:
    stage.apply_sqs_queue()
    stage.start_redis()
    stage.apply_pool(autoscaling=autoscaling(mode), maxConcurrentJobs=20, idempotency=REDIS, environment=[LEDGER_DSN])
    stage.kubectl.run("wait", f"jwp/{POOL}", "--for=condition=Ready", "--timeout=60s", timeout_seconds=70)
    assert (stage.replicas(), stage.worker_pods()) == (0, [])

    stage.enqueue_into_sqs(JOBS, seconds=0.1)

    eventually(stage.replicas, until=lambda replicas: replicas > 1, what="several workers")
    seen = stage.wait_finished(JOBS)
    assert (seen.finished, seen.finished_more_than_once) == (JOBS, 0)
    stage.wait_replicas(0)
    stage.wait_no_workers()
    assert stage.ledger().started == JOBS, "nothing ran again"
    assert stage.kubectl.condition("jwp", POOL, "ScaledToZero")["status"] == "True"
    depth = queue_status(stage)["depth"]
    assert (depth["ready"], depth["inFlight"], depth["deadLettered"]) == (0, 0, 0)


def test_what_is_made_is_told_bound_by_reference_alone_and_gone_with_the_jobs_where_that_is_wanted(
    stage: Stage,
) -> None:
    stage.apply_sqs_queue(deletionPolicy="Delete")
    stage.apply_pool(replicas=1, environment=[LEDGER_DSN])
    stage.wait_ready(1)
    stage.enqueue_into_sqs(5, seconds=0)
    stage.wait_finished(5)
    stage.kubectl.run("scale", f"jwp/{POOL}", "--replicas=0")
    stage.wait_no_workers()
    stage.enqueue_into_sqs(7, seconds=0)

    status = queue_status(stage)
    assert status["awsSqs"]["queueUrl"].startswith("http://elasticmq:9324/")
    assert status["awsSqs"]["deadLetterQueueUrl"] != status["awsSqs"]["queueUrl"]
    binding = stage.kubectl.get("secret", status["binding"]["name"])
    assert binding["type"] == "servicebinding.io/sqs"
    shown = stage.kubectl.run("get", "jobq,jwp,deploy,rs,configmaps,events", "-o", "json")
    assert PASSWORD not in shown

    stage.kubectl.delete("jobqueue", QUEUE)

    eventually(
        lambda: [
            event["message"]
            for event in stage.kubectl.list("events")
            if event.get("reason") in ("Removed", "NotRemoved")
        ],
        until=lambda messages: any("with about 7 jobs" in message for message in messages),
        what="the event that tells how many jobs went",
    )
    assert json.loads(stage.kubectl.run("get", "jobq", "-o", "json"))["items"] == []
