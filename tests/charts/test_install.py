"""The chart installed by helm into a real API server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cluster.control_plane import ControlPlane
from cluster.errors import ClusterError
from cluster.places import REPOSITORY
from cluster.processes import wait_until

Manifest = dict[str, Any]
Helm = Callable[..., str]
Render = Callable[..., list[Manifest]]
Release = Callable[..., str]

CHART = REPOSITORY / "charts" / "headrace"
NAMESPACE = "headrace-system"
API_SERVICE = "v1beta1.external.metrics.k8s.io"
OPERATOR = f"system:serviceaccount:{NAMESPACE}:headrace-operator"


@pytest.fixture
def release(helm: Helm, control_plane: ControlPlane) -> Iterator[Release]:
    """Install or upgrade the chart; what was installed goes with the test."""
    flags = (f"--kubeconfig={control_plane.kubeconfig}", f"--namespace={NAMESPACE}")

    def upgrade(*settings: str) -> str:
        sets = [f"--set={setting}" for setting in settings]
        return helm("upgrade", "headrace", CHART, "--install", *flags, *sets)

    yield upgrade
    helm("uninstall", "headrace", "--ignore-not-found", *flags)


def test_every_pod_passes_the_restricted_standard(control_plane: ControlPlane, render: Render) -> None:
    manifests = render()
    templates = [manifest["spec"]["template"] for manifest in manifests if manifest["kind"] == "Deployment"]
    pods = [manifest for manifest in manifests if manifest["kind"] == "Pod"]
    assert (len(templates), len(pods)) == (1, 1)
    # Admission judges pods; a Deployment's would be refused later and out of sight.
    for number, template in enumerate(templates):
        metadata = {**template["metadata"], "name": f"operator-{number}", "namespace": NAMESPACE}
        # The account comes with the chart, and this test needs no more than the pod's own fields.
        spec = {**template["spec"], "serviceAccountName": "default"}
        pods.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    for pod in pods:
        control_plane.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))


def test_an_upgrade_keeps_the_certificate_authority_that_the_operator_wrote(
    control_plane: ControlPlane, release: Release
) -> None:
    release()
    patch = json.dumps({"spec": {"caBundle": "Q0E="}})
    control_plane.kubectl("patch", "apiservice", API_SERVICE, "--type=merge", "--field-manager=operator", f"-p={patch}")
    release("log.format=json")
    assert control_plane.kubectl("get", "apiservice", API_SERVICE, "-o", "jsonpath={.spec.caBundle}") == "Q0E="


def test_an_external_metrics_api_of_somebody_else_is_not_taken(control_plane: ControlPlane, release: Release) -> None:
    taken = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": API_SERVICE},
        "spec": {
            "group": "external.metrics.k8s.io",
            "version": "v1beta1",
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "service": {"namespace": "keda", "name": "keda-operator-metrics-apiserver"},
        },
    }
    control_plane.kubectl("create", "-f", "-", stdin=json.dumps(taken))
    try:
        with pytest.raises(ClusterError, match="already belongs to the Service keda/keda-operator") as refusal:
            release()
        assert "externalMetricsApi.enabled=false and use autoscaling mode Direct" in str(refusal.value)
        release("externalMetricsApi.enabled=false")
    finally:
        control_plane.kubectl("delete", "apiservice", API_SERVICE)


def test_uninstalling_removes_the_api_and_keeps_queues_and_pools(
    control_plane: ControlPlane, release: Release, helm: Helm
) -> None:
    release()
    helm("uninstall", "headrace", f"--kubeconfig={control_plane.kubeconfig}", f"--namespace={NAMESPACE}")
    # An APIService that nobody serves would block the deletion of every namespace.
    assert API_SERVICE not in control_plane.kubectl("get", "apiservices")
    definitions = control_plane.kubectl("get", "crd", "-o", "name")
    assert "jobqueues.headrace.dev" in definitions
    assert "jobworkerpools.headrace.dev" in definitions
    release()


# Verb, group, resource[/subresource], and, where it matters, a name.
Right = tuple[str, str, str] | tuple[str, str, str, str]

MAY: list[Right] = [
    ("watch", "headrace.dev", "jobqueues"),
    ("patch", "headrace.dev", "jobqueues"),
    ("patch", "headrace.dev", "jobqueues/status"),
    ("watch", "headrace.dev", "jobworkerpools"),
    ("patch", "headrace.dev", "jobworkerpools/status"),
    ("patch", "headrace.dev", "jobworkerpools"),
    ("create", "apps", "deployments"),
    ("patch", "apps", "deployments"),
    ("delete", "autoscaling", "horizontalpodautoscalers"),
    ("watch", "", "pods"),
    ("get", "", "secrets", "pg"),
    ("patch", "", "secrets", "thumbnails-binding"),
    ("create", "", "events"),
]
MAY_NOT: list[Right] = [
    ("list", "", "secrets"),
    ("watch", "", "secrets"),
    ("update", "", "secrets", "pg"),
    ("delete", "", "secrets", "pg"),
    ("create", "", "pods"),
    ("delete", "", "pods"),
    ("get", "", "configmaps"),
    ("create", "headrace.dev", "jobqueues"),
    ("delete", "headrace.dev", "jobqueues"),
    ("patch", "headrace.dev", "jobworkerpools/scale"),
    ("create", "rbac.authorization.k8s.io", "roles"),
]
MAY_IN_THE_CLUSTER: list[Right] = [
    ("get", "apiregistration.k8s.io", "apiservices", API_SERVICE),
    ("patch", "apiregistration.k8s.io", "apiservices", API_SERVICE),
]
MAY_NOT_IN_THE_CLUSTER: list[Right] = [
    ("delete", "apiregistration.k8s.io", "apiservices", API_SERVICE),
    ("patch", "apiregistration.k8s.io", "apiservices", "v1beta1.custom.metrics.k8s.io"),
    ("list", "", "namespaces"),
    ("list", "apiextensions.k8s.io", "customresourcedefinitions"),
]


def test_the_operator_may_do_its_work_and_no_more(control_plane: ControlPlane, release: Release) -> None:
    release()
    assert refused(control_plane, OPERATOR, "shop", MAY) == []
    assert refused(control_plane, OPERATOR, "shop", MAY_NOT) == MAY_NOT
    assert refused(control_plane, OPERATOR, "", MAY_IN_THE_CLUSTER) == []
    assert refused(control_plane, OPERATOR, "", MAY_NOT_IN_THE_CLUSTER) == MAY_NOT_IN_THE_CLUSTER
    assert may(control_plane, OPERATOR, NAMESPACE, ("update", "", "secrets", "headrace-operator-metrics-api"))
    assert may(control_plane, OPERATOR, "kube-system", ("get", "", "configmaps", "extension-apiserver-authentication"))
    assert may(control_plane, OPERATOR, "kube-system", ("get", "", "namespaces", "kube-system"))
    assert not may(control_plane, OPERATOR, "shop", ("get", "", "namespaces", "shop"))


def test_with_namespaces_to_watch_the_operator_may_nothing_elsewhere(
    control_plane: ControlPlane, release: Release
) -> None:
    control_plane.kubectl("create", "namespace", "media")
    release("watchNamespaces={media}")
    assert refused(control_plane, OPERATOR, "media", MAY) == []
    assert refused(control_plane, OPERATOR, "shop", MAY) == MAY
    assert refused(control_plane, OPERATOR, "", MAY_IN_THE_CLUSTER) == []


def test_who_may_edit_a_namespace_may_edit_its_queues_and_who_may_view_may_look(
    control_plane: ControlPlane, release: Release
) -> None:
    release()
    for role in ("edit", "view"):
        control_plane.kubectl("create", "rolebinding", role, f"--clusterrole={role}", f"--user=may-{role}")
    edit: Right = ("create", "headrace.dev", "jobqueues")
    view: Right = ("get", "headrace.dev", "jobworkerpools")
    # The cluster's own controller gathers the rules.
    wait_until("edit", lambda: may(control_plane, "may-edit", "default", edit), timeout_seconds=30)
    wait_until("view", lambda: may(control_plane, "may-view", "default", view), timeout_seconds=30)
    assert may(control_plane, "may-edit", "default", ("patch", "headrace.dev", "jobworkerpools/scale"))
    assert not may(control_plane, "may-view", "default", edit)


def refused(control_plane: ControlPlane, user: str, namespace: str, rights: list[Right]) -> list[Right]:
    """Return those of `rights` that `user` does not have."""
    return [right for right in rights if not may(control_plane, user, namespace, right)]


def may(control_plane: ControlPlane, user: str, namespace: str, right: Right) -> bool:
    """Ask the API server."""
    verb, group, kind, name = right if len(right) == 4 else (*right, "")
    resource, _, subresource = kind.partition("/")
    asked = {"verb": verb, "group": group, "resource": resource, "subresource": subresource, "name": name}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": user, "resourceAttributes": {**asked, "namespace": namespace}},
    }
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    answer = json.loads(control_plane.kubectl("create", f"--raw={path}", "-f", "-", stdin=json.dumps(review)))
    return bool(answer["status"]["allowed"])
