"""What sampling must know of a queue's pools: which pods may tell its depth, and how often it is wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace_operator.core.spec import Autoscaling, ScalingMode
from headrace_operator.reconcile.objects import POOL_KIND

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from headrace_operator.core.model import ObjectKey, WorkerPod
    from headrace_operator.reconcile.objects import ObjectStore
    from headrace_operator.reconcile.ports import Cluster

_LONGEST_SECONDS = {ScalingMode.HPA: 10.0, ScalingMode.OFF: 15.0}
"""By mode. An autoscaler is shown nothing that is older than 15 s; where nobody scales, a status is all there is."""


class Demand:
    """Reads the newest known objects: nothing is asked of anybody."""

    def __init__(self, objects: ObjectStore, cluster: Cluster) -> None:
        self._objects = objects
        self._cluster = cluster

    def pods(self, queue: ObjectKey) -> Sequence[WorkerPod]:
        """The pods of all pools on the queue: any of them may publish its depth."""
        return [pod for pool in self._objects.pools_of(queue) for pod in self._cluster.pods(pool)]

    def interval_seconds(self, queue: ObjectKey) -> float | None:
        """The shortest interval at which a pool on the queue wants samples; None where none of them has workers."""
        pools = (self._objects.get(POOL_KIND, key) for key in self._objects.pools_of(queue))
        intervals = [_interval_seconds(pool["spec"]) for pool in pools if pool is not None]
        return min((interval for interval in intervals if interval is not None), default=None)


def _interval_seconds(spec: Mapping[str, Any]) -> float | None:
    if not spec.get("replicas"):
        return None
    # Not parsed as a whole, since it is asked for with every sample; the API server has checked and filled it in.
    scaling = spec.get("autoscaling") or {}
    interval = float(scaling.get("sampleIntervalSeconds", Autoscaling().sample_interval_seconds))
    mode = scaling.get("mode", ScalingMode.HPA)
    return min(interval, _LONGEST_SECONDS.get(mode, interval))
