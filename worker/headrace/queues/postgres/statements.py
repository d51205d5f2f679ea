"""The SQL files, read once: named queries and numbered migrations."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import TYPE_CHECKING

from headrace.queues.base import QueueError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_IDENTIFIER_BYTES = 63
"""PostgreSQL cuts longer identifiers off, silently."""

_QUERY = re.compile(r"^-- name: (\w+)\n((?:-- [^\n]*\n)+)(.*?)(?=^-- name: |\Z)", re.MULTILINE | re.DOTALL)
_COMPATIBLE_WITH = re.compile(r"-- compatible-with: (\d+)\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One step forward of the schema."""

    version: int
    name: str
    compatible_with: int
    """The oldest code (by its own newest migration) that still works once this step is made."""
    sql: str


def fits(identifier: str) -> bool:
    """Whether it can be the name of something, and is not cut off."""
    try:
        return 1 <= len(identifier.encode()) <= MAX_IDENTIFIER_BYTES and "\x00" not in identifier
    except UnicodeEncodeError:
        return False


def quoted(identifier: str) -> str:
    """The identifier as SQL."""
    if not fits(identifier):
        raise QueueError(f"schema {identifier!r}: must have 1 to {MAX_IDENTIFIER_BYTES} bytes, none of them zero")
    return '"' + identifier.replace('"', '""') + '"'


def render(sql: str, schema: str) -> str:
    """Fill the schema's name into a statement: as an identifier, and as text."""
    literal = "'" + schema.replace("'", "''") + "'"
    return sql.replace("{schema}", quoted(schema)).replace("{schema_literal}", literal)


@cache
def queries(schema: str) -> Mapping[str, str]:
    """All named queries, for one schema."""
    text = resources.files(__package__).joinpath("queries.sql").read_text("utf-8")
    return MappingProxyType({name: render(sql.strip(), schema) for name, _, sql in _QUERY.findall(text)})


@cache
def migrations() -> tuple[Migration, ...]:
    """All migrations, oldest first."""
    files = resources.files(__package__).joinpath("schema").iterdir()
    found = []
    for file in sorted((file for file in files if file.name.endswith(".sql")), key=lambda file: file.name):
        version, _, name = file.name.removesuffix(".sql").partition("_")
        sql = file.read_text("utf-8")
        compatible_with = _COMPATIBLE_WITH.match(sql)
        assert compatible_with, f"{file.name} must begin with '-- compatible-with: N'"
        found.append(Migration(version=int(version), name=name, compatible_with=int(compatible_with[1]), sql=sql))
    return tuple(found)


def code_version() -> int:
    """The schema version that this code knows."""
    return migrations()[-1].version
