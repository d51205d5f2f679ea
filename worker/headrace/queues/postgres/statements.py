"""The SQL files, read once: named queries, numbered migrations, and the functions of the schema."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import TYPE_CHECKING

from headrace.queues.errors import QueueError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_IDENTIFIER_BYTES = 63
"""PostgreSQL cuts longer identifiers off, silently."""

JOB_COLUMNS = (
    "id",
    "enqueued_at",
    "run_at",
    "expires_at",
    "came_back",
    "lost_at",
    "queue_id",
    "attempt",
    "priority",
    "deaths",
    "losses",
    "suspect",
    "name",
    "payload",
    "content_type",
    "headers",
    "group_key",
    "deduplication_key",
    "failures",
    "extra",
)
"""What every table of jobs has, in the order of the table ``jobs``: the one list of it."""

_ABOUT_ITS_PLACE = "came_back"
# In the SQL files: the columns that a job takes along from table to table, and a whole row of ``jobs`` made of them.
_CARRIED = ", ".join(column for column in JOB_COLUMNS if column != _ABOUT_ITS_PLACE)
_ROW = ", ".join("NULL::bigint" if column == _ABOUT_ITS_PLACE else column for column in JOB_COLUMNS)

# In the order in which they can be made: a body in standard SQL, or a view, names what is there already.
_FUNCTIONS = (
    "jobs",
    "groups",
    "rescue",
    "claim",
    "settle",
    "housekeeping",
    "enqueue",
    "inspect",
    "depth",
    "public",
)

_QUERY = re.compile(r"^-- name: (\w+)\n((?:-- [^\n]*\n)+)(.*?)(?=^-- name: |\Z)", re.MULTILINE | re.DOTALL)
_HEADER = re.compile(r"-- compatible-with: (\d+)\n-- functions: (\w+)\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One step forward of the schema's tables."""

    version: int
    name: str
    compatible_with: int
    """The oldest code (by its own newest migration) that still works once this step is made."""
    functions: str
    """The checksum of the functions that belong to it: changed functions want a step of their own."""
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
    """Fill in the schema's name (as an identifier, as a text, within a text) and the columns of jobs."""
    identifier = quoted(schema)
    return (
        sql.replace("{job_columns}", _CARRIED)
        .replace("{job_row}", _ROW)
        .replace("{schema}", identifier)
        .replace("{schema_literal}", "'" + schema.replace("'", "''") + "'")
        .replace("{schema_in_text}", identifier.replace("'", "''"))
    )


@cache
def queries(schema: str) -> Mapping[str, str]:
    """All named queries, for one schema."""
    found: dict[str, str] = {}
    for file in sorted(resources.files(__package__).joinpath("queries").iterdir(), key=lambda file: file.name):
        for name, _, sql in _QUERY.findall(file.read_text("utf-8")):
            assert name not in found, f"{name} stands in two files"
            found[name] = render(sql.strip(), schema)
    return MappingProxyType(found)


@cache
def migrations() -> tuple[Migration, ...]:
    """All migrations, oldest first."""
    files = resources.files(__package__).joinpath("schema").iterdir()
    found = []
    for file in sorted((file for file in files if file.name.endswith(".sql")), key=lambda file: file.name):
        version, _, name = file.name.removesuffix(".sql").partition("_")
        sql = file.read_text("utf-8")
        header = _HEADER.match(sql)
        assert header, f"{file.name} must begin with '-- compatible-with: N' and '-- functions: CHECKSUM'"
        migration = Migration(
            version=int(version), name=name, compatible_with=int(header[1]), functions=header[2], sql=sql
        )
        found.append(migration)
    return tuple(found)


@cache
def functions() -> str:
    """The text of all functions and views, as of the newest migration."""
    place = resources.files(__package__).joinpath("functions")
    return "\n".join(place.joinpath(f"{name}.sql").read_text("utf-8") for name in _FUNCTIONS)


def functions_checksum() -> str:
    """What the newest migration must name: so it is noticed that functions have changed."""
    return hashlib.sha256(functions().encode()).hexdigest()[:12]


def code_version() -> int:
    """The schema version that this code knows."""
    return migrations()[-1].version
