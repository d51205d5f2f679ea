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
    from collections.abc import Hashable, Iterator
    from types import CodeType, TracebackType

_CACHED = 500
"""So many places are remembered; with more, all are forgotten. Each is a few kilobytes."""

_OWN_FILES = ("runtime/handlers/python.py", "concurrent/futures/thread.py", "concurrent/futures/process.py")

_CAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT = "\nDuring handling of the above exception, another exception occurred:\n\n"


class _Link(NamedTuple):
    """One exception of a chain, the first cause first, and how it led to the next."""

    error: BaseException
    leads_on: str
    """What stands between it and the next; empty for the last."""


class _Told(NamedTuple):
    """What is the same for all failures of one chain of places."""

    stacks: tuple[str, ...]
    where: str
    fingerprint: str
    codes: tuple[CodeType, ...]
    """Kept, so that the numbers in the key stay theirs."""


_told: dict[Hashable, _Told] = {}


def failure_of(error: BaseException, *, delay_seconds: float | None = None) -> Failed:
    """The failure that an exception is."""
    kind = type(error)
    chain = _chain(error)
    key: list[Hashable] = []
    for link in chain:
        key.append((type(link.error), link.leads_on))
        place = link.error.__traceback__
        while place is not None:
            # By its number: a code object's hash is its whole content's.
            key.append((id(place.tb_frame.f_code), place.tb_lasti))
            place = place.tb_next
    told = _told.get(at := tuple(key))
    if told is None:
        if len(_told) >= _CACHED:
            _told.clear()
        told = _told[at] = _tell(kind, chain)
    if any(isinstance(link.error, BaseExceptionGroup) for link in chain):
        # Each of its parts has a stack of its own.
        text = "".join(traceback.format_exception(error))
    elif len(chain) == 1:
        text = f"{told.stacks[0]}{_last_lines(error)}"
    else:
        text = "".join(
            f"{stack}{_last_lines(link.error)}{link.leads_on}" for stack, link in zip(told.stacks, chain, strict=True)
        )
    return Failed(
        clipped(f"{kind.__name__}: {_text(error)}{told.where}"),
        clipped(text),
        delay_seconds,
        kind.__qualname__,
        told.fingerprint,
    )


def _chain(error: BaseException) -> list[_Link]:
    links = [_Link(error, "")]
    seen = {id(error)}
    while True:
        latest = links[-1].error
        if (cause := latest.__cause__) is not None:
            earlier, leads_on = cause, _CAUSE
        elif (context := latest.__context__) is not None and not latest.__suppress_context__:
            earlier, leads_on = context, _CONTEXT
        else:
            break
        if id(earlier) in seen:
            break
        seen.add(id(earlier))
        links.append(_Link(earlier, leads_on))
    links.reverse()
    return links


def _tell(kind: type[BaseException], chain: list[_Link]) -> _Told:
    stacks = []
    for link in chain:
        frames = traceback.format_tb(link.error.__traceback__)
        stacks.append("".join(("Traceback (most recent call last):\n", *frames)) if frames else "")
    last = chain[-1].error.__traceback__
    theirs = [place for place in _places(last) if not place.tb_frame.f_code.co_filename.endswith(_OWN_FILES)]
    where, raised_in = "", ""
    if theirs:
        place = theirs[-1]
        code = place.tb_frame.f_code
        where = f" ({code.co_filename}:{place.tb_lineno} in {code.co_name})"
        raised_in = f"{place.tb_frame.f_globals.get('__name__', code.co_filename)}.{code.co_qualname}"
    # Without lines and folders: the same failure has one fingerprint in all releases and images.
    fingerprint = blake2b(f"{kind.__module__}.{kind.__qualname__} {raised_in}".encode(), digest_size=6).hexdigest()
    codes = tuple(place.tb_frame.f_code for link in chain for place in _places(link.error.__traceback__))
    return _Told(tuple(stacks), where, fingerprint, codes)


def _places(place: TracebackType | None) -> Iterator[TracebackType]:
    while place is not None:
        yield place
        place = place.tb_next


def _last_lines(error: BaseException) -> str:
    """How a traceback ends: the class, and what it says."""
    kind = type(error)
    if isinstance(error, SyntaxError) or hasattr(error, "__notes__"):
        return "".join(traceback.format_exception_only(error))
    module = kind.__module__
    name = kind.__qualname__ if module in {"builtins", "__main__"} else f"{module}.{kind.__qualname__}"
    words = _text(error)
    return f"{name}: {words}\n" if words else f"{name}\n"


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - the application's own code
        return "<it can't be put into words>"
