"""What is kept of the objects that are watched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from headrace_operator.core.conditions import find
from headrace_operator.core.deployment import METRICS_PORT, WORKER_CONTAINER
from headrace_operator.core.lean import shared
from headrace_operator.core.model import GROUP, POOL_LABEL, ObjectKey, WorkerPod

if TYPE_CHECKING:
    Manifest = Mapping[str, Any]

_NORMAL_WAITS = ("ContainerCreating", "PodInitializing")
_MESSAGE_LENGTH = 400
"""Of a worker's last words; the end is what tells."""


def merge_patch(before: Any, after: Any) -> Any:
    """What makes `before` into `after` as a merge patch: a field that is there no more must be said to be none.

    See https://datatracker.ietf.org/doc/html/rfc7386
    """
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        return after
    gone: dict[str, Any] = dict.fromkeys(before.keys() - after.keys())
    return gone | {name: merge_patch(before.get(name), value) for name, value in after.items()}


def pool_by_label(manifest: Manifest) -> ObjectKey | None:
    """The pool that an object of ours is labelled with."""
    metadata = manifest["metadata"]
    pool = (metadata.get("labels") or {}).get(POOL_LABEL)
    return ObjectKey(metadata["namespace"], pool) if pool else None


def pool_by_scale_target(autoscaler: Manifest) -> ObjectKey | None:
    """The pool that an autoscaler scales, or whose Deployment it may scale: a Deployment is named like its pool."""
    target = autoscaler["spec"]["scaleTargetRef"]
    is_pool = target["kind"] == "JobWorkerPool" and target.get("apiVersion", "").startswith(f"{GROUP}/")
    if not is_pool and target["kind"] != "Deployment":
        return None
    return ObjectKey(autoscaler["metadata"]["namespace"], target["name"])


def trim_deployment(manifest: Manifest) -> dict[str, Any]:
    """Of a Deployment: whose it is, its number, and how it fares."""
    status = manifest.get("status") or {}
    numbers = {name: status[name] for name in ("readyReplicas", "observedGeneration") if name in status}
    annotations = manifest["metadata"].get("annotations") or {}
    ours = {name: value for name, value in annotations.items() if name.startswith(f"{GROUP}/")}
    kept = {
        "metadata": {**_trim_metadata(manifest), "annotations": ours},
        "spec": {"replicas": manifest["spec"].get("replicas")},
        "status": {**numbers, "conditions": _trim_conditions(status)},
    }
    return shared(kept)


def trim_autoscaler(manifest: Manifest) -> dict[str, Any]:
    """Of a HorizontalPodAutoscaler: whose it is, how it fares, its target; and where it may be ours, its whole spec."""
    spec = manifest["spec"]
    is_of_a_deployment = spec["scaleTargetRef"].get("kind") == "Deployment"
    kept = {
        "metadata": _trim_metadata(manifest),
        "spec": {"scaleTargetRef": spec["scaleTargetRef"]} if is_of_a_deployment else spec,
        "status": {"conditions": _trim_conditions(manifest.get("status") or {}, "ScalingActive")},
    }
    return shared(kept)


def worker_pod(manifest: Manifest) -> WorkerPod:
    """Of a pod: where it answers, and what keeps its worker from starting."""
    status = manifest.get("status") or {}
    is_leaving = "deletionTimestamp" in manifest["metadata"]
    ready = find(status.get("conditions") or (), "Ready")
    # What has ended (evicted, say, or killed with its node) has a successor: how it ended keeps nobody from starting.
    is_over = is_leaving or status.get("phase") in ("Failed", "Succeeded")
    trouble = None if is_over else _trouble(status)
    ip = status.get("podIP")
    return WorkerPod(
        name=manifest["metadata"]["name"],
        address=f"http://{f'[{ip}]' if ':' in ip else ip}:{METRICS_PORT}" if ip else None,
        ready=not is_over and ready is not None and ready["status"] == "True",
        waiting_reason=trouble[0] if trouble else None,
        waiting_message=trouble[1] if trouble else None,
    )


def _trouble(status: Manifest) -> tuple[str, str] | None:
    """What keeps a pod from running its worker, with a reason that stays while containers are tried again."""
    scheduled = find(status.get("conditions") or (), "PodScheduled")
    if scheduled is not None and scheduled["status"] == "False":
        return "Unschedulable", scheduled.get("message", "")
    # In the order in which they start: the worker waits for what stands before it.
    containers = [
        *(status.get("initContainerStatuses") or ()),
        *(each for each in status.get("containerStatuses") or () if each["name"] == WORKER_CONTAINER),
    ]
    return next((trouble for container in containers if (trouble := _trouble_of(container))), None)


def _trouble_of(container: Manifest) -> tuple[str, str] | None:
    # An init container is ready once it has done its work, a sidecar as a worker is.
    if container.get("ready"):
        return None
    state = container.get("state", {})
    waiting = state.get("waiting") or {}
    last = state.get("terminated") or container.get("lastState", {}).get("terminated")
    if last and (container.get("restartCount") or "terminated" in state):
        # Between two attempts what crashes looks like what starts.
        name = container["name"]
        who = "the worker" if name == WORKER_CONTAINER else f"container {name}"
        last_words = (last.get("message") or "").strip()[-_MESSAGE_LENGTH:]
        return "CrashLoopBackOff", f"{who} ended with status {last.get('exitCode')}: {last_words}".rstrip(": ")
    if waiting and waiting.get("reason") not in _NORMAL_WAITS:
        return waiting.get("reason") or "Waiting", waiting.get("message") or ""
    return None


def _trim_metadata(manifest: Manifest) -> dict[str, Any]:
    kept = ("namespace", "name", "uid", "generation", "ownerReferences")
    return {name: manifest["metadata"][name] for name in kept if name in manifest["metadata"]}


def _trim_conditions(status: Manifest, *types: str) -> list[dict[str, Any]]:
    """What conditions say, all or some of them, without their times: another time alone is worth no look."""
    kept = ("type", "status", "reason", "message")
    return [
        {name: condition[name] for name in kept if name in condition}
        for condition in status.get("conditions") or ()
        if not types or condition["type"] in types
    ]
