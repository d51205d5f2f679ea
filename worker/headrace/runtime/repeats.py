"""What would be said for every job, said once a second: when thousands fail, each for the same reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Hashable

_MAX_SUBJECTS = 1000
"""Of so many names a count is kept; jobs' names are their producers' to choose."""


class Unsaid(NamedTuple):
    """What was not said of a subject."""

    what: str
    name: str
    times: int


class Repeats:
    """Says whether a line is to be written, and counts those that are not. Pure: whoever has a clock calls `due`.

    The first of a subject (what happened, to jobs of which name) is said, and the first of each kind of it. Whatever
    repeats before the next `due` is counted, and said there in one line.
    """

    def __init__(self) -> None:
        self._unsaid: dict[tuple[str, str], int] = {}
        self._kinds: set[tuple[tuple[str, str], Hashable]] = set()

    def is_first(self, what: str, name: str, kind: Hashable = None) -> bool:
        """Whether to say this one by itself."""
        subject = (what, name)
        count = self._unsaid.get(subject)
        if count is None and len(self._unsaid) >= _MAX_SUBJECTS:
            subject = (what, "…")
            count = self._unsaid.get(subject)
        if count is None:
            self._unsaid[subject] = 0
            self._kinds.add((subject, kind))
            return True
        if kind is not None and len(self._kinds) < _MAX_SUBJECTS and (subject, kind) not in self._kinds:
            self._kinds.add((subject, kind))
            return True
        self._unsaid[subject] = count + 1
        return False

    def due(self) -> list[Unsaid]:
        """What has repeated since the last call; a subject that has not begins anew."""
        unsaid = [Unsaid(what, name, count) for (what, name), count in self._unsaid.items() if count]
        self._unsaid = {(what, name): 0 for what, name, _ in unsaid}
        self._kinds = {kind for kind in self._kinds if kind[0] in self._unsaid}
        return unsaid
