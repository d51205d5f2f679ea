"""What dies is made good: workers in mid-job, the operator for a minute or in mid-run; nothing runs twice for it."""

from __future__ import annotations

import base64
import json
import secrets
import time
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from support.in_cluster import worker_pool
from support.kubectl import Kubectl, eventually
from support.stage import POOL, QUEUE

if TYPE_CHECKING:
    from support.stage import Stage

OPERATOR = "deployment/headrace-operator"


def operator_of(stage: Stage) -> Kubectl:
    kubectl = stage.kubectl
    return Kubectl(binary=kubectl.binary, kubeconfig=kubectl.kubeconfig, namespace="headrace-system")


def test_a_job_whose_worker_is_killed_is_completed_once_by_another(stage: Stage) -> None:
    stage.apply_queue()
    stage.apply_pool()
    [job] = stage.enqueue(1, seconds=8)
    eventually(stage.ledger, until=lambda seen: seen.started == 1, what="the job to start")
    [victim] = [pod["metadata"]["name"] for pod in stage.worker_pods()]

    stage.kubectl.run("delete", "pod", victim, "--grace-period=0", "--force")

    seen = stage.wait_finished(1)
    assert seen.finished_more_than_once == 0
    runs = stage.sql("SELECT attempt, pod, finished_at FROM public.runs WHERE job_id = $1 ORDER BY id", job)
    assert [run["finished_at"] is not None for run in runs] == [False, True]
    assert runs[0]["pod"] == victim
    assert runs[1]["pod"] != victim
    assert runs[1]["attempt"] == 1, "a lost worker charges no attempt"


def test_a_pool_holds_while_the_operator_is_gone_and_all_heals_when_it_is_back(stage: Stage) -> None:
    system = operator_of(stage)
    stage.apply_queue()
    stage.apply_pool(
        maxConcurrentJobs=2,
        autoscaling={
            "mode": "HPA",
            "minReplicas": 0,
            "maxReplicas": 3,
            "target": {"queueDepthPerReplica": 10},
            "sampleIntervalSeconds": 1,
            "scaleToZeroAfterSeconds": 5,
        },
    )
    stage.enqueue(60, seconds=1)
    stage.wait_replicas(3)

    system.run("scale", OPERATOR, "--replicas=0")
    try:
        eventually(lambda: system.list("pods"), until=lambda pods: pods == [], what="no operator")
        gone_at = time.monotonic()
        stage.wait_finished(60)
        stage.enqueue(20, seconds=0.1)
        stage.wait_finished(80)
        eventually(
            stage.replicas,
            until=lambda replicas: replicas == 3 and time.monotonic() - gone_at > 60,
            within_seconds=90,
            every_seconds=2,
            what="the pool to hold for a minute",
        )
    finally:
        system.run("scale", OPERATOR, "--replicas=1")
        system.run("rollout", "status", OPERATOR, "--timeout=90s", timeout_seconds=100)

    stage.wait_replicas(0)
    assert stage.ledger().finished_more_than_once == 0


def test_an_operator_restarted_in_mid_run_loses_nothing(stage: Stage) -> None:
    system = operator_of(stage)
    stage.apply_queue()
    stage.apply_pool(
        maxConcurrentJobs=4,
        autoscaling={
            "mode": "Direct",
            "minReplicas": 0,
            "maxReplicas": 3,
            "target": {"queueDepthPerReplica": 10},
            "sampleIntervalSeconds": 1,
            "scaleToZeroAfterSeconds": 5,
        },
    )
    stage.enqueue(120, seconds=1)
    stage.wait_replicas(3)

    system.run("delete", "pod", "--all", "--grace-period=0", "--force")
    system.run("rollout", "status", OPERATOR, "--timeout=90s", timeout_seconds=100)

    seen = stage.wait_finished(120)
    assert seen.finished_more_than_once == 0
    stage.wait_replicas(0)


def test_a_worker_drains_on_scale_down_and_its_job_is_not_run_again(stage: Stage) -> None:
    stage.apply_queue()
    stage.apply_pool(drainTimeoutSeconds=60)
    [job] = stage.enqueue(1, seconds=10)
    eventually(stage.ledger, until=lambda seen: seen.started == 1, what="the job to start")

    stage.kubectl.run("scale", f"jwp/{POOL}", "--replicas=0")

    stage.wait_finished(1)
    [run] = stage.sql("SELECT attempt, finished_at FROM public.runs WHERE job_id = $1", job)
    assert run["attempt"] == 1
    stage.wait_replicas(0)


def test_a_worker_told_to_stop_before_it_has_started_stops_at_once(stage: Stage) -> None:
    stage.apply_queue()
    # Python reads this file before anything of ours: the worker stays where it has no signal handlers yet.
    slow_start = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "slow"}}
    stage.kubectl.apply(slow_start | {"data": {"sitecustomize.py": "import time; time.sleep(600)"}})
    worker = {"name": "worker", "volumeMounts": [{"name": "slow", "mountPath": "/app"}]}
    volume = {"name": "slow", "configMap": {"name": "slow"}}
    stage.kubectl.apply(
        worker_pool(
            POOL,
            QUEUE,
            handler={"exec": {"command": ["/bin/true"]}},
            template={"spec": {"volumes": [volume], "containers": [worker]}},
        )
    )
    [pod] = eventually(stage.worker_pods, until=lambda pods: [pod["status"]["phase"] for pod in pods] == ["Running"])

    stage.kubectl.run("scale", f"jwp/{POOL}", "--replicas=0")

    assert pod["spec"]["terminationGracePeriodSeconds"] == 330
    stage.wait_no_workers()


def test_workers_that_run_heal_by_themselves_after_a_password_was_rotated(stage: Stage) -> None:
    stage.apply_queue()
    stage.apply_pool(replicas=2)
    before = {pod["metadata"]["name"] for pod in stage.wait_ready(2)}
    secret = stage.kubectl.get("secret", "postgres")
    old = urlsplit(base64.b64decode(secret["data"]["dsn"]).decode())
    rotated = secrets.token_hex(16)

    def with_new_password(dsn: str) -> str:
        return dsn.replace(f":{old.password}@", f":{rotated}@", 1)

    # The role and the Secret; and every session ends, as at the next failover at the latest.
    stage.sql(f"ALTER ROLE CURRENT_USER PASSWORD '{rotated}'")
    stage = replace(stage, dsn=with_new_password(stage.dsn))
    stage.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = user AND pid <> pg_backend_pid()")
    patch = {"stringData": {"dsn": with_new_password(old.geturl())}}
    stage.kubectl.run("patch", "secret", "postgres", "--type=merge", f"--patch={json.dumps(patch)}")

    healed = eventually(
        lambda: {pod["metadata"]["name"] for pod in stage.wait_ready(2)},
        until=before.isdisjoint,
        within_seconds=180,
        what="two ready workers that know the new password",
    )
    assert len(healed) == 2
    stage.enqueue(20, seconds=0.01)
    assert stage.wait_finished(20).finished_more_than_once == 0
    stage.kubectl.run("wait", f"jwp/{POOL}", "--for=condition=Updated", "--timeout=60s", timeout_seconds=70)
    assert stage.kubectl.condition("jobqueue", QUEUE, "Ready")["status"] == "True"


def test_an_image_that_cannot_be_pulled_is_said_within_ten_seconds_and_heals(stage: Stage) -> None:
    stage.apply_queue()
    stage.apply_pool(image="registry.invalid/no/such:image")

    ready = eventually(
        lambda: stage.kubectl.condition("jwp", POOL, "Ready"),
        until=lambda condition: condition.get("reason") in {"ErrImagePull", "ImagePullBackOff"},
        within_seconds=10,
        what="a condition that names the image",
    )

    assert ready["status"] == "False"
    assert "registry.invalid/no/such:image" in ready["message"]

    stage.apply_pool()
    stage.kubectl.run("wait", f"jwp/{POOL}", "--for=condition=Ready", "--timeout=60s", timeout_seconds=70)
