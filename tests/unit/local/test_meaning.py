"""Only what needs a cluster is ignored, and all of it is named."""

from __future__ import annotations

from typing import Any

from headrace_operator.local.meaning import as_decided_here, meaningless_fields


def pool(template: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    return {"spec": {"autoscaling": {"mode": "HPA"}, **({"template": template} if template else {}), **spec}}


def worker(**container: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "worker", **container}]}}


def test_a_plain_pool_has_nothing_without_meaning() -> None:
    assert meaningless_fields(pool()) == []


def test_the_image_and_what_schedules_pods_have_none() -> None:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"nodeSelector": {}, "tolerations": []}}
    assert meaningless_fields(pool(template, image="shop:1")) == [
        "image",
        "template.metadata.labels",
        "template.spec.nodeSelector",
        "template.spec.tolerations",
    ]


def test_the_workers_environment_is_meant_and_its_resources_are_not() -> None:
    template = worker(env=[{"name": "A", "value": "b"}], envFrom=[], resources={}, livenessProbe={})
    assert meaningless_fields(pool(template)) == [
        "template.spec.containers[worker].resources",
        "template.spec.containers[worker].livenessProbe",
    ]


def test_a_variable_of_the_node_can_not_be_had() -> None:
    template = worker(
        env=[
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "CPUS", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
        ]
    )
    assert meaningless_fields(pool(template)) == [
        "template.spec.containers[worker].env[NODE]",
        "template.spec.containers[worker].env[CPUS]",
    ]


def test_a_secret_among_the_bindings_is_mounted_and_one_elsewhere_is_not() -> None:
    template = worker(
        volumeMounts=[
            {"name": "redis", "mountPath": "/bindings/redis"},
            {"name": "ca", "mountPath": "/etc/ca"},
            {"name": "ca", "mountPath": "/bindings/../etc"},
            {"name": "scratch", "mountPath": "/bindings/scratch"},
        ]
    )
    template["spec"]["volumes"] = [
        {"name": "redis", "secret": {"secretName": "redis"}},
        {"name": "ca", "secret": {"secretName": "ca"}},
        {"name": "scratch", "emptyDir": {}},
    ]
    assert meaningless_fields(pool(template)) == [
        "template.spec.containers[worker].volumeMounts[/etc/ca]",
        "template.spec.containers[worker].volumeMounts[/bindings/../etc]",
        "template.spec.containers[worker].volumeMounts[/bindings/scratch]",
        "template.spec.volumes[ca]",
        "template.spec.volumes[scratch]",
    ]


def test_containers_beside_the_worker_are_the_users_to_start() -> None:
    template = {"spec": {"initContainers": [{"name": "api"}], "containers": [{"name": "proxy"}]}}
    assert meaningless_fields(pool(template)) == [
        "template.spec.initContainers[api] (start it yourself)",
        "template.spec.containers[proxy] (start it yourself)",
    ]


def test_mode_hpa_is_decided_here_and_the_other_modes_stay() -> None:
    given = pool()
    assert as_decided_here(given)["spec"]["autoscaling"]["mode"] == "Direct"
    assert given["spec"]["autoscaling"]["mode"] == "HPA"
    for mode in ("Direct", "Off"):
        assert as_decided_here(pool(autoscaling={"mode": mode}))["spec"]["autoscaling"]["mode"] == mode
