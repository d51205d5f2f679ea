"""Counting failed attempts beside a queue whose messages can't be changed. A store fills the port."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


class FailureCounts(Protocol):
    """How often each of some messages has failed. A count is kept for 14 days: as long as any queue keeps a message.

    All raise `OSError` where the store does not answer, or will not do: the caller goes on without it.
    """

    async def add(self, message_ids: Sequence[str]) -> list[int]:
        """Count one failure more of each; how many there are then, in order."""
        ...

    async def read(self, message_ids: Sequence[str]) -> list[int]:
        """How many failures were counted of each, in order; 0 of one that nothing is known of."""
        ...

    async def forget(self, message_ids: Sequence[str]) -> None:
        """These are gone: nobody asks for them again."""
        ...
