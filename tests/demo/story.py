"""The story: a cluster, the chart, Postgres, a queue and a pool; thousands of jobs; 0 → n → 0; the proof.

Where no container can run, it is told without a cluster.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import yaml

from cluster import deploy, engine, images
from cluster.errors import ClusterError
from cluster.places import BUILD, REPOSITORY
from cluster.progress import say, step
from demo import laptop
from demo.ledger import Ledger
from demo.summary import Summary, summarize
from demo.watch import Pool, watch
from support.in_cluster import EXAMPLES, forwarded_postgres, start_postgres
from support.kubectl import Kubectl, KubectlError, eventually

if TYPE_CHECKING:
    from pathlib import Path

NAME = "thumbnails"
"""Of the example, its namespace, its queue and its pool."""
EXAMPLE = EXAMPLES / NAME
IMAGE = "headrace/demo:dev"
RESULTS = BUILD / "demo"
PICTURES = RESULTS / "thumbnails"
CHOICE = "HEADRACE_DEMO_CLUSTER"
"""The variable that chooses the cluster, kind or none; unset: none where no container can run."""
PICTURES_KEPT = 60
# An autoscaler looks at its target every 15 s.
AUTOSCALER_PATIENCE_SECONDS = 20.0


def main() -> int:
    """Tell the story; exit status 0 only if every job completed once and the pool is back at zero."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--jobs", type=int, default=3000, help="how many jobs to enqueue (default: %(default)s)")
    jobs: int = parser.parse_args().jobs
    # What an earlier run has left must not pass for what this one proves.
    shutil.rmtree(RESULTS, ignore_errors=True)
    try:
        missing = _what_is_missing(os.environ.get(CHOICE, ""))
        if missing is None:
            summary = _tell(jobs)
        else:
            say(f"no Kubernetes: {missing}; the same story without one, by headrace-operator dev")
            summary = laptop.tell(EXAMPLE, NAME, jobs, pictures=PICTURES, pictures_kept=PICTURES_KEPT)
    except (ClusterError, KubectlError, AssertionError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted; a cluster stays up: make cluster-down ends it", file=sys.stderr)
        return 130
    return _report(summary)


def _what_is_missing(choice: str) -> str | None:
    """Why there can be no cluster; None where there can."""
    match choice:
        case "kind":
            return None
        case "none":
            return f"{CHOICE}=none asks for that"
        case "":
            try:
                engine.ensure()
            except ClusterError as error:
                return str(error).partition("\n")[0]
            return None
        case _:
            raise ClusterError(f"{CHOICE}={choice}: must be kind or none")


def _tell(jobs: int) -> Summary:
    access = deploy.deploy({IMAGE: EXAMPLE}, backends=[images.POSTGRES])
    cluster = Kubectl(binary=access.kubectl, kubeconfig=access.kubeconfig)
    kubectl = Kubectl(binary=access.kubectl, kubeconfig=access.kubeconfig, namespace=NAME)
    with step("set the stage"):
        cluster.delete("namespace", NAME)
        cluster.apply(file=EXAMPLE / "namespace.yaml")
        start_postgres(kubectl)
        for kind in ("jobqueue", "jobworkerpool"):
            kubectl.apply(file=EXAMPLE / f"{kind}.yaml")
            kubectl.run("wait", f"{kind}/{NAME}", "--for=condition=Ready", "--timeout=90s", timeout_seconds=100)
    print(kubectl.run("get", "jobq,jwp,hpa"))

    with forwarded_postgres(kubectl) as dsn:
        ledger = Ledger(dsn=dsn, queue=NAME)
        say(f"enqueue {jobs} jobs")
        kubectl.apply(_enqueue_job(jobs))
        peak = watch(lambda: _pool(kubectl), ledger, jobs)
        runs = ledger.runs()
        if runs:
            ledger.keep_pictures(PICTURES, PICTURES_KEPT)
    _wait_for_autoscaler(kubectl)
    print(kubectl.run("get", "jobq,jwp,hpa"))
    version = json.loads(cluster.run("version", "-o", "json"))["serverVersion"]["gitVersion"]
    return summarize(
        runs,
        cluster="kind",
        kubernetes_version=version,
        jobs_enqueued=jobs,
        peak_replicas=peak,
        final_replicas=_pool(kubectl).remaining,
    )


def _wait_for_autoscaler(kubectl: Kubectl) -> None:
    """Let it see the zero, or the last picture shows workers that are gone."""
    with suppress(AssertionError):
        eventually(
            lambda: kubectl.get("hpa", NAME).get("status", {}).get("currentReplicas", 0),
            until=lambda replicas: replicas == 0,
            within_seconds=AUTOSCALER_PATIENCE_SECONDS,
        )


def _pool(kubectl: Kubectl) -> Pool:
    status: dict[str, Any] = kubectl.get("jobworkerpool", NAME).get("status", {})
    scaling = status.get("scaling", {})
    return Pool(
        desired_replicas=status.get("desiredReplicas", 0),
        replicas=status.get("replicas", 0),
        ready_replicas=status.get("readyReplicas", 0),
        reason=scaling.get("reason", ""),
        message=scaling.get("message", ""),
    )


def _enqueue_job(jobs: int) -> dict[str, Any]:
    """The example's Job, with the number of jobs asked for."""
    job: dict[str, Any] = yaml.safe_load((EXAMPLE / "enqueue.yaml").read_text())
    arguments = job["spec"]["template"]["spec"]["containers"][0]["args"]
    arguments[arguments.index("--count") + 1] = str(jobs)
    return job


def _report(summary: Summary) -> int:
    RESULTS.mkdir(parents=True, exist_ok=True)
    written = RESULTS / "summary.json"
    written.write_text(json.dumps(summary.as_json(), indent=2) + "\n")
    for name, value in summary.as_json().items():
        print(f"{name.replace('_', ' '):20} {value}")
    kept = min(PICTURES_KEPT, summary.jobs_completed)
    print(f"\n{_relative(PICTURES)} has {kept} of the pictures, {_relative(written)} the summary.")
    for failure in summary.failures:
        print(f"demo: {failure}", file=sys.stderr)
    return 1 if summary.failures else 0


def _relative(path: Path) -> Path:
    return path.relative_to(REPOSITORY)
