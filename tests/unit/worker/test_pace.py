from __future__ import annotations

import asyncio

import pytest

from headrace.queues.pace import Pace
from support.jumping_loop import run_jumping


def test_without_a_rate_all_go_at_once() -> None:
    async def story() -> None:
        assert await Pace(None).turn(1000) == 1000
        assert asyncio.get_running_loop().time() == 0

    run_jumping(story())


@pytest.mark.parametrize("per_second", [0.1, 1, 7, 500])
def test_turns_come_at_the_rate_whoever_asks_for_how_many(per_second: float) -> None:
    async def story() -> None:
        pace, given = Pace(per_second), 0
        for most in (1, 10, 3) * 20:
            given += await pace.turn(most)
        elapsed = asyncio.get_running_loop().time()
        assert given - 1 <= elapsed * per_second * 1.000001
        assert given >= elapsed * per_second

    run_jumping(story())


def test_what_was_missed_is_not_made_up_for_by_more_than_a_second() -> None:
    async def story() -> None:
        pace = Pace(10)
        await pace.turn(1)
        await asyncio.sleep(3600)
        assert await pace.turn(1000) <= 11

    run_jumping(story())
