"""A worker finds the variables and the files that its pod would have."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from headrace_operator.core.deployment import WorkedQueue, worker_deployment
from headrace_operator.core.model import ObjectKey, TransientError
from headrace_operator.core.spec import JobQueue, JobWorkerPool, parse
from headrace_operator.local.pod import Sources, files, variables, worker_container

ROOT = Path("/data/pods/workers-1/bindings")
SECRETS: dict[ObjectKey, dict[str, bytes]] = {
    ObjectKey("shop", "orders-binding"): {"type": b"postgresql", "uri": b"postgresql://pg/shop"},
    ObjectKey("shop", "stripe"): {"key": b"s3cret", "URL": b"https://stripe"},
}
CONFIG: dict[ObjectKey, dict[str, bytes]] = {ObjectKey("shop", "features"): {"DARK": b"on"}}
SOURCES = Sources(secret=SECRETS.get, config_map=CONFIG.get)


def pod_template(
    *, volumes: list[Any] | None = None, pool_spec: dict[str, Any] | None = None, **container: Any
) -> dict[str, Any]:
    """As the operator makes it for a cluster, with a template."""
    template = {"spec": {"containers": [{"name": "worker", **container}], "volumes": volumes or []}}
    metadata = {"namespace": "shop", "uid": "u"}
    common = {"apiVersion": "headrace.dev/v1alpha1"}
    queue = parse(
        {
            **common,
            "kind": "JobQueue",
            "metadata": {**metadata, "name": "orders"},
            "spec": {"provider": "Postgres", "postgres": {"connection": {"secretRef": {"name": "pg"}}}},
        },
        JobQueue,
    )
    pool = parse(
        {
            **common,
            "kind": "JobWorkerPool",
            "metadata": {**metadata, "name": "workers"},
            "spec": {
                "queueRef": {"name": "orders"},
                "handler": {"python": {"app": "shop:app"}},
                "maxConcurrentJobs": 3,
                "template": template,
                **(pool_spec or {}),
            },
        },
        JobWorkerPool,
    )
    environment = {"POSTGRES__SCHEMA": "headrace"}
    deployed = worker_deployment(pool, [WorkedQueue(queue, environment)], replicas=1, image="")
    made: dict[str, Any] = deployed["spec"]["template"]
    return made


def environment(**container: Any) -> dict[str, str]:
    return variables(
        worker_container(pod_template(**container)["spec"]),
        name="workers-1",
        namespace="shop",
        sources=SOURCES,
        root=ROOT,
    )


def test_the_operators_own_settings_are_there_and_the_bindings_are_where_they_can_be_had() -> None:
    found = environment()
    assert found["BACKGROUND_JOBS__MAXCONCURRENTJOBS"] == "3"
    assert found["BACKGROUND_JOBS__HANDLER__PYTHON__APP"] == "shop:app"
    assert found["HEADRACE_WORKER_NAME"] == "workers-1"
    assert found["SERVICE_BINDING_ROOT"] == str(ROOT)


def test_the_binding_is_put_down_as_files() -> None:
    found = files(pod_template(), namespace="shop", sources=SOURCES)
    assert found == {
        PurePosixPath("queue/type"): b"postgresql",
        PurePosixPath("queue/uri"): b"postgresql://pg/shop",
    }


def test_a_template_adds_variables_of_all_sources() -> None:
    found = environment(
        envFrom=[{"secretRef": {"name": "stripe"}, "prefix": "STRIPE_"}, {"configMapRef": {"name": "features"}}],
        env=[
            {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "stripe", "key": "key"}}},
            {"name": "NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "BOTH", "value": "$(KEY) of $(NAMESPACE), $(NOBODY), $$(KEY)"},
            {"name": "CA", "value": "/bindings/queue/ca.crt"},
            {"name": "LIKEWISE", "value": "/bindingsX"},
        ],
    )
    assert found["STRIPE_key"] == "s3cret"
    assert found["DARK"] == "on"
    assert found["BOTH"] == "s3cret of shop, $(NOBODY), $(KEY)"
    assert found["CA"] == str(ROOT / "queue" / "ca.crt")
    assert found["LIKEWISE"] == "/bindingsX"
    assert "NODE" not in found


def test_further_bindings_are_mounted_beside_the_queues_with_the_paths_that_they_ask_for() -> None:
    mount = [{"name": "stripe", "mountPath": "/bindings/stripe"}]
    volumes = [{"name": "stripe", "secret": {"secretName": "stripe", "items": [{"key": "key", "path": "v1/key"}]}}]
    found = files(pod_template(volumeMounts=mount, volumes=volumes), namespace="shop", sources=SOURCES)
    assert found[PurePosixPath("stripe/v1/key")] == b"s3cret"
    assert PurePosixPath("stripe/URL") not in found


def test_a_binding_that_is_put_together_of_a_secret_and_an_annotation_is_one_here_too() -> None:
    redis = {"secretRef": {"name": "stripe", "key": "URL"}, "tls": {"caSecretRef": {"name": "stripe", "key": "key"}}}
    found = files(pod_template(pool_spec={"idempotency": {"redis": redis}}), namespace="shop", sources=SOURCES)
    assert found[PurePosixPath("redis/type")] == b"redis"
    assert found[PurePosixPath("redis/uri")] == b"https://stripe"
    assert found[PurePosixPath("redis/ca.crt")] == b"s3cret"


def test_the_authority_of_a_handlers_server_is_found_where_the_worker_is_told() -> None:
    http = {"url": "https://127.0.0.1:8443/jobs", "caSecretRef": {"name": "stripe", "key": "key"}}
    made = pod_template(pool_spec={"handler": {"http": http}})
    (path,) = (path for path in files(made, namespace="shop", sources=SOURCES) if path.name == "ca.crt")
    told = variables(worker_container(made["spec"]), name="workers-1", namespace="shop", sources=SOURCES, root=ROOT)[
        "BACKGROUND_JOBS__HANDLER__HTTP__CAFILE"
    ]
    assert told == str(ROOT / path)


def test_a_path_that_leads_out_of_its_volume_is_refused() -> None:
    mount = [{"name": "stripe", "mountPath": "/bindings/stripe"}]
    volumes = [{"name": "stripe", "secret": {"secretName": "stripe", "items": [{"key": "key", "path": "../../x"}]}}]
    with pytest.raises(TransientError, match="must stay inside"):
        files(pod_template(volumeMounts=mount, volumes=volumes), namespace="shop", sources=SOURCES)


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ({"name": "nobody", "key": "key"}, "namespace shop has no Secret nobody: give its manifest, too"),
        ({"name": "stripe", "key": "nokey"}, "Secret stripe has no key nokey"),
    ],
)
def test_what_a_variable_needs_and_nobody_gives_is_told_unless_it_is_optional(
    reference: dict[str, str], told: str
) -> None:
    with pytest.raises(TransientError, match=told) as missing:
        environment(env=[{"name": "KEY", "valueFrom": {"secretKeyRef": reference}}])
    assert missing.value.reason == "CreateContainerConfigError"
    assert "KEY" not in environment(
        env=[{"name": "KEY", "valueFrom": {"secretKeyRef": {**reference, "optional": True}}}]
    )
