"""Headrace's store of idempotency, as the worker uses it. Settings: ``batch``, how many keys a call has."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from benchmarks.contestants.contestant import Claim, Claimer
from benchmarks.contestants.order import Order
from headrace.idempotency import key_prefix, store_from_url
from headrace.idempotency.base import ClaimState, Hold


class Headrace:
    """See `benchmarks.contestants.contestant.Claimer`."""

    def __init__(self, order: Order) -> None:
        self._order = order

    @asynccontextmanager
    async def claiming(self) -> AsyncIterator[Claim]:
        async with store_from_url(self._order.dsn, prefix=key_prefix("shop", "orders")) as store:

            async def claim(keys: Sequence[str], tokens: Sequence[str]) -> int:
                claims = await store.claim([*map(Hold, keys, tokens)], lease_seconds=20)
                return sum(claim.state is ClaimState.CLAIMED for claim in claims)

            yield claim


def create(order: Order) -> Claimer:
    """The contestant of this module."""
    return Headrace(order)
