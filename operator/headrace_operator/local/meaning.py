"""What of a manifest has no meaning on one machine. Pure; what is named here is left out, and nothing else is."""

from __future__ import annotations

import copy
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from headrace_operator.core.deployment import WORKER_CONTAINER
from headrace_operator.core.spec import ScalingMode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Manifest = Mapping[str, Any]

BINDINGS = PurePosixPath("/bindings")
"""Where pods find bindings; what is mounted elsewhere would have to stand at that very place of this machine."""

_MEANT_IN_CONTAINER = ("name", "env", "envFrom", "volumeMounts")
_MEANT_SOURCES = ("secret", "configMap", "downwardAPI")
_MEANT_FIELDS = ("metadata.name", "metadata.namespace")


def meaningless_fields(pool: Manifest) -> list[str]:
    """The fields of a JobWorkerPool that only a cluster can do something with."""
    return [*(["image"] if "image" in pool["spec"] else []), *_in_template(pool["spec"].get("template") or {})]


def as_decided_here(pool: Manifest) -> dict[str, Any]:
    """The pool with mode Direct in HPA's stead: the same numbers, by our own code."""
    changed = copy.deepcopy(dict(pool))
    autoscaling = changed["spec"]["autoscaling"]
    if autoscaling["mode"] == ScalingMode.HPA:
        autoscaling["mode"] = str(ScalingMode.DIRECT)
    return changed


def is_mounted_here(mount: Manifest, volumes: Mapping[str, Manifest]) -> bool:
    """Whether a mount can be had: Secrets and ConfigMaps among the bindings."""
    volume = volumes.get(mount.get("name", ""), {})
    parts = (volume.get("projected") or {}).get("sources") or (volume,)
    path = PurePosixPath(mount.get("mountPath", ""))
    return (
        path.is_relative_to(BINDINGS)
        and ".." not in path.parts
        and "subPath" not in mount
        and all(any(source in part for source in _MEANT_SOURCES) for part in parts)
    )


def _in_template(template: Manifest) -> Iterator[str]:
    yield from (f"template.metadata.{name}" for name in template.get("metadata") or {})
    spec = template.get("spec") or {}
    volumes = {volume["name"]: volume for volume in spec.get("volumes") or () if "name" in volume}
    used: set[str] = set()
    for name, value in spec.items():
        match name:
            case "containers":
                for container in value or ():
                    if container["name"] != WORKER_CONTAINER:
                        yield f"template.spec.containers[{container['name']}] (start it yourself)"
                        continue
                    used |= {
                        mount["name"]
                        for mount in container.get("volumeMounts") or ()
                        if is_mounted_here(mount, volumes)
                    }
                    yield from _in_worker(container, volumes)
            case "volumes":
                continue
            case "initContainers":
                for container in value or ():
                    yield f"template.spec.initContainers[{container.get('name')}] (start it yourself)"
            case _:
                yield f"template.spec.{name}"
    yield from (f"template.spec.volumes[{name}]" for name in volumes if name not in used)


def _in_worker(container: Manifest, volumes: Mapping[str, Manifest]) -> Iterator[str]:
    where = f"template.spec.containers[{WORKER_CONTAINER}]"
    yield from (f"{where}.{name}" for name in container if name not in _MEANT_IN_CONTAINER)
    for mount in container.get("volumeMounts") or ():
        if not is_mounted_here(mount, volumes):
            yield f"{where}.volumeMounts[{mount.get('mountPath')}]"
    for variable in container.get("env") or ():
        if not is_known_here(variable):
            yield f"{where}.env[{variable.get('name')}]"


def is_known_here(variable: Manifest) -> bool:
    """Whether a variable's value can be had: not of a node, nor of a pod's address or limits."""
    source = variable.get("valueFrom") or {}
    if "fieldRef" in source:
        return source["fieldRef"].get("fieldPath") in _MEANT_FIELDS
    return "resourceFieldRef" not in source
