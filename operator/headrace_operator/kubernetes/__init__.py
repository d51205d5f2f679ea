"""The Kubernetes API, by the asyncio part of its own client: the only importer of the `kubernetes` package.

Requests are plain manifests in and out; what goes wrong comes out as `core.model.OperatorError`.
"""

from headrace_operator.kubernetes.api import KubernetesApi
from headrace_operator.kubernetes.cluster import KubernetesCluster
from headrace_operator.kubernetes.metrics_api import MetricsApiAccess

__all__ = ["KubernetesApi", "KubernetesCluster", "MetricsApiAccess"]
