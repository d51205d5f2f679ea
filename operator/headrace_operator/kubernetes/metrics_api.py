"""Fills `metrics_api.ports.MetricsApiCluster` with the Kubernetes API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headrace_operator.core.model import FIELD_MANAGER, ObjectKey
from headrace_operator.kubernetes.api import JSON_PATCH, collection_path, object_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headrace_operator.kubernetes.api import KubernetesApi

    Manifest = Mapping[str, Any]


class MetricsApiAccess:
    """What serving the external metrics reads and writes."""

    def __init__(self, api: KubernetesApi) -> None:
        self._api = api

    async def secret(self, key: ObjectKey) -> Manifest | None:
        """See `metrics_api.ports.MetricsApiCluster`."""
        return await self._api.find(object_path("v1", "Secret", key))

    async def create_secret(self, manifest: Manifest) -> None:
        """See `metrics_api.ports.MetricsApiCluster`."""
        path = collection_path("v1", "Secret", manifest["metadata"]["namespace"])
        await self._api.request("POST", path, body=manifest)

    async def replace_secret(self, manifest: Manifest) -> None:
        """See `metrics_api.ports.MetricsApiCluster`."""
        metadata = manifest["metadata"]
        path = object_path("v1", "Secret", ObjectKey(metadata["namespace"], metadata["name"]))
        await self._api.request("PUT", path, body=manifest)

    async def config_map(self, key: ObjectKey) -> Mapping[str, str] | None:
        """See `metrics_api.ports.MetricsApiCluster`."""
        manifest = await self._api.find(object_path("v1", "ConfigMap", key))
        return None if manifest is None else manifest.get("data") or {}

    async def api_service(self, name: str) -> Manifest | None:
        """See `metrics_api.ports.MetricsApiCluster`."""
        return await self._api.find(_api_service_path(name))

    async def patch_api_service(self, name: str, patch: Sequence[Mapping[str, Any]]) -> None:
        """See `metrics_api.ports.MetricsApiCluster`."""
        await self._api.request(
            "PATCH",
            _api_service_path(name),
            query={"fieldManager": FIELD_MANAGER},
            body=patch,
            content_type=JSON_PATCH,
        )


def _api_service_path(name: str) -> str:
    return f"{collection_path('apiregistration.k8s.io/v1', 'APIService')}/{name}"
