"""Doing no more than so many things a second."""

from __future__ import annotations

import asyncio


class Pace:
    """Gives turns. It belongs to one event loop, and goes by its clock.

    Parameters
    ----------
    per_second
        How many at the most. None: as many as are asked for, at once.
    """

    def __init__(self, per_second: float | None) -> None:
        self._per_second = per_second
        self._next_at = float("-inf")

    async def turn(self, most: int) -> int:
        """Wait until there is a turn; returns how many there are, 1 to `most`."""
        if self._per_second is None:
            return most
        loop = asyncio.get_running_loop()
        # What was left over while something else took its time is not made up for later.
        now = loop.time()
        self._next_at = max(self._next_at, now - 1 if self._next_at > 0 else now)
        await asyncio.sleep(max(0.0, self._next_at - now))
        turns = min(most, 1 + int((loop.time() - self._next_at) * self._per_second))
        self._next_at += turns / self._per_second
        return turns
