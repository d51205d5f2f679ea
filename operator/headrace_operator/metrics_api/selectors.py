"""Label selectors in the notation of Kubernetes, equality-based and set-based."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_KEY = r"(?:[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_VALUE = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?"

_ABSENT = re.compile(rf"!\s*({_KEY})")
_PRESENT = re.compile(rf"({_KEY})")
_EQUALITY = re.compile(rf"({_KEY})\s*(=|==|!=)\s*({_VALUE})")
_SET = re.compile(rf"({_KEY})\s+(in|notin)\s*\(\s*({_VALUE}(?:\s*,\s*{_VALUE})*)\s*\)")

_OUTER_COMMA = re.compile(r",(?![^()]*\))")


class InvalidSelectorError(ValueError):
    """A selector that can't be read, or asks for what is not supported; the message quotes the part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """What one label must be like."""

    key: str
    values: frozenset[str] | None = None
    """The values asked about; None: any."""
    negated: bool = False
    """Whether the label must be absent, or have none of the values (absent is fine then)."""

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether these labels meet the requirement."""
        value = labels.get(self.key)
        met = value is not None and (self.values is None or value in self.values)
        return met is not self.negated


@dataclass(frozen=True, slots=True)
class Selector:
    """Requirements that must all be met; none at all match everything."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether these labels meet every requirement."""
        return all(requirement.matches(labels) for requirement in self.requirements)


def parse_selector(text: str) -> Selector:
    """Read `a=b`, `a==b`, `a!=b`, `a in (b,c)`, `a notin (b,c)`, `a` and `!a`, separated by commas.

    Raises
    ------
    InvalidSelectorError
        For anything else; `>` and `<` are for numbers, which no label of these metrics is.
    """
    if not text.strip():
        return Selector()
    return Selector(tuple(_parse_requirement(part.strip()) for part in _OUTER_COMMA.split(text)))


def _parse_requirement(part: str) -> Requirement:
    if match := _EQUALITY.fullmatch(part):
        key, operator, value = match.groups()
        return Requirement(key=key, values=frozenset([value]), negated=operator == "!=")
    if match := _SET.fullmatch(part):
        key, operator, values = match.groups()
        return Requirement(
            key=key, values=frozenset(value.strip() for value in values.split(",")), negated=operator == "notin"
        )
    if match := _PRESENT.fullmatch(part):
        return Requirement(key=match[1])
    if match := _ABSENT.fullmatch(part):
        return Requirement(key=match[1], negated=True)
    raise InvalidSelectorError(
        f"unable to parse requirement {part!r}: supported are key=value, key==value, key!=value, "
        "key in (value,…), key notin (value,…), key and !key"
    )
