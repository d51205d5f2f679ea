"""What serving the external metrics needs from the outside, as Protocols."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headrace_operator.core.external_metrics import MetricValue
    from headrace_operator.core.model import ObjectKey

    Manifest = Mapping[str, Any]


class MetricsSource(Protocol):
    """Where the values come from."""

    def values(self, metric: str, namespace: str) -> Sequence[MetricValue]:
        """The fresh values of one of `core.external_metrics.EXTERNAL_METRICS` in a namespace, one for each series.

        What is too old to scale on is left out: an autoscaler holds still without a value, but follows a wrong one.
        """
        ...


class MetricsApiCluster(Protocol):
    """The Kubernetes API, as far as serving uses it. Raises `core.model.OperatorError` and nothing else."""

    async def secret(self, key: ObjectKey) -> Manifest | None:
        """A Secret's manifest, read by name; None where there is none."""
        ...

    async def create_secret(self, manifest: Manifest) -> None:
        """Create a Secret; raises `ConflictError` where one exists."""
        ...

    async def replace_secret(self, manifest: Manifest) -> None:
        """Replace a Secret; raises `ConflictError` where it is no longer at the manifest's resourceVersion."""
        ...

    async def config_map(self, key: ObjectKey) -> Mapping[str, str] | None:
        """A ConfigMap's data, read by name; None where there is none."""
        ...

    async def api_service(self, name: str) -> Manifest | None:
        """An APIService's manifest; None where there is none."""
        ...

    async def patch_api_service(self, name: str, patch: Sequence[Mapping[str, Any]]) -> None:
        """Change an APIService by a JSON patch, all of it or nothing."""
        ...
