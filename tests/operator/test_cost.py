"""What the operator costs while nothing happens: counts, in small; `make bench-operator` measures the rest."""

from __future__ import annotations

import asyncio

from operator_bench.scenarios import look_at, pairs
from operator_bench.stage import standing

SIZE = 20
DSNS = 4


async def test_an_idle_operator_writes_nothing_logs_in_nowhere_and_holds_one_connection_a_dsn() -> None:
    async with standing(users=DSNS) as stage:
        many = pairs(SIZE, dsns=DSNS)
        await stage.apply(many)
        await stage.until_ready(many)
        await stage.until_sampled(SIZE)
        # What a start leaves to do: the Events and statuses of objects that have just become Ready.
        await asyncio.sleep(10)
        window = await look_at(stage, 20)
    assert (window.writes, window.logins) == (0, 0)
    assert window.connections == DSNS
    # A Secret a minute for each DSN in each namespace that uses it, and the certificate's.
    assert window.requests <= 2 * SIZE + 5
