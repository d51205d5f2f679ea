"""Kubernetes without nodes: etcd, the API server and its controllers as plain processes, in seconds and without root.

Everything an operator talks to is real (admission, CEL, server-side apply, RBAC, aggregation, garbage collection, HPA);
only pods never run. Nothing outlives the process that started it, not even where that one is killed.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from cluster import build
from cluster.certificates import Authority, Credential
from cluster.errors import ClusterError
from cluster.processes import Server, run, wait_until

# A quiet machine needs 3 s; the rest is for one that compiles beside.
_START_TIMEOUT_SECONDS = 90.0
_HOST = "127.0.0.1"
_SERVICE_RANGE = "10.0.0.0/24"
_ISSUER = "https://kubernetes.default.svc"

# Ends what a killed process leaves: its own input ends with that process, and then so does its whole process group.
_GUARD = 'cat >/dev/null; trap "" TERM; kill -TERM 0; sleep 1; rm -rf -- "$0"; kill -KILL 0'


class ControlPlane:
    """A control plane of one's own, up inside a `with` block.

    Parameters
    ----------
    controllers
        Whether kube-controller-manager runs: HorizontalPodAutoscalers, garbage collection, ServiceAccounts,
        namespaces' deletion, Deployments' ReplicaSets. Defaults to True.
    horizontal_pod_autoscaler_sync_period_seconds
        How often HorizontalPodAutoscalers decide. Defaults to 2, where Kubernetes' own default is 15.

    Attributes
    ----------
    kubeconfig
        The file of a cluster administrator.
    url
        Where the API server listens, on this machine only.
    folder
        Its logs, keys and data; gone with it.
    """

    def __init__(self, *, controllers: bool = True, horizontal_pod_autoscaler_sync_period_seconds: int = 2) -> None:
        self._with_controllers = controllers
        self._autoscaler_period_seconds = horizontal_pod_autoscaler_sync_period_seconds
        self._running = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as starting:
            self._start(starting)
            self._running = starting.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._running.close()

    def kubectl(self, *arguments: str, stdin: str | None = None, kubeconfig: Path | None = None) -> str:
        """Run kubectl as the administrator, or as who `kubeconfig` says, and return what it printed."""
        return run(
            [self._commands / "kubectl", f"--kubeconfig={kubeconfig or self.kubeconfig}", *arguments],
            stdin=stdin,
        )

    def kubeconfig_for_user(self, name: str, *, groups: Sequence[str] = ()) -> Path:
        """Return the kubeconfig of any user: RBAC alone decides what it may do."""
        credential = self._authority.issue(name, groups=groups)
        return self._write_kubeconfig(name, _certificate_login(credential))

    def kubeconfig_for_service_account(self, namespace: str, name: str) -> Path:
        """Return a kubeconfig with a token of a ServiceAccount that exists."""
        token = self.kubectl("create", "token", name, f"--namespace={namespace}", "--duration=24h").strip()
        return self._write_kubeconfig(f"{namespace}.{name}", {"token": token}, namespace=namespace)

    def _start(self, running: ExitStack) -> None:
        self._commands = _commands(with_controllers=self._with_controllers)
        self.folder = Path(tempfile.mkdtemp(prefix="headrace-control-plane-"))
        running.callback(shutil.rmtree, self.folder, ignore_errors=True)
        guard = running.enter_context(
            subprocess.Popen(
                ["sh", "-c", _GUARD, self.folder],
                stdin=subprocess.PIPE,
                process_group=0,
            ),
        )
        # A guard that were to act on an orderly stop would wait a second for nothing.
        running.callback(guard.kill)
        self._group = guard.pid

        client_port, peer_port, api_port, controllers_port = (_reserve_port(running) for _ in range(4))
        self.url = f"https://{_HOST}:{api_port}"
        self._write_credentials()
        self.kubeconfig = self._write_kubeconfig("admin", _certificate_login(self._administrator))

        etcd = self._serve(running, "etcd", self._etcd_flags(client_port, peer_port))
        api_server = self._serve(running, "kube-apiserver", self._api_server_flags(client_port, api_port))
        servers = [etcd, api_server]
        wait_until(
            "the API server",
            lambda: self._answers("/readyz"),
            servers=servers,
            timeout_seconds=_START_TIMEOUT_SECONDS,
        )
        if self._with_controllers:
            servers.append(self._serve(running, "kube-controller-manager", self._controller_flags(controllers_port)))
            # What the controllers make first in every namespace: once it is there they work.
            wait_until(
                "the ServiceAccount of namespace default",
                lambda: self._answers("/api/v1/namespaces/default/serviceaccounts/default"),
                servers=servers,
                timeout_seconds=_START_TIMEOUT_SECONDS,
            )

    def _serve(self, running: ExitStack, name: str, flags: dict[str, object]) -> Server:
        words = [f"--{flag}={value}" for flag, value in flags.items()]
        server = Server.start(
            name,
            [self._commands / name, *words],
            log=self.folder / f"{name}.log",
            process_group=self._group,
        )
        running.callback(server.stop)
        return server

    def _write_credentials(self) -> None:
        folder = self.folder
        self._authority = Authority("headrace-control-plane")
        # Apart from the clients' authority: whoever holds its certificates speaks for any user.
        front_proxy = Authority("headrace-front-proxy")
        service_accounts = Authority("headrace-service-accounts")
        self._administrator = self._authority.issue("admin", groups=["system:masters"])
        self._authority.credential.write(folder, "ca")
        self._authority.issue("kube-apiserver", hosts=[_HOST, "localhost", "kubernetes.default.svc"]).write(
            folder,
            "server",
        )
        front_proxy.credential.write(folder, "front-proxy-ca")
        front_proxy.issue("front-proxy-client").write(folder, "front-proxy-client")
        service_accounts.credential.write(folder, "service-accounts")
        controllers = self._authority.issue("system:kube-controller-manager")
        self._write_kubeconfig("controllers", _certificate_login(controllers))
        self._trust = ssl.create_default_context(cafile=folder / "ca.crt")
        self._administrator.write(folder, "admin")
        self._trust.load_cert_chain(folder / "admin.crt", folder / "admin.key")

    def _etcd_flags(self, client_port: int, peer_port: int) -> dict[str, object]:
        client, peer = f"http://{_HOST}:{client_port}", f"http://{_HOST}:{peer_port}"
        return {
            "data-dir": self.folder / "etcd",
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
            # The data is thrown away, so nothing is lost by not waiting for the disk.
            "unsafe-no-fsync": "true",
            "socket-reuse-port": "true",
        }

    def _api_server_flags(self, etcd_port: int, port: int) -> dict[str, object]:
        folder = self.folder
        flags: dict[str, object] = {
            "etcd-servers": f"http://{_HOST}:{etcd_port}",
            "bind-address": _HOST,
            "secure-port": port,
            "permit-port-sharing": "true",
            "tls-cert-file": folder / "server.crt",
            "tls-private-key-file": folder / "server.key",
            "client-ca-file": folder / "ca.crt",
            "authorization-mode": "RBAC",
            "allow-privileged": "true",
            # No pod calls it, and no loopback address may stand in Endpoints.
            "endpoint-reconciler-type": "none",
            "service-cluster-ip-range": _SERVICE_RANGE,
            "service-account-issuer": _ISSUER,
            "service-account-key-file": folder / "service-accounts.crt",
            "service-account-signing-key-file": folder / "service-accounts.key",
            # Aggregated APIs: an APIService may point at an ExternalName Service `localhost`.
            "requestheader-client-ca-file": folder / "front-proxy-ca.crt",
            "requestheader-allowed-names": "front-proxy-client",
            "requestheader-username-headers": "X-Remote-User",
            "requestheader-group-headers": "X-Remote-Group",
            "requestheader-extra-headers-prefix": "X-Remote-Extra-",
            "proxy-client-cert-file": folder / "front-proxy-client.crt",
            "proxy-client-key-file": folder / "front-proxy-client.key",
        }
        if not self._with_controllers:
            # Nobody makes the ServiceAccounts without which this plugin refuses every pod.
            flags["disable-admission-plugins"] = "ServiceAccount"
        return flags

    def _controller_flags(self, port: int) -> dict[str, object]:
        folder = self.folder
        return {
            "kubeconfig": folder / "controllers.kubeconfig",
            "bind-address": _HOST,
            "secure-port": port,
            "permit-port-sharing": "true",
            "tls-cert-file": folder / "server.crt",
            "tls-private-key-file": folder / "server.key",
            "leader-elect": "false",
            "use-service-account-credentials": "true",
            "service-account-private-key-file": folder / "service-accounts.key",
            "root-ca-file": folder / "ca.crt",
            # Nobody else needs the API server; the default of 20 requests a second costs seconds at the start.
            "kube-api-qps": 500,
            "kube-api-burst": 1000,
            "horizontal-pod-autoscaler-sync-period": f"{self._autoscaler_period_seconds}s",
        }

    def _answers(self, path: str) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}{path}", context=self._trust, timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _write_kubeconfig(self, name: str, login: dict[str, str], *, namespace: str = "default") -> Path:
        authority = _base64(self._authority.credential.certificate)
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "clusters": [
                {"name": "control-plane", "cluster": {"server": self.url, "certificate-authority-data": authority}}
            ],
            "users": [{"name": name, "user": login}],
            "contexts": [
                {"name": name, "context": {"cluster": "control-plane", "user": name, "namespace": namespace}},
            ],
        }
        path = self.folder / f"{name.replace(':', '.').replace('/', '.')}.kubeconfig"
        path.touch(mode=0o600)
        # JSON is YAML, and the standard library writes it.
        path.write_text(json.dumps(content, indent=2))
        return path


def _commands(*, with_controllers: bool) -> Path:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if not assets:
        return build.kubernetes()
    folder = Path(assets)
    needed = ["etcd", "kube-apiserver", "kubectl", *(["kube-controller-manager"] if with_controllers else [])]
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise ClusterError(
            f"KUBEBUILDER_ASSETS={folder} has no {', no '.join(missing)}: put it there, "
            "or unset the variable to have everything compiled",
        )
    return folder


def _reserve_port(held: ExitStack) -> int:
    """Return a free port that stays ours: a server may share it, but nobody else is given it meanwhile."""
    holder = held.enter_context(socket.socket())
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    holder.bind((_HOST, 0))
    port: int = holder.getsockname()[1]
    return port


def _certificate_login(credential: Credential) -> dict[str, str]:
    return {
        "client-certificate-data": _base64(credential.certificate),
        "client-key-data": _base64(credential.key),
    }


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
