"""What tests and the demo put into a cluster: restricted namespaces and a PostgreSQL pod."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from support.kubectl import Manifest

POSTGRES_IMAGE = "headrace/postgres:dev"
POSTGRES_PASSWORD = "only-for-tests"


def restricted_namespace(name: str) -> Manifest:
    """A namespace that takes only pods of the restricted standard."""
    labels = {
        "pod-security.kubernetes.io/enforce": "restricted",
        "pod-security.kubernetes.io/enforce-version": "latest",
    }
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def secret(name: str, **data: str) -> Manifest:
    """An Opaque Secret."""
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": encoded}


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


def worker_pool(name: str, queue: str, **spec: Any) -> Manifest:
    """A JobWorkerPool on a queue."""
    return {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "JobWorkerPool",
        "metadata": {"name": name},
        "spec": {"queueRef": {"name": queue}, **spec},
    }


def postgres(*, user: str = "headrace", database: str = "headrace") -> list[Manifest]:
    """A PostgreSQL pod that lives as long as its namespace, and its Service."""
    labels = {"app.kubernetes.io/name": "postgres"}
    container = {
        "name": "postgres",
        "image": POSTGRES_IMAGE,
        "env": [
            {"name": "POSTGRES_USER", "value": user},
            {"name": "POSTGRES_DB", "value": database},
            {"name": "POSTGRES_PASSWORD_FILE", "value": "/secrets/password"},
        ],
        "ports": [{"name": "postgres", "containerPort": 5432}],
        "readinessProbe": {"tcpSocket": {"port": "postgres"}, "periodSeconds": 1},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [
            {"name": "data", "mountPath": "/var/lib/postgresql/data"},
            {"name": "run", "mountPath": "/var/run/postgresql"},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "password", "mountPath": "/secrets", "readOnly": True},
        ],
    }
    pod = {
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "fsGroup": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [
            {"name": "data", "emptyDir": {}},
            {"name": "run", "emptyDir": {}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "password", "secret": {"secretName": "postgres-password"}},
        ],
    }
    return [
        secret("postgres-password", password=POSTGRES_PASSWORD),
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "postgres", "labels": labels},
            "spec": {
                "selector": {"matchLabels": labels},
                "strategy": {"type": "Recreate"},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "postgres", "labels": labels},
            "spec": {"selector": labels, "ports": [{"name": "postgres", "port": 5432, "targetPort": "postgres"}]},
        },
    ]
