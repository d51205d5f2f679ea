"""What a pod template's worker container finds when it starts: its variables and its files. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from headrace_operator.core.deployment import WORKER_CONTAINER
from headrace_operator.core.model import ObjectKey, TransientError
from headrace_operator.local.meaning import BINDINGS, is_known_here, is_mounted_here

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Manifest = Mapping[str, Any]
    Entries = Mapping[str, bytes]

_ANNOTATION = re.compile(r"metadata\.annotations\['(.+)'\]")
_REFERENCE = re.compile(r"\$\$|\$\(([-._a-zA-Z0-9]+)\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where Secrets and ConfigMaps are found; None where there is none."""

    secret: Callable[[ObjectKey], Entries | None]
    config_map: Callable[[ObjectKey], Entries | None]

    def entries(self, kind: str, key: ObjectKey, reference: Manifest) -> Entries:
        """What a reference leads to.

        Raises
        ------
        TransientError
            ``CreateContainerConfigError``, as in a cluster.
        """
        found = (self.secret if kind == "Secret" else self.config_map)(key)
        if found is None and not reference.get("optional"):
            raise _missing(f"namespace {key.namespace} has no {kind} {key.name}: give its manifest, too")
        return found or {}


def variables(container: Manifest, *, name: str, namespace: str, sources: Sources, root: Path) -> dict[str, str]:
    """The worker container's environment.

    Parameters
    ----------
    name, namespace
        Of the pod.
    root
        Where `files` are put: what lies in `BINDINGS` lies there instead.

    Raises
    ------
    TransientError
        ``CreateContainerConfigError`` where a Secret, a ConfigMap or a key is missing.
    """
    found: dict[str, str] = {}
    for bundle in container.get("envFrom") or ():
        for field, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
            if (reference := bundle.get(field)) is not None:
                entries = sources.entries(kind, ObjectKey(namespace, reference["name"]), reference)
                found |= {
                    bundle.get("prefix", "") + key: value.decode(errors="replace") for key, value in entries.items()
                }
    for variable in container.get("env") or ():
        if not is_known_here(variable):
            continue
        source = variable.get("valueFrom") or {}
        value = _value(source, name, namespace, sources) if source else _expand(variable.get("value") or "", found)
        if value is not None:
            found[variable["name"]] = value
    return {name: _moved(value, root) for name, value in found.items()}


def files(template: Manifest, *, namespace: str, sources: Sources) -> dict[PurePosixPath, bytes]:
    """The files that a pod template mounts among the bindings, by their paths below `BINDINGS`.

    Raises
    ------
    TransientError
        ``CreateContainerConfigError`` where a Secret, a ConfigMap or a key is missing.
    """
    pod_spec = template["spec"]
    annotations = template.get("metadata", {}).get("annotations") or {}
    volumes = {volume["name"]: volume for volume in pod_spec.get("volumes") or ()}
    found: dict[PurePosixPath, bytes] = {}
    for mount in worker_container(pod_spec).get("volumeMounts") or ():
        if is_mounted_here(mount, volumes):
            folder = PurePosixPath(mount["mountPath"]).relative_to(BINDINGS)
            volume = volumes[mount["name"]]
            for part in volume["projected"]["sources"] if "projected" in volume else (volume,):
                content = _content(volume["name"], part, namespace, annotations, sources)
                found |= {folder / path: entry for path, entry in content}
    return found


def worker_container(pod_spec: Manifest) -> Manifest:
    """The container that the operator makes."""
    containers: Sequence[Manifest] = pod_spec["containers"]
    return next(container for container in containers if container["name"] == WORKER_CONTAINER)


def _content(
    volume: str, part: Manifest, namespace: str, annotations: Mapping[str, str], sources: Sources
) -> Iterator[tuple[str, bytes]]:
    """What a volume, or one of a projected volume's sources, holds."""
    if "downwardAPI" in part:
        for item in part["downwardAPI"].get("items") or ():
            if field := _ANNOTATION.fullmatch(item.get("fieldRef", {}).get("fieldPath", "")):
                yield item["path"], annotations.get(field[1], "").encode()
        return
    kind, source = ("Secret", part["secret"]) if "secret" in part else ("ConfigMap", part["configMap"])
    # A source of a projected volume says `name` of a Secret, too.
    name = source.get("secretName") or source["name"]
    entries = sources.entries(kind, ObjectKey(namespace, name), source)
    if not source.get("items"):
        yield from entries.items()
        return
    for item in source["items"]:
        path = PurePosixPath(item["path"])
        if path.is_absolute() or ".." in path.parts:
            raise _missing(f"volume {volume}: path {item['path']} must stay inside of the volume")
        if item["key"] in entries:
            yield item["path"], entries[item["key"]]
        elif not source.get("optional"):
            raise _missing(f"{kind} {name} has no key {item['key']}")


def _value(source: Manifest, name: str, namespace: str, sources: Sources) -> str | None:
    if "fieldRef" in source:
        return name if source["fieldRef"]["fieldPath"] == "metadata.name" else namespace
    for field, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
        if (reference := source.get(field)) is not None:
            entries = sources.entries(kind, ObjectKey(namespace, reference["name"]), reference)
            if reference["key"] in entries:
                return entries[reference["key"]].decode(errors="replace")
            if not reference.get("optional"):
                raise _missing(f"{kind} {reference['name']} has no key {reference['key']}")
    return None


def _expand(value: str, known: Mapping[str, str]) -> str:
    """``$(NAME)`` is the value of a variable before this one; ``$$`` is a dollar sign."""

    def replacement(match: re.Match[str]) -> str:
        return "$" if match[1] is None else known.get(match[1], match[0])

    return _REFERENCE.sub(replacement, value)


def _moved(value: str, root: Path) -> str:
    path = PurePosixPath(value)
    return str(root / path.relative_to(BINDINGS)) if path.is_absolute() and path.is_relative_to(BINDINGS) else value


def _missing(what: str) -> TransientError:
    return TransientError("CreateContainerConfigError", what)
