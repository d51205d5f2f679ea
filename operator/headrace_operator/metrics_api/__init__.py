"""Serves `external.metrics.k8s.io`: what HorizontalPodAutoscalers read, over TLS that the operator keeps in order.

Requests come from the API server's aggregation layer alone, which has authenticated and authorized their user (RBAC on
`external.metrics.k8s.io`); it proves itself by the client certificate that `request_header` describes.
"""

from headrace_operator.metrics_api.api_service import ApiServiceState
from headrace_operator.metrics_api.ports import MetricsApiCluster, MetricsSource
from headrace_operator.metrics_api.server import ExternalMetricsServer

__all__ = ["ApiServiceState", "ExternalMetricsServer", "MetricsApiCluster", "MetricsSource"]
