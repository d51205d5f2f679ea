"""Statements without preparing them: each is one message, and so one transaction that no pooler tears apart.

A pooler that keeps no prepared statements gives each transaction another session, where what was parsed before is not
known. So the arguments are written into the statement as literals, and its rows are asked for by COPY, for which the
simple protocol has an answer that asyncpg reads. Only the first use of a statement, which learns its types, takes more.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import asyncpg

from headrace.queues.errors import QueueError
from headrace.queues.postgres.errors import is_broken

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from headrace.queues.postgres.connection import AnyConnection

_PARAMETER = re.compile(r"\$(\d+)")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_ARRAY_ITEM = re.compile(r'"((?:[^"\\]|\\.)*)"|([^,{}"]+)', re.DOTALL)


class Row(tuple[Any, ...]):
    """A row, by places and by names, as asyncpg's."""

    __slots__ = ()
    names: tuple[str, ...] = ()

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(self.names.index(key) if isinstance(key, str) else key)

    def keys(self) -> tuple[str, ...]:
        """The columns' names."""
        return self.names


class DescribedStatement(NamedTuple):
    """What a statement takes, and gives."""

    sql: str
    parameters: tuple[str, ...]
    readers: tuple[Callable[[str], Any], ...]
    row: type[Row]

    def filled(self, arguments: Sequence[object]) -> str:
        """The statement with its arguments in it."""
        literals = [f"{_literal(argument)}::{kind}" for argument, kind in zip(arguments, self.parameters, strict=True)]
        return _PARAMETER.sub(lambda found: literals[int(found[1]) - 1], self.sql)

    def rows(self, copied: bytes) -> list[Any]:
        """The rows that COPY gave."""
        lines = copied.decode().split("\n")[:-1]  # A line's own breaks are escaped.
        return [
            self.row(
                None if value == r"\N" else read(_ESCAPE.sub(_unescaped, value))
                for value, read in zip(line.split("\t"), self.readers, strict=True)
            )
            for line in lines
        ]


async def described(connection: AnyConnection, sql: str) -> DescribedStatement:
    """Ask what a statement takes and gives, within a transaction that holds no row."""
    # By hand: a cancelled transaction() waits for the server to roll back, which a dead one never does.
    await connection.execute("BEGIN")
    try:
        statement = await connection.prepare(sql)
    except asyncpg.PostgresError as error:
        if not is_broken(error):
            await connection.execute("ROLLBACK")
        raise
    await connection.execute("COMMIT")
    attributes = statement.get_attributes()
    return DescribedStatement(
        sql,
        tuple(parameter.name for parameter in statement.get_parameters()),
        tuple(_reader(attribute.type.name) for attribute in attributes),
        type("Row", (Row,), {"__slots__": (), "names": tuple(attribute.name for attribute in attributes)}),
    )


async def fetch(connection: AnyConnection, statement: DescribedStatement, arguments: Sequence[object]) -> list[Any]:
    """Run a statement, in one message."""
    sql = statement.filled(arguments)
    if not statement.readers:
        await connection.execute(sql)
        return []
    copied = bytearray()

    async def take(data: bytes) -> None:
        copied.extend(data)

    await connection.copy_from_query(sql, output=take)
    return statement.rows(bytes(copied))


# Arguments as literals


def _literal(argument: object) -> str:
    if argument is None:
        return "NULL"
    return "E'" + _text(argument).replace("\\", "\\\\").replace("'", "''") + "'"


def _text(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case bytes():
            return "\\x" + value.hex()
        case datetime():
            return value.isoformat()
        case list() | tuple():
            return "{" + ",".join(map(_item, value)) + "}"
        case str() | int() | float():
            return str(value)
        case _:
            raise QueueError(f"a value can't be sent to the database: {type(value).__name__}")


def _item(value: object) -> str:
    if value is None:
        return "NULL"
    return '"' + _text(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


# Columns as values


def _reader(kind: str) -> Callable[[str], Any]:
    if kind.endswith("[]"):
        return lambda text: _items(text, _reader(kind.removesuffix("[]")))
    return _READERS.get(kind, str)


def _items(text: str, read: Callable[[str], Any]) -> list[Any]:
    return [
        None if plain == "NULL" else read(plain or _ESCAPE.sub(r"\1", quoted))
        for quoted, plain in _ARRAY_ITEM.findall(text)
    ]


def _bytes(text: str) -> bytes:
    if not text.startswith("\\x"):
        raise QueueError("bytes come in an old form: ALTER ROLE … SET bytea_output = 'hex'")
    return bytes.fromhex(text[2:])


def _nothing(_text: str) -> None:
    return None


def _unescaped(found: re.Match[str]) -> str:
    return _ESCAPED.get(found[1], found[1])


_READERS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("int2", "int4", "int8", "smallint", "integer", "bigint"), int),
    **dict.fromkeys(("float4", "float8", "real", "double precision"), float),
    **dict.fromkeys(("bool", "boolean"), lambda text: text == "t"),
    **dict.fromkeys(("timestamptz", "timestamp with time zone"), datetime.fromisoformat),
    "bytea": _bytes,
    "void": _nothing,
}
