"""A pool and its queues, made into a Deployment that the restricted pod security standard takes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from headrace_operator.core.labels import pool_labels, pool_selector
from headrace_operator.core.model import BINDING_REVISION_ANNOTATION
from headrace_operator.core.spec import RollingUpdate
from headrace_operator.core.template import merge_pod_template

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headrace_operator.core.spec import Handler, Idempotency, JobQueue, JobWorkerPool, Redis

WORKER_CONTAINER = "worker"
METRICS_PORT = 8080

DRAIN_MARGIN_SECONDS = 30
"""What a worker has after its drain to hand back the rest and go, before it is killed."""

PROGRESS_DEADLINE_SECONDS = 600
"""How long replacing workers may get nowhere before it counts as failed, apart from what old workers' drains take."""

_BINDINGS = "/bindings"
# Below the bindings, where `headrace-operator dev` can put it too; without a type it is none.
_HANDLER_CA = f"{_BINDINGS}/handler-ca"

# What makes a directory a binding of this type is a file that says so, and an annotation can become one.
_REDIS_TYPE_ANNOTATION = "headrace.dev/redis-binding-type"


@dataclass(frozen=True, slots=True)
class WorkedQueue:
    """A queue that a pool's workers take their jobs from."""

    queue: JobQueue
    environment: Mapping[str, str]
    """What its provider tells workers (`core.provider.Provider.worker_environment`)."""
    revision: str | None = None
    """Of its binding: with another, workers start anew."""


def worker_deployment(
    pool: JobWorkerPool,
    queues: Sequence[WorkedQueue],
    *,
    replicas: int,
    image: str,
    image_pull_policy: str | None = None,
    secret_revisions: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """The Deployment of a pool, to be applied.

    Parameters
    ----------
    queues
        The pool's, in its order.
    image, image_pull_policy
        What runs where the pool names no image of its own.
    secret_revisions
        Of the Secrets that workers need beside their queues', by what they are for: with others, workers start anew.

    Raises
    ------
    RefusedError
        ``InvalidTemplate`` where the pool's template can't be merged.
    """
    name = pool.metadata.name
    labels = pool_labels(name, pool.spec.queue_names[0])
    ours = {
        "metadata": {"labels": labels, "annotations": _annotations(pool, queues, secret_revisions)},
        "spec": _pod(pool, queues, image=image, image_pull_policy=image_pull_policy),
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "namespace": pool.metadata.namespace,
            "name": name,
            "labels": labels,
            "ownerReferences": [pool.owner_reference],
        },
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": pool_selector(name)},
            "revisionHistoryLimit": 3,
            "strategy": _strategy(pool),
            # Where no successor fits beside an old worker, nothing happens while that one drains.
            "progressDeadlineSeconds": PROGRESS_DEADLINE_SECONDS + _grace_period_seconds(pool),
            "template": merge_pod_template(ours, pool.spec.template),
        },
    }


def _strategy(pool: JobWorkerPool) -> dict[str, Any]:
    strategy = pool.spec.strategy
    if strategy.type == "Recreate":
        return {"type": "Recreate"}
    rolling = strategy.rolling_update or RollingUpdate()
    return {
        "type": "RollingUpdate",
        # A Deployment's own default rounds a quarter of few workers down to none that may be missing: whatever one of
        # them holds, its successor would wait for it for ever.
        "rollingUpdate": {"maxSurge": rolling.max_surge, "maxUnavailable": rolling.max_unavailable},
    }


def _grace_period_seconds(pool: JobWorkerPool) -> int:
    return pool.spec.drain_timeout_seconds + DRAIN_MARGIN_SECONDS


def _annotations(
    pool: JobWorkerPool, queues: Sequence[WorkedQueue], secret_revisions: Mapping[str, str]
) -> dict[str, str]:
    annotations = {} if pool.spec.idempotency.used_redis is None else {_REDIS_TYPE_ANNOTATION: "redis"}
    # Workers read their Secrets when they start: a Deployment whose pods are to carry another revision replaces them.
    annotations |= {f"headrace.dev/{secret}-revision": revision for secret, revision in secret_revisions.items()}
    bindings = [worked.revision for worked in queues if worked.revision is not None]
    return annotations | ({BINDING_REVISION_ANNOTATION: ",".join(bindings)} if bindings else {})


def _pod(
    pool: JobWorkerPool, queues: Sequence[WorkedQueue], *, image: str, image_pull_policy: str | None
) -> dict[str, Any]:
    worker = _worker(pool, queues, image=image, image_pull_policy=image_pull_policy)
    volumes: list[dict[str, Any]] = [
        *(
            {"name": binding, "secret": {"secretName": worked.queue.binding_name}}
            for binding, worked in _bindings(queues).items()
        ),
        *_redis_volumes(pool.spec.idempotency.used_redis),
        {"name": "tmp", "emptyDir": {}},
    ]
    if pool.spec.handler.http is not None and (ca := pool.spec.handler.http.ca_secret_ref):
        items = [{"key": ca.key, "path": "ca.crt"}]
        volumes.append({"name": "handler-ca", "secret": {"secretName": ca.name, "items": items}})
        worker["volumeMounts"].append({"name": "handler-ca", "mountPath": _HANDLER_CA, "readOnly": True})
    return {
        # Workers don't talk to the Kubernetes API, and Services' variables would only cloud their environment.
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "terminationGracePeriodSeconds": _grace_period_seconds(pool),
        "containers": [worker],
        "volumes": volumes,
    }


def _worker(
    pool: JobWorkerPool, queues: Sequence[WorkedQueue], *, image: str, image_pull_policy: str | None
) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": WORKER_CONTAINER,
        "image": pool.spec.image or image,
        "args": ["worker"],
        "env": [
            *({"name": name, "value": value} for name, value in _environment(pool, queues).items()),
            {"name": "HEADRACE_WORKER_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ],
        "ports": [{"name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP"}],
        # A handler's imports may take their time; a worker that is up is asked more patiently.
        "startupProbe": _probe("/healthz", periodSeconds=1, failureThreshold=120),
        "livenessProbe": _probe("/healthz", periodSeconds=10, failureThreshold=3),
        "readinessProbe": _probe("/readyz", periodSeconds=2, failureThreshold=3),
        # The last words of a worker that can't start are what its pool's conditions show.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        # Enough to be scheduled sensibly; limits depend on the handlers, and are the template's to set.
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            *(
                {"name": binding, "mountPath": f"{_BINDINGS}/{binding.replace('binding', 'queue')}", "readOnly": True}
                for binding in _bindings(queues)
            ),
            *(
                {"name": volume["name"], "mountPath": f"{_BINDINGS}/redis", "readOnly": True}
                for volume in _redis_volumes(pool.spec.idempotency.used_redis)
            ),
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a volume of the pod's own
        ],
    }
    if pool.spec.image is None and image_pull_policy:
        container["imagePullPolicy"] = image_pull_policy
    return container


def _bindings(queues: Sequence[WorkedQueue]) -> dict[str, WorkedQueue]:
    """The volume of each queue's binding. A worker finds the binding of a queue by the queue's name in it."""
    if len(queues) == 1:
        return {"binding": queues[0]}
    return {f"binding-{number}": worked for number, worked in enumerate(queues)}


def _redis_volumes(redis: Redis | None) -> list[dict[str, Any]]:
    """A binding made of the Secrets themselves: without them no pod starts, and a new password comes by itself."""
    if redis is None:
        return []
    field = {"path": "type", "fieldRef": {"fieldPath": f"metadata.annotations['{_REDIS_TYPE_ANNOTATION}']"}}
    sources = [{"downwardAPI": {"items": [field]}}, _projected(redis.secret_ref.name, redis.secret_ref.key, "uri")]
    if redis.tls is not None:
        sources.append(_projected(redis.tls.ca_secret_ref.name, redis.tls.ca_secret_ref.key, "ca.crt"))
    return [{"name": "redis", "projected": {"sources": sources}}]


def _projected(secret: str, key: str, path: str) -> dict[str, Any]:
    return {"secret": {"name": secret, "items": [{"key": key, "path": path}]}}


def _probe(path: str, **timing: int) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": "metrics"}, "timeoutSeconds": 5, **timing}


def _environment(pool: JobWorkerPool, queues: Sequence[WorkedQueue]) -> dict[str, str]:
    """What is no secret. The queue's own settings are read from the queue, the connection from the binding."""
    spec = pool.spec
    settings: dict[str, str | float] = {
        **_queues(pool, queues),
        "MODE": "MessageQueue",
        "NAMESPACE": pool.metadata.namespace,
        "MAXCONCURRENTJOBS": spec.max_concurrent_jobs,
        "POLLINTERVALSECONDS": spec.poll_interval_seconds,
        "JOBTIMEOUTSECONDS": spec.job_timeout_seconds,
        "DRAINTIMEOUTSECONDS": spec.drain_timeout_seconds,
        "RETRY__INITIALDELAYSECONDS": spec.retry.initial_delay_seconds,
        "RETRY__MULTIPLIER": spec.retry.multiplier,
        "RETRY__MAXDELAYSECONDS": spec.retry.max_delay_seconds,
        "RETRY__JITTER": spec.retry.jitter,
        **_handler(spec.handler),
        **_idempotency(spec.idempotency),
    }
    return {
        **{f"BACKGROUND_JOBS__{name}": _text(value) for name, value in settings.items()},
        "HEADRACE_METRICS_ADDRESS": f"0.0.0.0:{METRICS_PORT}",
        "SERVICE_BINDING_ROOT": _BINDINGS,
    }


def _queues(pool: JobWorkerPool, queues: Sequence[WorkedQueue]) -> dict[str, str | float]:
    """One queue stands alone; several are a list, the most urgent first, and share the worker's slots."""
    settings = [
        {"PROVIDER": worked.queue.spec.provider, "QUEUENAME": worked.queue.metadata.name, **worked.environment}
        for worked in queues
    ]
    if len(settings) == 1:
        return dict(settings[0])
    numbered = {
        f"QUEUES__{number}__{name}": value for number, own in enumerate(settings) for name, value in own.items()
    }
    return {**numbered, "SHAREDSLOTS": pool.spec.max_concurrent_jobs}


def _handler(handler: Handler) -> dict[str, str]:
    if handler.python is not None:
        return {"HANDLER__PYTHON__APP": handler.python.app}
    if handler.http is not None:
        trusted = {"HANDLER__HTTP__CAFILE": f"{_HANDLER_CA}/ca.crt"} if handler.http.ca_secret_ref else {}
        return {"HANDLER__HTTP__URL": handler.http.url, **trusted}
    assert handler.exec is not None, "a handler is exactly one of the three"
    return {"HANDLER__EXEC__COMMAND": json.dumps(handler.exec.command)}


def _idempotency(idempotency: Idempotency) -> dict[str, str | float]:
    redis = idempotency.used_redis
    if redis is None:
        return {}
    settings: dict[str, str | float] = {
        "ENABLEIDEMPOTENCY": "true",
        "IDEMPOTENCYTTLDAYS": idempotency.ttl_days,
        "IDEMPOTENCY__ONUNAVAILABLE": idempotency.on_unavailable,
        "REDIS__MODE": redis.mode,
    }
    return settings | ({} if redis.sentinel_master is None else {"REDIS__SENTINELMASTER": redis.sentinel_master})


def _text(value: str | float) -> str:
    # A kubelet reads $(NAME) as a variable's value, and $$ as a dollar sign.
    if isinstance(value, str):
        return value.replace("$", "$$")
    # 5.0 is written as 5: a change of spelling would roll every pool.
    return f"{value:.15g}"
