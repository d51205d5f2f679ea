"""A pool follows its queue: from zero, up, and back, whoever decides; and a number set by hand is respected."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from support.kubectl import eventually
from support.stage import POOL, QUEUE

if TYPE_CHECKING:
    from support.stage import Stage

JOBS = 300


def autoscaling(mode: str) -> dict[str, object]:
    return {
        "mode": mode,
        "minReplicas": 0,
        "maxReplicas": 5,
        "target": {"queueDepthPerReplica": 20},
        "sampleIntervalSeconds": 1,
        "scaleToZeroAfterSeconds": 5,
    }


@pytest.mark.parametrize("mode", ["HPA", "Direct"])
def test_a_pool_goes_from_zero_up_and_back_with_every_job_run_once(stage: Stage, mode: str) -> None:
    stage.apply_queue()
    stage.apply_pool(autoscaling=autoscaling(mode), maxConcurrentJobs=4)
    stage.kubectl.run("wait", f"jwp/{POOL}", "--for=condition=Ready", "--timeout=60s", timeout_seconds=70)
    assert stage.replicas() == 0
    assert stage.worker_pods() == []

    stage.enqueue(JOBS, seconds=0.5)

    stage.wait_replicas(5)
    seen = stage.wait_finished(JOBS)
    assert (seen.finished, seen.finished_more_than_once) == (JOBS, 0)
    stage.wait_replicas(0)
    stage.wait_no_workers()
    assert stage.kubectl.condition("jwp", POOL, "ScaledToZero")["status"] == "True"
    assert stage.kubectl.condition("jwp", POOL, "Ready")["status"] == "True"
    hpa = stage.kubectl.find("hpa", POOL)
    assert (hpa is not None) == (mode == "HPA")


def test_a_zero_set_by_hand_stays_until_a_hand_ends_it(stage: Stage) -> None:
    stage.apply_queue()
    stage.apply_pool(autoscaling=autoscaling("Direct") | {"minReplicas": 1})
    stage.wait_replicas(1)

    stage.kubectl.run("scale", f"jwp/{POOL}", "--replicas=0")
    stage.wait_replicas(0)
    stage.wait_no_workers()
    stage.enqueue(50, seconds=0.01)
    eventually(
        lambda: stage.kubectl.get("jobqueue", "work").get("status", {}).get("depth", {}).get("ready"),
        until=lambda ready: ready == 50,
        what="the operator to know of 50 ready jobs",
    )

    assert stage.replicas() == 0
    assert stage.kubectl.condition("jwp", POOL, "ScalingActive")["status"] == "False"

    stage.kubectl.run("scale", f"jwp/{POOL}", "--replicas=1")
    stage.wait_finished(50)


def test_without_autoscaling_the_number_is_the_users(stage: Stage) -> None:
    stage.apply_queue()
    stage.apply_pool()
    stage.wait_replicas(1)

    stage.kubectl.run("scale", f"jwp/{POOL}", "--replicas=2")

    stage.wait_replicas(2)
    stage.kubectl.run("rollout", "status", f"deployment/{POOL}", "--timeout=60s", timeout_seconds=70)


def test_get_reads_well(stage: Stage) -> None:
    stage.apply_queue()
    stage.apply_pool(autoscaling=autoscaling("HPA"))
    stage.kubectl.run("wait", f"jwp/{POOL}", "--for=condition=Ready", "--timeout=60s", timeout_seconds=70)

    queues, pools, autoscalers = stage.kubectl.run("get", "jobq,jwp,hpa").strip().split("\n\n")

    assert queues.split("\n")[0].split()[:3] == ["NAME", "PROVIDER", "READY"]
    assert queues.split("\n")[1].split()[:3] == ["jobqueue.headrace.dev/work", "Postgres", "True"]
    assert pools.split("\n")[0].split()[:5] == ["NAME", "QUEUE", "MODE", "DESIRED", "CURRENT"]
    assert pools.split("\n")[1].split()[:5] == [f"jobworkerpool.headrace.dev/{POOL}", "work", "HPA", "0", "0"]
    assert f"JobWorkerPool/{POOL}" in autoscalers


def test_a_paused_queue_wakes_no_worker_until_it_is_resumed(stage: Stage) -> None:
    stage.apply_queue()
    stage.apply_pool(autoscaling=autoscaling("Direct"), maxConcurrentJobs=20)
    stage.kubectl.run("wait", f"jwp/{POOL}", "--for=condition=Ready", "--timeout=60s", timeout_seconds=70)
    stage.kubectl.run("annotate", f"jobqueue/{QUEUE}", "headrace.dev/paused=true")
    eventually(
        lambda: stage.sql("SELECT paused FROM headrace.queues")[0]["paused"],
        what="the queue to be paused",
    )

    stage.enqueue(500, seconds=0.01)

    scaling = eventually(
        lambda: stage.pool().get("status", {}).get("scaling", {}),
        until=lambda scaling: scaling.get("signals", {}).get("ready") == 500,
        what="a decision on 500 ready jobs",
    )
    assert scaling["reason"] == "QueuePaused"
    assert (stage.replicas(), stage.worker_pods(), stage.ledger().started) == (0, [], 0)

    stage.kubectl.run("annotate", f"jobqueue/{QUEUE}", "headrace.dev/paused-")
    assert stage.wait_finished(500).finished_more_than_once == 0
    stage.wait_replicas(0)


def test_a_pool_that_is_restored_without_its_status_wakes_for_the_jobs_that_wait(stage: Stage) -> None:
    stage.apply_queue()
    stage.apply_pool(autoscaling=autoscaling("Direct"), maxConcurrentJobs=20)
    eventually(
        lambda: stage.kubectl.condition("jwp", POOL, "ScaledToZero").get("status"),
        until=lambda status: status == "True",
        what="the pool at a zero of the operator's",
    )
    pool = stage.pool()
    stage.kubectl.delete("jobworkerpool", POOL)
    eventually(lambda: stage.kubectl.find("deployment", POOL), until=lambda found: found is None, what="no Deployment")
    stage.enqueue(500, seconds=0.01)

    # As tools do that make backups, or move objects to another cluster: what the API server sets is left out.
    kept = {name: value for name, value in pool["metadata"].items() if name in ("name", "labels", "annotations")}
    restored = {"apiVersion": pool["apiVersion"], "kind": pool["kind"], "metadata": kept, "spec": pool["spec"]}
    assert restored["spec"]["replicas"] == 0
    stage.kubectl.run("create", "-f", "-", stdin=json.dumps(restored))

    assert stage.wait_finished(500).finished_more_than_once == 0
    stage.wait_replicas(0)
