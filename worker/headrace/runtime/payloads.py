"""A job's payload as its handler wants it: decoded, and of the type that its first parameter is annotated as."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import msgspec

from headrace.app import AppError
from headrace.job import JSON_CONTENT_TYPE
from headrace.runtime.payload_types import first_obstacle, has_pydantic_dataclass, is_pydantic, pydantic_adapter

if TYPE_CHECKING:
    from collections.abc import Callable

    from headrace.app import Declaration
    from headrace.job import Job


INVALID_PAYLOAD = "InvalidPayload"
"""The reason for which a job is dead-lettered whose payload is not what its handler takes."""


class InvalidPayloadError(ValueError):
    """The payload is not what the handler takes; the message says where."""


def decoder(declaration: Declaration) -> Callable[[Job], Any]:
    """What makes of a job the payload that its function takes; it raises `InvalidPayloadError`.

    Raises
    ------
    AppError
        When no payload can be decoded as what the function's first parameter is annotated as; it says which part.
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
        except (ValueError, RecursionError) as error:
            raise InvalidPayloadError(f"the payload is not what this job takes: {error}") from None
        except Exception as error:  # noqa: BLE001 - a validator or __post_init__ of the application's own
            raise InvalidPayloadError(
                f"the payload is not what this job takes: {type(error).__name__}: {error}"
            ) from None

    return typed


def _untyped(job: Job) -> Any:
    if not _is_json(job):
        return job.payload
    try:
        return msgspec.json.decode(job.payload)
    except (ValueError, RecursionError) as error:
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
    decode: Callable[[bytes], Any]
    try:
        if is_pydantic(wanted) or has_pydantic_dataclass(wanted):
            adapter, obstacle = pydantic_adapter(wanted)
            decode = adapter.validate_json
        else:
            decode = msgspec.json.Decoder(wanted, dec_hook=_foreign).decode
            obstacle = first_obstacle(wanted)
    except Exception as error:  # noqa: BLE001 - annotations are the application's own source
        raise _undecodable(name, str(error)) from None
    if obstacle is not None:
        raise _undecodable(name, obstacle)
    return decode


def _undecodable(name: str, why: str) -> AppError:
    return AppError(
        f"job {name!r}: no payload can be decoded as its function's first parameter wants it: {why}. "
        "Annotate it with a dataclass, a pydantic model, a msgspec Struct or a plain type, or not at all"
    )


def _foreign(wanted: Any, value: Any) -> Any:
    """Within what msgspec validates: anything at all, or a pydantic model."""
    if wanted is object:
        return value
    return wanted.__pydantic_validator__.validate_json(msgspec.json.encode(value))
