"""The APIService that sends the cluster's questions to us: its `caBundle` is ours to keep, its ownership is not."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headrace_operator.metrics_api.documents import GROUP, VERSION

if TYPE_CHECKING:
    from headrace_operator.core.model import ObjectKey
    from headrace_operator.metrics_api.ports import MetricsApiCluster

API_SERVICE = f"{VERSION}.{GROUP}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiServiceState:
    """Whether HorizontalPodAutoscalers reach us; reason and message are fit for a condition."""

    ours: bool
    reason: str
    message: str


async def claim_api_service(cluster: MetricsApiCluster, service: ObjectKey, authorities: bytes) -> ApiServiceState:
    """Make the APIService trust these certificate authorities, if it points at `service`; else leave it alone."""
    manifest = await cluster.api_service(API_SERVICE)
    if manifest is None:
        return ApiServiceState(
            ours=False,
            reason="ApiServiceMissing",
            message=f"there is no APIService {API_SERVICE}: HorizontalPodAutoscalers can't read the queues' metrics; "
            "install it with the chart (externalMetricsApi.enabled), or scale in mode Direct",
        )
    spec: dict[str, Any] = manifest["spec"]
    owner = spec.get("service") or {}
    if (owner.get("namespace"), owner.get("name")) != (service.namespace, service.name):
        name = f"Service {owner.get('namespace')}/{owner.get('name')}" if owner else "the API server itself"
        return ApiServiceState(
            ours=False,
            reason="ApiServiceTaken",
            message=f"APIService {API_SERVICE} belongs to {name}, and a cluster has only one: "
            "scale in mode Direct, or remove the other metrics adapter",
        )
    bundle = base64.b64encode(authorities).decode()
    if spec.get("caBundle") != bundle or spec.get("insecureSkipTLSVerify"):
        await cluster.patch_api_service(
            API_SERVICE,
            [
                # Nothing is changed where a new owner came between the look and the patch.
                {"op": "test", "path": "/spec/service/namespace", "value": service.namespace},
                {"op": "test", "path": "/spec/service/name", "value": service.name},
                {"op": "add", "path": "/spec/caBundle", "value": bundle},
                {"op": "add", "path": "/spec/insecureSkipTLSVerify", "value": False},
            ],
        )
    return ApiServiceState(
        ours=True, reason="ApiServiceClaimed", message=f"APIService {API_SERVICE} points at Service {service}"
    )
