"""What the API server itself refuses, and whether its message names the field and the way out.

No operator runs here: what is refused never reaches one.
"""

from __future__ import annotations

import copy
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from cluster.control_plane import ControlPlane
from cluster.errors import ClusterError

Manifest = dict[str, Any]

REMOVED = object()
"""In a change: take the field away."""

QUEUE: Manifest = {
    "apiVersion": "headrace.dev/v1alpha1",
    "kind": "JobQueue",
    "metadata": {"name": "thumbnails", "namespace": "default"},
    "spec": {"provider": "Postgres", "postgres": {"connection": {"secretRef": {"name": "pg", "key": "dsn"}}}},
}
POOL: Manifest = {
    "apiVersion": "headrace.dev/v1alpha1",
    "kind": "JobWorkerPool",
    "metadata": {"name": "thumbnails", "namespace": "default"},
    "spec": {
        "queueRef": {"name": "thumbnails"},
        "handler": {"python": {"app": "thumbnails:app"}},
        "autoscaling": {"minReplicas": 0, "maxReplicas": 5},
    },
}
SQS_QUEUE: Manifest = {
    "apiVersion": "headrace.dev/v1alpha1",
    "kind": "JobQueue",
    "metadata": {"name": "orders", "namespace": "default"},
    "spec": {"provider": "AwsSqs", "awsSqs": {"region": "eu-west-1"}},
}
SQS_URL = "https://sqs.eu-west-1.amazonaws.com/123456789012/orders"
PLACED_SQS_QUEUE: Manifest = {
    **SQS_QUEUE,
    "spec": {
        "provider": "AwsSqs",
        "awsSqs": {"region": "eu-west-1", "queueName": "orders", "endpointUrl": "https://vpce.example.com"},
    },
}
ADOPTING_SQS_QUEUE: Manifest = {**SQS_QUEUE, "spec": {"provider": "AwsSqs", "awsSqs": {"queueUrl": SQS_URL}}}
HTTP = {"url": "http://127.0.0.1:8000/jobs"}
PLURALS = {"JobQueue": "jobqueues", "JobWorkerPool": "jobworkerpools"}
DSN = "postgresql://user:hunter2@db/app"
REDIS_URL = "redis://user:hunter2@redis/0"
REDIS = {"secretRef": {"name": "redis"}}


@dataclass(frozen=True, kw_only=True)
class Bad:
    """One mistake: what was changed in a good object, and what the refusal must say."""

    mistake: str
    changes: Mapping[str, Any]
    field: str
    fix: str
    secrets: tuple[str, ...] = ()
    """What the refusal must not repeat: it ends in logs."""


BAD_QUEUES = [
    Bad(
        mistake="no provider",
        changes={"spec.provider": REMOVED},
        field="spec.provider",
        fix="Required value",
    ),
    Bad(
        mistake="an unknown provider",
        changes={"spec.provider": "Kafka"},
        field="spec.provider",
        fix='supported values: "Postgres", "AwsSqs"',
    ),
    Bad(
        mistake="a provider without its settings",
        changes={"spec.postgres": REMOVED},
        field="spec.postgres",
        fix="name the Secret that holds the DSN in spec.postgres.connection.secretRef",
    ),
    Bad(
        mistake="settings without a connection",
        changes={"spec.postgres": {"schema": "headrace"}},
        field="spec.postgres.connection",
        fix="Required value",
    ),
    Bad(
        mistake="a connection without a reference",
        changes={"spec.postgres.connection": {}},
        field="spec.postgres.connection.secretRef",
        fix="put the DSN into a Secret and name the Secret and its key",
    ),
    Bad(
        mistake="a plain DSN for the connection",
        changes={"spec.postgres.connection": DSN},
        field="spec.postgres.connection",
        fix="must be of type object",
        secrets=("hunter2",),
    ),
    Bad(
        mistake="a plain DSN inside the connection",
        changes={"spec.postgres.connection": {"dsn": DSN}},
        field="spec.postgres.connection.secretRef",
        fix="put the DSN into a Secret and name the Secret and its key",
        secrets=("hunter2",),
    ),
    Bad(
        mistake="a plain DSN beside the reference",
        changes={"spec.postgres.connection.uri": DSN},
        field="spec.postgres.connection",
        fix="must have at most 1 item",
        secrets=("hunter2",),
    ),
    Bad(
        mistake="a plain DSN for the reference",
        changes={"spec.postgres.connection.secretRef": DSN},
        field="spec.postgres.connection.secretRef",
        fix="must be of type object",
        secrets=("hunter2",),
    ),
    Bad(
        mistake="a plain DSN for the Secret's name",
        changes={"spec.postgres.connection.secretRef.name": DSN},
        field="spec.postgres.connection.secretRef.name",
        fix="put the DSN into a Secret and give that Secret's name",
        secrets=("hunter2",),
    ),
    Bad(
        mistake="a plain DSN for the Secret's key",
        changes={"spec.postgres.connection.secretRef.key": DSN},
        field="spec.postgres.connection.secretRef.key",
        fix="put the DSN into the Secret under a key and give that key",
        secrets=("hunter2",),
    ),
    *(
        Bad(
            mistake=f"{mistake} for the {field}",
            changes={f"spec.postgres.{field}": value},
            field=f"spec.postgres.{field}{place}",
            fix=fix.replace("FIELD", field),
            secrets=("hunter2",),
        )
        for field in ("adminConnection", "directConnection")
        for mistake, value, place, fix in (
            ("a plain DSN", DSN, "", "must be of type object"),
            ("nothing", {}, ".secretRef", "name the Secret and its key in spec.postgres.FIELD.secretRef"),
            ("a DSN by its own name", {"dsn": DSN}, ".secretRef", "spec.postgres.FIELD takes a reference, never a DSN"),
            ("a DSN for the reference", {"secretRef": DSN}, ".secretRef", "must be of type object"),
            (
                "a DSN beside the reference",
                {"secretRef": {"name": "pg-2"}, "uri": DSN},
                "",
                "must have at most 1 item",
            ),
            (
                "a DSN for the Secret's name",
                {"secretRef": {"name": DSN}},
                ".secretRef.name",
                "put the DSN into a Secret and give that Secret's name",
            ),
            (
                "a DSN for the Secret's key",
                {"secretRef": {"name": "pg-2", "key": DSN}},
                ".secretRef.key",
                "put the DSN into the Secret under a key and give that key",
            ),
        )
    ),
    Bad(
        mistake="a direct connection through the same pooler",
        changes={"spec.postgres.directConnection": {"secretRef": {"name": "pg"}}},
        field="spec.postgres.directConnection",
        fix="where there is no pooler, remove directConnection",
    ),
    Bad(
        mistake="a history of less than nothing",
        changes={"spec.postgres.completedRetentionSeconds": -1},
        field="spec.postgres.completedRetentionSeconds",
        fix="should be greater than or equal to 0",
    ),
    Bad(
        mistake="a history with a unit",
        changes={"spec.postgres.completedRetentionSeconds": "1h"},
        field="spec.postgres.completedRetentionSeconds",
        fix="must be of type integer",
    ),
    Bad(
        mistake="certificates in place of their reference",
        changes={"spec.postgres.tls": {"caSecretRef": {"name": "-----BEGIN CERTIFICATE-----"}}},
        field="spec.postgres.tls.caSecretRef.name",
        fix="put the CA certificates into a Secret and give that Secret's name",
    ),
    Bad(
        mistake="a schema that is no identifier",
        changes={"spec.postgres.schema": "9-lives"},
        field="spec.postgres.schema",
        fix="at most 63 lower-case letters, digits and underscores, no digit first",
    ),
    Bad(
        mistake="a schema with SQL in it",
        changes={"spec.postgres.schema": 'x"; drop schema public; --'},
        field="spec.postgres.schema",
        fix="must be a plain PostgreSQL identifier",
    ),
    Bad(
        mistake="a schema of PostgreSQL's own",
        changes={"spec.postgres.schema": "pg_catalog"},
        field="spec.postgres.schema",
        fix="not one of PostgreSQL's own",
    ),
    Bad(
        mistake="a schema name longer than PostgreSQL keeps",
        changes={"spec.postgres.schema": "s" * 64},
        field="spec.postgres.schema",
        fix="at most 63",
    ),
    Bad(
        mistake="a zero visibility timeout",
        changes={"spec.visibilityTimeoutSeconds": 0},
        field="spec.visibilityTimeoutSeconds",
        fix="should be greater than or equal to 1",
    ),
    Bad(
        mistake="a visibility timeout with a unit",
        changes={"spec.visibilityTimeoutSeconds": "30m"},
        field="spec.visibilityTimeoutSeconds",
        fix="must be of type integer",
    ),
    Bad(
        mistake="negative retries",
        changes={"spec.maxRetries": -1},
        field="spec.maxRetries",
        fix="should be greater than or equal to 0",
    ),
    Bad(
        mistake="retries without end",
        changes={"spec.maxRetries": 1_000_000},
        field="spec.maxRetries",
        fix="should be less than or equal to 999",
    ),
    Bad(
        mistake="no retention at all",
        changes={"spec.messageRetentionSeconds": 0},
        field="spec.messageRetentionSeconds",
        fix="should be greater than or equal to 1",
    ),
    Bad(
        mistake="a dead-letter queue that keeps nothing",
        changes={"spec.deadLetter": {"retentionDays": 0}},
        field="spec.deadLetter.retentionDays",
        fix="should be greater than or equal to 1",
    ),
    Bad(
        mistake="an unknown deletion policy",
        changes={"spec.deletionPolicy": "Orphan"},
        field="spec.deletionPolicy",
        fix='supported values: "Retain", "Delete"',
    ),
    Bad(
        mistake="a misspelt field",
        changes={"spec.maxRetry": 3},
        field="spec.maxRetry",
        fix="unknown field",
    ),
    Bad(
        mistake="a name too long for what is derived from it",
        changes={"metadata.name": "q" * 53},
        field="metadata.name",
        fix="choose a shorter or simpler name",
    ),
    Bad(
        mistake="a name with dots",
        changes={"metadata.name": "shop.thumbnails"},
        field="metadata.name",
        fix="lower-case letters, digits and hyphens",
    ),
]

BAD_POOLS = [
    Bad(
        mistake="min above max",
        changes={"spec.autoscaling": {"minReplicas": 6, "maxReplicas": 5}},
        field="spec.autoscaling.minReplicas",
        fix="must not be above autoscaling.maxReplicas: lower the one or raise the other",
    ),
    Bad(
        mistake="min above the default max",
        changes={"spec.autoscaling": {"minReplicas": 11}},
        field="spec.autoscaling.minReplicas",
        fix="lower the one or raise the other",
    ),
    Bad(
        mistake="a max of zero",
        changes={"spec.autoscaling.maxReplicas": 0},
        field="spec.autoscaling.maxReplicas",
        fix="should be greater than or equal to 1",
    ),
    Bad(
        mistake="two handlers",
        changes={"spec.handler.exec": {"command": ["/bin/render"]}},
        field="spec.handler",
        fix="both python and exec are given: remove one of them",
    ),
    Bad(
        mistake="an empty handler",
        changes={"spec.handler": {}},
        field="spec.handler",
        fix="none is given: add python.app, http.url or exec.command",
    ),
    *(
        Bad(
            mistake=f"the handlers {' and '.join(handlers)}",
            changes={"spec.handler": handlers},
            field="spec.handler",
            fix=fix,
        )
        for handlers, fix in (
            ({"python": {"app": "a:b"}, "http": HTTP}, "both python and http are given: remove one of them"),
            ({"http": HTTP, "exec": {"command": ["a"]}}, "both http and exec are given: remove one of them"),
            (
                {"python": {"app": "a:b"}, "http": HTTP, "exec": {"command": ["a"]}},
                "python, http and exec are given: keep one of them",
            ),
        )
    ),
    Bad(
        mistake="an http handler without its URL",
        changes={"spec.handler": {"http": {}}},
        field="spec.handler.http.url",
        fix="Required value",
    ),
    *(
        Bad(
            mistake=f"a URL {mistake}",
            changes={"spec.handler": {"http": {"url": url}}},
            field="spec.handler.http.url",
            fix=fix,
            secrets=("hunter2",),
        )
        for mistake, url, fix in (
            ("of nothing", "", "for example http://127.0.0.1:8000/jobs"),
            ("without a scheme", "127.0.0.1:8000/jobs", "http.url must be http:// or https:// with a host"),
            ("of another scheme", "ftp://server/jobs", "http.url must be http:// or https:// with a host"),
            ("without a host", "http:///jobs", "http.url must be http:// or https:// with a host"),
            ("with a password", "http://user:hunter2@server/jobs", "no user, password"),
            ("with a space", "http://server/my jobs", "space"),
            ("with a fragment", "http://server/#jobs", "or #"),
            ("of the worker's own port", "http://127.0.0.1:8080/jobs", "let the server listen on another port"),
            ("of that port by name", "http://localhost:8080", "let the server listen on another port"),
            ("of that port by IPv6", "http://[::1]:8080?a=b", "let the server listen on another port"),
        )
    ),
    Bad(
        mistake="an authority for a server without TLS",
        changes={"spec.handler": {"http": {**HTTP, "caSecretRef": {"name": "ca"}}}},
        field="spec.handler.http.caSecretRef",
        fix="begin http.url with https://, or remove caSecretRef",
    ),
    Bad(
        mistake="certificates in place of the authority's reference",
        changes={
            "spec.handler": {"http": {"url": "https://server", "caSecretRef": {"name": "-----BEGIN CERTIFICATE-----"}}}
        },
        field="spec.handler.http.caSecretRef.name",
        fix="put the CA certificates into a Secret and give that Secret's name",
    ),
    Bad(
        mistake="no handler",
        changes={"spec.handler": REMOVED},
        field="spec.handler",
        fix="Required value",
    ),
    Bad(
        mistake="a handler of a kind that isn't there",
        changes={"spec.handler": {"lambda": {"name": "x"}}},
        field="spec.handler.lambda",
        fix="unknown field",
    ),
    Bad(
        mistake="an app without its attribute",
        changes={"spec.handler.python.app": "thumbnails"},
        field="spec.handler.python.app",
        fix="must have the form module:attribute, for example shop.jobs:app",
    ),
    Bad(
        mistake="an app given as a file",
        changes={"spec.handler.python.app": "shop/jobs.py"},
        field="spec.handler.python.app",
        fix="must have the form module:attribute",
    ),
    Bad(
        mistake="an empty command",
        changes={"spec.handler": {"exec": {"command": []}}},
        field="spec.handler.exec.command",
        fix="must begin with the program to run",
    ),
    Bad(
        mistake="a command as one string",
        changes={"spec.handler": {"exec": {"command": "/bin/render --fast"}}},
        field="spec.handler.exec.command",
        fix="must be of type array",
    ),
    Bad(
        mistake="no queue",
        changes={"spec.queueRef": REMOVED},
        field="spec",
        fix="must have exactly one of queueRef (a queue) and queueRefs (several)",
    ),
    Bad(
        mistake="a queue and several",
        changes={"spec.queueRefs": [{"name": "orders"}]},
        field="spec",
        fix="must have exactly one of queueRef (a queue) and queueRefs (several)",
    ),
    Bad(
        mistake="no queue among several",
        changes={"spec.queueRef": REMOVED, "spec.queueRefs": []},
        field="spec.queueRefs",
        fix="should have at least 1 items",
    ),
    Bad(
        mistake="a queue named twice",
        changes={"spec.queueRef": REMOVED, "spec.queueRefs": [{"name": "orders"}, {"name": "orders"}]},
        field="spec.queueRefs",
        fix="must name each queue once",
    ),
    Bad(
        mistake="a queue of another namespace among several",
        changes={"spec.queueRef": REMOVED, "spec.queueRefs": [{"name": "shop/orders"}]},
        field="spec.queueRefs[0].name",
        fix="must be the name of a JobQueue in this namespace",
    ),
    Bad(
        mistake="a fallback beyond the most",
        changes={"spec.autoscaling.fallback": {"replicas": 1000}},
        field="spec.autoscaling.fallback.replicas",
        fix="must not be above autoscaling.maxReplicas",
    ),
    Bad(
        mistake="a queue of another namespace",
        changes={"spec.queueRef.name": "shop/thumbnails"},
        field="spec.queueRef.name",
        fix="must be the name of a JobQueue in this namespace",
    ),
    Bad(
        mistake="an image given as an address",
        changes={"spec.image": "https://registry.example.com/worker:1"},
        field="spec.image",
        fix="with no scheme and no spaces",
    ),
    Bad(
        mistake="negative replicas",
        changes={"spec.replicas": -1},
        field="spec.replicas",
        fix="should be greater than or equal to 0",
    ),
    Bad(
        mistake="an unknown autoscaling mode",
        changes={"spec.autoscaling.mode": "KEDA"},
        field="spec.autoscaling.mode",
        fix='supported values: "HPA", "Direct", "Off"',
    ),
    Bad(
        mistake="the mode Off without its quotes, which YAML reads as false",
        changes={"spec.autoscaling.mode": False},
        field="spec.autoscaling.mode",
        fix="must be of type string",
    ),
    Bad(
        mistake="no jobs for a replica",
        changes={"spec.autoscaling.target": {"queueDepthPerReplica": 0}},
        field="spec.autoscaling.target.queueDepthPerReplica",
        fix="should be greater than or equal to 1",
    ),
    Bad(
        mistake="waking with nothing to do",
        changes={"spec.autoscaling.activationDepth": 0},
        field="spec.autoscaling.activationDepth",
        fix="should be greater than or equal to 1",
    ),
    Bad(
        mistake="no concurrency",
        changes={"spec.maxConcurrentJobs": 0},
        field="spec.maxConcurrentJobs",
        fix="should be greater than or equal to 1",
    ),
    Bad(
        mistake="no time for a job",
        changes={"spec.jobTimeoutSeconds": 0},
        field="spec.jobTimeoutSeconds",
        fix="should be greater than or equal to 1",
    ),
    Bad(
        mistake="a first delay above the longest",
        changes={"spec.retry": {"initialDelaySeconds": 601}},
        field="spec.retry.initialDelaySeconds",
        fix="must not be above retry.maxDelaySeconds: lower the one or raise the other",
    ),
    Bad(
        mistake="delays that shrink",
        changes={"spec.retry": {"multiplier": 0.5}},
        field="spec.retry.multiplier",
        fix="should be greater than or equal to 1",
    ),
    Bad(
        mistake="more jitter than delay",
        changes={"spec.retry": {"jitter": 1.5}},
        field="spec.retry.jitter",
        fix="should be less than or equal to 1",
    ),
    Bad(
        mistake="idempotency without a Redis",
        changes={"spec.idempotency": {"enabled": True}},
        field="spec.idempotency.redis",
        fix="put its URL into a Secret and name the Secret and its key in idempotency.redis.secretRef",
    ),
    Bad(
        mistake="a plain URL for the Redis",
        changes={"spec.idempotency": {"redis": REDIS_URL}},
        field="spec.idempotency.redis",
        fix="must be of type object",
        secrets=("hunter2",),
    ),
    Bad(
        mistake="a Redis without a reference",
        changes={"spec.idempotency": {"redis": {"mode": "Cluster"}}},
        field="spec.idempotency.redis.secretRef",
        fix="takes a reference, never a URL: put the URL (redis://…) into a Secret",
    ),
    Bad(
        mistake="a plain URL inside the Redis",
        changes={"spec.idempotency": {"redis": {"url": REDIS_URL}}},
        field="spec.idempotency.redis",
        fix="unknown field",
        secrets=("hunter2",),
    ),
    Bad(
        mistake="a plain URL for the Secret's name",
        changes={"spec.idempotency": {"redis": {"secretRef": {"name": REDIS_URL}}}},
        field="spec.idempotency.redis.secretRef.name",
        fix="put the URL into a Secret and give that Secret's name",
        secrets=("hunter2",),
    ),
    Bad(
        mistake="a plain URL for the Secret's key",
        changes={"spec.idempotency": {"redis": {"secretRef": {"name": "redis", "key": REDIS_URL}}}},
        field="spec.idempotency.redis.secretRef.key",
        fix="put the URL into the Secret under a key and give that key",
        secrets=("hunter2",),
    ),
    Bad(
        mistake="Sentinels without the name that they watch",
        changes={"spec.idempotency": {"redis": {**REDIS, "mode": "Sentinel"}}},
        field="spec.idempotency.redis.sentinelMaster",
        fix="add sentinelMaster",
    ),
    Bad(
        mistake="a name for Sentinels that are not there",
        changes={"spec.idempotency": {"redis": {**REDIS, "sentinelMaster": "shop"}}},
        field="spec.idempotency.redis.sentinelMaster",
        fix="the mode is Standalone: remove it, or set the mode to Sentinel",
    ),
    Bad(
        mistake="an unknown mode of Redis",
        changes={"spec.idempotency": {"redis": {**REDIS, "mode": "Sharded"}}},
        field="spec.idempotency.redis.mode",
        fix='supported values: "Standalone", "Sentinel", "Cluster"',
    ),
    Bad(
        mistake="an unknown answer to a Redis that is away",
        changes={"spec.idempotency": {"redis": REDIS, "onUnavailable": "Fail"}},
        field="spec.idempotency.onUnavailable",
        fix='supported values: "Retry", "Proceed"',
    ),
    Bad(
        mistake="keys that are never remembered",
        changes={"spec.idempotency": {"redis": REDIS, "ttlDays": 0}},
        field="spec.idempotency.ttlDays",
        fix="should be greater than or equal to 1",
    ),
    Bad(
        mistake="a rolling update and none",
        changes={"spec.strategy": {"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}},
        field="spec.strategy.rollingUpdate",
        fix="remove it, or set strategy.type to RollingUpdate",
    ),
    Bad(
        mistake="no worker to be replaced ever",
        changes={"spec.strategy": {"rollingUpdate": {"maxSurge": "0%", "maxUnavailable": 0}}},
        field="spec.strategy.rollingUpdate.maxUnavailable",
        fix="raise one of them",
    ),
    Bad(
        mistake="a percentage of more than all",
        changes={"spec.strategy": {"rollingUpdate": {"maxUnavailable": "101%"}}},
        field="spec.strategy.rollingUpdate.maxUnavailable",
        fix="should match '^(100|[1-9]?[0-9])%$'",
    ),
    Bad(
        mistake="a grace period of one's own",
        changes={"spec.template": {"spec": {"terminationGracePeriodSeconds": 5}}},
        field="spec.template.spec.terminationGracePeriodSeconds",
        fix="set spec.drainTimeoutSeconds",
    ),
    Bad(
        mistake="the operator's own labels",
        changes={"spec.template": {"metadata": {"labels": {"headrace.dev/pool": "other"}}}},
        field="spec.template.metadata.labels",
        fix="the operator sets them: remove them",
    ),
    Bad(
        mistake="a container twice",
        changes={"spec.template": {"spec": {"containers": [{"name": "worker"}, {"name": "worker"}]}}},
        field="spec.template.spec.containers[1]",
        fix="Duplicate value",
    ),
    Bad(
        mistake="a pod's field one level too high",
        changes={"spec.template": {"nodeSelector": {"disk": "ssd"}}},
        field="spec.template.nodeSelector",
        fix="unknown field",
    ),
    Bad(
        mistake="a name too long for what is derived from it",
        changes={"metadata.name": "p" * 53},
        field="metadata.name",
        fix="choose a shorter or simpler name",
    ),
]

BAD_SQS_QUEUES = [
    Bad(
        mistake="SQS without its settings",
        changes={"spec.awsSqs": REMOVED},
        field="spec.awsSqs",
        fix="name the region in spec.awsSqs.region, or give the URL of a queue that exists in spec.awsSqs.queueUrl",
    ),
    Bad(
        mistake="two places for one queue",
        changes={"spec.postgres": {"connection": {"secretRef": {"name": "pg"}}}},
        field="spec.postgres",
        fix="is for provider Postgres: remove it",
    ),
    Bad(
        mistake="SQS where the queue is elsewhere",
        changes={"spec.provider": "Postgres", "spec.postgres": {"connection": {"secretRef": {"name": "pg"}}}},
        field="spec.awsSqs",
        fix="is for provider AwsSqs: remove it",
    ),
    Bad(
        mistake="neither a region nor a queue",
        changes={"spec.awsSqs": {}},
        field="spec.awsSqs.region",
        fix="give one such as eu-west-1, or the queueUrl of a queue that exists",
    ),
    Bad(
        mistake="a region by its place on the map",
        changes={"spec.awsSqs.region": "Ireland"},
        field="spec.awsSqs.region",
        fix="such as eu-west-1",
    ),
    Bad(
        mistake="a FIFO queue's name",
        changes={"spec.awsSqs.queueName": "orders.fifo"},
        field="spec.awsSqs.queueName",
        fix="leave .fifo out, and the queue is a standard queue",
    ),
    Bad(
        mistake="a name that leaves no room for the dead-letter queue's",
        changes={"spec.awsSqs.queueName": "o" * 76},
        field="spec.awsSqs.queueName",
        fix="at most 75 letters, digits, hyphens and underscores",
    ),
    Bad(
        mistake="a name that is longer than SQS has any",
        changes={"spec.awsSqs.queueName": "o" * 81},
        field="spec.awsSqs.queueName",
        fix="may not be more than 80",
    ),
    Bad(
        mistake="a name with a dot",
        changes={"spec.awsSqs.queueName": "orders.eu"},
        field="spec.awsSqs.queueName",
        fix="letters, digits, hyphens and underscores",
    ),
    Bad(
        mistake="a queue that is to be made and one that exists",
        changes={"spec.awsSqs.queueName": "orders", "spec.awsSqs.queueUrl": SQS_URL},
        field="spec.awsSqs.queueName",
        fix="remove one of them",
    ),
    Bad(
        mistake="a FIFO queue's URL",
        changes={"spec.awsSqs.queueUrl": f"{SQS_URL}.fifo"},
        field="spec.awsSqs.queueUrl",
        fix="give the URL of a standard queue",
    ),
    Bad(
        mistake="an ARN for the URL",
        changes={"spec.awsSqs.queueUrl": "arn:aws:sqs:eu-west-1:123456789012:orders"},
        field="spec.awsSqs.queueUrl",
        fix="https://HOST/ACCOUNT/NAME",
    ),
    Bad(
        mistake="a URL of another region",
        changes={"spec.awsSqs.region": "eu-central-1", "spec.awsSqs.queueUrl": SQS_URL},
        field="spec.awsSqs.region",
        fix="must be the one that queueUrl names",
    ),
    *(
        Bad(
            mistake=f"{field} for a queue that is not changed",
            changes={"spec.awsSqs.queueUrl": SQS_URL, f"spec.awsSqs.{field}": value},
            field=f"spec.awsSqs.{field}",
            fix="can't be given with queueUrl",
        )
        for field, value in (("encryption", {"kmsKeyId": "alias/mine"}), ("policy", "{}"), ("tags", {"team": "shop"}))
    ),
    Bad(
        mistake="a queue that was there before to be deleted",
        changes={"spec.awsSqs.queueUrl": SQS_URL, "spec.deletionPolicy": "Delete"},
        field="spec.deletionPolicy",
        fix="must be Retain with awsSqs.queueUrl",
    ),
    Bad(
        mistake="a dead-letter queue that exists for a queue that does not",
        changes={"spec.awsSqs.deadLetterQueueUrl": f"{SQS_URL}-dead"},
        field="spec.awsSqs.deadLetterQueueUrl",
        fix="give the URLs of both queues, or neither",
    ),
    Bad(
        mistake="a queue as its own dead-letter queue",
        changes={"spec.awsSqs.queueUrl": SQS_URL, "spec.awsSqs.deadLetterQueueUrl": SQS_URL},
        field="spec.awsSqs.deadLetterQueueUrl",
        fix="must be another queue's than queueUrl",
    ),
    *(
        Bad(
            mistake=f"a dead-letter queue in another {what}",
            changes={
                "spec.awsSqs.queueUrl": SQS_URL,
                "spec.awsSqs.deadLetterQueueUrl": f"{SQS_URL.replace(of_queue, other)}-dead",
            },
            field="spec.awsSqs.deadLetterQueueUrl",
            fix="of the same account and region as queueUrl",
        )
        for what, of_queue, other in (
            ("account", "123456789012", "210987654321"),
            ("region", "eu-west-1", "eu-central-1"),
        )
    ),
    Bad(
        mistake="a poll of more than 20 seconds",
        changes={"spec.awsSqs.waitTimeSeconds": 21},
        field="spec.awsSqs.waitTimeSeconds",
        fix="should be less than or equal to 20",
    ),
    Bad(
        mistake="a batch of more than ten",
        changes={"spec.awsSqs.maxNumberOfMessages": 11},
        field="spec.awsSqs.maxNumberOfMessages",
        fix="should be less than or equal to 10",
    ),
    Bad(
        mistake="a visibility of more than twelve hours",
        changes={"spec.visibilityTimeoutSeconds": 43201},
        field="spec.visibilityTimeoutSeconds",
        fix="must be 43200 or less where provider is AwsSqs",
    ),
    Bad(
        mistake="a retention of more than 14 days",
        changes={"spec.messageRetentionSeconds": 1209601},
        field="spec.messageRetentionSeconds",
        fix="lower it, or leave it out",
    ),
    Bad(
        mistake="a dead-letter retention of more than 14 days",
        changes={"spec.deadLetter": {"retentionDays": 15}},
        field="spec.deadLetter.retentionDays",
        fix="must be 14 or less",
    ),
    Bad(
        mistake="two kinds of encryption",
        changes={"spec.awsSqs.encryption": {"sqsManaged": True, "kmsKeyId": "alias/mine"}},
        field="spec.awsSqs.encryption.sqsManaged",
        fix="remove one of them",
    ),
    Bad(
        mistake="no encryption",
        changes={"spec.awsSqs.encryption": {"sqsManaged": False}},
        field="spec.awsSqs.encryption.sqsManaged",
        fix="remove it, or name a key",
    ),
    Bad(
        mistake="a policy that is no JSON",
        changes={"spec.awsSqs.policy": "Version: 2012-10-17"},
        field="spec.awsSqs.policy",
        fix="must be JSON text",
    ),
    Bad(
        mistake="a policy as an object",
        changes={"spec.awsSqs.policy": {"Version": "2012-10-17"}},
        field="spec.awsSqs.policy.Version",
        fix="unknown field",
    ),
    *(
        Bad(
            mistake=f"a tag that begins with {prefix}",
            changes={"spec.awsSqs.tags": {f"{prefix}owner": "me"}},
            field="spec.awsSqs.tags",
            fix="choose other keys",
        )
        for prefix in ("headrace.dev/", "aws:")
    ),
    Bad(
        mistake="credentials in the endpoint's URL",
        changes={"spec.awsSqs.endpointUrl": "https://AKIA:hunter2@sqs.example.com"},
        field="spec.awsSqs.endpointUrl",
        fix="put credentials into a Secret and name it in spec.awsSqs.credentials.secretRef",
    ),
    Bad(
        mistake="keys in plain",
        changes={"spec.awsSqs.credentials": {"accessKeyId": "AKIA"}},
        field="spec.awsSqs.credentials.secretRef",
        fix="takes a reference, never keys",
    ),
    Bad(
        mistake="keys beside the reference",
        changes={"spec.awsSqs.credentials": {"secretRef": {"name": "aws"}, "secretAccessKey": "hunter2"}},
        field="spec.awsSqs.credentials",
        fix="must have at most 1 item",
        secrets=("hunter2",),
    ),
    Bad(
        mistake="a key for the Secret's name",
        changes={"spec.awsSqs.credentials": {"secretRef": {"name": "hunter2/ABC"}}},
        field="spec.awsSqs.credentials.secretRef.name",
        fix="give that Secret's name",
    ),
    Bad(
        mistake="the name of a Secret's key, which is fixed",
        changes={"spec.awsSqs.credentials": {"secretRef": {"name": "aws", "key": "dsn"}}},
        field="spec.awsSqs.credentials.secretRef.key",
        fix="unknown field",
    ),
]

CASES = [
    pytest.param(base, bad, id=f"{base['kind']}: {bad.mistake}")
    for base, bads in ((QUEUE, BAD_QUEUES), (SQS_QUEUE, BAD_SQS_QUEUES), (POOL, BAD_POOLS))
    for bad in bads
]


@pytest.mark.parametrize(("base", "bad"), CASES)
def test_a_mistake_is_refused_with_the_field_and_the_fix(control_plane: ControlPlane, base: Manifest, bad: Bad) -> None:
    with pytest.raises(ClusterError) as refusal:
        submit(control_plane, changed(base, bad.changes))
    # The first line is the harness' own; the API server speaks after it.
    _, _, message = str(refusal.value).partition("\n")
    assert bad.field in message
    assert bad.fix in message
    assert not [secret for secret in bad.secrets if secret in message]


def test_a_queue_is_filled_with_the_defaults_that_its_descriptions_name(control_plane: ControlPlane) -> None:
    spec = submit(control_plane, changed(QUEUE, {"spec.postgres.connection.secretRef.key": REMOVED}))["spec"]
    assert spec == {
        "provider": "Postgres",
        "deletionPolicy": "Retain",
        "visibilityTimeoutSeconds": 1800,
        "maxRetries": 3,
        "deadLetter": {"enabled": True, "retentionDays": 14},
        "postgres": {
            "connection": {"secretRef": {"name": "pg", "key": "dsn"}},
            "schema": "headrace",
            "completedRetentionSeconds": 0,
        },
    }


def test_a_queue_in_sqs_is_filled_with_the_defaults_that_its_descriptions_name(control_plane: ControlPlane) -> None:
    assert submit(control_plane, SQS_QUEUE)["spec"] == {
        "provider": "AwsSqs",
        "deletionPolicy": "Retain",
        "visibilityTimeoutSeconds": 1800,
        "maxRetries": 3,
        "deadLetter": {"enabled": True, "retentionDays": 14},
        "awsSqs": {"region": "eu-west-1", "waitTimeSeconds": 20, "maxNumberOfMessages": 10},
    }


def test_a_pool_without_autoscaling_is_off_and_has_no_replicas_of_the_schemas(control_plane: ControlPlane) -> None:
    spec = submit(control_plane, changed(POOL, {"spec.autoscaling": REMOVED}))["spec"]
    assert spec == {
        "queueRef": {"name": "thumbnails"},
        "handler": {"python": {"app": "thumbnails:app"}},
        "maxConcurrentJobs": 10,
        "pollIntervalSeconds": 5,
        "jobTimeoutSeconds": 1800,
        "drainTimeoutSeconds": 300,
        "retry": {"initialDelaySeconds": 1, "multiplier": 2, "maxDelaySeconds": 600, "jitter": 0.2},
        "autoscaling": {
            "mode": "Off",
            "minReplicas": 0,
            "maxReplicas": 10,
            "activationDepth": 1,
            "scaleToZeroAfterSeconds": 60,
        },
    }


def test_idempotency_is_filled_with_the_defaults_that_its_descriptions_name(control_plane: ControlPlane) -> None:
    given = {"redis": {**REDIS, "tls": {"caSecretRef": {"name": "redis"}}}}
    assert submit(control_plane, changed(POOL, {"spec.idempotency": given}))["spec"]["idempotency"] == {
        "ttlDays": 7,
        "onUnavailable": "Retry",
        "redis": {
            "secretRef": {"name": "redis", "key": "uri"},
            "mode": "Standalone",
            "tls": {"caSecretRef": {"name": "redis", "key": "ca.crt"}},
        },
    }


def test_autoscaling_that_names_no_mode_is_by_hpa(control_plane: ControlPlane) -> None:
    autoscaling = submit(control_plane, changed(POOL, {"spec.autoscaling": {}}))["spec"]["autoscaling"]
    assert autoscaling["mode"] == "HPA"
    assert (autoscaling["minReplicas"], autoscaling["maxReplicas"]) == (0, 10)


def test_an_empty_block_means_the_same_as_none(control_plane: ControlPlane) -> None:
    without = submit(control_plane, POOL)["spec"]["retry"]
    assert submit(control_plane, changed(POOL, {"spec.retry": {}}))["spec"]["retry"] == without


@pytest.mark.parametrize(
    ("base", "changes"),
    [
        pytest.param(QUEUE, {"spec.postgres.tls": {"caSecretRef": {"name": "pg-ca"}}}, id="a CA"),
        pytest.param(QUEUE, {"spec.postgres.schema": "_jobs_2"}, id="a schema of one's own"),
        pytest.param(QUEUE, {"spec.postgres.completedRetentionSeconds": 86400}, id="a history"),
        pytest.param(
            QUEUE,
            {"spec.postgres.adminConnection": {"secretRef": {"name": "pg"}}},
            id="one user for everything, said so",
        ),
        pytest.param(
            QUEUE,
            {"spec.postgres.directConnection": {"secretRef": {"name": "pg", "key": "direct"}}},
            id="another key of one Secret",
        ),
        pytest.param(QUEUE, {"spec.maxRetries": 0}, id="no retries"),
        pytest.param(QUEUE, {"spec.messageRetentionSeconds": 86400}, id="a retention"),
        pytest.param(QUEUE, {"metadata.name": "q" * 52}, id="the longest name"),
        pytest.param(
            SQS_QUEUE,
            {"spec.awsSqs": {"queueUrl": SQS_URL, "deadLetterQueueUrl": f"{SQS_URL}-dead"}},
            id="two queues that exist",
        ),
        pytest.param(
            SQS_QUEUE,
            {"spec.awsSqs": {"region": "eu-west-1", "queueUrl": "http://elasticmq:9324/000000000000/orders"}},
            id="a queue of another server",
        ),
        pytest.param(
            SQS_QUEUE,
            {
                "spec.awsSqs.queueName": "o" * 75,
                "spec.awsSqs.encryption": {"kmsKeyId": "alias/mine"},
                "spec.awsSqs.policy": '{"Version": "2012-10-17",\n "Statement": []}\n',
                "spec.awsSqs.tags": {"team": "shop"},
                "spec.awsSqs.endpointUrl": "https://vpce-1-2.sqs.eu-west-1.vpce.amazonaws.com",
                "spec.awsSqs.credentials": {"secretRef": {"name": "aws"}},
                "spec.visibilityTimeoutSeconds": 43200,
                "spec.messageRetentionSeconds": 1209600,
                "spec.deletionPolicy": "Delete",
            },
            id="all that SQS takes",
        ),
        pytest.param(POOL, {"spec.handler": {"exec": {"command": ["/bin/sh", "-c", ""]}}}, id="a command"),
        *(
            pytest.param(POOL, {"spec.handler": {"http": {"url": url}}}, id=url)
            for url in (
                "http://server",
                "http://render.shop.svc:8080/jobs",
                "https://jobs.example.com:8443/a/b?kind=%20&c=d@e",
                "http://[::1]:8000/jobs",
                "http://127.0.0.1?a=b",
            )
        ),
        pytest.param(
            POOL,
            {"spec.handler": {"http": {"url": "https://server/", "caSecretRef": {"name": "ca"}}}},
            id="an authority",
        ),
        pytest.param(POOL, {"spec.image": "registry.example.com:5000/shop/worker@sha256:" + "0" * 64}, id="a digest"),
        pytest.param(POOL, {"spec.drainTimeoutSeconds": 0}, id="no drain"),
        pytest.param(POOL, {"spec.strategy": {"type": "Recreate"}}, id="all workers at once"),
        pytest.param(
            POOL, {"spec.strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "10%"}}}, id="a tenth at a time"
        ),
        pytest.param(POOL, {"spec.idempotency": {}}, id="no idempotency"),
        pytest.param(POOL, {"spec.idempotency": {"enabled": False, "redis": REDIS}}, id="idempotency switched off"),
        pytest.param(
            POOL,
            {"spec.idempotency": {"redis": {**REDIS, "mode": "Sentinel", "sentinelMaster": "shop"}}},
            id="Sentinels",
        ),
        pytest.param(POOL, {"spec.autoscaling": {"minReplicas": 3, "maxReplicas": 3}}, id="a fixed number"),
        pytest.param(
            POOL,
            {
                "spec.template": {
                    "metadata": {"labels": {"team": "shop"}, "annotations": {"note": "x"}},
                    "spec": {
                        "nodeSelector": {"disk": "ssd"},
                        "containers": [
                            {
                                "name": "worker",
                                "env": [{"name": "A", "value": "b"}],
                                "resources": {"limits": {"cpu": 1}},
                            }
                        ],
                    },
                }
            },
            id="a template",
        ),
    ],
)
def test_what_is_unusual_but_right_is_accepted_as_it_stands(
    control_plane: ControlPlane, base: Manifest, changes: Mapping[str, Any]
) -> None:
    accepted = submit(control_plane, changed(base, changes))
    for path, value in changes.items():
        assert contains(at(accepted, path), value)


@pytest.mark.parametrize(
    ("base", "path", "value", "fix"),
    [
        pytest.param(
            QUEUE,
            "spec.postgres.schema",
            "elsewhere",
            "schema can't be changed, jobs would stay behind: make a new JobQueue",
            id="schema",
        ),
        *(
            pytest.param(
                base, f"spec.awsSqs.{field}", value, fix, id=f"{field}, {'removed' if value is REMOVED else 'set'}"
            )
            for base, field, value, fix in (
                (SQS_QUEUE, "region", "eu-central-1", "region can't be changed, jobs would stay behind"),
                (SQS_QUEUE, "queueName", "orders", "queueName can't be set or removed later"),
                (SQS_QUEUE, "queueUrl", SQS_URL, "queueUrl can't be set or removed later"),
                (SQS_QUEUE, "endpointUrl", "https://sqs.example.com", "endpointUrl can't be set or removed later"),
                (PLACED_SQS_QUEUE, "queueName", "others", "queueName can't be changed"),
                (PLACED_SQS_QUEUE, "queueName", REMOVED, "queueName can't be set or removed later"),
                (PLACED_SQS_QUEUE, "endpointUrl", "https://sqs.example.com", "endpointUrl can't be changed"),
                (ADOPTING_SQS_QUEUE, "queueUrl", f"{SQS_URL}2", "queueUrl can't be changed"),
            )
        ),
    ],
)
def test_what_jobs_hang_on_can_not_be_changed(
    control_plane: ControlPlane, base: Manifest, path: str, value: str, fix: str
) -> None:
    first = changed(base, {"metadata.name": f"unchanging-{secrets.token_hex(3)}"})
    control_plane.kubectl("apply", "-f", "-", stdin=json.dumps(first))
    with pytest.raises(ClusterError) as refusal:
        control_plane.kubectl("apply", "-f", "-", stdin=json.dumps(changed(first, {path: value})))
    assert f"{path}: " in str(refusal.value)
    assert fix in str(refusal.value)


def test_what_only_settles_how_the_queue_is_reached_can_be_changed(control_plane: ControlPlane) -> None:
    first = changed(QUEUE, {"metadata.name": "moving"})
    moved = changed(
        first,
        {
            "spec.postgres.connection.secretRef.name": "pg-2",
            "spec.postgres.adminConnection": {"secretRef": {"name": "pg-admin"}},
            "spec.postgres.directConnection": {"secretRef": {"name": "pg-direct"}},
            "spec.deletionPolicy": "Delete",
        },
    )
    control_plane.kubectl("apply", "-f", "-", stdin=json.dumps(first))
    control_plane.kubectl("apply", "-f", "-", stdin=json.dumps(moved))


def test_a_pool_is_scaled_through_its_scale_subresource(control_plane: ControlPlane) -> None:
    pool = changed(POOL, {"metadata.name": "scaled", "spec.replicas": 1})
    control_plane.kubectl("apply", "-f", "-", stdin=json.dumps(pool))
    status = {"status": {"replicas": 1, "selector": "headrace.dev/pool=scaled"}}
    control_plane.kubectl("patch", "jwp", "scaled", "--subresource=status", "--type=merge", f"-p={json.dumps(status)}")

    control_plane.kubectl("scale", "jwp", "scaled", "--replicas=4")

    scale = json.loads(control_plane.kubectl("get", "jwp", "scaled", "--subresource=scale", "-o", "json"))
    assert scale["spec"]["replicas"] == 4
    assert scale["status"] == {"replicas": 1, "selector": "headrace.dev/pool=scaled"}


def test_kubectl_get_tells_how_queues_and_pools_are(control_plane: ControlPlane) -> None:
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "Working",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    shown = {
        "jobq": (
            changed(QUEUE, {"metadata.name": "shown"}),
            {"conditions": [ready], "depth": {"ready": 1204, "delayed": 7, "inFlight": 40, "deadLettered": 2}},
            "NAME PROVIDER READY REASON READY-JOBS INFLIGHT DEAD AGE",
            "shown Postgres True Working 1204 40 2",
        ),
        "jwp": (
            changed(POOL, {"metadata.name": "shown"}),
            {"conditions": [ready], "queues": "urgent, bulk", "desiredReplicas": 5, "replicas": 5, "readyReplicas": 3},
            "NAME QUEUE MODE DESIRED CURRENT READY REASON AGE",
            "shown urgent, bulk HPA 5 3 True Working",
        ),
    }
    for kind, (manifest, status, header, row) in shown.items():
        control_plane.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
        patch = json.dumps({"status": status})
        control_plane.kubectl("patch", kind, "shown", "--subresource=status", "--type=merge", f"-p={patch}")
        lines = [" ".join(line.split()) for line in control_plane.kubectl("get", kind, "shown").splitlines()]
        assert lines[0] == header
        assert lines[1].startswith(row)


def submit(control_plane: ControlPlane, manifest: Manifest) -> Manifest:
    """Offer an object to the API server, as strictly as kubectl does, and return what would be stored."""
    path = f"/apis/{manifest['apiVersion']}/namespaces/default/{PLURALS[manifest['kind']]}"
    query = "fieldValidation=Strict&dryRun=All"
    stored: Manifest = json.loads(
        control_plane.kubectl("create", f"--raw={path}?{query}", "-f", "-", stdin=json.dumps(manifest))
    )
    return stored


def changed(base: Manifest, changes: Mapping[str, Any]) -> Manifest:
    """Return a copy of `base` with the fields at dotted paths set or, for REMOVED, taken away."""
    manifest = copy.deepcopy(base)
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = at(manifest, ".".join(parents))
        if value is REMOVED:
            del place[last]
        else:
            place[last] = value
    return manifest


def at(manifest: Manifest, path: str) -> Any:
    """Return what stands at a dotted path."""
    place: Any = manifest
    for step in path.split("."):
        place = place[step]
    return place


def contains(stored: Any, wanted: Any) -> bool:
    """Say whether `stored` is `wanted`, apart from defaults filled in."""
    if isinstance(wanted, dict):
        return all(contains(stored.get(key), value) for key, value in wanted.items())
    return bool(stored == wanted)
