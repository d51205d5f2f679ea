"""Requests to the API server: logged in, timed, and with failures as `core.model.OperatorError`."""

from __future__ import annotations

import json
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from kubernetes.aio import client, config

from headrace_operator.core.model import OperatorError, TransientError
from headrace_operator.kubernetes.errors import error_from_answer, error_from_failure
from headrace_operator.kubernetes.trouble import ApiTrouble

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from types import TracebackType
    from typing import Self

    from headrace_operator.core.model import ObjectKey

    Manifest = dict[str, Any]

MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"

_REQUEST_TIMEOUT = aiohttp.ClientTimeout(total=10)
"""Reconciling waits for nobody longer: what fails is tried again within seconds."""

WATCH_SECONDS = 300
"""How long the server keeps a watch open."""

_WATCH_TIMEOUT = aiohttp.ClientTimeout(total=WATCH_SECONDS + 30, sock_connect=10, sock_read=100)
"""A quiet watch still brings a bookmark about every minute; a silent one is broken."""

_RESOURCES = {
    ("v1", "ConfigMap"): "configmaps",
    ("v1", "Event"): "events",
    ("v1", "Pod"): "pods",
    ("v1", "Secret"): "secrets",
    ("apiregistration.k8s.io/v1", "APIService"): "apiservices",
    ("apps/v1", "Deployment"): "deployments",
    ("autoscaling/v2", "HorizontalPodAutoscaler"): "horizontalpodautoscalers",
    ("headrace.dev/v1alpha1", "JobQueue"): "jobqueues",
    ("headrace.dev/v1alpha1", "JobWorkerPool"): "jobworkerpools",
}


def collection_path(api_version: str, kind: str, namespace: str | None = None) -> str:
    """The path of a kind's objects, in one namespace or in all."""
    root = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"{root}{scope}/{_RESOURCES[api_version, kind]}"


def object_path(api_version: str, kind: str, key: ObjectKey) -> str:
    """The path of one namespaced object."""
    return f"{collection_path(api_version, kind, quote(key.namespace, safe=''))}/{quote(key.name, safe='')}"


class KubernetesApi:
    """The API server, inside an `async with` block.

    Parameters
    ----------
    kubeconfig
        How to log in. Defaults to the file that `KUBECONFIG` names, else the pod's ServiceAccount, else
        ``~/.kube/config``.
    observe
        Is told of every request but watches: the method, and what it failed with.
    """

    def __init__(
        self,
        kubeconfig: str | None = None,
        observe: Callable[[str, OperatorError | None], None] = lambda *_: None,
    ) -> None:
        self._kubeconfig = kubeconfig or os.environ.get("KUBECONFIG")
        self._observe = observe
        self._trouble = ApiTrouble()

    async def __aenter__(self) -> Self:
        self._client = client.ApiClient(await _configuration(self._kubeconfig))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()  # type: ignore[no-untyped-call]

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Manifest:
        """Ask, and return the answer.

        Raises
        ------
        OperatorError
            As `errors.error_from_answer` and `errors.error_from_failure` say.
        """
        try:
            async with self._open(method, path, query, body, content_type, _REQUEST_TIMEOUT) as response:
                answer: Manifest = json.loads(await response.read())
        except OperatorError as error:
            self._told(method, error)
            raise
        self._told(method, None)
        return answer

    async def find(self, path: str) -> Manifest | None:
        """One object, or None where there is none."""
        try:
            return await self.request("GET", path)
        except TransientError as error:
            if error.reason == "NotFound":
                return None
            raise

    async def watch(self, path: str, query: Mapping[str, str]) -> AsyncIterator[Manifest]:
        """The events of a watch, until the server ends it."""
        query = {**query, "watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(WATCH_SECONDS)}
        async with self._open("GET", path, query, None, "application/json", _WATCH_TIMEOUT) as response:
            rest = b""
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield json.loads(line)

    def _told(self, method: str, error: OperatorError | None) -> None:
        self._observe(method, error)
        self._trouble.observe(error)

    @asynccontextmanager
    async def _open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Any,
        content_type: str,
        patience: aiohttp.ClientTimeout,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        subject = f"{method} {path}"
        try:
            _, url, headers, _, _ = await self._client.param_serialize(
                method,
                path,
                query_params=list((query or {}).items()),
                header_params={"Accept": "application/json", "Content-Type": content_type},
                auth_settings=["BearerToken"],
            )
            answer = await self._client.call_api(method, url, headers, body, _request_timeout=patience)
            async with answer.response as response:
                if not 200 <= response.status < 300:
                    raise error_from_answer(
                        response.status,
                        await response.read(),
                        subject,
                        retry_after=response.headers.get("Retry-After"),
                    )
                yield response
        except (aiohttp.ClientError, TimeoutError, OSError) as failure:
            raise error_from_failure(failure, subject) from failure


async def _configuration(kubeconfig: str | None) -> client.Configuration:
    configuration = client.Configuration()
    try:
        if kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            await config.load_kube_config(  # type: ignore[no-untyped-call]
                config_file=kubeconfig, client_configuration=configuration, persist_config=False
            )
    except config.ConfigException as error:
        raise TransientError("NoCluster", f"there is no cluster to log in to: {error}; set KUBECONFIG") from None
    # A session that trusts the environment looks for a proxy and a .netrc with every request, in a thread of its own.
    configuration.client_session_kwargs = {"trust_env": False}
    host = urlsplit(configuration.host)
    if configuration.proxy is None and not proxy_bypass(host.netloc):
        configuration.proxy = getproxies().get(host.scheme)
    return configuration
