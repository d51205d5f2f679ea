"""One test's namespace in the cluster: a PostgreSQL pod, queues and pools on it, and the ledger of what ran."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg

from headrace import new_job
from headrace.queues import from_url
from support.in_cluster import forwarded_postgres, job_queue, restricted_namespace, start_postgres, worker_pool
from support.kubectl import Kubectl, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

QUEUE = "work"
POOL = "workers"

_LEDGER_TABLE = """
CREATE TABLE public.runs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id text NOT NULL,
    attempt int NOT NULL,
    pod text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz
)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """What the jobs wrote down of themselves."""

    started: int
    finished: int
    finished_more_than_once: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A namespace with a PostgreSQL that this machine reaches through a forwarded port."""

    kubectl: Kubectl
    dsn: str

    def apply_queue(self, name: str = QUEUE, **spec: Any) -> None:
        """A JobQueue, waited for until it is ready."""
        self.kubectl.apply(job_queue(name, **spec))
        self.kubectl.run("wait", f"jobqueue/{name}", "--for=condition=Ready", "--timeout=60s", timeout_seconds=70)

    def apply_pool(self, name: str = POOL, *, queue: str = QUEUE, **spec: Any) -> None:
        """A JobWorkerPool that runs the ledger app from a ConfigMap, beside the bundled image."""
        app = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "ledger"},
            "data": {"ledger.py": Path(__file__).with_name("ledger.py").read_text()},
        }
        template = {
            "spec": {
                "volumes": [{"name": "app", "configMap": {"name": "ledger"}}],
                "containers": [
                    {
                        "name": "worker",
                        "env": [{"name": "PYTHONPATH", "value": "/app"}],
                        "volumeMounts": [{"name": "app", "mountPath": "/app"}],
                        # Fifty millicores, so that a pool of ten fits on a machine of two cores.
                        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
                    }
                ],
            }
        }
        pool = worker_pool(name, queue, handler={"python": {"app": "ledger:app"}}, template=template, **spec)
        self.kubectl.apply(app, pool)

    def enqueue(self, count: int, *, seconds: float, queue: str = QUEUE) -> list[str]:
        """Enqueue jobs that sleep so long, from this machine."""

        async def enqueue() -> list[str]:
            async with from_url(self.dsn, queue) as opened:
                return await opened.enqueue([new_job("work", {"seconds": seconds}) for _ in range(count)])

        return asyncio.run(enqueue())

    def sql(self, query: str, *arguments: object) -> list[Any]:
        """Ask the database."""

        async def ask() -> list[Any]:
            connection = await asyncpg.connect(self.dsn)
            try:
                return list(await connection.fetch(query, *arguments))
            finally:
                await connection.close()

        return asyncio.run(ask())

    def ledger(self) -> Ledger:
        """Count the runs."""
        [row] = self.sql(
            """
            SELECT count(DISTINCT job_id) AS started,
                   count(DISTINCT job_id) FILTER (WHERE finished > 0) AS finished,
                   count(*) FILTER (WHERE finished > 1) AS finished_more_than_once
            FROM (SELECT job_id, count(finished_at) AS finished FROM public.runs GROUP BY job_id) AS jobs
            """
        )
        return Ledger(**row)

    def pool(self, name: str = POOL) -> dict[str, Any]:
        """The JobWorkerPool."""
        return self.kubectl.get("jobworkerpool", name)

    def replicas(self, name: str = POOL) -> int:
        """How many workers the Deployment is asked for; 0 while there is none."""
        deployment = self.kubectl.find("deployment", name) or {}
        return int(deployment.get("spec", {}).get("replicas", 0))

    def worker_pods(self, name: str = POOL) -> list[dict[str, Any]]:
        """The pool's pods that are not on their way out."""
        pods = self.kubectl.list("pods", selector=f"headrace.dev/pool={name}")
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def wait_no_workers(self, name: str = POOL) -> None:
        """Wait until the last worker has ended; one on its way out may still take a job."""
        eventually(
            lambda: self.kubectl.list("pods", selector=f"headrace.dev/pool={name}"),
            until=lambda pods: not pods,
            what="no worker pods",
        )

    def wait_finished(self, count: int, *, within_seconds: float = 120) -> Ledger:
        """Wait until so many jobs have finished."""
        return eventually(
            self.ledger,
            until=lambda seen: seen.finished >= count,
            within_seconds=within_seconds,
            what=f"{count} finished jobs",
        )

    def wait_replicas(self, replicas: int, *, name: str = POOL, within_seconds: float = 120) -> None:
        """Wait until the Deployment is asked for so many."""
        eventually(
            lambda: self.replicas(name),
            until=lambda seen: seen == replicas,
            within_seconds=within_seconds,
            what=f"{replicas} replicas",
        )


@contextmanager
def stage(cluster: Kubectl) -> Iterator[Stage]:
    """Make a namespace with everything in it; it goes with the test."""
    name = f"e2e-{uuid.uuid4().hex[:8]}"
    kubectl = Kubectl(binary=cluster.binary, kubeconfig=cluster.kubeconfig, namespace=name)
    kubectl.apply(restricted_namespace(name))
    try:
        start_postgres(kubectl)
        with forwarded_postgres(kubectl) as dsn:
            made = Stage(kubectl=kubectl, dsn=dsn)
            made.sql(_LEDGER_TABLE)
            yield made
    finally:
        kubectl.delete("namespace", name, wait=False)
