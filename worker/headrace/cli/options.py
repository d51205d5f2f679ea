"""What commands take: options they share, values with a form of their own, and paragraphs of their help."""

from __future__ import annotations

import functools
import getpass
import math
import os
import re
import socket
from typing import TYPE_CHECKING, Any, TypedDict

import click

from headrace.job import MAX_DELAY_SECONDS, MAX_NAME_LENGTH

if TYPE_CHECKING:
    from collections.abc import Callable


class Asked(TypedDict):
    """Who asks for a change and why: what every `headrace.queues.inspection.Change` takes."""

    by: str
    why: str


_UNITS = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[wdhms])+")


class Duration(click.ParamType[float]):
    """A span of time, in seconds: ``90s``, ``15m``, ``3d``, ``1d12h``."""

    name = "DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See `click.ParamType`."""
        if isinstance(value, float):
            return value
        if not _DURATION.fullmatch(value):
            self.fail(f"{value!r} is no span of time: write 90s, 15m, 12h, 3d or 1d12h", param, ctx)
        seconds = sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"([\d.]+)([wdhms])", value))
        if seconds > MAX_DELAY_SECONDS:
            self.fail(f"{value!r} is longer than {MAX_DELAY_SECONDS} seconds", param, ctx)
        return seconds


class QueueName(click.ParamType[str]):
    """The name of a queue that is to be made."""

    name = "NAME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """See `click.ParamType`."""
        if not 1 <= len(value) <= MAX_NAME_LENGTH or not value.isprintable():
            self.fail(f"{value[:40]!r} must have 1 to {MAX_NAME_LENGTH} characters, all of them printable", param, ctx)
        return str(value)


class Header(click.ParamType[tuple[str, str]]):
    """A header's name and its value."""

    name = "NAME=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """See `click.ParamType`."""
        name, equals, content = value.partition("=")
        if not (name and equals):
            self.fail(f"{value!r} must be NAME=VALUE", param, ctx)
        return name, content


class FiniteRange(click.FloatRange):
    """A range of numbers; infinity and NaN are none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See `click.ParamType`."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no finite number", param, ctx)
        return number


def block(title: str, *lines: str) -> str:
    """A paragraph of a command's help, of lines that stay as they are."""
    return "\n".join(["\b", f"{title}:", *(f"  {line}" for line in lines), "", ""])


def change_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--why``, passed on with who asks: ``asked``."""

    @click.option("--why", default="", metavar="TEXT", help="Why; told to the backend beside who asks.")
    @functools.wraps(command)
    def wrapped(*args: Any, why: str, **kwargs: Any) -> Any:
        return command(*args, asked=Asked(by=_who(), why=why), **kwargs)

    return wrapped


def _who() -> str:
    """``user@host``."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())  # A container's user needs no name.
    return f"{user}@{socket.gethostname()}"


def output_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--output``, passed on as whether it is to be JSON: ``as_json``."""
    return click.option(
        "--output",
        "as_json",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        callback=lambda _context, _option, value: value == "json",
        help="For people, or for programs.",
    )(command)
