"""What tests and the demo put into a cluster."""

from __future__ import annotations

import base64
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.kubectl import Kubectl, Manifest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
POSTGRES = EXAMPLES / "thumbnails" / "postgres.yaml"
"""A PostgreSQL pod with its Service, and the Secret `postgres` with the key `dsn`."""
ELASTICMQ = Path(__file__).resolve().parents[1] / "cluster" / "elasticmq" / "elasticmq.yaml"
"""A pod that speaks the protocol of SQS with its Service, and the Secret `sqs` with credentials."""
REDIS = Path(__file__).resolve().parents[1] / "cluster" / "redis" / "redis.yaml"
"""A Redis pod with its Service, and the Secret `redis` with the key `uri`."""


def restricted_namespace(name: str) -> Manifest:
    """A namespace that takes only pods of the restricted standard."""
    labels = {
        "pod-security.kubernetes.io/enforce": "restricted",
        "pod-security.kubernetes.io/enforce-version": "latest",
    }
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def job_queue(name: str, **spec: Any) -> Manifest:
    """A JobQueue on the namespace's PostgreSQL."""
    return {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "JobQueue",
        "metadata": {"name": name},
        "spec": {
            "provider": "Postgres",
            "postgres": {"connection": {"secretRef": {"name": "postgres", "key": "dsn"}}},
            **spec,
        },
    }


def sqs_queue(name: str, **spec: Any) -> Manifest:
    """A JobQueue on the namespace's ElasticMQ."""
    sqs = {
        "region": "eu-central-1",
        "endpointUrl": "http://elasticmq:9324",
        "credentials": {"secretRef": {"name": "sqs"}},
    }
    return {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "JobQueue",
        "metadata": {"name": name},
        "spec": {"provider": "AwsSqs", "awsSqs": sqs, **spec},
    }


def worker_pool(name: str, queue: str, **spec: Any) -> Manifest:
    """A JobWorkerPool on a queue, unless the spec names several."""
    queues = {} if "queueRefs" in spec else {"queueRef": {"name": queue}}
    return {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "JobWorkerPool",
        "metadata": {"name": name},
        "spec": {**queues, **spec},
    }


def start_postgres(kubectl: Kubectl) -> None:
    """Put PostgreSQL into the namespace and wait until it takes connections."""
    kubectl.apply(file=POSTGRES)
    kubectl.run("rollout", "status", "deployment/postgres", "--timeout=120s", timeout_seconds=130)


def start_redis(kubectl: Kubectl) -> None:
    """Put Redis into the namespace and wait until it takes connections."""
    kubectl.apply(file=REDIS)
    kubectl.run("rollout", "status", "deployment/redis", "--timeout=120s", timeout_seconds=130)


def start_elasticmq(kubectl: Kubectl) -> None:
    """Put ElasticMQ into the namespace and wait until it takes connections."""
    kubectl.apply(file=ELASTICMQ)
    kubectl.run("rollout", "status", "deployment/elasticmq", "--timeout=120s", timeout_seconds=130)


@contextmanager
def forwarded_postgres(kubectl: Kubectl) -> Iterator[str]:
    """Yield a DSN by which this machine reaches the namespace's PostgreSQL."""
    encoded = kubectl.get("secret", "postgres")["data"]["dsn"]
    with kubectl.port_forward("service/postgres", 5432) as port:
        yield base64.b64decode(encoded).decode().replace("@postgres:5432", f"@127.0.0.1:{port}")
