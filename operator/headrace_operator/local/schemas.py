"""The custom resource definitions, applied as the API server applies them: defaults, unknown fields, schema, CEL rules.

Rules on changes (`oldSelf`) have nothing to compare with: here, objects are only ever made.
"""

from __future__ import annotations

import copy
import difflib
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cel
import yaml
from openapi_schema_validator import OAS30Validator

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from jsonschema.exceptions import ValidationError

    Schema = Mapping[str, Any]

_RULES = "x-kubernetes-validations"
_OPEN = "x-kubernetes-preserve-unknown-fields"


_TEXT = {"type": "string"}
_BOOLEAN = {"type": "boolean"}


def _object(*required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": properties}


def _list(items: Schema) -> dict[str, Any]:
    return {"type": "array", "items": items}


_BY_NAME = _object("name", name=_TEXT, optional=_BOOLEAN)
_BY_KEY = _object("name", "key", name=_TEXT, key=_TEXT, optional=_BOOLEAN)
_ITEMS = _list(_object("key", "path", key=_TEXT, path=_TEXT))
_SOURCE = _object(
    secretKeyRef=_BY_KEY,
    configMapKeyRef=_BY_KEY,
    fieldRef=_object("fieldPath", fieldPath=_TEXT),
    resourceFieldRef={"type": "object"},
)
_CONTAINER = _object(
    env=_list(_object("name", name=_TEXT, value=_TEXT, valueFrom=_SOURCE)),
    envFrom=_list(_object(prefix=_TEXT, secretRef=_BY_NAME, configMapRef=_BY_NAME)),
    volumeMounts=_list(_object("name", "mountPath", name=_TEXT, mountPath=_TEXT)),
)
_VOLUME = _object(
    "name",
    name=_TEXT,
    secret=_object("secretName", secretName=_TEXT, items=_ITEMS, optional=_BOOLEAN),
    configMap=_object("name", name=_TEXT, items=_ITEMS, optional=_BOOLEAN),
)
_TEMPLATE = _object(
    metadata=_object(),
    spec=_object(containers=_list(_CONTAINER), initContainers=_list(_object()), volumes=_list(_VOLUME)),
)
"""Of the Kubernetes API's own schema of pods, as much as has a meaning here."""


@dataclass(kw_only=True)
class Admitted:
    """What became of an object at the door."""

    manifest: dict[str, Any]
    """With its defaults."""
    problems: list[str] = field(default_factory=list)
    """Why it is refused: the field, and what is wrong with it."""
    unchecked: list[str] = field(default_factory=list)
    """Rules that only an API server can evaluate."""


@cache
def definitions() -> Mapping[tuple[str, str], Schema]:
    """The schemas of our kinds, by API version and kind."""
    found = {}
    for file in sorted(_folder().glob("*.yaml")):
        spec = yaml.safe_load(file.read_text("utf-8"))["spec"]
        for version in spec["versions"]:
            schema = version["schema"]["openAPIV3Schema"]
            found[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = schema
    return found


def _folder() -> Path:
    """Inside the wheel; in a working tree they stand at its root."""
    package = Path(str(resources.files("headrace_operator")))
    inside = package / "crds"
    return inside if inside.is_dir() else package.parents[1] / "crds"


def admit(manifest: Mapping[str, Any], schema: Schema) -> Admitted:
    """Check an object, and give it its defaults."""
    complete = copy.deepcopy(dict(manifest))
    _fill_in(complete, schema)
    problems = [
        *_unknown_fields(complete, schema, ""),
        *(_told(error) for error in sorted(OAS30Validator(schema).iter_errors(complete), key=_place_of)),
    ]
    admission = Admitted(manifest=complete, problems=list(dict.fromkeys(problems)))
    if not admission.problems:
        # Rules may count on the shapes that the schema demands.
        for value, place, rule in _rules(complete, schema, ""):
            _evaluate(rule, value, place, admission)
    return admission


def template_problems(pool: Mapping[str, Any]) -> list[str]:
    """What is wrong with a pool's template, which the definition leaves to the schema of pods."""
    errors = OAS30Validator(_object(spec=_object(template=_TEMPLATE))).iter_errors(pool)
    return [_told(error) for error in sorted(errors, key=_place_of)]


def _fill_in(value: Any, schema: Schema) -> None:
    """Defaults where nothing is given; an explicit null counts as nothing."""
    if isinstance(value, dict):
        for name, inner in schema.get("properties", {}).items():
            if value.get(name) is None and name in value and not inner.get("nullable"):
                del value[name]
            if name not in value and "default" in inner:
                value[name] = copy.deepcopy(inner["default"])
            if name in value:
                _fill_in(value[name], inner)
    elif isinstance(value, list):
        for item in value:
            _fill_in(item, schema.get("items", {}))


def _unknown_fields(value: Any, schema: Schema, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        known = schema.get("properties", {})
        is_open = schema.get(_OPEN) or "additionalProperties" in schema or path == "metadata"
        for name, inner in value.items():
            place = f"{path}.{name}" if path else str(name)
            if name in known:
                yield from _unknown_fields(inner, known[name], place)
            elif not is_open:
                near = difflib.get_close_matches(str(name), known, n=1)
                yield f"{place}: there is no such field" + (f", but {near[0]}" if near else "")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unknown_fields(item, schema.get("items", {}), f"{path}[{index}]")


def _told(error: ValidationError) -> str:
    place, message = _place_of(error), error.message
    if error.validator == "required" and isinstance(error.instance, dict):
        missing = [name for name in error.validator_value if name not in error.instance]
        return ", ".join(f"{place}.{name}".lstrip(".") for name in missing) + ": is required"
    if isinstance(error.instance, bool) and error.validator in ("type", "enum"):
        message = "a plain On, Off, yes or no is a boolean in YAML: put it in quotes"
    elif isinstance(error.instance, int | float) and error.validator_value == "string":
        message = f"{error.instance} is a number: put it in quotes"
    return f"{place}: {message}"


def _place_of(error: ValidationError) -> str:
    return _path(error.absolute_path)


def _path(parts: Iterable[str | int]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".")


def _rules(value: Any, schema: Schema, path: str) -> Iterator[tuple[Any, str, Mapping[str, str]]]:
    """Every rule with the value that it is about."""
    typed = _typed(value, schema)
    for rule in schema.get(_RULES, ()):
        if "oldSelf" not in rule["rule"]:
            yield typed, path, rule
    if isinstance(value, dict):
        inner_schemas = schema.get("properties", {})
        for name, inner in value.items():
            schema_of_inner = inner_schemas.get(name) or schema.get("additionalProperties")
            if isinstance(schema_of_inner, dict):
                yield from _rules(inner, schema_of_inner, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _rules(item, schema.get("items", {}), f"{path}[{index}]")


def _typed(value: Any, schema: Schema) -> Any:
    """A number that happens to be whole is a double in CEL all the same."""
    if isinstance(value, dict):
        inner = schema.get("properties", {})
        return {name: _typed(item, inner.get(name, {})) for name, item in value.items()}
    if isinstance(value, list):
        return [_typed(item, schema.get("items", {})) for item in value]
    return float(value) if schema.get("type") == "number" else value


def _evaluate(rule: Mapping[str, str], value: Any, place: str, admission: Admitted) -> None:
    try:
        if cel.evaluate(rule["rule"], {"self": value}):
            return
        message = rule.get("message", f"must satisfy {rule['rule']}")
        if "messageExpression" in rule:
            message = str(cel.evaluate(rule["messageExpression"], {"self": value}))
    except (ValueError, TypeError, RuntimeError) as error:
        # Kubernetes' CEL has libraries that this one has not.
        admission.unchecked.append(f"{place}: a rule is left to the API server ({error}): {rule['rule']}")
        return
    admission.problems.append(f"{place}{rule.get('fieldPath', '')}".lstrip(".") + f": {' '.join(message.split())}")
