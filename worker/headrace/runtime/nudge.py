"""Telling who takes jobs that there may be room for more: once for all that happens in one turn of the event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def _nobody() -> None:
    """Nobody takes jobs yet."""


class Nudge:
    """Given by whoever makes room; `taker` is called soon."""

    def __init__(self) -> None:
        self.taker: Callable[[], None] = _nobody
        self._is_given = False

    def give(self) -> None:
        """There may be room for more jobs, or others, or for none."""
        if not self._is_given:
            self._is_given = True
            asyncio.get_running_loop().call_soon(self._take)

    def _take(self) -> None:
        self._is_given = False
        self.taker()
