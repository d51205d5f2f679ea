"""One test's namespace in the cluster: a PostgreSQL pod, queues and pools on it, and the ledger of what ran."""

from __future__ import annotations

import asyncio
import base64
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg

from headrace import new_job
from headrace.queues import from_url
from support.in_cluster import (
    forwarded_postgres,
    job_queue,
    restricted_namespace,
    sqs_queue,
    start_elasticmq,
    start_postgres,
    start_redis,
    worker_pool,
)
from support.kubectl import Kubectl, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from headrace import NewJob

QUEUE = "work"
POOL = "workers"
REDIS = {"redis": {"secretRef": {"name": "redis", "key": "uri"}}}
"""A pool's idempotency, by the Redis that `Stage.start_redis` starts."""

_APP = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "ledger"},
    "data": {"ledger.py": Path(__file__).with_name("ledger.py").read_text()},
}
LEDGER_DSN = {"name": "LEDGER_DSN", "valueFrom": {"secretKeyRef": {"name": "postgres", "key": "dsn"}}}
"""For a pool whose queue is in no database: where the ledger is."""
# Fifty millicores, so that a pool of ten fits on a machine of two cores.
_RESOURCES = {"requests": {"cpu": "50m", "memory": "64Mi"}}

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

    def apply_sqs_queue(self, name: str = QUEUE, **spec: Any) -> None:
        """A JobQueue on an ElasticMQ of the namespace, waited for until it is ready."""
        start_elasticmq(self.kubectl)
        self.kubectl.apply(sqs_queue(name, **spec))
        self.kubectl.run("wait", f"jobqueue/{name}", "--for=condition=Ready", "--timeout=60s", timeout_seconds=70)

    def enqueue_into_sqs(self, count: int, *, seconds: float, queue: str = QUEUE) -> list[str]:
        """As `enqueue`, into a queue of `apply_sqs_queue`."""
        place = self.kubectl.get("jobqueue", queue)["status"]["awsSqs"]["queueUrl"]
        path = urlsplit(place).path
        with self.kubectl.port_forward("service/elasticmq", 9324) as port:
            url = f"sqs+http://127.0.0.1:{port}{path}?region=eu-central-1"
            return _enqueued(_jobs(count, seconds), url, queue, access_key_id="any", secret_access_key="any")

    def apply_pool(
        self, name: str = POOL, *, queue: str = QUEUE, environment: Sequence[Mapping[str, Any]] = (), **spec: Any
    ) -> None:
        """A JobWorkerPool that runs the ledger app from a ConfigMap, beside the bundled image."""
        template = {
            "spec": {
                "volumes": [{"name": "app", "configMap": {"name": "ledger"}}],
                "containers": [
                    {
                        "name": "worker",
                        "env": [{"name": "PYTHONPATH", "value": "/app"}, *environment],
                        "volumeMounts": [{"name": "app", "mountPath": "/app"}],
                        "resources": _RESOURCES,
                    }
                ],
            }
        }
        pool = worker_pool(name, queue, handler={"python": {"app": "ledger:app"}}, template=template, **spec)
        self.kubectl.apply(_APP, pool)

    def apply_http_pool(self, name: str = POOL, **spec: Any) -> None:
        """A JobWorkerPool that runs the ledger app as a server beside its worker."""
        server = {
            "name": "server",
            "image": "headrace/worker:dev",
            "command": ["dumb-init", "--single-child", "--", "python3", "/app/ledger.py"],
            "env": [
                {"name": "HEADRACE_WORKER_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "SERVICE_BINDING_ROOT", "value": "/bindings"},
            ],
            "startupProbe": {"httpGet": {"path": "/healthz", "port": 8000}, "periodSeconds": 1, "failureThreshold": 60},
            "resources": _RESOURCES,
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [
                {"name": "app", "mountPath": "/app"},
                {"name": "binding", "mountPath": "/bindings/queue", "readOnly": True},
            ],
        }
        template = {"spec": {"volumes": [{"name": "app", "configMap": {"name": "ledger"}}], "containers": [server]}}
        handler = {"http": {"url": "http://127.0.0.1:8000/jobs"}}
        self.kubectl.apply(_APP, worker_pool(name, QUEUE, handler=handler, template=template, **spec))

    def start_redis(self) -> None:
        """Put a Redis into the namespace and wait until it takes connections."""
        start_redis(self.kubectl)

    def redis(self, *words: str) -> str:
        """Ask that Redis."""
        uri = base64.b64decode(self.kubectl.get("secret", "redis")["data"]["uri"]).decode()
        asking = ("exec", "deployment/redis", "--", "redis-cli", "--no-auth-warning", "-u", uri)
        return self.kubectl.run(*asking, *words).strip()

    def enqueue(self, count: int, *, seconds: float, queue: str = QUEUE) -> list[str]:
        """Enqueue jobs that sleep so long, from this machine."""
        return _enqueued(_jobs(count, seconds), self.dsn, queue)

    def enqueue_keys(self, keys: Sequence[str], *, seconds: float) -> list[str]:
        """Enqueue a job for each idempotency key."""
        jobs = [new_job("work", {"seconds": seconds}, idempotency_key=key) for key in keys]
        return _enqueued(jobs, self.dsn, QUEUE)

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

    def wait_ready(self, workers: int) -> list[dict[str, Any]]:
        """Wait until so many workers are ready; return their pods."""

        def ready() -> list[dict[str, Any]]:
            is_ready = {"type": "Ready", "status": "True"}.items()
            return [
                pod
                for pod in self.worker_pods()
                if any(is_ready <= condition.items() for condition in pod["status"].get("conditions", []))
            ]

        return eventually(ready, until=lambda pods: len(pods) == workers, what=f"{workers} ready workers")

    def wait_empty(self) -> None:
        """Wait until no job is left."""
        eventually(
            lambda: self.sql("SELECT count(*) FROM headrace.jobs")[0]["count"],
            until=lambda jobs: jobs == 0,
            what="an empty queue",
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


def _jobs(count: int, seconds: float) -> list[NewJob]:
    return [new_job("work", {"seconds": seconds}) for _ in range(count)]


def _enqueued(jobs: Sequence[NewJob], url: str, queue: str, **options: str) -> list[str]:
    async def enqueue() -> list[str]:
        async with from_url(url, queue, **options) as opened:
            return [enqueued.id for enqueued in await opened.enqueue(jobs)]

    return asyncio.run(enqueue())


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
