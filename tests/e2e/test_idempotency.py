"""Keys in a Redis of the cluster: jobs of one key run once, whichever worker has them and whoever dies."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

from support.kubectl import KubectlError, eventually
from support.stage import POOL, REDIS

if TYPE_CHECKING:
    from support.stage import Stage

PASSWORD = "only-for-trying"
"""Of the PostgreSQL and the Redis that last for one test."""
# The worker is the one child of the init process, which no signal of its own container kills.
KILL_WORKER = """
import os, pathlib, signal
[worker] = pathlib.Path("/proc/1/task/1/children").read_text().split()
os.kill(int(worker), signal.SIGKILL)
"""


def test_jobs_of_one_key_run_once_whichever_worker_has_them(stage: Stage) -> None:
    stage.apply_queue()
    stage.start_redis()
    stage.apply_pool(replicas=2, maxConcurrentJobs=2, idempotency=REDIS)
    stage.wait_ready(2)
    keys = [f"order-{number}" for number in range(20)]

    # One worker alone would need twice as long as the other looks for jobs at the latest.
    jobs = dict(zip(stage.enqueue_keys(keys * 3, seconds=1), keys * 3, strict=True))

    stage.wait_empty()
    runs = stage.sql("SELECT job_id, pod FROM public.runs WHERE finished_at IS NOT NULL")
    assert Counter(jobs[run["job_id"]] for run in runs) == Counter(keys)
    assert len({run["pod"] for run in runs}) == 2


def test_a_worker_killed_in_mid_job_leaves_its_key_to_the_next_run(stage: Stage) -> None:
    stage.apply_queue()
    stage.start_redis()
    stage.apply_pool(replicas=2, maxConcurrentJobs=1, idempotency=REDIS)
    stage.wait_ready(2)
    stage.enqueue_keys(["order-17"], seconds=5)
    [run] = eventually(lambda: stage.sql("SELECT pod FROM public.runs"), what="the job to start")

    # The container ends with its worker, mostly before the word that it was killed comes back.
    with suppress(KubectlError):
        stage.kubectl.run("exec", run["pod"], "--", "python3", "-c", KILL_WORKER)

    stage.wait_finished(1)
    stage.wait_empty()
    runs = stage.sql("SELECT attempt, finished_at FROM public.runs ORDER BY id")
    assert [(run["attempt"], run["finished_at"] is not None) for run in runs] == [(1, False), (1, True)]
    key = f"headrace:idempotency:{stage.kubectl.namespace}:work:order-17"
    assert stage.redis("get", key).startswith("finished ")

    stage.enqueue_keys(["order-17"], seconds=5)
    stage.wait_empty()
    assert stage.sql("SELECT count(*) FROM public.runs") == [(2,)]


def test_a_pool_says_that_its_redis_has_no_secret_and_heals_when_it_has(stage: Stage) -> None:
    stage.apply_queue()
    stage.apply_pool(idempotency=REDIS)
    ready = eventually(
        lambda: stage.kubectl.condition("jwp", POOL, "Ready"),
        until=lambda condition: condition.get("reason") == "SecretNotFound",
        what="the missing Secret to be said",
    )
    assert "redis" in ready["message"]

    stage.start_redis()

    stage.kubectl.run("wait", f"jwp/{POOL}", "--for=condition=Ready", "--timeout=60s", timeout_seconds=70)
    stage.enqueue_keys(["order-17"], seconds=0)
    stage.wait_finished(1)
    [pod] = stage.wait_ready(1)
    shown = stage.kubectl.run("exec", pod["metadata"]["name"], "--", "cat", "/bindings/redis/type")
    assert shown == "redis"


def test_no_password_is_anywhere_but_in_secrets(stage: Stage) -> None:
    stage.apply_queue()
    stage.start_redis()
    stage.apply_pool(idempotency=REDIS)
    stage.enqueue_keys(["order-17"], seconds=0)
    stage.wait_finished(1)
    [pod] = stage.wait_ready(1)
    name = pod["metadata"]["name"]

    objects = stage.kubectl.run("get", "jobq,jwp,deploy,rs,pods,configmaps,events", "-o", "json")
    said = stage.kubectl.run("logs", name)
    environment = stage.kubectl.run("exec", name, "--", "cat", "/proc/1/environ")

    kinds = {item["kind"] for item in json.loads(objects)["items"]}
    assert {"JobQueue", "JobWorkerPool", "Deployment", "Pod", "Event"} <= kinds
    assert "started" in said
    assert "BACKGROUND_JOBS__REDIS__MODE" in environment
    assert PASSWORD not in objects + said + environment
