"""The gate before everything that writes: looks, long work, Events. Whatever samples or serves passes by it.

Open, this process is the one that writes. It has no key of its own: who holds a lease would open and close it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Gate:
    """Open at first."""

    def __init__(self) -> None:
        self._opened = asyncio.Event()
        self._opened.set()
        self._watchers: list[Callable[[], None]] = []

    @property
    def is_open(self) -> bool:
        """Whether to write."""
        return self._opened.is_set()

    async def passage(self) -> None:
        """Wait until it is open."""
        await self._opened.wait()

    def watch(self, on_change: Callable[[], None]) -> None:
        """Have this called after it has opened, and after it has closed."""
        self._watchers.append(on_change)

    def open(self) -> None:
        """Let all pass."""
        self._opened.set()
        self._tell()

    def close(self) -> None:
        """Let nobody pass from here on."""
        self._opened.clear()
        self._tell()

    def _tell(self) -> None:
        for on_change in self._watchers:
            on_change()
