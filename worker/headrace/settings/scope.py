"""What holds in one place: the strongest of what was given there."""

from __future__ import annotations

from collections import ChainMap
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from headrace.settings import table

if TYPE_CHECKING:
    from headrace.settings.sources import Given, Layer
    from headrace.settings.table import Setting

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Effective:
    """A value that holds, and where it comes from."""

    value: Any = field(repr=False)
    origin: str


class Scope:
    """Reads what holds in one place, and remembers it and what is wrong; then every value is the default."""

    def __init__(self, layers: list[Layer], problems: list[str]) -> None:
        self.problems = problems
        self.read: dict[str, Effective] = {}
        self._layers: list[Layer] = []
        for layer in layers:
            self.add(layer)

    def add(self, layer: Layer) -> None:
        """What is weaker than all that is here."""
        decided = [choice for choice in table.CHOICES if any(choice & known.keys() for known in self._layers)]
        hidden = frozenset[str]().union(*decided)
        self._layers.append({key: given for key, given in layer.items() if key not in hidden})

    def given(self, setting: Setting[Any]) -> Given | None:
        """What somebody gave."""
        given = ChainMap(*self._layers).get(setting.key)
        return given if given is not None and given.text else None

    def every(self, setting: Setting[Any]) -> list[Given]:
        """What anybody gave, the strongest first."""
        return [layer[setting.key] for layer in self._layers if setting.key in layer and layer[setting.key].text]

    def is_stronger(self, one: Setting[Any], other: Setting[Any]) -> bool:
        """Whether somebody gave the one before anybody gave the other."""
        for layer in self._layers:
            if one.key in layer or other.key in layer:
                return other.key not in layer
        return False

    def __getitem__(self, setting: Setting[Value]) -> Value:
        given, value = self.given(setting), setting.default
        origin = "default"
        if given is not None:
            try:
                value, origin = setting.kind.read(given.text), given.origin
            except ValueError:
                shown = "" if setting.kind.may_hold_secrets else f"={given.text}"
                self.problems.append(f"{given.where}{shown}: must be {setting.kind.words}")
        if value is not None and value != "":
            self.read[setting.key] = Effective(value, origin)
        return value

    def conclude(self, setting: Setting[Value], value: Any, origin: str) -> None:
        """A value that follows from others."""
        self.read[setting.key] = Effective(value, origin)

    def certificates(self, setting: Setting[str | None]) -> str | None:
        """The text of a file of certificates."""
        path = self[setting]
        if path is None:
            return None
        try:
            return Path(path).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not in UTF-8"
            given = self.given(setting)
            assert given is not None, "there is no default file"
            self.problems.append(f"{given.where}={path}: can't be read ({reason}); must be {setting.kind.words}")
            return None
