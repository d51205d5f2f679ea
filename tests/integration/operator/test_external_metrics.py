"""The external metrics API before a real API server: aggregation, trust in both directions, a real autoscaler."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cluster.certificates import Authority, Credential
from cluster.control_plane import ControlPlane
from cluster.errors import ClusterError
from headrace_operator.core.external_metrics import MetricValue
from headrace_operator.core.model import ObjectKey, TransientError
from headrace_operator.kubernetes import KubernetesApi, MetricsApiAccess
from headrace_operator.metrics_api import ExternalMetricsServer
from support.kubectl import eventually

SERVICE = ObjectKey("headrace-system", "headrace-operator-metrics-api")
SECRET = SERVICE
API_SERVICE = "v1beta1.external.metrics.k8s.io"
ROOT = "/apis/external.metrics.k8s.io/v1beta1"
LOAD = f"{ROOT}/namespaces/shop/background_jobs_queue_load"


class SetClock:
    """A clock that stands where it is put."""

    def __init__(self) -> None:
        self.time = datetime.now(UTC)

    def now(self) -> datetime:
        return self.time


class Board:
    """The values of the namespace `shop`."""

    def __init__(self) -> None:
        self.loads: dict[str, float] = {"thumbnails": 30, "mails": 2.5}

    def values(self, metric: str, namespace: str) -> Sequence[MetricValue]:
        if (metric, namespace) != ("background_jobs_queue_load", "shop"):
            return []
        return [
            MetricValue(labels={"queue": queue}, value=load, sampled_at=datetime.now(UTC))
            for queue, load in self.loads.items()
        ]


@pytest.fixture(scope="module")
def control_plane() -> Iterator[ControlPlane]:
    with ControlPlane() as running:
        for namespace in (SERVICE.namespace, "shop"):
            running.kubectl("create", "namespace", namespace)
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"namespace": SERVICE.namespace, "name": SERVICE.name},
            "spec": {"type": "ExternalName", "externalName": "localhost"},
        }
        running.kubectl("apply", "-f", "-", stdin=json.dumps(service))
        grant_least_rights(running)
        yield running


def grant_least_rights(control_plane: ControlPlane) -> None:
    """What the chart grants the operator for this API, and no more."""
    here = f"--namespace={SERVICE.namespace}"
    account = f"--serviceaccount={SERVICE.namespace}:operator"
    named, apiservices = f"--resource-name={SECRET.name}", "--resource=apiservices.apiregistration.k8s.io"
    for words in (
        ("serviceaccount", "operator", here),
        ("role", "keep", "--verb=get,update", "--resource=secrets", named, here),
        ("rolebinding", "keep", "--role=keep", account, here),
        ("role", "make", "--verb=create", "--resource=secrets", here),
        ("rolebinding", "make", "--role=make", account, here),
        ("clusterrole", "claim", "--verb=get,patch", apiservices, f"--resource-name={API_SERVICE}"),
        ("clusterrolebinding", "claim", "--clusterrole=claim", account),
        (
            *("rolebinding", "operator", "--role=extension-apiserver-authentication-reader", account),
            "--namespace=kube-system",
        ),
    ):
        control_plane.kubectl("create", *words)


@pytest.fixture(autouse=True)
def _clean(control_plane: ControlPlane) -> Iterator[None]:
    yield
    control_plane.kubectl("delete", "apiservice", API_SERVICE, "--ignore-not-found")
    control_plane.kubectl("delete", "secret", SECRET.name, "-n", SECRET.namespace, "--ignore-not-found")


@pytest.fixture(autouse=True)
async def _no_connection_outlives_its_test() -> AsyncIterator[None]:
    yield
    # Of one in mid-handshake, or that waits for the other side's goodbye, only the loop knows.
    loop: Any = asyncio.get_running_loop()
    for transport in list(loop._transports.values()):
        transport.abort()
    await asyncio.sleep(0)
    await asyncio.sleep(0)


@pytest.fixture
async def cluster(control_plane: ControlPlane) -> AsyncIterator[MetricsApiAccess]:
    kubeconfig = control_plane.kubeconfig_for_service_account(SERVICE.namespace, "operator")
    async with KubernetesApi(str(kubeconfig)) as api:
        yield MetricsApiAccess(api)


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def board() -> Board:
    return Board()


def make_server(
    cluster: MetricsApiAccess, board: Board, clock: SetClock, *, refresh_seconds: float = 3600
) -> ExternalMetricsServer:
    """A server that looks after itself when the test says so, unless that is told to be soon."""
    return ExternalMetricsServer(
        cluster, board, clock, address="127.0.0.1:0", service=SERVICE, secret=SECRET, refresh_seconds=refresh_seconds
    )


async def kubectl(control_plane: ControlPlane, *arguments: str, stdin: str | None = None) -> str:
    """In a thread: the server that kubectl asks is in this one."""
    return await asyncio.to_thread(control_plane.kubectl, *arguments, stdin=stdin)


async def get(control_plane: ControlPlane, path: str) -> Any:
    return json.loads(await kubectl(control_plane, "get", "--raw", path))


async def refusal(control_plane: ControlPlane, path: str) -> str:
    with pytest.raises(ClusterError) as refused:
        await kubectl(control_plane, "get", "--raw", path)
    return str(refused.value)


async def register(control_plane: ControlPlane, port: int, service: ObjectKey = SERVICE) -> None:
    manifest = {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": API_SERVICE},
        "spec": {
            "group": "external.metrics.k8s.io",
            "version": "v1beta1",
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "service": {"namespace": service.namespace, "name": service.name, "port": port},
        },
    }
    await kubectl(control_plane, "apply", "-f", "-", stdin=json.dumps(manifest))


async def trusted_authorities(control_plane: ControlPlane) -> bytes:
    manifest = json.loads(await kubectl(control_plane, "get", "apiservice", API_SERVICE, "-o", "json"))
    return base64.b64decode(manifest["spec"].get("caBundle", ""))


@asynccontextmanager
async def serving(
    control_plane: ControlPlane, cluster: MetricsApiAccess, board: Board, clock: SetClock
) -> AsyncIterator[ExternalMetricsServer]:
    """A server that the cluster's questions reach."""
    async with make_server(cluster, board, clock) as server:
        await register(control_plane, server.port)
        await server.refresh()
        await kubectl(control_plane, "wait", "--for=condition=Available", "apiservice", API_SERVICE, "--timeout=60s")
        yield server


@pytest.fixture
async def server(
    control_plane: ControlPlane, cluster: MetricsApiAccess, board: Board, clock: SetClock
) -> AsyncIterator[ExternalMetricsServer]:
    async with serving(control_plane, cluster, board, clock) as running:
        yield running


@pytest.mark.usefixtures("server")
async def test_kubectl_reads_a_value_through_the_aggregation_layer(control_plane: ControlPlane) -> None:
    found = await get(control_plane, f"{LOAD}?labelSelector=queue%3Dthumbnails")
    [item] = found["items"]
    assert found["kind"] == "ExternalMetricValueList"
    assert (item["metricName"], item["metricLabels"], item["value"]) == (
        "background_jobs_queue_load",
        {"queue": "thumbnails"},
        "30",
    )
    everything = await get(control_plane, LOAD)
    assert [item["value"] for item in everything["items"]] == ["30", "2500m"]


@pytest.mark.usefixtures("server")
async def test_the_metrics_are_discovered(control_plane: ControlPlane) -> None:
    listed = await get(control_plane, ROOT)
    assert {resource["name"] for resource in listed["resources"]} == {
        "background_jobs_queue_depth",
        "background_jobs_queue_load",
        "background_jobs_desired_workers",
    }
    resources = await kubectl(control_plane, "api-resources", "--api-group=external.metrics.k8s.io")
    assert "background_jobs_queue_depth" in resources


@pytest.mark.usefixtures("server")
async def test_what_is_not_known_is_not_found_and_never_empty(control_plane: ControlPlane) -> None:
    assert "no fresh value" in await refusal(control_plane, f"{LOAD}?labelSelector=queue%3Dinvoices")
    assert "no fresh value" in await refusal(control_plane, LOAD.replace("shop", "elsewhere"))
    assert "there is no metric 'cpu'" in await refusal(control_plane, f"{ROOT}/namespaces/shop/cpu")
    assert "NotFound" in await refusal(control_plane, f"{ROOT}/namespaces/shop/cpu")


@pytest.mark.usefixtures("server")
async def test_a_selector_that_cannot_be_read_is_a_bad_request(control_plane: ControlPlane) -> None:
    said = await refusal(control_plane, f"{LOAD}?labelSelector=queue%3E3")
    assert "BadRequest" in said
    assert "unable to parse requirement 'queue>3'" in said


@pytest.mark.usefixtures("server")
async def test_a_user_without_the_right_is_stopped_before_us(control_plane: ControlPlane) -> None:
    stranger = control_plane.kubeconfig_for_user("stranger")
    with pytest.raises(ClusterError, match="Forbidden"):
        await asyncio.to_thread(control_plane.kubectl, "get", "--raw", LOAD, kubeconfig=stranger)


@pytest.mark.usefixtures("server")
async def test_a_horizontal_pod_autoscaler_follows_the_value_and_holds_still_without_one(
    control_plane: ControlPlane, board: Board
) -> None:
    pod = {"containers": [{"name": "worker", "image": "none"}]}
    labels = {"app": "workers"}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"namespace": "shop", "name": "workers"},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }
    metric = {"name": "background_jobs_queue_load", "selector": {"matchLabels": {"queue": "thumbnails"}}}
    autoscaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"namespace": "shop", "name": "workers"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "workers"},
            "maxReplicas": 10,
            "metrics": [
                {
                    "type": "External",
                    "external": {"metric": metric, "target": {"type": "AverageValue", "averageValue": "10"}},
                }
            ],
        },
    }
    await kubectl(
        control_plane,
        "apply",
        "-f",
        "-",
        stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": [deployment, autoscaler]}),
    )

    def seen(kind: str) -> Any:
        return json.loads(control_plane.kubectl("get", kind, "workers", "-n", "shop", "-o", "json"))

    def scaling_active() -> str:
        conditions = seen("hpa").get("status", {}).get("conditions", [])
        return next((each["status"] + each["reason"] for each in conditions if each["type"] == "ScalingActive"), "")

    await asyncio.to_thread(eventually, lambda: seen("deployment")["spec"]["replicas"], until=lambda n: n == 3)
    board.loads.clear()
    await asyncio.to_thread(eventually, scaling_active, until=lambda said: said == "FalseFailedGetExternalMetric")
    assert seen("deployment")["spec"]["replicas"] == 3


def client_context(authorities: bytes, credential: Credential | None, folder: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=authorities.decode())
    if credential is not None:
        credential.write(folder, "client")
        context.load_cert_chain(folder / "client.crt", folder / "client.key")
    return context


async def ask_directly(server: ExternalMetricsServer, context: ssl.SSLContext) -> tuple[int, Any]:
    url = f"https://localhost:{server.port}{LOAD}"
    async with aiohttp.ClientSession() as session, session.get(url, ssl=context) as response:
        return response.status, await response.json()


async def test_nobody_gets_in_past_the_api_server(
    server: ExternalMetricsServer, control_plane: ControlPlane, tmp_path: Path
) -> None:
    authorities = await trusted_authorities(control_plane)
    with pytest.raises(aiohttp.ClientError):
        await ask_directly(server, client_context(authorities, None, tmp_path))
    stranger = Authority("stranger").issue("front-proxy-client")
    with pytest.raises(aiohttp.ClientError):
        await ask_directly(server, client_context(authorities, stranger, tmp_path))


async def test_a_rotated_client_authority_is_followed_without_a_restart(
    server: ExternalMetricsServer, control_plane: ControlPlane, tmp_path: Path
) -> None:
    where = ("configmap", "extension-apiserver-authentication", "-n", "kube-system")
    data = json.loads(await kubectl(control_plane, "get", *where, "-o", "json"))["data"]
    rotated = Authority("rotated")
    both = data["requestheader-client-ca-file"] + rotated.credential.certificate.decode()
    context = client_context(await trusted_authorities(control_plane), rotated.issue("front-proxy-client"), tmp_path)
    with pytest.raises(aiohttp.ClientError):
        await ask_directly(server, context)
    patch = {"data": {"requestheader-client-ca-file": both}}
    await kubectl(control_plane, "patch", *where, "--type=merge", f"--patch={json.dumps(patch)}")
    await server.refresh()
    status, found = await ask_directly(server, context)
    assert (status, len(found["items"])) == (200, 2)
    somebody = client_context(await trusted_authorities(control_plane), rotated.issue("somebody"), tmp_path)
    status, refused = await ask_directly(server, somebody)
    assert (status, refused["reason"]) == (403, "Forbidden")
    assert (await get(control_plane, LOAD))["items"], "the API server itself still gets in"


async def test_a_restart_serves_with_the_same_certificate(
    cluster: MetricsApiAccess, board: Board, clock: SetClock
) -> None:
    async with make_server(cluster, board, clock):
        first = await cluster.secret(SECRET)
    async with make_server(cluster, board, clock):
        second = await cluster.secret(SECRET)
    assert first is not None
    assert first == second
    assert first["type"] == "kubernetes.io/tls"


async def test_two_replicas_that_start_at_once_agree_on_one_certificate(
    cluster: MetricsApiAccess, board: Board, clock: SetClock
) -> None:
    one, two = (make_server(cluster, board, clock) for _ in range(2))
    await asyncio.gather(one.__aenter__(), two.__aenter__())
    try:
        assert await certificate_shown(one) == await certificate_shown(two)
    finally:
        await asyncio.gather(one.__aexit__(None, None, None), two.__aexit__(None, None, None))


async def certificate_shown(server: ExternalMetricsServer) -> str:
    return await asyncio.to_thread(ssl.get_server_certificate, ("localhost", server.port))


async def test_a_certificate_due_for_renewal_is_replaced_while_serving(
    control_plane: ControlPlane, cluster: MetricsApiAccess, board: Board, clock: SetClock
) -> None:
    today = clock.time
    clock.time = today - timedelta(days=300)
    async with serving(control_plane, cluster, board, clock) as server:
        authorities, old = await trusted_authorities(control_plane), await certificate_shown(server)
        clock.time = today
        await server.refresh()
        assert await certificate_shown(server) != old
        assert await trusted_authorities(control_plane) == authorities
        assert (await get(control_plane, LOAD))["items"]


async def test_a_new_authority_is_trusted_beside_the_old_one(
    control_plane: ControlPlane, cluster: MetricsApiAccess, board: Board, clock: SetClock
) -> None:
    today = clock.time
    clock.time = today - timedelta(days=9 * 365)
    async with make_server(cluster, board, clock) as server:
        await register(control_plane, server.port)
        await server.refresh()
        old = await trusted_authorities(control_plane)
        clock.time = today
        await server.refresh()
        both = await trusted_authorities(control_plane)
        assert both.endswith(old)
        assert both.count(b"BEGIN CERTIFICATE") == 2
        await kubectl(control_plane, "wait", "--for=condition=Available", "apiservice", API_SERVICE, "--timeout=60s")
        assert (await get(control_plane, LOAD))["items"]


async def test_an_api_service_that_another_adapter_owns_is_left_alone_and_reported(
    control_plane: ControlPlane, cluster: MetricsApiAccess, board: Board, clock: SetClock
) -> None:
    await register(control_plane, 443, ObjectKey("keda", "keda-metrics-apiserver"))
    async with make_server(cluster, board, clock) as server:
        assert not server.api_service.ours
        assert server.api_service.reason == "ApiServiceTaken"
        assert "keda/keda-metrics-apiserver" in server.api_service.message
    assert await trusted_authorities(control_plane) == b""


async def test_a_missing_api_service_is_reported_and_claimed_by_itself_once_it_is_there(
    control_plane: ControlPlane, cluster: MetricsApiAccess, board: Board, clock: SetClock
) -> None:
    async with make_server(cluster, board, clock, refresh_seconds=0.2) as server:
        assert server.api_service.reason == "ApiServiceMissing"
        await register(control_plane, server.port)
        await kubectl(control_plane, "wait", "--for=condition=Available", "apiservice", API_SERVICE, "--timeout=60s")
        assert server.api_service.ours


async def test_a_look_that_fails_leaves_everything_served_as_before(
    server: ExternalMetricsServer, control_plane: ControlPlane
) -> None:
    where = ("configmap", "extension-apiserver-authentication", "-n", "kube-system")
    before = json.loads(await kubectl(control_plane, "get", *where, "-o", "json"))["data"]
    broken = {"data": {"requestheader-allowed-names": "front-proxy-client"}}
    await kubectl(control_plane, "patch", *where, "--type=merge", f"--patch={json.dumps(broken)}")
    try:
        with pytest.raises(TransientError, match="no JSON list"):
            await server.refresh()
        assert (await get(control_plane, LOAD))["items"]
    finally:
        await kubectl(control_plane, "patch", *where, "--type=merge", f"--patch={json.dumps({'data': before})}")
