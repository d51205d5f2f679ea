"""The control plane that operator tests stand on is a real one, and leaves nothing behind."""

from __future__ import annotations

import base64
import http.server
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.certificates import Authority
from cluster.control_plane import ControlPlane
from cluster.errors import ClusterError
from cluster.processes import wait_until

WIDGETS = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.test.headrace.dev}
spec:
  group: test.headrace.dev
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties: {low: {type: integer}, high: {type: integer}}
            x-kubernetes-validations:
            - {rule: "self.low <= self.high", message: "spec.low is above spec.high"}
"""


def widget(name: str, *, low: int, high: int) -> str:
    return json.dumps(
        {
            "apiVersion": "test.headrace.dev/v1",
            "kind": "Widget",
            "metadata": {"name": name},
            "spec": {"low": low, "high": high},
        },
    )


@pytest.fixture(scope="module")
def control_plane() -> Iterator[ControlPlane]:
    with ControlPlane() as running:
        yield running


def test_a_custom_resource_is_accepted_and_its_rules_are_enforced(control_plane: ControlPlane) -> None:
    control_plane.kubectl("apply", "-f", "-", stdin=WIDGETS)
    control_plane.kubectl("wait", "crd/widgets.test.headrace.dev", "--for=condition=Established", "--timeout=60s")

    control_plane.kubectl("apply", "-f", "-", stdin=widget("good", low=1, high=2))
    with pytest.raises(ClusterError, match=r"spec\.low is above spec\.high"):
        control_plane.kubectl("apply", "-f", "-", stdin=widget("bad", low=2, high=1))


def test_a_user_may_do_what_rbac_grants_and_nothing_else(control_plane: ControlPlane) -> None:
    jane = control_plane.kubeconfig_for_user("jane", groups=["readers"])
    control_plane.kubectl("create", "clusterrole", "readers", "--verb=list", "--resource=configmaps")
    control_plane.kubectl("create", "clusterrolebinding", "readers", "--clusterrole=readers", "--group=readers")

    control_plane.kubectl("get", "configmaps", kubeconfig=jane)
    with pytest.raises(ClusterError, match="Forbidden"):
        control_plane.kubectl("get", "secrets", kubeconfig=jane)


def test_a_service_account_logs_in_as_itself(control_plane: ControlPlane) -> None:
    kubeconfig = control_plane.kubeconfig_for_service_account("default", "default")

    told = json.loads(control_plane.kubectl("auth", "whoami", "--output=json", kubeconfig=kubeconfig))

    assert told["status"]["userInfo"]["username"] == "system:serviceaccount:default:default"


def test_garbage_is_collected_with_its_owner(control_plane: ControlPlane) -> None:
    control_plane.kubectl("create", "configmap", "owner")
    uid = control_plane.kubectl("get", "configmap", "owner", "--output=jsonpath={.metadata.uid}")
    owned = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "owned",
            "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}],
        },
    }
    control_plane.kubectl("apply", "-f", "-", stdin=json.dumps(owned))

    control_plane.kubectl("delete", "configmap", "owner")

    control_plane.kubectl("wait", "configmap/owned", "--for=delete", "--timeout=60s")


def test_an_api_served_on_this_machine_is_aggregated(control_plane: ControlPlane) -> None:
    authority = Authority("aggregated")
    front_proxy_ca = control_plane.kubectl(
        "get",
        "configmap/extension-apiserver-authentication",
        "--namespace=kube-system",
        r"--output=jsonpath={.data.requestheader-client-ca-file}",
    )
    with aggregated_api(authority, front_proxy_ca, control_plane.folder) as port:
        control_plane.kubectl("apply", "-f", "-", stdin=aggregation(authority, port))
        control_plane.kubectl(
            "wait",
            "apiservice/v1.aggregated.headrace.dev",
            "--for=condition=Available",
            "--timeout=60s",
        )

        answer = json.loads(control_plane.kubectl("get", "--raw", "/apis/aggregated.headrace.dev/v1/echo"))

        assert answer["user"] == "admin"
        control_plane.kubectl("delete", "apiservice/v1.aggregated.headrace.dev")


def test_it_ends_with_the_process_that_started_it_even_if_that_one_is_killed() -> None:
    script = (
        "import signal\n"
        "from cluster.control_plane import ControlPlane\n"
        "with ControlPlane(controllers=False) as running:\n"
        "    print(running.folder, flush=True)\n"
        "    signal.pause()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment) as owner:
        assert owner.stdout is not None
        folder = owner.stdout.readline().strip()
        assert processes_that_name(folder)

        owner.send_signal(signal.SIGKILL)

    wait_until("the end of all its processes", lambda: not processes_that_name(folder), timeout_seconds=60)
    wait_until("the removal of its folder", lambda: not Path(folder).exists(), timeout_seconds=60)


def test_an_orderly_stop_leaves_no_process_and_no_file() -> None:
    with ControlPlane(controllers=False) as running:
        folder = running.folder
        assert processes_that_name(str(folder))

    assert not processes_that_name(str(folder))
    assert not folder.exists()


def test_assets_without_controllers_are_refused_with_the_fix(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("etcd", "kube-apiserver", "kubectl"):
        (tmp_path / name).touch()
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))

    with pytest.raises(ClusterError, match="has no kube-controller-manager: put it there, or unset"), ControlPlane():
        pass


def processes_that_name(folder: str) -> list[str]:
    """Return the command lines of all running processes that mention `folder`."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_text().replace("\0", " ")
        except OSError:
            continue
        if folder in line:
            lines.append(line)
    return lines


@contextmanager
def aggregated_api(authority: Authority, front_proxy_ca: str, folder: Path) -> Iterator[int]:
    """Serve discovery and an echo of who asks, to nobody but the API server; yield the port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            discovery = {"kind": "APIResourceList", "groupVersion": "aggregated.headrace.dev/v1", "resources": []}
            answer = {"user": self.headers["X-Remote-User"]} if self.path.endswith("/echo") else discovery
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
            pass

    authority.issue("aggregated", hosts=["aggregated.default.svc"]).write(folder, "aggregated")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=front_proxy_ca)
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_cert_chain(folder / "aggregated.crt", folder / "aggregated.key")
    with http.server.ThreadingHTTPServer(("localhost", 0), Handler) as server:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            serving.join()


def aggregation(authority: Authority, port: int) -> str:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "aggregated", "namespace": "default"},
        "spec": {"type": "ExternalName", "externalName": "localhost"},
    }
    api_service = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": "v1.aggregated.headrace.dev"},
        "spec": {
            "group": "aggregated.headrace.dev",
            "version": "v1",
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "caBundle": base64.b64encode(authority.credential.certificate).decode(),
            "service": {"name": "aggregated", "namespace": "default", "port": port},
        },
    }
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": [service, api_service]})
