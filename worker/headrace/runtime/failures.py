"""What an exception says of its attempt, told once for many.

Formatting a traceback costs a hundred times what a short job does, and when a dependency is down each job fails in the
same place. So the stacks are formatted once for each chain of places and types; only the exceptions' own words are new.
"""

from __future__ import annotations

import traceback
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from headrace.runtime.outcome import Failed, clipped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType, TracebackType

_CACHED = 500
"""So many places are remembered; with more, all are forgotten. Each is a few kilobytes."""

_OWN_FILES = ("runtime/handlers/python.py", "concurrent/futures/thread.py", "concurrent/futures/process.py")

_CAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT = "\nDuring handling of the above exception, another exception occurred:\n\n"


class _Told(NamedTuple):
    """What is the same for all failures of one chain of places."""

    stacks: tuple[str, ...]
    kinds: tuple[str, ...]
    """What tracebacks call the exceptions' classes; empty for those that are more than a class and some words."""
    is_group: bool
    where: str
    fingerprint: str
    codes: tuple[CodeType, ...]
    """Kept, so that the numbers in the key stay theirs."""


_told: dict[tuple[object, ...], _Told] = {}


def failure_of(error: BaseException, *, delay_seconds: float | None = None) -> Failed:
    """The failure that an exception is."""
    kind = type(error)
    chain, links = _chain(error)
    key: list[object] = [*links]
    for one in chain:
        key.append(type(one))
        place = one.__traceback__
        while place is not None:
            # By its number: a code object's hash is its whole content's.
            key += (id(place.tb_frame.f_code), place.tb_lasti)
            place = place.tb_next
    told = _told.get(at := tuple(key))
    if told is None:
        if len(_told) >= _CACHED:
            _told.clear()
        told = _told[at] = _tell(kind, chain)
    if told.is_group:
        # Each of its parts has a stack of its own.
        text = "".join(traceback.format_exception(error))
    else:
        parts: list[str] = []
        for one, stack, name, leads_on in zip(chain, told.stacks, told.kinds, links, strict=True):
            parts += (stack, _last_lines(one, name), leads_on)
        text = "".join(parts)
    return Failed(
        clipped(f"{kind.__name__}: {_text(error)}{told.where}"),
        clipped(text),
        delay_seconds,
        kind.__qualname__,
        told.fingerprint,
    )


def _chain(error: BaseException) -> tuple[list[BaseException], list[str]]:
    """The exceptions that led to one, the first cause first, and what stands after each of them."""
    chain, links = [error], [""]
    while True:
        latest = chain[-1]
        if (cause := latest.__cause__) is not None:
            earlier, leads_on = cause, _CAUSE
        elif (context := latest.__context__) is not None and not latest.__suppress_context__:
            earlier, leads_on = context, _CONTEXT
        else:
            break
        if any(earlier is known for known in chain):
            break
        chain.append(earlier)
        links.append(leads_on)
    chain.reverse()
    links.reverse()
    return chain, links


def _tell(kind: type[BaseException], chain: list[BaseException]) -> _Told:
    stacks = []
    for one in chain:
        frames = traceback.format_tb(one.__traceback__)
        stacks.append("".join(("Traceback (most recent call last):\n", *frames)) if frames else "")
    last = chain[-1].__traceback__
    theirs = [place for place in _places(last) if not place.tb_frame.f_code.co_filename.endswith(_OWN_FILES)]
    where, raised_in = "", ""
    if theirs:
        place = theirs[-1]
        code = place.tb_frame.f_code
        where = f" ({code.co_filename}:{place.tb_lineno} in {code.co_name})"
        raised_in = f"{place.tb_frame.f_globals.get('__name__', code.co_filename)}.{code.co_qualname}"
    # Without lines and folders: the same failure has one fingerprint in all releases and images.
    fingerprint = blake2b(f"{kind.__module__}.{kind.__qualname__} {raised_in}".encode(), digest_size=6).hexdigest()
    return _Told(
        stacks=tuple(stacks),
        kinds=tuple(map(_kind, chain)),
        is_group=any(isinstance(one, BaseExceptionGroup) for one in chain),
        where=where,
        fingerprint=fingerprint,
        codes=tuple(place.tb_frame.f_code for one in chain for place in _places(one.__traceback__)),
    )


def _places(place: TracebackType | None) -> Iterator[TracebackType]:
    while place is not None:
        yield place
        place = place.tb_next


def _kind(error: BaseException) -> str:
    kind = type(error)
    if isinstance(error, SyntaxError):
        return ""
    module = kind.__module__
    return kind.__qualname__ if module in {"builtins", "__main__"} else f"{module}.{kind.__qualname__}"


def _last_lines(error: BaseException, kind: str) -> str:
    """How a traceback ends: the class, and what it says."""
    if not kind or hasattr(error, "__notes__"):
        return "".join(traceback.format_exception_only(error))
    words = _text(error)
    return f"{kind}: {words}\n" if words else f"{kind}\n"


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - the application's own code
        return "<it can't be put into words>"
