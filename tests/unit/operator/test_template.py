"""A template over our own: what is merged, replaced, appended, removed, and what stays ours."""

from __future__ import annotations

from typing import Any

import pytest

from headrace_operator.core.model import RefusedError
from headrace_operator.core.template import merge_pod_template

OURS: dict[str, Any] = {
    "metadata": {"labels": {"headrace.dev/pool": "workers"}, "annotations": {}},
    "spec": {
        "securityContext": {"runAsNonRoot": True},
        "tolerations": [{"key": "ours"}],
        "containers": [
            {
                "name": "worker",
                "image": "ours",
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "ports": [{"name": "metrics", "containerPort": 8080}],
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
                "livenessProbe": {"httpGet": {"path": "/healthz"}, "periodSeconds": 10},
                "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
            }
        ],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    },
}


def merge(**spec: Any) -> dict[str, Any]:
    merged: dict[str, Any] = merge_pod_template(OURS, {"spec": spec})["spec"]
    return merged


def merge_worker(**fields: Any) -> dict[str, Any]:
    worker: dict[str, Any] = merge(containers=[{"name": "worker", **fields}])["containers"][0]
    return worker


def test_nothing_changes_nothing_and_ours_is_left_as_it_was() -> None:
    before = repr(OURS)
    assert merge_pod_template(OURS, {}) == OURS
    merge_worker(env=[{"name": "C", "value": "3"}], resources={"requests": {"cpu": "1"}})
    assert repr(OURS) == before


def test_maps_are_merged_to_the_leaves() -> None:
    assert merge(securityContext={"fsGroup": 1000})["securityContext"] == {"runAsNonRoot": True, "fsGroup": 1000}
    worker = merge_worker(resources={"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}})
    assert worker["resources"] == {"requests": {"cpu": "1", "memory": "64Mi"}, "limits": {"memory": "1Gi"}}


def test_containers_are_merged_by_name() -> None:
    [worker] = merge(containers=[{"name": "worker", "image": "mine"}])["containers"]
    assert (worker["name"], worker["image"]) == ("worker", "mine")
    assert worker["ports"]


def test_a_container_beside_ours_is_made_a_sidecar_that_outlives_it() -> None:
    server, proxy = {"name": "server", "image": "s"}, {"name": "proxy", "image": "p", "restartPolicy": "Always"}
    migration = {"name": "migration", "image": "m"}
    merged = merge(containers=[server, {"name": "worker", "image": "mine"}, proxy], initContainers=[migration])
    assert [container["name"] for container in merged["containers"]] == ["worker"]
    assert merged["initContainers"] == [migration, {**server, "restartPolicy": "Always"}, proxy]


def test_a_sidecar_that_says_so_itself_stays_where_it_stands() -> None:
    proxy, migration = {"name": "proxy", "restartPolicy": "Always"}, {"name": "migration"}
    assert merge(initContainers=[proxy, migration])["initContainers"] == [proxy, migration]


def test_variables_and_volumes_of_one_name_are_replaced_as_a_whole() -> None:
    reference = {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    assert merge_worker(env=[reference])["env"] == [reference, {"name": "B", "value": "2"}]
    disk = {"name": "tmp", "persistentVolumeClaim": {"claimName": "disk"}}
    more = {"name": "more", "emptyDir": {}}
    assert merge(volumes=[disk, more])["volumes"] == [disk, more]


def test_mounts_are_merged_by_path() -> None:
    mounts = merge_worker(volumeMounts=[{"name": "disk", "mountPath": "/tmp"}, {"name": "tmp", "mountPath": "/var"}])
    assert mounts["volumeMounts"] == [{"name": "disk", "mountPath": "/tmp"}, {"name": "tmp", "mountPath": "/var"}]


def test_tolerations_are_appended() -> None:
    assert merge(tolerations=[{"key": "theirs"}])["tolerations"] == [{"key": "ours"}, {"key": "theirs"}]


def test_other_lists_are_replaced() -> None:
    assert merge_worker(args=["worker", "--verbose"])["args"] == ["worker", "--verbose"]


def test_a_null_removes() -> None:
    worker = merge_worker(livenessProbe={"httpGet": None, "exec": {"command": ["true"]}})
    assert worker["livenessProbe"] == {"exec": {"command": ["true"]}, "periodSeconds": 10}
    assert "resources" not in merge_worker(resources=None)


def test_our_labels_stay_ours() -> None:
    labels = {"headrace.dev/pool": "other", "team": "shop"}
    merged = merge_pod_template(OURS, {"metadata": {"labels": labels, "annotations": {"a": "b"}}})
    assert merged["metadata"] == {"labels": {"headrace.dev/pool": "workers", "team": "shop"}, "annotations": {"a": "b"}}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"containers": {"worker": {}}}, "spec.template.spec.containers: must be a list"),
        ({"containers": ["worker"]}, "spec.template.spec.containers[0]: must be an object"),
        ({"containers": [{"image": "x"}]}, "spec.template.spec.containers[0]: needs a name, by which it is merged"),
        ({"securityContext": "none"}, "spec.template.spec.securityContext: must be an object"),
        (
            {"containers": [{"name": "once", "restartPolicy": "Never"}]},
            (
                "spec.template.spec.containers[name=once].restartPolicy: must be Always or left out, since a container "
                "beside the worker is made a sidecar: what runs once belongs into initContainers"
            ),
        ),
        (
            {"containers": [{"name": "worker", "env": [{"value": "1"}]}]},
            "spec.template.spec.containers[0].env[0]: needs a name, by which it is merged",
        ),
    ],
)
def test_what_cannot_be_merged_is_refused_by_its_field(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(RefusedError) as refused:
        merge(**spec)
    assert (refused.value.reason, refused.value.message) == ("InvalidTemplate", message)
