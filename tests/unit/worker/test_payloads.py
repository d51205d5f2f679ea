"""What passes at the start must decode: an annotation is refused when it is declared, or takes what is valid for it."""

from __future__ import annotations

import collections
import enum
import json
import re
import uuid
from dataclasses import dataclass, field, make_dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    Optional,
    TypedDict,
    TypeVar,
    Union,
    get_args,
    get_origin,
)

import msgspec
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.app import App, AppError
from headrace.job import NewJob
from headrace.queues.envelope import made
from headrace.runtime.payloads import InvalidPayloadError, decoder

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Unknown:
    """No form in JSON."""


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Mixed(enum.Enum):
    ONE = 1
    TWO = "two"


class Order(pydantic.BaseModel):
    number: int = pydantic.Field(gt=0)


@pydantic.dataclasses.dataclass
class Bounded:
    number: int = pydantic.Field(gt=3)


@dataclass
class Box(Generic[T]):
    inside: T


@dataclass
class Tree:
    name: str
    branches: list[Tree] = field(default_factory=list)


class Part(msgspec.Struct, frozen=True):
    number: int


def decoding(annotation: Any) -> Callable[[Any], Any]:
    """What a handler with this annotation gets of a payload; raises AppError at its declaration."""

    async def handle(payload: Any) -> None: ...

    handle.__annotations__["payload"] = annotation
    app = App()
    app.job("it")(handle)
    decode = decoder(app.jobs["it"])

    def decoded(payload: Any) -> Any:
        new = NewJob(name="it", payload=json.dumps(payload).encode())
        return decode(made(new, queue="q", id="1", now=datetime(2026, 3, 1).astimezone()))

    return decoded


class Form(NamedTuple):
    """An annotation, what is valid for it in JSON, and what must become of it."""

    annotation: Any
    values: st.SearchStrategy[Any] | None
    """None: nothing is, and it must be refused."""
    keys: st.SearchStrategy[str] | None = None
    """What it can be of the keys of an object."""
    hashable: st.SearchStrategy[Any] | None = None
    """What it can be in a set."""
    must_pass: bool = True
    """False: msgspec may refuse it."""

    def __repr__(self) -> str:
        return f"<{self.annotation}>"


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
numbers = st.integers(-(2**53), 2**53)
texts = st.text(max_size=3)


def same(annotation: Any, values: st.SearchStrategy[str]) -> Form:
    """One whose values are the same as a key and in a set."""
    return Form(annotation, values, values, values)


LEAVES = [
    Form(int, numbers, numbers.map(str), numbers),
    same(str, texts),
    Form(float, st.floats(allow_nan=False, allow_infinity=False), st.just("1.5"), st.just(1.5)),
    Form(bool, st.booleans(), None, st.booleans()),
    Form(None, st.none(), None, st.none()),
    same(bytes, st.sampled_from(["", "YQ=="])),
    Form(bytearray, st.just("YQ==")),
    *(Form(free, anything, texts, texts) for free in (Any, object, T)),
    same(Literal["a", "b"], st.sampled_from("ab")),
    Form(Literal[1, True], st.sampled_from([1, True]), st.just("1"), st.just(1)),
    same(Colour, st.sampled_from(["red", "blue"])),
    Form(Level, st.sampled_from([1, 2]), st.just("1"), st.just(1)),
    same(datetime, st.datetimes().map(lambda moment: f"{moment.isoformat()}Z")),
    same(date, st.dates().map(str)),
    same(timedelta, st.integers(0, 10**6).map(lambda seconds: f"PT{seconds}S")),
    same(uuid.UUID, st.uuids().map(str)),
    same(Decimal, st.decimals(allow_nan=False, allow_infinity=False).map(str)),
    same(NewType("Id", str), texts),
    Form(Order, st.just({"number": 1})),
    Form(Part, st.just({"number": 1}), None, st.just({"number": 1})),
    Form(Tree, st.just({"name": "a", "branches": [{"name": "b"}]})),
    *(Form(refused, None) for refused in (Unknown, Path, complex, re.Pattern, type, Mixed, msgspec.msgpack.Ext)),
    Form(collections.abc.Callable[[int], int], None),
    Form("NotDefinedAnywhere", None),
]


# Made as the test runs, which no type checker can follow.
kinds: Any = SimpleNamespace(
    list=list,
    set=set,
    tuple=tuple,
    dict=dict,
    Optional=Optional,
    Union=Union,
    TypedDict=TypedDict,
    NamedTuple=NamedTuple,
    Box=Box,
)


def of(inner: Form, annotation: Any, values: Callable[[Any], Any], **more: Any) -> Form:
    """A form made of another: undecodable where that is."""
    return Form(annotation, None if inner.values is None else values(inner.values), must_pass=inner.must_pass, **more)


def listed(inner: Form) -> Form:
    return of(inner, kinds.list[inner.annotation], lambda values: st.lists(values, max_size=3))


def in_set(inner: Form) -> Form:
    values = None if inner.hashable is None else st.lists(inner.hashable, max_size=3)
    return Form(kinds.set[inner.annotation], values, must_pass=inner.must_pass)


def in_tuple(inner: Form) -> Form:
    annotation = kinds.tuple[inner.annotation, ...]
    hashable = None if inner.hashable is None else st.lists(inner.hashable, max_size=3)
    return of(inner, annotation, lambda values: st.lists(values, max_size=3), hashable=hashable)


def mapped(key: Form, value: Form) -> Form:
    annotation = kinds.dict[key.annotation, value.annotation]
    if key.keys is None or value.values is None:
        return Form(annotation, None)
    values = st.dictionaries(key.keys, value.values, max_size=2)
    return Form(annotation, values, must_pass=key.must_pass and value.must_pass)


def optional(inner: Form) -> Form:
    hashable = None if inner.hashable is None else st.none() | inner.hashable
    annotation = kinds.Optional[inner.annotation]
    return of(inner, annotation, lambda values: st.none() | values, keys=inner.keys, hashable=hashable)


def either(one: Form, other: Form) -> Form:
    annotation = kinds.Union[one.annotation, other.annotation]
    parts = get_args(annotation) if get_origin(annotation) is Union else (annotation,)
    if Any in parts or T in parts:  # Anything goes.
        return Form(annotation, anything, texts, texts, must_pass=False)
    if one.values is None or other.values is None:
        return Form(annotation, None)
    keys = [form.keys for form in (one, other) if form.keys is not None]
    return Form(
        annotation,
        one.values | other.values,
        st.one_of(keys) if keys else None,
        None if one.hashable is None or other.hashable is None else one.hashable | other.hashable,
        must_pass=False,
    )


def as_dataclass(inner: Form) -> Form:
    made_class = make_dataclass("Made", [("a", inner.annotation), ("b", int, field(default=1))])
    return of(inner, made_class, lambda values: st.fixed_dictionaries({"a": values}))


def as_struct(inner: Form) -> Form:
    made_class = msgspec.defstruct("Made", [("a", inner.annotation)])
    return of(inner, made_class, lambda values: st.fixed_dictionaries({"a": values}))


def as_typed_dict(inner: Form) -> Form:
    made_class = kinds.TypedDict("Made", {"a": inner.annotation, "b": NotRequired[int]})
    return of(inner, made_class, lambda values: st.fixed_dictionaries({"a": values}))


def as_named_tuple(inner: Form) -> Form:
    made_class = kinds.NamedTuple("Made", [("a", inner.annotation)])
    hashable = None if inner.hashable is None else st.tuples(inner.hashable)
    return of(inner, made_class, st.tuples, hashable=hashable)


def as_frozen(inner: Form) -> Form:
    made_class = make_dataclass("Made", [("a", inner.annotation)], frozen=True)
    hashable = None if inner.hashable is None else st.fixed_dictionaries({"a": inner.hashable})
    return of(inner, made_class, lambda values: st.fixed_dictionaries({"a": values}), hashable=hashable)


def generic(inner: Form) -> Form:
    annotation = kinds.Box[inner.annotation]
    return of(inner, annotation, lambda values: st.fixed_dictionaries({"inside": values}))


def extended(inner: st.SearchStrategy[Form]) -> st.SearchStrategy[Form]:
    ways = [
        listed,
        in_set,
        in_tuple,
        optional,
        as_dataclass,
        as_struct,
        as_typed_dict,
        as_named_tuple,
        as_frozen,
        generic,
    ]
    return (
        st.builds(lambda way, form: way(form), st.sampled_from(ways), inner)
        | st.builds(mapped, inner, inner)
        | st.builds(either, inner, inner)
    )


forms = st.recursive(st.sampled_from(LEAVES), extended, max_leaves=4)


@given(forms, st.data())
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_an_annotation_is_refused_when_declared_or_takes_every_value_valid_for_it(
    form: Form, data: st.DataObject
) -> None:
    try:
        decode = decoding(form.annotation)
    except AppError:
        assert not form.must_pass or form.values is None
        return
    assert form.values is not None, "nothing is valid for it: it should have been refused"
    decode(data.draw(form.values))


@dataclass
class Line:
    prices: dict[str, list[Unknown]]


@dataclass
class Basket:
    lines: tuple[Line, ...]
    notes: str = ""


@dataclass
class Dangling:
    elsewhere: NotImported  # type: ignore[name-defined]  # noqa: F821


class DanglingModel(pydantic.BaseModel):
    elsewhere: NotImported  # type: ignore[name-defined]  # noqa: F821


class Holder(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    many: list[Unknown]


@pytest.mark.parametrize(
    ("annotation", "complaint"),
    [
        (Basket, r"Basket.lines\[\].prices\[…\]\[\] is Unknown, which has no form in JSON"),
        (list[Unknown], r"list\[.*Unknown\]\[\] is Unknown, which"),
        (dict[str, dict[bool, int]], r"\[…\] has keys that no JSON object has: they are strings"),
        (dict[tuple[int, int], str], "has keys that no JSON object has"),
        (list[set[Tree]], r"\[\] is a set of what can't be in a set: it is not hashable"),
        (Dangling, "name 'NotImported' is not defined"),
        (list[Dangling], "name 'NotImported' is not defined"),
        (DanglingModel, "name 'NotImported' is not defined"),
        (list[DanglingModel], "name 'NotImported' is not defined"),
        (Holder, r"Holder.many\[\] must be an instance of Unknown"),
        (list[Holder], r"in list\[.*Holder\]\[\], Holder.many\[\] must be an instance of Unknown"),
        (int | Unknown, "custom type"),
        (Mixed, "Enums must contain either all str or all int values"),
        ("Nowhere", "'Nowhere' can't be looked up"),
    ],
)
def test_what_can_never_be_decoded_is_refused_with_its_place(annotation: Any, complaint: str) -> None:
    with pytest.raises(AppError, match="job 'it': ") as refused:
        decoding(annotation)
    assert re.search(complaint, str(refused.value))


def test_object_is_anything_wherever_it_stands() -> None:
    assert decoding(dict[str, object])({"a": [1, {"b": None}]}) == {"a": [1, {"b": None}]}
    assert decoding(list[object])([1, "a", {"b": []}]) == [1, "a", {"b": []}]
    assert decoding(Box[object])({"inside": {"a": 1}}) == Box({"a": 1})
    assert decoding(Optional[object])(None) is None  # noqa: UP045


@dataclass
class Shipment:
    box: Bounded
    orders: list[Order]


def test_pydantics_validators_hold_within_other_types() -> None:
    assert decoding(list[Order])([{"number": 1}]) == [Order(number=1)]
    assert decoding(Shipment)({"box": {"number": 4}, "orders": [{"number": 1}]}) == Shipment(
        Bounded(4), [Order(number=1)]
    )
    for payload in ({"box": {"number": 3}, "orders": []}, {"box": {"number": 4}, "orders": [{"number": 0}]}):
        with pytest.raises(InvalidPayloadError, match="greater than"):
            decoding(Shipment)(payload)


class Lenient(pydantic.BaseModel):
    """What its own validators make of JSON is theirs to know."""

    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    made: Annotated[Unknown, pydantic.BeforeValidator(lambda _: Unknown())]
    left_out: Unknown | None = None


def test_a_class_that_a_validator_makes_is_not_refused() -> None:
    assert isinstance(decoding(Lenient)({"made": "of anything"}).made, Unknown)


@dataclass
class Fussy:
    number: int

    def __post_init__(self) -> None:
        raise KeyError("no such number")


@pytest.mark.parametrize(
    ("annotation", "payload", "complaint"),
    [
        (Tree, {"name": 1}, r"Expected `str`, got `int` - at `\$.name`"),
        (Fussy, {"number": 1}, "KeyError: 'no such number'"),
        (set[object], [[1]], "unhashable"),
        (list[Order], [{"number": 0}], "greater than 0"),
    ],
)
def test_a_payload_that_is_not_what_is_wanted_is_told(annotation: Any, payload: Any, complaint: str) -> None:
    with pytest.raises(InvalidPayloadError, match=complaint):
        decoding(annotation)(payload)
