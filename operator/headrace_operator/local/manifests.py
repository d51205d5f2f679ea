"""Manifests from files, taken as ``kubectl apply`` takes them: several documents, JSON, lists of objects, folders."""

from __future__ import annotations

import base64
import binascii
import json
import re
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from headrace_operator.core.model import GROUP, ObjectKey
from headrace_operator.local.errors import InputError
from headrace_operator.local.schemas import admit, definitions, template_problems
from headrace_operator.reconcile.objects import POOL_KIND, QUEUE_KIND, key_of, queues_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    Manifest = dict[str, Any]

STANDARD_INPUT = "-"
_NOT_HERE = (
    "provider AwsSqs does not run here yet: give a JobQueue with provider Postgres, whose Secret may be left out, or "
    "apply this one to a cluster"
)
_SUFFIXES = (".yaml", ".yml", ".json")
_PLAIN_KINDS = {("v1", "Secret"), ("v1", "ConfigMap")}
# Both are parts of paths.
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_KEY = re.compile(r"(?!\.\.|\.$)[-._a-zA-Z0-9]+")


@dataclass(kw_only=True)
class Manifests:
    """What the files hold of ours, complete with its defaults."""

    queues: list[Manifest] = field(default_factory=list)
    pools: list[Manifest] = field(default_factory=list)
    secrets: dict[ObjectKey, dict[str, bytes]] = field(default_factory=dict)
    config_maps: dict[ObjectKey, dict[str, bytes]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What was passed over, a sentence each."""


def read_manifests(sources: Sequence[str], *, namespace: str) -> Manifests:
    """Read and check all files.

    Parameters
    ----------
    sources
        Files and folders; ``-`` is standard input.
    namespace
        Of objects that name none.

    Raises
    ------
    InputError
        Naming everything that is wrong with them.
    """
    found, problems = Manifests(), []
    for source in sources:
        for where, text in _texts(source):
            try:
                for manifest in _objects(where, text):
                    problems += [f"{where}: {problem}" for problem in _take(manifest, found, namespace)]
            except RecursionError:
                raise InputError(f"{where}: is nested too deeply") from None
    if not problems:
        problems = _dangling(found)
    if problems:
        raise InputError("\n".join(problems))
    return found


def _texts(source: str) -> Iterator[tuple[str, str]]:
    if source == STANDARD_INPUT:
        yield "standard input", sys.stdin.read()
        return
    path = Path(source)
    try:
        files = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES) if path.is_dir() else [path]
        texts = [(str(file), file.read_text("utf-8")) for file in files]
    except UnicodeDecodeError:
        raise InputError(f"{source}: is no text in UTF-8") from None
    except OSError as error:
        raise InputError(f"{error.filename or source}: can't be read ({error.strerror})") from None
    if not texts:
        raise InputError(f"{source}: the folder has no manifests ({', '.join(_SUFFIXES)})")
    yield from texts


def _objects(where: str, text: str) -> Iterator[Any]:
    """All objects of a file, those of lists singly."""
    try:
        documents = [document for document in _documents(text) if document is not None]
        # What is half a character can't be written into a database, nor into a variable.
        json.dumps(documents, ensure_ascii=False, default=str, skipkeys=True).encode()
    except UnicodeEncodeError:
        raise InputError(f"{where}: holds a character that is none (a single surrogate)") from None
    except (yaml.YAMLError, _DuplicateKeyError, ValueError) as error:
        raise InputError(f"{where}: is neither YAML nor JSON: {' '.join(str(error).split())}") from None
    if not documents:
        raise InputError(f"{where}: holds no object")
    for document in documents:
        if isinstance(document, dict) and str(document.get("kind")).endswith("List") and "items" in document:
            if not isinstance(document["items"] or [], list):
                raise InputError(f"{where}: {document['kind']}: items must be a list")
            yield from document["items"] or ()
        else:
            yield document


class _DuplicateKeyError(Exception):
    """One of two equal keys would silently be lost."""


def _documents(text: str) -> Iterable[Any]:
    """JSON is YAML, too, but not to PyYAML, which makes two halves of a character that JSON escapes."""
    try:
        return [json.loads(text, object_pairs_hook=_unique)]
    except json.JSONDecodeError:
        return list(yaml.load_all(text, _Loader))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _DuplicateKeyError(f"duplicate key {next(key for key in keys if keys.count(key) > 1)}")
    return found


class _Loader(yaml.SafeLoader):
    """Refuses what would silently be lost: one of two equal keys. Leaves dates texts, as they are in JSON."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key}", key_node.start_mark)
            seen.add(key if isinstance(key, str) else id(key_node))
        return super().construct_mapping(node, deep)


_Loader.add_constructor("tag:yaml.org,2002:timestamp", lambda _, node: node.value)


def _take(manifest: Any, found: Manifests, namespace: str) -> list[str]:
    """Put an object where it belongs; returns what is wrong with it."""
    if not isinstance(manifest, dict) or not all(
        isinstance(manifest.get(name), str) for name in ("apiVersion", "kind")
    ):
        return ["an object must be a mapping with apiVersion and kind"]
    api_version, kind = manifest["apiVersion"], manifest["kind"]
    is_ours = api_version.partition("/")[0] == GROUP
    if not is_ours and (api_version, kind) not in _PLAIN_KINDS:
        metadata = manifest.get("metadata")
        name = metadata.get("name", "") if isinstance(metadata, Mapping) else ""
        found.notes.append(
            f"{kind} {name} is passed over: JobQueues, JobWorkerPools, Secrets and ConfigMaps count here"
        )
        return []
    metadata = manifest.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str) or not metadata["name"]:
        return [f"{kind}: metadata.name is missing"]
    metadata = {**metadata, "namespace": metadata.get("namespace") or namespace}
    manifest = {**manifest, "metadata": metadata}
    who = f"{kind} {metadata['name']}"
    if problems := _wrong_texts(metadata):
        return [f"{who}: {problem}" for problem in problems]
    if not is_ours:
        return [f"{who}: {problem}" for problem in _take_plain(manifest, found)]
    return [f"{who}: {problem}" for problem in _take_ours(manifest, found)]


def _wrong_texts(metadata: Mapping[str, Any]) -> list[str]:
    """What only an API server's own schema of metadata would find."""
    problems = []
    namespace = metadata["namespace"]
    if not isinstance(namespace, str) or not _NAMESPACE.fullmatch(namespace):
        problems.append(
            "metadata.namespace: must be at most 63 lower-case letters, digits and hyphens, no hyphen at either end"
        )
    for part in ("labels", "annotations"):
        entries = metadata.get(part) or {}
        if not isinstance(entries, Mapping):
            problems.append(f"metadata.{part}: must be a mapping")
            continue
        problems += [
            f"metadata.{part}.{name}: must be a text: put {str(value).lower()!r} in quotes"
            for name, value in entries.items()
            if not isinstance(value, str)
        ]
    return problems


def _take_ours(manifest: Manifest, found: Manifests) -> list[str]:
    spec = manifest.get("spec")
    provider = spec.get("provider") if manifest["kind"] == QUEUE_KIND and isinstance(spec, Mapping) else None
    if provider == "AwsSqs":
        return [_NOT_HERE]
    schema = definitions().get((manifest["apiVersion"], manifest["kind"]))
    if schema is None:
        known = ", ".join(f"{kind} in {api_version}" for api_version, kind in definitions())
        return [f"there is no such kind in {manifest['apiVersion']}; there are {known}"]
    admission = admit(manifest, schema)
    problems = admission.problems or template_problems(admission.manifest)
    if problems:
        return problems
    found.notes += [f"{manifest['kind']} {manifest['metadata']['name']}: {note}" for note in admission.unchecked]
    complete = admission.manifest
    key = key_of(complete)
    complete["metadata"] |= {
        # The same in every run: the queue in the database belongs to it.
        "uid": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{manifest['apiVersion']}/{manifest['kind']}/{key}")),
        "generation": 1,
    }
    complete.pop("status", None)
    objects = found.queues if manifest["kind"] == QUEUE_KIND else found.pools
    if (earlier := next((index for index, other in enumerate(objects) if key_of(other) == key), None)) is not None:
        del objects[earlier]
        found.notes.append(f"{manifest['kind']} {key.name} is given twice, and the later one counts")
    objects.append(complete)
    return []


def _take_plain(manifest: Manifest, found: Manifests) -> list[str]:
    """A Secret or a ConfigMap."""
    is_secret = manifest["kind"] == "Secret"
    encoded, plain = ("data", "stringData") if is_secret else ("binaryData", "data")
    content: dict[str, bytes] = {}
    for part in (encoded, plain):
        entries = manifest.get(part) or {}
        if not isinstance(entries, Mapping):
            return [f"{part} must be a mapping"]
        for name, value in entries.items():
            if not isinstance(name, str) or not _KEY.fullmatch(name):
                return [f"{part}.{name}: a key must be letters, digits, hyphens, underscores and dots, not .. first"]
            if not isinstance(value, str):
                return [f"{part}.{name} must be a text: put it in quotes"]
            try:
                content[name] = base64.b64decode(value, validate=True) if part == encoded else value.encode()
            except binascii.Error:
                return [f"{part}.{name} is not in base64" + (": plain text belongs in stringData" if is_secret else "")]
    (found.secrets if is_secret else found.config_maps)[key_of(manifest)] = content
    return []


def _dangling(found: Manifests) -> list[str]:
    """Nobody will add what is missing later, as somebody may in a cluster."""
    queues = {key_of(queue) for queue in found.queues}
    problems = [
        f"{POOL_KIND} {key_of(pool).name}: there is no JobQueue {queue.name} in namespace {queue.namespace} "
        "among the manifests: give its file, too (-f)"
        for pool in found.pools
        for queue in queues_of(pool)
        if queue not in queues
    ]
    return problems or ([] if queues else ["there is no JobQueue among the manifests: give its file, too (-f)"])
