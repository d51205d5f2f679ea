"""Manifests to values: defaults as in the schema, and mistakes told by their field."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import yaml

from cluster.places import REPOSITORY
from headrace_operator.core.model import RefusedError
from headrace_operator.core.provider import provider_of
from headrace_operator.core.spec import (
    Autoscaling,
    DeadLetter,
    Fallback,
    Handler,
    HttpHandler,
    Idempotency,
    JobQueue,
    JobWorkerPool,
    Part,
    PoolSpec,
    QueueSpec,
    Redis,
    Retry,
    ScalingMode,
    Target,
    UrlReference,
    block_name,
    parse,
)
from headrace_operator.providers import PROVIDERS
from headrace_operator.providers.aws_sqs.spec import AwsSqs, Encryption
from headrace_operator.providers.postgres import PostgresProvider
from headrace_operator.providers.postgres.spec import Postgres, postgres_of

METADATA = {"namespace": "shop", "name": "thumbnails", "uid": "1", "generation": 2}
QUEUE: dict[str, Any] = {"provider": "Postgres", "postgres": {"connection": {"secretRef": {"name": "pg"}}}}
POOL = {"queueRef": {"name": "thumbnails"}, "handler": {"python": {"app": "shop:app"}}}


def queue(**changes: Any) -> JobQueue:
    spec = {**QUEUE, **changes}
    return parse({"apiVersion": "v", "kind": "JobQueue", "metadata": METADATA, "spec": spec}, JobQueue)


def postgres(**changes: Any) -> Postgres:
    return postgres_of(queue(**changes))


def pool(**changes: Any) -> JobWorkerPool:
    spec = {**POOL, **changes}
    return parse({"apiVersion": "v", "kind": "JobWorkerPool", "metadata": METADATA, "spec": spec}, JobWorkerPool)


def test_a_pool_without_autoscaling_is_off_and_with_an_empty_one_hpa() -> None:
    assert pool().spec.autoscaling.mode is ScalingMode.OFF
    assert pool(autoscaling={}).spec.autoscaling.mode is ScalingMode.HPA


def test_names_are_camel_case_there_and_snake_case_here() -> None:
    assert pool(autoscaling={"scaleToZeroAfterSeconds": 7}).spec.autoscaling.scale_to_zero_after_seconds == 7


def test_ten_jobs_a_worker_where_no_target_is_named() -> None:
    assert pool(autoscaling={}).spec.autoscaling.target.jobs_per_replica == 10
    assert pool(autoscaling={"target": {}}).spec.autoscaling.target.jobs_per_replica == 10
    named = pool(autoscaling={"target": {"queueDepthPerReplica": 3}})
    assert named.spec.autoscaling.target.jobs_per_replica == 3


def test_a_finished_job_is_gone_unless_the_spec_keeps_it() -> None:
    assert PostgresProvider().settings(queue())["completed_retention_seconds"] == 0
    kept = {**QUEUE["postgres"], "completedRetentionSeconds": 3600}
    assert PostgresProvider().settings(queue(postgres=kept))["completed_retention_seconds"] == 3600


@pytest.mark.parametrize("value", ["true", "True"])
def test_the_annotation_pauses(value: str) -> None:
    manifest = {
        "apiVersion": "v",
        "kind": "JobWorkerPool",
        "metadata": {**METADATA, "annotations": {"headrace.dev/paused": value}},
        "spec": POOL,
    }
    assert parse(manifest, JobWorkerPool).paused
    assert not pool().paused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"maxRetries": "three"}, "spec.maxRetries: Expected int, got str"),
        ({"provider": 7}, "spec.provider: Expected str, got int"),
        ({"deadLetter": {"retentionDays": None}}, "spec.deadLetter.retentionDays: Expected float, got null"),
    ],
)
def test_a_wrong_queue_is_told_by_its_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RefusedError) as refused:
        queue(**changes)
    assert (refused.value.reason, refused.value.message) == ("InvalidSpec", message)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (
            {**QUEUE["postgres"], "adminConnection": {}},
            "spec.postgres.adminConnection: Object missing required field secretRef",
        ),
        ({}, "spec.postgres: Object missing required field connection"),
        ([], "spec.postgres: Expected object, got array"),
        (None, "spec: Object missing required field postgres"),
    ],
)
def test_a_wrong_block_of_a_provider_is_told_by_its_field(block: Any, message: str) -> None:
    with pytest.raises(RefusedError) as refused:
        postgres(postgres=block)
    assert (refused.value.reason, refused.value.message) == ("InvalidSpec", message)


def test_a_provider_that_there_is_not_is_told_with_those_that_there_are() -> None:
    with pytest.raises(RefusedError, match=r"there is no \'Floppy\': give one of Postgres, AwsSqs") as refused:
        provider_of(queue(provider="Floppy"), PROVIDERS)
    assert refused.value.reason == "InvalidSpec"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"handler": {}}, "spec.handler: give exactly one of python, http and exec"),
        (
            {"handler": {"http": {"url": "http://127.0.0.1:8000"}, "exec": {"command": ["a"]}}},
            "spec.handler: give exactly one of python, http and exec",
        ),
        ({"autoscaling": {"minReplicas": 3, "maxReplicas": 2}}, "spec.autoscaling: minReplicas (3)"),
        ({"autoscaling": {"target": {"queueDepthPerReplica": 0}}}, "spec.autoscaling.target: queueDepthPerReplica"),
        ({"autoscaling": {"fallback": {"replicas": 0}}}, "spec.autoscaling.fallback: replicas"),
        ({"idempotency": {"enabled": True}}, "spec.idempotency: idempotency needs a redis"),
        (
            {"idempotency": {"redis": {"secretRef": {"name": "redis"}, "mode": "Sentinel"}}},
            "spec.idempotency.redis: sentinelMaster goes with mode Sentinel",
        ),
        ({"autoscaling": {"mode": "Sometimes"}}, "spec.autoscaling.mode: Invalid enum value 'Sometimes'"),
    ],
)
def test_a_wrong_pool_is_told_by_its_field(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RefusedError) as refused:
        pool(**changes)
    assert refused.value.message.startswith(words)


@pytest.mark.parametrize(
    ("part", "kind", "path"),
    [
        (QueueSpec, "jobqueues", ()),
        (DeadLetter, "jobqueues", ("deadLetter",)),
        (Postgres, "jobqueues", ("postgres",)),
        (AwsSqs, "jobqueues", ("awsSqs",)),
        (Encryption, "jobqueues", ("awsSqs", "encryption")),
        (PoolSpec, "jobworkerpools", ()),
        (Handler, "jobworkerpools", ("handler",)),
        (HttpHandler, "jobworkerpools", ("handler", "http")),
        (Retry, "jobworkerpools", ("retry",)),
        (Autoscaling, "jobworkerpools", ("autoscaling",)),
        (Target, "jobworkerpools", ("autoscaling", "target")),
        (Fallback, "jobworkerpools", ("autoscaling", "fallback")),
        (Idempotency, "jobworkerpools", ("idempotency",)),
        (Redis, "jobworkerpools", ("idempotency", "redis")),
        (UrlReference, "jobworkerpools", ("idempotency", "redis", "secretRef")),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_fields_and_defaults_are_those_of_the_schema(part: type[Part], kind: str, path: tuple[str, ...]) -> None:
    definition = yaml.safe_load((REPOSITORY / "crds" / f"headrace.dev_{kind}.yaml").read_text())
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    for name in path:
        schema = schema["properties"][name]
    fields = {field.encode_name: field for field in msgspec.structs.fields(part)}
    declared_fields = schema["properties"].keys()
    if part is QueueSpec:
        # Each provider reads its own block.
        declared_fields -= {block_name(provider) for provider in PROVIDERS}
    assert fields.keys() == declared_fields
    for name, field in fields.items():
        declared = schema["properties"][name].get("default")
        if declared is not None and not isinstance(declared, dict):
            assert field.default == declared, name
