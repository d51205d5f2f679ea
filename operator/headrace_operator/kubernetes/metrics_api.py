"""What serving the external metrics needs of the cluster (`metrics_api.ports.MetricsApiCluster`)."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import aiohttp

from headrace_operator.core.model import FIELD_MANAGER, ConflictError, TransientError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kubernetes.aio.client import ApiClient

    from headrace_operator.core.model import ObjectKey

    Manifest = Mapping[str, Any]

_TIMEOUT_SECONDS = 10.0
_JSON_PATCH = "application/json-patch+json"


class MetricsApiAccess:
    """Fills `MetricsApiCluster` with a client of the caller's; manifests go in and out as the API server has them."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client

    async def secret(self, key: ObjectKey) -> Manifest | None:
        """See `metrics_api.ports.MetricsApiCluster`."""
        return await self._find(_namespaced("secrets", key))

    async def create_secret(self, manifest: Manifest) -> None:
        """See `metrics_api.ports.MetricsApiCluster`."""
        await self._call("POST", f"/api/v1/namespaces/{quote(manifest['metadata']['namespace'])}/secrets", manifest)

    async def replace_secret(self, manifest: Manifest) -> None:
        """See `metrics_api.ports.MetricsApiCluster`."""
        metadata = manifest["metadata"]
        path = f"/api/v1/namespaces/{quote(metadata['namespace'])}/secrets/{quote(metadata['name'])}"
        await self._call("PUT", path, manifest)

    async def config_map(self, key: ObjectKey) -> Mapping[str, str] | None:
        """See `metrics_api.ports.MetricsApiCluster`."""
        manifest = await self._find(_namespaced("configmaps", key))
        return None if manifest is None else manifest.get("data") or {}

    async def api_service(self, name: str) -> Manifest | None:
        """See `metrics_api.ports.MetricsApiCluster`."""
        return await self._find(_api_service(name))

    async def patch_api_service(self, name: str, patch: Sequence[Mapping[str, Any]]) -> None:
        """See `metrics_api.ports.MetricsApiCluster`."""
        await self._call("PATCH", f"{_api_service(name)}?fieldManager={FIELD_MANAGER}", patch, content_type=_JSON_PATCH)

    async def _find(self, path: str) -> Manifest | None:
        return await self._call("GET", path, missing_is_fine=True)

    async def _call(
        self,
        method: str,
        path: str,
        body: Manifest | Sequence[Mapping[str, Any]] | None = None,
        *,
        content_type: str = "application/json",
        missing_is_fine: bool = False,
    ) -> Manifest | None:
        headers = {"Accept": "application/json", "Content-Type": content_type}
        request = await self._client.param_serialize(
            method, path, header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        try:
            response = await self._client.call_api(*request, _request_timeout=_TIMEOUT_SECONDS)
            content: bytes = await response.read()  # type: ignore[no-untyped-call]
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise TransientError(
                "ApiServerUnreachable", f"the API server does not answer: {str(error) or type(error).__name__}"
            ) from error
        if response.status == HTTPStatus.NOT_FOUND and missing_is_fine:
            return None
        if response.status == HTTPStatus.CONFLICT:
            raise ConflictError("Conflict", _message(content))
        if response.status >= HTTPStatus.BAD_REQUEST:
            raise TransientError(
                "ApiServerRefused", f"{method} {path} was refused ({response.status}): {_message(content)}"
            )
        manifest: Manifest = json.loads(content)
        return manifest


def _namespaced(plural: str, key: ObjectKey) -> str:
    return f"/api/v1/namespaces/{quote(key.namespace)}/{plural}/{quote(key.name)}"


def _api_service(name: str) -> str:
    return f"/apis/apiregistration.k8s.io/v1/apiservices/{quote(name)}"


def _message(content: bytes) -> str:
    """What a Status says; the content itself where it is none."""
    try:
        return str(json.loads(content)["message"])
    except (ValueError, KeyError, TypeError):
        return content[:200].decode(errors="replace")
