"""What the chart renders, judged without a cluster."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from cluster.errors import ClusterError
from cluster.places import REPOSITORY

Manifest = dict[str, Any]
Helm = Callable[..., str]
Render = Callable[..., list[Manifest]]

CHART = REPOSITORY / "charts" / "headrace"


def test_the_chart_lints(helm: Helm) -> None:
    helm("lint", "--strict", CHART)


def test_the_charts_definitions_are_the_canonical_ones() -> None:
    done = subprocess.run([REPOSITORY / "charts" / "sync-crds", "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_definitions_render_as_they_stand_in_crds_and_are_kept_on_uninstall(render: Render) -> None:
    rendered = {crd["metadata"]["name"]: crd for crd in of_kind(render(), "CustomResourceDefinition")}
    canonical = [yaml.safe_load(file.read_text()) for file in sorted((REPOSITORY / "crds").glob("*.yaml"))]
    assert {name: crd["spec"] for name, crd in rendered.items()} == {
        crd["metadata"]["name"]: crd["spec"] for crd in canonical
    }
    for crd in rendered.values():
        assert crd["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_definitions_can_be_left_out_or_given_up_on_uninstall(render: Render) -> None:
    assert not of_kind(render("crds.enabled=false"), "CustomResourceDefinition")
    assert not any(
        "annotations" in crd["metadata"] for crd in of_kind(render("crds.keep=false"), "CustomResourceDefinition")
    )


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("replicas=2", "'replicas' not allowed"),
        ("image.registry=example.com", "'registry' not allowed"),
        ("image.tag=a b", "/image/tag"),
        ("image.digest=latest", "/image/digest"),
        ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
        ("crds.keep=perhaps", "/crds/keep"),
        ("log.format=xml", "/log/format"),
        ("watchNamespaces=shop", "/watchNamespaces"),
        ("watchNamespaces={Shop}", "/watchNamespaces/0"),
        ("aws.ambientNamespaces={Shop}", "/aws/ambientNamespaces/0"),
        ("aws.queuePrefix=a b", "/aws/queuePrefix"),
        ("aws.endpointUrls={sqs.example.com}", "/aws/endpointUrls/0"),
        ("podMonitor.interval=30", "/podMonitor/interval"),
        ("prometheusRule.enabled=perhaps", "/prometheusRule/enabled"),
        ("grafanaDashboard.folder=Jobs", "'folder' not allowed"),
    ],
)
def test_a_wrong_value_is_refused_by_name(render: Render, setting: str, named: str) -> None:
    with pytest.raises(ClusterError, match="values don't meet the specifications of the schema") as refusal:
        render(setting)
    assert named in str(refusal.value)


def test_a_kubernetes_without_native_sidecars_is_refused(helm: Helm) -> None:
    with pytest.raises(ClusterError, match=r"requires kubeVersion: >=1\.33"):
        helm("template", "headrace", CHART, "--kube-version=1.32.9")


def test_images_come_from_the_release_unless_told_otherwise(render: Render) -> None:
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    assert images(render()) == (f"headrace/operator:{version}", f"headrace/worker:{version}")
    assert images(render("image.tag=dev", "worker.image.repository=example.com/w", "worker.image.tag=v2")) == (
        "headrace/operator:dev",
        "example.com/w:v2",
    )
    digest = "sha256:" + "0" * 64
    assert images(render(f"image.digest={digest}", "image.tag=dev"))[0] == f"headrace/operator@{digest}"


def test_one_operator_runs_at_a_time(render: Render) -> None:
    spec = operator(render())["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "Recreate"}


def test_the_operator_is_told_what_the_values_say(render: Render) -> None:
    environment = operator_environment(render("watchNamespaces={shop,media}", "log.format=json", "log.level=debug"))
    assert environment["HEADRACE_WATCH_NAMESPACES"] == "shop,media"
    assert environment["HEADRACE_LOG_FORMAT"] == "json"
    assert environment["HEADRACE_LOG_LEVEL"] == "debug"
    assert environment["HEADRACE_METRICS_API_ADDRESS"] == "0.0.0.0:8443"
    assert environment["HEADRACE_METRICS_API_SERVICE"] == "headrace-operator-metrics-api"


def test_for_whom_the_operators_own_aws_identity_is_used_is_nobody_until_the_values_say_so(render: Render) -> None:
    assert not [name for name in operator_environment(render()) if name.startswith("HEADRACE_AWS")]
    told = operator_environment(
        render(
            "aws.ambientNamespaces={shop,media}",
            "aws.queuePrefix=prod-",
            "aws.endpointUrls={https://vpce.example.com}",
        )
    )
    assert told["HEADRACE_AWS_AMBIENT_NAMESPACES"] == "shop,media"
    assert told["HEADRACE_AWS_QUEUE_PREFIX"] == "prod-"
    assert told["HEADRACE_AWS_ENDPOINT_URLS"] == "https://vpce.example.com"


def test_the_operators_pod_has_no_way_to_write_but_tmp_and_says_how_it_is(render: Render) -> None:
    pod = operator(render())["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/tmp"]
    assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()
    assert container["resources"]["limits"]["memory"]


def test_no_role_has_a_wildcard_and_none_lists_secrets(render: Render) -> None:
    for settings in ((), ("watchNamespaces={shop}",)):
        for rule in all_rules(render(*settings)):
            assert "*" not in rule["apiGroups"] + rule["resources"] + rule["verbs"]
            if "secrets" in rule["resources"]:
                assert not {"list", "watch", "delete", "deletecollection"} & set(rule["verbs"])


def test_the_operator_may_delete_nothing_but_autoscalers(render: Render) -> None:
    roles = [role for kind in ("Role", "ClusterRole") for role in of_kind(render(), kind)]
    rules = [
        rule for role in roles if role["metadata"]["name"].startswith("headrace-operator") for rule in role["rules"]
    ]
    deleting = [rule["resources"] for rule in rules if {"delete", "deletecollection"} & set(rule["verbs"])]
    assert deleting == [["horizontalpodautoscalers"]]


def test_only_our_own_apiservice_may_be_touched(render: Render) -> None:
    [rule] = [rule for rule in all_rules(render()) if "apiservices" in rule["resources"]]
    assert rule["resourceNames"] == ["v1beta1.external.metrics.k8s.io"]
    assert rule["verbs"] == ["get", "patch"]


def test_with_namespaces_to_watch_the_operator_has_rights_in_these_alone(render: Render) -> None:
    everywhere = render()
    manifests = render("watchNamespaces={shop,media}")
    [whole] = [role for role in of_kind(everywhere, "ClusterRole") if role["metadata"]["name"] == "headrace-operator"]
    roles = {
        role["metadata"]["namespace"]: role
        for role in of_kind(manifests, "Role")
        if role["metadata"]["name"] == "headrace-operator"
    }
    assert {namespace: role["rules"] for namespace, role in roles.items()} == {
        "shop": whole["rules"],
        "media": whole["rules"],
    }
    bound = {binding["roleRef"]["name"] for binding in of_kind(manifests, "ClusterRoleBinding")}
    assert bound == {"headrace-operator-metrics-api"}


def test_the_apiservice_is_verified_and_leaves_its_ca_to_the_operator(render: Render) -> None:
    [service] = of_kind(render(), "APIService")
    assert "caBundle" not in service["spec"]
    assert not service["spec"].get("insecureSkipTLSVerify")
    assert service["spec"]["service"] == {
        "namespace": "headrace-system",
        "name": "headrace-operator-metrics-api",
        "port": 443,
    }


def test_without_the_external_metrics_api_nothing_of_it_is_left(render: Render) -> None:
    manifests = render("externalMetricsApi.enabled=false")
    assert not of_kind(manifests, "APIService")
    assert not [manifest for manifest in manifests if "metrics-api" in manifest["metadata"]["name"]]
    assert not [rule for rule in all_rules(manifests) if "apiservices" in rule["resources"]]
    assert operator_environment(manifests)["HEADRACE_METRICS_API_ADDRESS"] == ""


def test_pod_monitors_keep_the_labels_of_the_metrics(render: Render) -> None:
    assert not of_kind(render(), "PodMonitor")
    monitors = of_kind(render("podMonitor.enabled=true", "podMonitor.labels.release=prometheus"), "PodMonitor")
    assert [monitor["metadata"]["name"] for monitor in monitors] == ["headrace-operator", "headrace-workers"]
    for monitor in monitors:
        assert monitor["metadata"]["labels"]["release"] == "prometheus"
        assert all(endpoint["honorLabels"] for endpoint in monitor["spec"]["podMetricsEndpoints"])


def test_the_prometheus_rule_holds_the_alerts_as_they_stand_in_the_file(render: Render) -> None:
    assert not of_kind(render(), "PrometheusRule")
    [rule] = of_kind(
        render("prometheusRule.enabled=true", "prometheusRule.labels.release=prometheus"), "PrometheusRule"
    )
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    assert rule["spec"] == yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())


def test_the_dashboard_comes_with_the_label_that_grafanas_sidecar_looks_for(render: Render) -> None:
    def dashboards(*settings: str) -> list[Manifest]:
        config_maps = of_kind(render(*settings), "ConfigMap")
        return [config_map for config_map in config_maps if config_map["metadata"]["name"] == "headrace-dashboard"]

    assert not dashboards()
    [dashboard] = dashboards("grafanaDashboard.enabled=true")
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(dashboard["data"]["headrace.json"]) == json.loads(
        (CHART / "files" / "dashboard.json").read_text()
    )


def test_the_network_policy_opens_what_the_operator_serves(render: Render) -> None:
    assert not of_kind(render(), "NetworkPolicy")
    [policy] = of_kind(render("networkPolicy.enabled=true"), "NetworkPolicy")
    [rule] = policy["spec"]["ingress"]
    served = {port["name"] for port in operator(render())["spec"]["template"]["spec"]["containers"][0]["ports"]}
    assert {port["port"] for port in rule["ports"]} == served


def test_helm_test_asks_the_operator_and_the_api_that_it_serves(render: Render, tmp_path: Path) -> None:
    manifests = render()
    [pod] = of_kind(manifests, "Pod")
    [script] = [config for config in of_kind(manifests, "ConfigMap") if config["metadata"]["name"] == "headrace-test"]
    assert pod["spec"]["containers"][0]["args"] == [
        "http://headrace-operator.headrace-system.svc:8080/readyz",
        "https://kubernetes.default.svc/apis/external.metrics.k8s.io/v1beta1",
    ]
    answers = tmp_path / "answers.py"
    answers.write_text(script["data"]["answers.py"])
    with ThreadingHTTPServer(("127.0.0.1", 0), Ready) as server:
        Thread(target=server.serve_forever).start()
        address = f"http://127.0.0.1:{server.server_port}/readyz"
        done = subprocess.run(["python3", answers, address], capture_output=True, text=True, check=False)
        server.shutdown()
    assert (done.returncode, done.stdout) == (0, f"{address}: answers\n"), done.stderr


class Ready(BaseHTTPRequestHandler):
    """Answers 200 to everything."""

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 the base class' name
        """Say nothing."""


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def all_rules(manifests: list[Manifest]) -> list[Manifest]:
    return [rule for kind in ("Role", "ClusterRole") for role in of_kind(manifests, kind) for rule in role["rules"]]


def operator(manifests: list[Manifest]) -> Manifest:
    [deployment] = of_kind(manifests, "Deployment")
    return deployment


def operator_environment(manifests: list[Manifest]) -> dict[str, str]:
    [container] = operator(manifests)["spec"]["template"]["spec"]["containers"]
    return {variable["name"]: variable.get("value", "") for variable in container["env"]}


def images(manifests: list[Manifest]) -> tuple[str, str]:
    [container] = operator(manifests)["spec"]["template"]["spec"]["containers"]
    return container["image"], operator_environment(manifests)["HEADRACE_WORKER_IMAGE"]
