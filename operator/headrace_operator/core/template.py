"""Merging a pool's pod template fragment over the operator's own pod template.

Maps are merged key by key, a null removes ours, and anything else replaces ours. Lists replace ours too, but for those
with a merge key: items with the same key are one item. Containers of one name are merged; a volume, variable, port or
mount of one key is replaced as a whole, since two halves of it (a value and a valueFrom) would contradict each other.

A container beside ours is made a native sidecar. As an ordinary container it would be told to stop at the same moment
as the worker, whose jobs may need it for as long as the drain takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from headrace_operator.core.model import RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

_MERGED_BY = {"containers": "name", "initContainers": "name"}
_REPLACED_BY = {
    "volumes": "name",
    "env": "name",
    "ports": "name",
    "imagePullSecrets": "name",
    "volumeMounts": "mountPath",
}
_APPENDED = ("tolerations",)


def merge_pod_template(ours: Mapping[str, Any], fragment: Mapping[str, Any]) -> dict[str, Any]:
    """Our pod template with the fragment over it; what we label is not the fragment's to change.

    Raises
    ------
    RefusedError
        ``InvalidTemplate`` where the fragment's shape can't be merged. Whatever else is wrong with it, the API server
        tells when the result is applied.
    """
    merged = _merge_maps(ours, fragment, "template")
    merged["metadata"]["labels"] |= ours["metadata"]["labels"]
    _make_sidecars(merged["spec"], {container["name"] for container in ours["spec"]["containers"]})
    return merged


def _make_sidecars(spec: dict[str, Any], ours: set[str]) -> None:
    """Move what is not ours behind the init containers, in its order: what those do comes first, as before."""
    containers = spec.get("containers", ())
    beside = [container for container in containers if container["name"] not in ours]
    for container in beside:
        if container.get("restartPolicy", "Always") != "Always":
            raise _refused(
                f"template.spec.containers[name={container['name']}].restartPolicy",
                "must be Always or left out, since a container beside the worker is made a sidecar: "
                "what runs once belongs into initContainers",
            )
    if beside:
        spec["containers"] = [container for container in containers if container["name"] in ours]
        sidecars = [{**container, "restartPolicy": "Always"} for container in beside]
        spec["initContainers"] = [*spec.get("initContainers", ()), *sidecars]


def _merge_maps(ours: Mapping[str, Any], theirs: Any, path: str) -> dict[str, Any]:
    if not isinstance(theirs, Mapping):
        raise _refused(path, "must be an object")
    merged = dict(ours)
    for name, value in theirs.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merge_field(name, merged.get(name), value, f"{path}.{name}")
    return merged


def _merge_field(name: str, ours: Any, theirs: Any, path: str) -> Any:
    if name in _APPENDED:
        return [*(ours or ()), *_listed(theirs, path)]
    if key := _MERGED_BY.get(name) or _REPLACED_BY.get(name):
        return _merge_lists(ours or (), theirs, path, key=key, deep=name in _MERGED_BY)
    if isinstance(ours, Mapping):
        return _merge_maps(ours, theirs, path)
    return theirs


def _merge_lists(
    ours: Sequence[Mapping[str, Any]], theirs: Any, path: str, *, key: str, deep: bool
) -> list[dict[str, Any]]:
    """Ours in their order, then what is new."""
    merged = {item[key]: dict(item) for item in ours}
    for index, item in enumerate(_listed(theirs, path)):
        place = f"{path}[{index}]"
        if not isinstance(item, Mapping):
            raise _refused(place, "must be an object")
        if not isinstance(identity := item.get(key), str):
            raise _refused(place, f"needs a {key}, by which it is merged")
        merged[identity] = _merge_maps(merged.get(identity, {}), item, place) if deep else dict(item)
    return list(merged.values())


def _listed(value: Any, path: str) -> list[Any]:
    if not isinstance(value, list):
        raise _refused(path, "must be a list")
    return value


def _refused(path: str, what: str) -> RefusedError:
    return RefusedError("InvalidTemplate", f"spec.{path}: {what}")
