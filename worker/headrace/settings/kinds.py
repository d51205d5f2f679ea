"""What a setting's value may be: read from text, whatever it came from, and written as a file has it."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

Value_co = TypeVar("Value_co", covariant=True)

MASK = "***"

_PASSWORD = re.compile(r"(?<=[?&;,])((?:ssl)?password|pass)=[^&;,]*", re.IGNORECASE)


class Kind(Protocol[Value_co]):
    """A kind of value."""

    @property
    def words(self) -> str:
        """What a value must be, for messages and the reference."""
        ...

    @property
    def metavar(self) -> str:
        """What stands for a value in the command's help."""
        ...

    @property
    def may_hold_secrets(self) -> bool:
        """Whether a text is shown to nobody, not even where it is wrong."""
        ...

    def read(self, text: str) -> Value_co:
        """The value; raises ValueError where the text is none."""
        ...

    def plain(self, value: Any) -> Any:
        """As a file has it, with secrets masked."""
        ...


@dataclass(frozen=True, slots=True)
class Text:
    """Anything."""

    words: str = "text"
    metavar: str = "NAME"
    may_hold_secrets: bool = False

    def read(self, text: str) -> str:
        """See `Kind`."""
        return text

    def plain(self, value: Any) -> Any:
        """See `Kind`."""
        return value


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of these words, in whatever case."""

    choices: tuple[str, ...]
    may_hold_secrets: bool = False

    @property
    def words(self) -> str:
        """See `Kind`."""
        return f"{', '.join(self.choices[:-1])} or {self.choices[-1]}"

    @property
    def metavar(self) -> str:
        """See `Kind`."""
        return f"[{'|'.join(self.choices)}]"

    def read(self, text: str) -> str:
        """See `Kind`."""
        for choice in self.choices:
            if choice.lower() == text.lower():
                return choice
        raise ValueError

    def plain(self, value: Any) -> Any:
        """See `Kind`."""
        return value


@dataclass(frozen=True, slots=True)
class Number:
    """A finite number within bounds."""

    above: float = -math.inf
    at_least: float = -math.inf
    at_most: float = math.inf
    metavar: str = "NUMBER"
    may_hold_secrets: bool = False

    @property
    def words(self) -> str:
        """See `Kind`."""
        return f"a number, {_bounds(above=self.above, at_least=self.at_least, at_most=self.at_most)}"

    def read(self, text: str) -> float:
        """See `Kind`."""
        value = float(text)
        if math.isfinite(value) and value > self.above and self.at_least <= value <= self.at_most:
            return value
        raise ValueError

    def plain(self, value: Any) -> Any:
        """See `Kind`."""
        return int(value) if value == int(value) else value


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number within bounds."""

    at_least: int
    at_most: float = math.inf
    metavar: str = "NUMBER"
    may_hold_secrets: bool = False

    @property
    def words(self) -> str:
        """See `Kind`."""
        return f"a whole number, {_bounds(at_least=self.at_least, at_most=self.at_most)}"

    def read(self, text: str) -> int:
        """See `Kind`."""
        if text.isascii() and text.isdigit() and self.at_least <= int(text) <= self.at_most:
            return int(text)
        raise ValueError

    def plain(self, value: Any) -> Any:
        """See `Kind`."""
        return value


@dataclass(frozen=True, slots=True)
class Boolean:
    """Yes or no."""

    words: str = "true or false"
    metavar: str = "[true|false]"
    may_hold_secrets: bool = False

    def read(self, text: str) -> bool:
        """See `Kind`."""
        if text.lower() not in {"true", "false"}:
            raise ValueError
        return text.lower() == "true"

    def plain(self, value: Any) -> Any:
        """See `Kind`."""
        return value


@dataclass(frozen=True, slots=True)
class Url:
    """A URL of one of these schemes; it may hold a password."""

    schemes: tuple[str, ...]
    words: str
    metavar: str = "URL"
    may_hold_secrets: bool = True

    def read(self, text: str) -> str:
        """See `Kind`."""
        parts = urlsplit(text)
        # What was printed with its password masked would only fail to log in.
        if parts.scheme not in self.schemes or MASK in text:
            raise ValueError
        return text

    def plain(self, value: Any) -> Any:
        """See `Kind`."""
        parts = urlsplit(value)
        _, at, hosts = parts.netloc.rpartition("@")
        netloc = f"{parts.username or ''}{f':{MASK}' if parts.password is not None else ''}{at}{hosts}"
        return _PASSWORD.sub(rf"\1={MASK}", value.replace(f"//{parts.netloc}", f"//{netloc}", 1))


@dataclass(frozen=True, slots=True)
class QueueUrl:
    """A queue's URL as SQS gives it, or with our scheme. It holds no password, unless by mistake."""

    words: str = "the URL of a queue in SQS, such as https://sqs.eu-central-1.amazonaws.com/123456789012/orders"
    metavar: str = "URL"
    may_hold_secrets: bool = True

    def read(self, text: str) -> str:
        """See `Kind`."""
        if urlsplit(text).scheme not in {"https", "http", "sqs", "sqs+http"}:
            raise ValueError
        return text

    def plain(self, value: Any) -> Any:
        """See `Kind`."""
        return value


@dataclass(frozen=True, slots=True)
class Reference:
    """An object of Python's."""

    words: str = "MODULE:ATTRIBUTE, such as shop.jobs:app"
    metavar: str = "MODULE:ATTRIBUTE"
    may_hold_secrets: bool = False

    def read(self, text: str) -> str:
        """See `Kind`."""
        module, _, attribute = text.partition(":")
        if not (module and attribute):
            raise ValueError
        return text

    def plain(self, value: Any) -> Any:
        """See `Kind`."""
        return value


@dataclass(frozen=True, slots=True)
class Command:
    """A program with its arguments."""

    words: str = 'a list of strings, in variables a JSON list of strings, such as ["/bin/render"]'
    metavar: str = "COMMAND"
    may_hold_secrets: bool = True

    def read(self, text: str) -> tuple[str, ...]:
        """See `Kind`."""
        command = json.loads(text)
        if isinstance(command, list) and command and all(isinstance(part, str) and part for part in command):
            return tuple(command)
        raise ValueError

    def plain(self, value: Any) -> Any:
        """See `Kind`."""
        return list(value)


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen."""

    words: str = "HOST:PORT, such as 0.0.0.0:8080"
    metavar: str = "HOST:PORT"
    may_hold_secrets: bool = False

    def read(self, text: str) -> tuple[str, int]:
        """See `Kind`."""
        host, _, port = text.rpartition(":")
        if host and port.isascii() and port.isdigit() and int(port) <= 65535:
            return host.strip("[]"), int(port)
        raise ValueError

    def plain(self, value: Any) -> Any:
        """See `Kind`."""
        host, port = value
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bounds(**bounds: float) -> str:
    return " and ".join(f"{name.replace('_', ' ')} {bound:g}" for name, bound in bounds.items() if math.isfinite(bound))
