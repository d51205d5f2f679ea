"""Idempotency in Redis (or Valkey): one atomic script a verb, one round trip for all keys of a call."""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import TYPE_CHECKING

from redis import exceptions as redis_errors

from headrace.idempotency import scripts
from headrace.idempotency.base import (
    DEFAULT_PREFIX,
    Claim,
    ClaimState,
    Hold,
    IdempotencyUnavailableError,
    stored_failures,
    stored_key,
)
from headrace.idempotency.links import BROKEN, CLIENT_ERRORS, MAX_CONNECTIONS, open_link, translated
from headrace.idempotency.place import RedisPlace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from types import TracebackType
    from typing import Self, TypeVar

    from headrace.idempotency.links import Link
    from headrace.idempotency.scripts import Script

    Answer = TypeVar("Answer")

__all__ = ["RedisIdempotencyStore", "RedisPlace"]

log = logging.getLogger(__name__)

CALL_SECONDS = 4.0
"""How long a call takes at most, both tries together: less than from one heartbeat to the next."""

_CLAIMED = Claim(ClaimState.CLAIMED, 0.0)
_FINISHED = Claim(ClaimState.FINISHED, 0.0)


class RedisIdempotencyStore:
    """See `headrace.idempotency.base.IdempotencyStore`. Holds at most `MAX_CONNECTIONS` connections to a server."""

    def __init__(self, place: RedisPlace, *, prefix: str = DEFAULT_PREFIX) -> None:
        self._place = place
        self._prefix = prefix
        self._link: Link | None = None
        self._turns = asyncio.Semaphore(MAX_CONNECTIONS)
        self._is_examined = False
        self._may_evict: bool | None = None

    @property
    def may_evict(self) -> bool | None:
        """See the port."""
        return self._may_evict

    async def __aenter__(self) -> Self:
        """See the port. Also learns whether the server will do."""
        self._link = open_link(self._place)
        try:
            await self._within_limits(self._examine)
        except IdempotencyUnavailableError as failure:
            log.warning("%s: idempotency will be there when it is", failure)
        except BaseException:
            await self._link.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See the port."""
        await self._opened.close()

    async def claim(self, holds: Sequence[Hold], *, lease_seconds: float) -> list[Claim]:
        """See the port."""
        return [_claim(answer) for answer in await self._run(scripts.CLAIM, holds, lease_seconds)]

    async def extend(self, holds: Sequence[Hold], *, lease_seconds: float) -> list[bool]:
        """See the port."""
        return [bool(answer) for answer in await self._run(scripts.EXTEND, holds, lease_seconds)]

    async def finish(self, holds: Sequence[Hold], *, ttl_seconds: float) -> list[bool]:
        """See the port."""
        return [bool(answer) for answer in await self._run(scripts.FINISH, holds, ttl_seconds)]

    async def release(self, holds: Sequence[Hold]) -> list[bool]:
        """See the port."""
        return [bool(answer) for answer in await self._run(scripts.RELEASE, holds, 0)]

    @property
    def _opened(self) -> Link:
        assert self._link is not None, "a store is used within `async with`"
        return self._link

    async def _run(self, script: Script, holds: Sequence[Hold], seconds: float) -> list[int]:
        names = [stored_key(self._prefix, hold.key) for hold in holds]
        return await self._ask(script, names, [hold.token for hold in holds], seconds)

    async def count_failures(
        self, script: Script, message_ids: Sequence[str], token: str, *, ttl_seconds: float
    ) -> list[int]:
        """Run one of the scripts about failures, on those of these messages; raises as the other verbs."""
        names = [stored_failures(self._prefix, message_id) for message_id in message_ids]
        return await self._ask(script, names, [token] * len(names), ttl_seconds)

    async def _ask(self, script: Script, names: list[str], tokens: list[str], seconds: float) -> list[int]:
        if not names:
            return []
        milliseconds = max(1, round(1000 * seconds))

        async def run() -> list[int]:
            if not self._is_examined:
                await self._examine()
            return await self._opened.run(script, names, tokens, milliseconds)

        return await self._within_limits(run)

    async def _within_limits(self, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """Ask in our turn and in time, and once more where a connection was stale or its server is none any more."""
        try:
            async with asyncio.timeout(CALL_SECONDS), self._turns:
                try:
                    return await ask()
                except BROKEN:
                    # What was done nevertheless is done again: every script may be repeated.
                    await self._opened.renew()
                    return await ask()
        except CLIENT_ERRORS as error:
            raise translated(error, self._place) from None

    async def _examine(self) -> None:
        """See that the user may do all that we do, before a job depends on it; and whether keys may be evicted."""
        token = secrets.token_hex(8)
        keys, tokens = [stored_key(self._prefix, f"probe:{token}")], [token]
        for script in (scripts.CLAIM, scripts.EXTEND, scripts.RELEASE, scripts.FINISH):
            await self._opened.run(script, keys, tokens, 1000)
        self._is_examined = True
        try:
            memories = await self._opened.memory()
        except redis_errors.ResponseError:
            # It is not ours to ask, and nothing depends on it.
            return
        policies = {memory.get("maxmemory_policy") for memory in memories if memory.get("maxmemory")}
        evicting = sorted(str(policy) for policy in policies - {None, "noeviction"})
        if evicting and not self._may_evict:
            log.warning(
                "%s forgets keys when its memory is full (maxmemory-policy %s): a job that has finished may then run "
                "again. Set maxmemory-policy to noeviction, or give idempotency a server of its own",
                self._place,
                ", ".join(evicting),
            )
        self._may_evict = bool(evicting)


def _claim(answer: int) -> Claim:
    if answer == scripts.CLAIMED:
        return _CLAIMED
    if answer == scripts.FINISHED:
        return _FINISHED
    return Claim(ClaimState.IN_PROGRESS, answer / 1000)
