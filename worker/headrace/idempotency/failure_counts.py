"""Failed attempts of messages, counted beside the keys: for queues whose messages can't be changed.

It fills `headrace.queues.failure_counts.FailureCounts`, which it need not know.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from headrace.idempotency import scripts
from headrace.idempotency.base import IdempotencyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headrace.idempotency.redis import RedisIdempotencyStore
    from headrace.idempotency.scripts import Script

KEPT_SECONDS = 14 * 86_400.0
"""How long a count is kept after its last failure: as long as any queue keeps a message."""


class RedisFailureCounts:
    """Counts over a store's connections, while that is open; the store's prefix keeps queues apart."""

    def __init__(self, store: RedisIdempotencyStore) -> None:
        self._store = store

    async def add(self, message_ids: Sequence[str]) -> list[int]:
        """Count one failure more of each; how many there are then. Raises `OSError` where the store does not answer."""
        return await self._run(scripts.COUNT_FAILURE, message_ids)

    async def read(self, message_ids: Sequence[str]) -> list[int]:
        """How many failures were counted of each. Raises `OSError` likewise."""
        return await self._run(scripts.READ_FAILURES, message_ids)

    async def forget(self, message_ids: Sequence[str]) -> None:
        """These are gone. Raises `OSError` likewise."""
        await self._run(scripts.FORGET_FAILURES, message_ids)

    async def _run(self, script: Script, message_ids: Sequence[str]) -> list[int]:
        # Of this one failure: where the connection breaks, the store asks twice.
        token = secrets.token_hex(4)
        try:
            return await self._store.count_failures(script, message_ids, token, ttl_seconds=KEPT_SECONDS)
        except IdempotencyError as error:
            raise ConnectionError(str(error)) from None
