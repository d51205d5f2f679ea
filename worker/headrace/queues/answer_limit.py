"""How long to wait for an answer, fair to a loop that stood still."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

# In so many turns of the event loop, an answer that has arrived has reached whoever waits for it.
_TURNS = 3


class AnswerLimit:
    """A time limit, as `asyncio.timeout`; but a loop that stood still first gets to read what has come meanwhile.

    Else a handler that blocks the loop for longer would turn answers that are there into lost ones.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._timeout = asyncio.timeout(None)
        self._handle: asyncio.Handle | None = None

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        self._handle = self._loop.call_later(self._seconds, self._wait, _TURNS)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._handle.cancel()
        await self._timeout.__aexit__(kind, error, trace)

    def _wait(self, turns: int) -> None:
        if turns:
            self._handle = self._loop.call_soon(self._wait, turns - 1)
        else:
            self._timeout.reschedule(self._loop.time())
