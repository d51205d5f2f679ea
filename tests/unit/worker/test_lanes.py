"""Whose turn it is on a session, and what is said of a server's settings."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING

import pytest
import uvloop

from headrace.queues.answer_limit import AnswerLimit
from headrace.queues.postgres.compatibility import hindrances
from headrace.queues.postgres.lanes import Turns

if TYPE_CHECKING:
    from collections.abc import Callable


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


class TestLimit:
    @pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
    def test_an_answer_that_came_while_the_loop_stood_still_is_there(
        self, loop: Callable[[], asyncio.AbstractEventLoop]
    ) -> None:
        async def story() -> bytes:
            ours, theirs = socket.socketpair()
            reader, writer = await asyncio.open_connection(sock=ours)

            def stand_still() -> None:
                theirs.send(b"x")
                time.sleep(0.2)

            try:
                async with AnswerLimit(0.05):
                    asyncio.get_running_loop().call_soon(stand_still)
                    return await reader.read(1)
            finally:
                theirs.close()
                writer.close()
                await writer.wait_closed()

        with asyncio.Runner(loop_factory=loop) as runner:
            assert runner.run(story()) == b"x"

    async def test_what_does_not_come_is_not_waited_for(self) -> None:
        with pytest.raises(TimeoutError):
            async with AnswerLimit(0.01):
                await asyncio.Event().wait()

    async def test_what_is_done_in_time_is_left_alone(self) -> None:
        async with AnswerLimit(0.01):
            pass
        await asyncio.sleep(0.05)


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
