"""The story: a cluster, the chart, Postgres, a queue and a pool; thousands of jobs; 0 → n → 0; the proof."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg
import yaml

from cluster import deploy
from cluster.errors import ClusterError
from cluster.places import BUILD, REPOSITORY
from cluster.progress import say, step
from demo.summary import Run, Summary, summarize
from demo.table import Scene, stage
from headrace.queues import from_url
from support.in_cluster import EXAMPLES, forwarded_postgres, start_postgres
from support.kubectl import Kubectl, KubectlError, eventually

if TYPE_CHECKING:
    from pathlib import Path

    from headrace.queues.base import Depth

NAME = "thumbnails"
"""Of the example, its namespace, its queue and its pool."""
EXAMPLE = EXAMPLES / NAME
IMAGE = "headrace/demo:dev"
RESULTS = BUILD / "demo"
PICTURES_KEPT = 60
# A kind node of two cores drains the queue in well under a minute; the rest is for a machine that is busy otherwise.
PATIENCE_SECONDS = 600.0
# An autoscaler looks at its target every 15 s.
AUTOSCALER_PATIENCE_SECONDS = 20.0

_RUNS = "SELECT job_id, enqueued_at, started_at, finished_at FROM public.thumbnails"
_PICTURES = "SELECT job_id, image FROM public.thumbnails ORDER BY finished_at LIMIT $1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """The demo's PostgreSQL, through a forwarded port."""

    dsn: str

    def fetch(self, query: str, *arguments: object) -> list[Any]:
        """Ask it."""

        async def ask() -> list[Any]:
            connection = await asyncpg.connect(self.dsn)
            try:
                return list(await connection.fetch(query, *arguments))
            finally:
                await connection.close()

        return asyncio.run(ask())

    def has_ledger(self) -> bool:
        """Whether a worker has come so far as to make its table."""
        return self.fetch("SELECT to_regclass('public.thumbnails')")[0][0] is not None

    def depth(self) -> Depth:
        """What the queue holds now; its JobQueue tells what it held some seconds ago."""

        async def count() -> Depth:
            async with from_url(self.dsn, NAME) as queue:
                return await queue.depth()

        return asyncio.run(count())


def main() -> int:
    """Tell the story; exit status 0 only if every job completed once and the pool is back at zero."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--jobs", type=int, default=3000, help="how many jobs to enqueue (default: %(default)s)")
    jobs: int = parser.parse_args().jobs
    # What an earlier run has left must not pass for what this one proves.
    shutil.rmtree(RESULTS, ignore_errors=True)
    if os.geteuid() != 0 and shutil.which("docker") is None:
        print("No container can run here: there is no Docker engine, and no root to start one.", file=sys.stderr)
        return 1
    try:
        summary = _tell(jobs)
    except (ClusterError, KubectlError, AssertionError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted; the cluster stays up: make cluster-down ends it", file=sys.stderr)
        return 130
    return _report(summary)


def _tell(jobs: int) -> Summary:
    access = deploy.deploy({IMAGE: EXAMPLE})
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
        database = Database(dsn=dsn)
        say(f"enqueue {jobs} jobs")
        kubectl.apply(_enqueue_job(jobs))
        peak = _watch(kubectl, database, jobs)
        runs = [Run(**row) for row in database.fetch(_RUNS)] if database.has_ledger() else []
        if runs:
            _keep_pictures(database)
    _wait_for_autoscaler(kubectl)
    print(kubectl.run("get", "jobq,jwp,hpa"))
    version = json.loads(cluster.run("version", "-o", "json"))["serverVersion"]["gitVersion"]
    return summarize(
        runs,
        cluster="kind",
        kubernetes_version=version,
        jobs_enqueued=jobs,
        peak_replicas=peak,
        final_replicas=_remaining(_status(kubectl)),
    )


def _watch(kubectl: Kubectl, database: Database, jobs: int) -> int:
    """Show the run until all is done and the pool is at zero; return the most workers that were ready at once."""
    begun = time.monotonic()
    peak = 0
    seen: list[tuple[float, int]] = []

    def look() -> Scene:
        nonlocal peak
        pool = _status(kubectl)
        depth = database.depth()
        elapsed, completed = time.monotonic() - begun, _completed(database)
        seen.append((elapsed, completed))
        past, earlier = seen[max(0, len(seen) - 6)]
        peak = max(peak, pool.get("readyReplicas", 0))
        return Scene(
            elapsed_seconds=elapsed,
            jobs_enqueued=jobs,
            jobs_completed=completed,
            jobs_per_second=(completed - earlier) / (elapsed - past) if elapsed > past else 0.0,
            ready=depth.ready,
            in_flight=depth.in_flight,
            desired_replicas=pool.get("desiredReplicas", 0),
            replicas=pool.get("replicas", 0),
            ready_replicas=pool.get("readyReplicas", 0),
            reason=pool.get("scaling", {}).get("reason", ""),
            message=pool.get("scaling", {}).get("message", ""),
        )

    with stage() as show:

        def look_and_show() -> Scene:
            scene = look()
            show(scene)
            return scene

        try:
            eventually(
                look_and_show,
                until=lambda scene: scene.jobs_completed >= jobs and scene.replicas == 0 and scene.ready_replicas == 0,
                within_seconds=PATIENCE_SECONDS,
                what="every job completed and the pool back at zero",
            )
        except AssertionError as late:
            # The summary says which promise was broken, and by how much.
            say(str(late))
    return peak


def _wait_for_autoscaler(kubectl: Kubectl) -> None:
    """Let it see the zero, or the last picture shows workers that are gone."""
    with suppress(AssertionError):
        eventually(
            lambda: kubectl.get("hpa", NAME).get("status", {}).get("currentReplicas", 0),
            until=lambda replicas: replicas == 0,
            within_seconds=AUTOSCALER_PATIENCE_SECONDS,
        )


def _status(kubectl: Kubectl) -> dict[str, Any]:
    status: dict[str, Any] = kubectl.get("jobworkerpool", NAME).get("status", {})
    return status


def _remaining(status: dict[str, Any]) -> int:
    """How many workers there are, asked for or still there."""
    return max(int(status.get(field, 0)) for field in ("replicas", "readyReplicas"))


def _completed(database: Database) -> int:
    if not database.has_ledger():
        return 0
    return int(database.fetch("SELECT count(DISTINCT job_id) FROM public.thumbnails")[0][0])


def _enqueue_job(jobs: int) -> dict[str, Any]:
    """The example's Job, with the number of jobs asked for."""
    job: dict[str, Any] = yaml.safe_load((EXAMPLE / "enqueue.yaml").read_text())
    arguments = job["spec"]["template"]["spec"]["containers"][0]["args"]
    arguments[arguments.index("--count") + 1] = str(jobs)
    return job


def _keep_pictures(database: Database) -> None:
    folder = RESULTS / "thumbnails"
    folder.mkdir(parents=True)
    for job_id, image in database.fetch(_PICTURES, PICTURES_KEPT):
        (folder / f"{job_id}.png").write_bytes(image)


def _report(summary: Summary) -> int:
    RESULTS.mkdir(parents=True, exist_ok=True)
    written = RESULTS / "summary.json"
    written.write_text(json.dumps(summary.as_json(), indent=2) + "\n")
    for name, value in summary.as_json().items():
        print(f"{name.replace('_', ' '):20} {value}")
    kept = min(PICTURES_KEPT, summary.jobs_completed)
    print(f"\n{_relative(RESULTS / 'thumbnails')} has {kept} of the pictures, {_relative(written)} the summary.")
    for failure in summary.failures:
        print(f"demo: {failure}", file=sys.stderr)
    return 1 if summary.failures else 0


def _relative(path: Path) -> Path:
    return path.relative_to(REPOSITORY)
