"""The operator as a process of its own, with the rights that the chart gives it and no others."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from cluster import tools
from cluster.places import REPOSITORY
from cluster.processes import run
from support.postgres import free_port

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cluster.control_plane import ControlPlane

NAMESPACE = "headrace-system"
SERVICE_ACCOUNT = "headrace-operator"
SERVICE = "headrace-operator-metrics-api"
API_SERVICE = "v1beta1.external.metrics.k8s.io"

_START_TIMEOUT_SECONDS = 60
_STOP_TIMEOUT_SECONDS = 20
_RIGHTS = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")

_STILL_CLOSING = re.compile(
    r"Exception ignored in: [^\n]*\n(?:Traceback[^\n]*\n(?:  [^\n]*\n)+)?ResourceWarning: unclosed [^\n]*"
)
"""A connection over TLS takes a moment to close; that the process had ended by then is no failure of it."""


@dataclass(kw_only=True)
class OperatorProcess:
    """``headrace-operator run`` against a control plane. It can be stopped and started again."""

    control_plane: ControlPlane
    log: Path
    watch_namespaces: tuple[str, ...] = ()
    """Where it has rights and works; empty: everywhere."""
    worker_image: str = "headrace/worker:test"
    """What pools run that name no image; another one is another release."""
    listen_port: int = field(default_factory=free_port)
    metrics_api_port: int = field(default_factory=free_port)
    log_level: str = "debug"
    environment: Mapping[str, str] = field(default_factory=dict)
    """What else it is told."""
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def install(self) -> None:
        """What the chart installs beside the operator's Deployment; its Service leads to this machine."""
        self.control_plane.kubectl("create", "namespace", NAMESPACE)
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"namespace": NAMESPACE, "name": SERVICE},
            "spec": {"type": "ExternalName", "externalName": "localhost"},
        }
        manifests = [*self._chart_rights(), service, self._api_service()]
        listed = {"apiVersion": "v1", "kind": "List", "items": manifests}
        self.control_plane.kubectl("apply", "-f", "-", stdin=json.dumps(listed))

    def start(self) -> None:
        """Start, and wait until it watches."""
        kubeconfig = self.control_plane.kubeconfig_for_service_account(NAMESPACE, SERVICE_ACCOUNT)
        environment = {
            "PATH": os.environ["PATH"],
            # Of the tree that is tested, wherever another is installed.
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "KUBECONFIG": str(kubeconfig),
            "HEADRACE_NAMESPACE": NAMESPACE,
            "HEADRACE_WATCH_NAMESPACES": ",".join(self.watch_namespaces),
            "HEADRACE_WORKER_IMAGE": self.worker_image,
            "HEADRACE_LISTEN_ADDRESS": f"127.0.0.1:{self.listen_port}",
            "HEADRACE_METRICS_API_ADDRESS": f"127.0.0.1:{self.metrics_api_port}",
            "HEADRACE_METRICS_API_SERVICE": SERVICE,
            "HEADRACE_LOG_LEVEL": self.log_level,
            # A warning in the operator's process is as wrong as one in a test.
            "PYTHONWARNINGS": "error",
            **self.environment,
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "headrace_operator", "run"], env=environment, stdout=log, stderr=log
            )
        deadline = time.monotonic() + _START_TIMEOUT_SECONDS
        while not self.answers("/readyz"):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the operator did not start:\n{self.read_log()[-4000:]}")
            time.sleep(0.1)

    def stop(self) -> int:
        """Stop as Kubernetes does; returns the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(_STOP_TIMEOUT_SECONDS)
        finally:
            self.process.kill()
            self.process.wait()
            self.process = None

    def answers(self, path: str) -> bool:
        """Whether an endpoint says yes."""
        try:
            self.get(path)
        except OSError:
            return False
        return True

    def get(self, path: str, *, timeout_seconds: float = 5) -> str:
        """An endpoint's answer."""
        url = f"http://127.0.0.1:{self.listen_port}{path}"
        with urllib.request.urlopen(url, timeout=timeout_seconds) as response:
            content: bytes = response.read()
            return content.decode()

    def read_log(self) -> str:
        """All that it has logged, over its restarts."""
        return self.log.read_text()

    def has_failed(self) -> bool:
        """Whether it has logged a traceback."""
        return "Traceback" in _STILL_CLOSING.sub("", self.read_log())

    def _api_service(self) -> dict[str, Any]:
        return {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": API_SERVICE},
            "spec": {
                "group": "external.metrics.k8s.io",
                "version": "v1beta1",
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "service": {"namespace": NAMESPACE, "name": SERVICE, "port": self.metrics_api_port},
            },
        }

    def _chart_rights(self) -> list[dict[str, Any]]:
        chart = str(REPOSITORY / "charts" / "headrace")
        watched = f"--set-json=watchNamespaces={json.dumps(self.watch_namespaces)}"
        rendered = run([tools.helm(), "template", "headrace", chart, f"--namespace={NAMESPACE}", watched])
        return [manifest for manifest in yaml.safe_load_all(rendered) if manifest and manifest["kind"] in _RIGHTS]
