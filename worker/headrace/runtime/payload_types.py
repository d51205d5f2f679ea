"""Whether what a handler's parameter is annotated as can be decoded from JSON at all: asked once, at the start.

msgspec refuses some types when a decoder is made. Others it takes, and then refuses every value: a class that it does
not know, a set of lists, a key that is no string in JSON.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

from msgspec import inspect

if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_KEYS = (
    inspect.BoolType,
    inspect.NoneType,
    inspect.ByteArrayType,
    inspect.RawType,
    inspect.ExtType,
    inspect.CollectionType,
    inspect.TupleType,
    inspect.DictType,
    inspect.TypedDictType,
    inspect.NamedTupleType,
    inspect.DataclassType,
    inspect.StructType,
)
_NOT_HASHABLE = (
    inspect.ListType,
    inspect.SetType,
    inspect.DictType,
    inspect.TypedDictType,
    inspect.ByteArrayType,
    inspect.RawType,
)


def is_pydantic(wanted: Any) -> bool:
    """Whether it is one of pydantic's models or dataclasses."""
    # Whoever has one has imported pydantic; nobody else needs it.
    return "pydantic" in sys.modules and isinstance(wanted, type) and hasattr(wanted, "__pydantic_validator__")


def has_pydantic_dataclass(wanted: Any) -> bool:
    """Whether one of pydantic's dataclasses is a part of it: msgspec would fill its fields past its validators."""
    return any(
        is_pydantic(_origin(node.cls))
        for _, node in _nodes(inspect.type_info(wanted), _name(wanted), set())
        if isinstance(node, inspect.DataclassType)
    )


def pydantic_adapter(wanted: Any) -> tuple[Any, str | None]:
    """The `pydantic.TypeAdapter` of a type, and its first obstacle: see `first_obstacle`."""
    import pydantic  # noqa: PLC0415 - imported by whoever wrote the annotation

    adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(wanted)
    if not adapter.pydantic_complete:
        # Raises what says which name can't be looked up.
        adapter.rebuild(force=True, raise_errors=True)
    return adapter, next(_instances_wanted(adapter.core_schema, _name(wanted)), None)


def first_obstacle(wanted: Any) -> str | None:
    """Where in a type something can't be decoded, and why; None where all of it can.

    Raises
    ------
    Exception
        Whatever looking at the type raises: msgspec's TypeError for what it can't validate, NameError and others where
        the annotations of its fields can't be looked up.
    """
    for place, node in _nodes(inspect.type_info(wanted), _name(wanted), set()):
        if problem := _problem(node):
            return f"{place} {problem}"
        if isinstance(node, inspect.CustomType) and is_pydantic(node.cls):
            _, obstacle = pydantic_adapter(node.cls)
            if obstacle is not None:
                return f"in {place}, {obstacle}"
    return None


def _nodes(node: inspect.Type, place: str, seen: set[int]) -> Iterator[tuple[str, inspect.Type]]:
    """All parts of a type, each with where it stands."""
    if id(node) in seen:
        return
    seen.add(id(node))
    yield place, node
    match node:
        case inspect.Metadata(type=inner):
            yield from _nodes(inner, place, seen)
        case inspect.UnionType(types=types):
            for inner in types:
                yield from _nodes(inner, place, seen)
        case inspect.CollectionType(item_type=inner):
            yield from _nodes(inner, f"{place}[]", seen)
        case inspect.TupleType(item_types=types):
            for index, inner in enumerate(types):
                yield from _nodes(inner, f"{place}[{index}]", seen)
        case inspect.DictType(key_type=key, value_type=inner):
            yield from _nodes(key, f"the keys of {place}", seen)
            yield from _nodes(inner, f"{place}[…]", seen)
        case inspect.StructType() | inspect.DataclassType() | inspect.TypedDictType() | inspect.NamedTupleType():
            for field in node.fields:
                yield from _nodes(field.type, f"{place}.{field.name}", seen)
        case _:
            pass


def _problem(node: inspect.Type) -> str | None:
    match node:
        case inspect.CustomType(cls=cls) if cls is not object and not is_pydantic(cls):
            return f"is {cls.__name__}, which has no form in JSON"
        case inspect.ExtType():
            return "is msgspec's Ext, which has no form in JSON"
        case inspect.DictType(key_type=key) if not _can_be_key(key):
            return "has keys that no JSON object has: they are strings"
        case inspect.SetType(item_type=item) | inspect.FrozenSetType(item_type=item) if _is_unhashable(item):
            return "is a set of what can't be in a set: it is not hashable"
        case _:
            return None


def _can_be_key(node: inspect.Type) -> bool:
    match node:
        case inspect.Metadata(type=inner):
            return _can_be_key(inner)
        case inspect.UnionType(types=types):
            return any(map(_can_be_key, types))
        case inspect.LiteralType(values=values):
            return any(type(value) in {int, str} for value in values)
        case inspect.CustomType(cls=cls):
            return cls is object
        case _:
            return not isinstance(node, _NO_KEYS)


def _is_unhashable(node: inspect.Type) -> bool:
    """Whether no value of it, or only some, can be in a set."""
    match node:
        case inspect.Metadata(type=inner) | inspect.VarTupleType(item_type=inner):
            return _is_unhashable(inner)
        case inspect.UnionType(types=types) | inspect.TupleType(item_types=types):
            return any(map(_is_unhashable, types))
        case inspect.NamedTupleType(fields=fields):
            return any(_is_unhashable(field.type) for field in fields)
        case inspect.StructType(cls=cls, fields=fields):
            config = _origin(cls).__struct_config__
            return bool(config.eq) and (not config.frozen or any(_is_unhashable(field.type) for field in fields))
        case inspect.DataclassType(cls=cls, fields=fields):
            return _origin(cls).__hash__ is None or any(
                _is_unhashable(field.type) for field in fields if field.name in _hashed_fields(_origin(cls))
            )
        case inspect.CustomType(cls=cls):
            return cls.__hash__ is None
        case _:
            return isinstance(node, _NOT_HASHABLE)


def _hashed_fields(cls: Any) -> set[str]:
    """Of which fields a dataclass's hash is made."""
    if cls.__hash__ is object.__hash__ or not dataclasses.is_dataclass(cls):
        return set()
    return {field.name for field in dataclasses.fields(cls) if (field.compare if field.hash is None else field.hash)}


def _instances_wanted(schema: Any, place: str) -> Iterator[str]:
    """Where pydantic takes instances of a class alone.

    Goes down only where nothing of the application's own could make an instance of JSON before it is looked at.
    """
    match schema:
        case {"type": "is-instance", "cls": type() as cls}:
            yield f"{place} must be an instance of {cls.__name__}, which has no form in JSON"
        case {"type": "model" | "dataclass" | "definitions" | "function-after", "schema": inner}:
            yield from _instances_wanted(inner, place)
        case {"type": "list", "items_schema": inner}:
            yield from _instances_wanted(inner, f"{place}[]")
        case {"type": "dict", "values_schema": inner}:
            yield from _instances_wanted(inner, f"{place}[…]")
        case {"type": "model-fields", "fields": dict() as fields}:
            for name, field in fields.items():
                yield from _instances_wanted(field["schema"], f"{place}.{name}")
        case {"type": "dataclass-args", "fields": list() as fields}:
            for field in fields:
                yield from _instances_wanted(field["schema"], f"{place}.{field['name']}")
        case _:
            pass


def _origin(cls: Any) -> Any:
    return getattr(cls, "__origin__", cls)


def _name(wanted: Any) -> str:
    return wanted.__name__ if isinstance(wanted, type) and not hasattr(wanted, "__args__") else repr(wanted)
