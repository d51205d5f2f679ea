"""What is made for a pool and for a queue."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from headrace.settings import worker_settings
from headrace_operator.core.binding import binding_secret
from headrace_operator.core.deployment import WorkedQueue, worker_deployment
from headrace_operator.core.hpa import pool_autoscaler
from headrace_operator.core.model import TransientError
from headrace_operator.core.provider import SecretKey
from headrace_operator.core.redis import check_redis_url
from headrace_operator.core.spec import JobQueue, JobWorkerPool, parse
from headrace_operator.providers.postgres import PostgresProvider
from headrace_operator.providers.postgres.place import read_dsn

API_VERSION = "headrace.dev/v1alpha1"


def queue(name: str = "thumbnails", **spec: Any) -> JobQueue:
    postgres = {"connection": {"secretRef": {"name": "pg"}}, "schema": "jobs"}
    metadata = {"namespace": "shop", "name": name, "uid": "q"}
    spec = {"provider": "Postgres", "postgres": postgres, **spec}
    return parse({"apiVersion": API_VERSION, "kind": "JobQueue", "metadata": metadata, "spec": spec}, JobQueue)


def pool(**spec: Any) -> JobWorkerPool:
    metadata = {"namespace": "shop", "name": "workers", "uid": "p"}
    spec = {"queueRef": {"name": "thumbnails"}, "handler": {"python": {"app": "shop.jobs:app"}}, **spec}
    return parse(
        {"apiVersion": API_VERSION, "kind": "JobWorkerPool", "metadata": metadata, "spec": spec}, JobWorkerPool
    )


def deployment(**spec: Any) -> dict[str, Any]:
    made = pool(**spec)
    queues = [
        WorkedQueue(queue(name), PostgresProvider().worker_environment(queue(name))) for name in made.spec.queue_names
    ]
    return worker_deployment(made, queues, replicas=3, image="bundled:1", image_pull_policy="Never")


def pod(**spec: Any) -> dict[str, Any]:
    made: dict[str, Any] = deployment(**spec)["spec"]["template"]["spec"]
    return made


def worker(**spec: Any) -> dict[str, Any]:
    made: dict[str, Any] = pod(**spec)["containers"][0]
    return made


def environment(**spec: Any) -> dict[str, str | None]:
    return {variable["name"]: variable.get("value") for variable in worker(**spec)["env"]}


def test_a_deployment_is_named_labelled_and_owned_by_its_pool() -> None:
    made = deployment()
    assert (made["metadata"]["namespace"], made["metadata"]["name"]) == ("shop", "workers")
    assert made["metadata"]["ownerReferences"][0]["uid"] == "p"
    assert made["spec"]["replicas"] == 3
    assert made["spec"]["selector"]["matchLabels"] == {"headrace.dev/pool": "workers"}
    labels = made["spec"]["template"]["metadata"]["labels"]
    assert (labels["headrace.dev/pool"], labels["headrace.dev/queue"]) == ("workers", "thumbnails")


def test_a_worker_pod_meets_the_restricted_standard_and_gets_no_token() -> None:
    made = pod()
    assert made["automountServiceAccountToken"] is False
    assert made["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert worker()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_a_pod_has_its_drain_and_half_a_minute_more_to_end() -> None:
    assert pod(drainTimeoutSeconds=90)["terminationGracePeriodSeconds"] == 120


@pytest.mark.parametrize(
    ("strategy", "made"),
    [
        ({}, {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 1}}),
        (
            {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0}},
            {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0}},
        ),
        (
            {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "10%"}},
            {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": "10%"}},
        ),
        ({"type": "Recreate"}, {"type": "Recreate"}),
    ],
    ids=["the only worker may go before its successor", "no capacity lost", "no room for more", "all at once"],
)
def test_how_workers_are_replaced_is_the_pools_choice(strategy: dict[str, Any], made: dict[str, Any]) -> None:
    assert deployment(strategy=strategy)["spec"]["strategy"] == made


def test_a_long_drain_is_no_failure_of_what_replaces_workers() -> None:
    assert deployment(drainTimeoutSeconds=3600)["spec"]["progressDeadlineSeconds"] == 3600 + 30 + 600


def test_the_connection_is_mounted_and_never_a_variable() -> None:
    assert {"name": "binding", "secret": {"secretName": "thumbnails-binding"}} in pod()["volumes"]
    mounts = {mount["mountPath"]: mount for mount in worker()["volumeMounts"]}
    assert mounts["/bindings/queue"]["readOnly"]
    assert environment()["SERVICE_BINDING_ROOT"] == "/bindings"


def test_several_queues_have_a_binding_each_and_share_the_slots_in_their_order() -> None:
    several = {"queueRef": None, "queueRefs": [{"name": "urgent"}, {"name": "bulk"}], "maxConcurrentJobs": 4}
    volumes = {volume["name"]: volume for volume in pod(**several)["volumes"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in worker(**several)["volumeMounts"]}
    for path, secret in (("/bindings/queue-0", "urgent-binding"), ("/bindings/queue-1", "bulk-binding")):
        assert volumes[mounts[path]]["secret"] == {"secretName": secret}
    variables = environment(**several)
    assert "BACKGROUND_JOBS__QUEUENAME" not in variables
    assert variables["BACKGROUND_JOBS__QUEUES__0__QUEUENAME"] == "urgent"
    assert variables["BACKGROUND_JOBS__QUEUES__1__QUEUENAME"] == "bulk"
    assert variables["BACKGROUND_JOBS__QUEUES__1__POSTGRES__SCHEMA"] == "jobs"
    assert variables["BACKGROUND_JOBS__SHAREDSLOTS"] == "4"
    assert deployment(**several)["spec"]["template"]["metadata"]["labels"]["headrace.dev/queue"] == "urgent"


def test_what_a_pool_of_several_queues_is_told_a_worker_understands(tmp_path: Path) -> None:
    several = {"queueRef": None, "queueRefs": [{"name": "urgent"}, {"name": "bulk"}], "maxConcurrentJobs": 4}
    for number, name in enumerate(("urgent", "bulk")):
        directory = tmp_path / f"queue-{number}"
        directory.mkdir()
        entries = {"type": "postgresql", "uri": f"postgresql://{name}", "queue": name, "schema": "jobs"}
        for entry, value in entries.items():
            (directory / entry).write_text(value)
    told = {name: value for name, value in environment(**several).items() if value is not None}
    settings = worker_settings(told | {"SERVICE_BINDING_ROOT": str(tmp_path)})
    assert [queue.binding.queue for queue in settings.queues] == ["urgent", "bulk"]
    assert [queue.binding.dsn for queue in settings.queues] == ["postgresql://urgent", "postgresql://bulk"]
    assert settings.shared_slots == 4


def test_settings_are_passed_in_a_spelling_that_stays() -> None:
    variables = environment(pollIntervalSeconds=5.0, retry={"multiplier": 1.5})
    prefix = "BACKGROUND_JOBS__"
    assert {name.removeprefix(prefix): value for name, value in variables.items() if name.startswith(prefix)} == {
        "PROVIDER": "Postgres",
        "MODE": "MessageQueue",
        "QUEUENAME": "thumbnails",
        "NAMESPACE": "shop",
        "MAXCONCURRENTJOBS": "10",
        "POLLINTERVALSECONDS": "5",
        "JOBTIMEOUTSECONDS": "1800",
        "DRAINTIMEOUTSECONDS": "300",
        "RETRY__INITIALDELAYSECONDS": "1",
        "RETRY__MULTIPLIER": "1.5",
        "RETRY__MAXDELAYSECONDS": "600",
        "RETRY__JITTER": "0.2",
        "POSTGRES__SCHEMA": "jobs",
        "HANDLER__PYTHON__APP": "shop.jobs:app",
    }


REDIS = {"redis": {"secretRef": {"name": "redis", "key": "url"}}}


def redis_settings(**idempotency: Any) -> dict[str, str | None]:
    wanted = ("ENABLEIDEMPOTENCY", "IDEMPOTENCY", "REDIS")
    names = {name: name.removeprefix("BACKGROUND_JOBS__") for name in environment(idempotency=idempotency)}
    variables = environment(idempotency=idempotency)
    return {short: variables[name] for name, short in names.items() if short.startswith(wanted)}


def test_a_redis_is_a_binding_made_of_its_secrets_and_never_a_variable() -> None:
    sentinels = {**REDIS["redis"], "mode": "Sentinel", "sentinelMaster": "shop", "tls": {"caSecretRef": {"name": "ca"}}}
    idempotency = {"redis": sentinels, "ttlDays": 3, "onUnavailable": "Proceed"}
    [volume] = [volume for volume in pod(idempotency=idempotency)["volumes"] if volume["name"] == "redis"]
    kind, url, certificates = volume["projected"]["sources"]
    assert url == {"secret": {"name": "redis", "items": [{"key": "url", "path": "uri"}]}}
    assert certificates == {"secret": {"name": "ca", "items": [{"key": "ca.crt", "path": "ca.crt"}]}}
    [item] = kind["downwardAPI"]["items"]
    annotations = deployment(idempotency=idempotency)["spec"]["template"]["metadata"]["annotations"]
    assert (item["path"], item["fieldRef"]["fieldPath"]) == (
        "type",
        "metadata.annotations['headrace.dev/redis-binding-type']",
    )
    assert annotations["headrace.dev/redis-binding-type"] == "redis"
    mounts = {mount["mountPath"]: mount for mount in worker(idempotency=idempotency)["volumeMounts"]}
    assert mounts["/bindings/redis"] == {"name": "redis", "mountPath": "/bindings/redis", "readOnly": True}
    assert redis_settings(**idempotency) == {
        "ENABLEIDEMPOTENCY": "true",
        "IDEMPOTENCYTTLDAYS": "3",
        "IDEMPOTENCY__ONUNAVAILABLE": "Proceed",
        "REDIS__MODE": "Sentinel",
        "REDIS__SENTINELMASTER": "shop",
    }


def test_a_redis_that_is_given_is_used_by_the_defaults_of_the_schema() -> None:
    assert redis_settings(**REDIS) == {
        "ENABLEIDEMPOTENCY": "true",
        "IDEMPOTENCYTTLDAYS": "7",
        "IDEMPOTENCY__ONUNAVAILABLE": "Retry",
        "REDIS__MODE": "Standalone",
    }


@pytest.mark.parametrize("idempotency", [{}, {"enabled": False}, {"enabled": False, **REDIS}])
def test_where_idempotency_is_off_pods_know_nothing_of_a_redis(idempotency: dict[str, Any]) -> None:
    assert redis_settings(**idempotency) == {}
    assert deployment(idempotency=idempotency) == deployment()


def test_a_command_is_passed_as_a_list() -> None:
    variables = environment(handler={"exec": {"command": ["/bin/render", "--size", "a b"]}})
    assert json.loads(variables["BACKGROUND_JOBS__HANDLER__EXEC__COMMAND"] or "") == ["/bin/render", "--size", "a b"]
    assert "BACKGROUND_JOBS__HANDLER__PYTHON__APP" not in variables


def test_a_command_is_what_it_is_whatever_kubernetes_makes_of_dollars() -> None:
    variables = environment(handler={"exec": {"command": ["/bin/sh", "-c", 'echo $$ $(HOSTNAME) "$USER"']}})
    # A kubelet makes one of two, and a variable's value of $(NAME).
    passed = (variables["BACKGROUND_JOBS__HANDLER__EXEC__COMMAND"] or "").replace("$$", "$")
    assert json.loads(passed) == ["/bin/sh", "-c", 'echo $$ $(HOSTNAME) "$USER"']
    assert "$$(HOSTNAME)" in (variables["BACKGROUND_JOBS__HANDLER__EXEC__COMMAND"] or "")


def test_a_url_is_passed_and_its_authority_is_mounted() -> None:
    variables = environment(handler={"http": {"url": "http://127.0.0.1:8000/jobs"}})
    assert variables["BACKGROUND_JOBS__HANDLER__HTTP__URL"] == "http://127.0.0.1:8000/jobs"
    assert "BACKGROUND_JOBS__HANDLER__HTTP__CAFILE" not in variables
    tls = {"handler": {"http": {"url": "https://server/", "caSecretRef": {"name": "ca", "key": "root.pem"}}}}
    assert environment(**tls)["BACKGROUND_JOBS__HANDLER__HTTP__CAFILE"] == "/bindings/handler-ca/ca.crt"
    secret = {"secretName": "ca", "items": [{"key": "root.pem", "path": "ca.crt"}]}
    assert {"name": "handler-ca", "secret": secret} in pod(**tls)["volumes"]
    mount = {"name": "handler-ca", "mountPath": "/bindings/handler-ca", "readOnly": True}
    assert mount in worker(**tls)["volumeMounts"]


def test_the_bundled_image_has_its_pull_policy_and_a_pools_own_image_has_kubernetes_default() -> None:
    assert (worker()["image"], worker()["imagePullPolicy"]) == ("bundled:1", "Never")
    own = worker(image="shop:2")
    assert own["image"] == "shop:2"
    assert "imagePullPolicy" not in own


def test_an_autoscaler_follows_what_the_load_wants_from_one_up_with_a_behavior_of_its_own() -> None:
    scaling = {"minReplicas": 0, "maxReplicas": 7, "target": {"queueDepthPerReplica": 4}}
    spec = pool_autoscaler(pool(autoscaling=scaling))["spec"]
    assert spec["scaleTargetRef"] == {"apiVersion": API_VERSION, "kind": "JobWorkerPool", "name": "workers"}
    assert (spec["minReplicas"], spec["maxReplicas"]) == (1, 7)
    [metric] = spec["metrics"]
    assert metric["external"]["metric"] == {
        "name": "background_jobs_desired_workers",
        "selector": {"matchLabels": {"pool": "workers"}},
    }
    assert metric["external"]["target"] == {"type": "AverageValue", "averageValue": "1"}
    up, down = spec["behavior"]["scaleUp"], spec["behavior"]["scaleDown"]
    assert (up["tolerance"], down["tolerance"]) == ("0", "0")
    assert (up["stabilizationWindowSeconds"], down["stabilizationWindowSeconds"]) == (0, 60)
    assert {"type": "Pods", "value": 7, "periodSeconds": 15} in up["policies"]


def binding(dsn: str, ca_certificates: str | None = None, **postgres: Any) -> dict[str, str]:
    block: dict[str, Any] = {"connection": {"secretRef": {"name": "pg"}}, "schema": "jobs", **postgres}
    secrets = {SecretKey("pg", "dsn"): dsn.encode()}
    if ca_certificates is not None:
        block["tls"] = {"caSecretRef": {"name": "ca"}}
        secrets[SecretKey("ca", "ca.crt")] = ca_certificates.encode()
    secrets |= {
        SecretKey("pg-admin", "dsn"): b"postgresql://owner:hunter2@db/orders",
        SecretKey("pg-direct", "dsn"): b"postgresql://shop@db/orders",
    }
    made = queue(postgres=block)
    secret = binding_secret(made, PostgresProvider().binding(made, secrets, {}), "1")
    return {name: base64.b64decode(value).decode() for name, value in secret["data"].items()}


def test_a_binding_has_the_connection_in_parts_and_as_a_whole() -> None:
    dsn = "postgresql://shop:p%40ss@db.example:6432/orders?sslmode=require"
    assert binding(dsn, "PEM") == {
        "type": "postgresql",
        "provider": "headrace",
        "uri": dsn,
        "host": "db.example",
        "port": "6432",
        "database": "orders",
        "username": "shop",
        "password": "p@ss",
        "schema": "jobs",
        "queue": "thumbnails",
        "ca.crt": "PEM",
    }


def test_a_binding_says_how_to_get_past_a_pooler_and_never_who_owns_the_tables() -> None:
    entries = binding(
        "postgresql://shop@pooler/orders",
        adminConnection={"secretRef": {"name": "pg-admin"}},
        directConnection={"secretRef": {"name": "pg-direct"}},
    )
    assert (entries["uri"], entries["host"]) == ("postgresql://shop@pooler/orders", "pooler")
    assert entries["direct-uri"] == "postgresql://shop@db/orders"
    assert "hunter2" not in str(entries)


@pytest.mark.parametrize(
    ("dsn", "host", "port"),
    [
        ("postgres://db/orders", "db", "5432"),
        ("postgresql://u@[::1]:5433/orders", "::1", "5433"),
        ("postgresql://u@a:1,b:2/orders", "a,b", "1,2"),
        ("postgresql:///orders?host=/run/postgresql&port=5434", "/run/postgresql", "5434"),
    ],
)
def test_every_form_of_address_is_read(dsn: str, host: str, port: str) -> None:
    assert read_dsn(dsn.encode(), "it") == dsn
    found = binding(dsn)
    assert (found["host"], found["port"]) == (host, port)


@pytest.mark.parametrize(
    "secret",
    [
        b"hunter2",
        b"mysql://shop:hunter2@db/orders",
        b"postgresql://shop:hunter2@/orders",
        b"postgresql://shop:hunter2@db",
        b"postgresql://shop:hunter2@db:port/orders",
        b"postgresql://shop:hunter2@[db/orders",
        b"hunter2\xff",
    ],
)
def test_a_dsn_that_cannot_be_is_refused_without_a_word_of_it(secret: bytes) -> None:
    with pytest.raises(TransientError) as refused:
        read_dsn(secret, "key dsn of Secret pg")
    assert refused.value.reason == "InvalidConnection"
    assert refused.value.message.startswith("key dsn of Secret pg holds")
    assert "hunter2" not in refused.value.message
    assert refused.value.__cause__ is None


@pytest.mark.parametrize("secret", [b"redis://:hunter2@redis", b"rediss://redis\n"])
def test_the_url_of_a_redis_is_taken(secret: bytes) -> None:
    check_redis_url(secret, "key uri of Secret redis")


@pytest.mark.parametrize("secret", [b"hunter2", b"http://:hunter2@redis", b"\xff\xfe"])
def test_what_is_no_url_of_a_redis_is_refused_without_a_word_of_it(secret: bytes) -> None:
    with pytest.raises(
        TransientError, match="key uri of Secret redis holds no URL of a Redis: it must look"
    ) as refused:
        check_redis_url(secret, "key uri of Secret redis")
    assert refused.value.reason == "InvalidConnection"
    assert "hunter2" not in refused.value.message
