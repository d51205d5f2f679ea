"""What was measured, as the page and machines are told of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Something measured."""

    name: str
    value: float
    unit: str = ""
    wanted: float | None = None
    """At most; None where it is only told."""
    column: str | None = None
    """Of which size, where several were measured."""

    @property
    def holds(self) -> bool:
        """Whether it is as wanted."""
        return self.wanted is None or self.value <= self.wanted
