"""Whose turn it is on a session, and what is said of a server's settings."""

from __future__ import annotations

import asyncio

import pytest

from headrace.queues.postgres.compatibility import hindrances
from headrace.queues.postgres.lanes import Turns


class TestTurns:
    async def test_they_go_by_who_came_first_and_the_urgent_before_all_others(self) -> None:
        turns, order = Turns(), list[str]()

        async def take(name: str, *, urgent: bool = False) -> None:
            await turns.take(urgent=urgent)
            order.append(name)
            await asyncio.sleep(0)
            turns.end()

        await turns.take()
        calls = [asyncio.create_task(take(name)) for name in ("first", "second")]
        calls.append(asyncio.create_task(take("heartbeat", urgent=True)))
        await asyncio.sleep(0)
        turns.end()
        await asyncio.gather(*calls)
        assert order == ["heartbeat", "first", "second"]

    async def test_who_gives_up_waiting_is_passed_over(self) -> None:
        turns = Turns()
        await turns.take()
        given_up = asyncio.create_task(turns.take())
        waiting = asyncio.create_task(turns.take())
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.sleep(0)
        turns.end()
        async with asyncio.timeout(10):
            await waiting

    async def test_who_gives_up_just_when_its_turn_has_come_lets_the_next_have_it(self) -> None:
        turns = Turns()
        await turns.take()
        given_up = asyncio.create_task(turns.take())
        waiting = asyncio.create_task(turns.take())
        await asyncio.sleep(0)
        turns.end()
        given_up.cancel()
        async with asyncio.timeout(10):
            await waiting
        with pytest.raises(asyncio.CancelledError):
            await given_up

    async def test_a_turn_that_nobody_waits_for_is_free(self) -> None:
        turns = Turns()
        for _ in range(2):
            async with asyncio.timeout(10):
                await turns.take()
            turns.end()


GOOD = {"statement_timeout_ms": 0, "lock_timeout_ms": 0, "idle_session_timeout_ms": 0, "has_autovacuum": True}


@pytest.mark.parametrize(
    ("change", "fix"),
    [
        ({"statement_timeout_ms": 5000}, "SET statement_timeout = 30000 or more"),
        ({"lock_timeout_ms": 100}, "SET lock_timeout = 2000 or more"),
        ({"idle_session_timeout_ms": 1000}, "SET idle_session_timeout = 10000 or more"),
        ({"has_autovacuum": False}, "ALTER SYSTEM SET autovacuum = on"),
    ],
)
def test_a_setting_that_hinders_is_named_with_its_fix(change: dict[str, object], fix: str) -> None:
    (said,) = hindrances({**GOOD, **change})
    assert fix in said


@pytest.mark.parametrize("change", [{}, {"statement_timeout_ms": 60_000}, {"idle_session_timeout_ms": 60_000}])
def test_one_that_does_not_is_not(change: dict[str, object]) -> None:
    assert hindrances({**GOOD, **change}) == []
