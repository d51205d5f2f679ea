"""A job's payload as its handler wants it: decoded, and of the type that its first parameter is annotated as."""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any

import msgspec

from headrace.app import AppError
from headrace.job import JSON_CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import Callable

    from headrace.app import Declaration
    from headrace.job import Job


class InvalidPayloadError(ValueError):
    """The payload is not what the handler takes; the message says where."""


def decoder(declaration: Declaration) -> Callable[[Job], Any]:
    """What makes of a job the payload that its function takes; it raises `InvalidPayloadError`.

    Raises
    ------
    AppError
        When no payload can be validated as what the function's first parameter is annotated as.
    """
    wanted = _resolved(declaration)
    if wanted is Any or wanted is object:
        return _untyped
    if wanted is bytes:
        return lambda job: job.payload
    decode = _validating(declaration.name, wanted)

    def typed(job: Job) -> Any:
        if not _is_json(job):
            raise InvalidPayloadError(f"the payload is {job.content_type}: this job takes {JSON_CONTENT_TYPE}")
        try:
            return decode(job.payload)
        except (ValueError, msgspec.MsgspecError, RecursionError) as error:
            raise InvalidPayloadError(f"the payload is not what this job takes: {error}") from None

    return typed


def _untyped(job: Job) -> Any:
    if not _is_json(job):
        return job.payload
    try:
        return msgspec.json.decode(job.payload)
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise InvalidPayloadError(f"the payload is no {job.content_type}: {error}") from None


def _is_json(job: Job) -> bool:
    content_type = job.content_type
    return content_type == JSON_CONTENT_TYPE or content_type.partition(";")[0].strip() == JSON_CONTENT_TYPE


def _resolved(declaration: Declaration) -> Any:
    """The annotation itself, where it is given by name."""
    annotation = declaration.payload_type
    if not isinstance(annotation, str):
        return annotation
    if annotation in {"Any", "typing.Any"}:
        return Any  # Linters like to see its import where it does not run.
    # A decorated function's annotations are those of the module that it was written in.
    names = getattr(inspect.unwrap(declaration.function), "__globals__", {})
    try:
        return eval(annotation, names)  # noqa: S307 - the application's own source
    except Exception as error:  # noqa: BLE001 - as above
        raise AppError(
            f"job {declaration.name!r}: its payload's type {annotation!r} can't be looked up ({error}): define it "
            "where the function's module sees it when it runs, not under TYPE_CHECKING or within a function"
        ) from None


def _validating(name: str, wanted: Any) -> Callable[[bytes], Any]:
    # Whoever has a pydantic model has imported pydantic; nobody else needs it.
    if "pydantic" in sys.modules:
        import pydantic  # noqa: PLC0415

        if hasattr(wanted, "__pydantic_validator__"):
            return pydantic.TypeAdapter(wanted).validate_json
    try:
        return _decoder(wanted).decode
    except TypeError as error:
        raise AppError(
            f"job {name!r}: no payload can be validated as {wanted!r} ({error}): annotate it with a dataclass, a "
            "pydantic model, a msgspec Struct or a plain type, or not at all"
        ) from None


def _decoder(wanted: Any) -> msgspec.json.Decoder[Any]:
    info = msgspec.inspect.type_info(wanted)
    if isinstance(info, msgspec.inspect.CustomType) and not hasattr(info.cls, "__pydantic_validator__"):
        raise TypeError("it is none of the types that JSON has a form for")
    return msgspec.json.Decoder(wanted, dec_hook=_foreign)


def _foreign(wanted: Any, value: Any) -> Any:
    """A pydantic model within what msgspec validates."""
    if not hasattr(wanted, "__pydantic_validator__"):
        raise TypeError(f"Expected `{wanted.__name__}`")
    return wanted.__pydantic_validator__.validate_json(msgspec.json.encode(value))
