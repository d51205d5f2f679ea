"""The limit: ``SET … NX PX`` for each key, written and read by hand; no names, no checks, no time limits.

Settings: ``batch``, how many keys a call has.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from benchmarks.contestants.contestant import Claim, Claimer
from benchmarks.contestants.order import Order

_SET = "*6\r\n$3\r\nSET\r\n${}\r\n{}\r\n${}\r\n{}\r\n$2\r\nNX\r\n$2\r\nPX\r\n$5\r\n20000\r\n"
_OK = b"+OK\r\n"


class RawSet:
    """See `benchmarks.contestants.contestant.Claimer`."""

    def __init__(self, order: Order) -> None:
        self._order = order

    @asynccontextmanager
    async def claiming(self) -> AsyncIterator[Claim]:
        address = urlsplit(self._order.dsn)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)

        async def claim(keys: Sequence[str], tokens: Sequence[str]) -> int:
            pairs = zip(keys, tokens, strict=True)
            writer.write("".join([_SET.format(len(key), key, len(token), token) for key, token in pairs]).encode())
            answers = await reader.readexactly(len(keys) * len(_OK))
            return answers.count(_OK)

        try:
            yield claim
        finally:
            writer.close()
            await writer.wait_closed()


def create(order: Order) -> Claimer:
    """The contestant of this module."""
    return RawSet(order)
