"""Arguments and rows as text, there and back. What a server makes of them, the tests behind a pooler show."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from headrace.queues.errors import QueueError
from headrace.queues.postgres.simple_protocol import DescribedStatement, Row, _reader


def statement(sql: str, *parameters: str, columns: tuple[str, ...] = ()) -> DescribedStatement:
    row = type("Row", (Row,), {"__slots__": (), "names": tuple(f"c{place}" for place in range(len(columns)))})
    return DescribedStatement(sql, parameters, tuple(map(_reader, columns)), row)


@pytest.mark.parametrize(
    ("argument", "kind", "literal"),
    [
        (None, "text", "NULL::text"),
        (17, "int8", "E'17'::int8"),
        (0.5, "float8", "E'0.5'::float8"),
        (True, "bool", "E'true'::bool"),
        ("it's \\ $1", "text", "E'it''s \\\\ $1'::text"),
        (b"\x00'\xff", "bytea", "E'\\\\x0027ff'::bytea"),
        (datetime(2031, 5, 17, 8, 30, tzinfo=UTC), "timestamptz", "E'2031-05-17T08:30:00+00:00'::timestamptz"),
        ([], "text[]", "E'{}'::text[]"),
        ([1, None], "int8[]", "E'{\"1\",NULL}'::int8[]"),
        (["NULL", 'a"b', "c\\d,{}"], "text[]", 'E\'{"NULL","a\\\\"b","c\\\\\\\\d,{}"}\'::text[]'),
    ],
)
def test_an_argument_is_written_as_a_literal(argument: object, kind: str, literal: str) -> None:
    assert statement("SELECT $1", kind).filled([argument]) == f"SELECT {literal}"


def test_each_goes_where_it_belongs_and_none_is_read_as_another() -> None:
    filled = statement("SELECT $2, $1, $2", "int4", "text").filled([1, "$1"])
    assert filled == "SELECT E'$1'::text, E'1'::int4, E'$1'::text"


def test_what_is_no_value_of_ours_is_refused() -> None:
    with pytest.raises(QueueError, match="can't be sent to the database: object"):
        statement("SELECT $1", "text").filled([object()])


def test_rows_have_places_and_names() -> None:
    columns = ("int8", "text", "bytea", "bool", "timestamptz", "int8[]", "float8", "void")
    copied = (
        b"7\ta\\tb\\n\\\\N\t\\\\x00ff\tt\t2031-05-17 08:30:00.5+00\t{1,NULL,3}\t0.25\t\n"
        + b"\t".join([b"\\N"] * 8)
        + b"\n"
    )
    first, second = statement("…", columns=columns).rows(copied)
    moment = datetime(2031, 5, 17, 8, 30, 0, 500_000, tzinfo=UTC)
    assert first == (7, "a\tb\n\\N", b"\x00\xff", True, moment, [1, None, 3], 0.25, None)
    assert (first["c1"], first[0]) == ("a\tb\n\\N", 7)
    assert dict(second) == {f"c{place}": None for place in range(8)}


def test_texts_in_arrays_may_be_anything() -> None:
    (row,) = statement("…", columns=("text[]",)).rows(rb'{plain,"NULL","a\\"b,{c}","d\\\\\\\\e",""}' + b"\n")
    assert row == (["plain", "NULL", 'a"b,{c}', "d\\\\e", ""],)


def test_no_rows_are_none() -> None:
    assert statement("…", columns=("int8",)).rows(b"") == []


def test_an_old_form_of_bytes_is_refused_with_the_fix() -> None:
    with pytest.raises(QueueError, match="bytea_output = 'hex'"):
        statement("…", columns=("bytea",)).rows(b"abc\n")
