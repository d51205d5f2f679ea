"""Names that can't be resolved, which no test can cause: a lookup that hangs stands for them."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from headrace_operator.threads import MOST_FAILING_LOOKUPS, MOST_LOOKUPS, LoopThreads


class Resolver:
    """Stands in for the system's: names that begin with "dead" are waited for until the end of the test."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.asked: list[str] = []

    def getaddrinfo(self, host: str, *_args: Any, **_kwargs: Any) -> list[Any]:
        self.asked.append(host)
        if host.startswith("dead"):
            self.over.wait()
            raise socket.gaierror(socket.EAI_AGAIN, "temporary failure")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 5432))]


@pytest.fixture
async def resolver(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Resolver]:
    made = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", made.getaddrinfo)
    asyncio.get_running_loop().set_default_executor(LoopThreads())
    yield made
    made.over.set()


async def resolve(host: str) -> Any:
    return await asyncio.get_running_loop().getaddrinfo(host, 5432)


async def test_names_that_are_waited_for_hold_up_neither_others_nor_the_loops_threads(resolver: Resolver) -> None:
    waiting = [asyncio.create_task(resolve(f"dead-{number}")) for number in range(MOST_LOOKUPS - 1)]
    await asyncio.sleep(0)
    assert (await resolve("healthy"))[0][4] == ("127.0.0.1", 5432)
    assert await asyncio.to_thread(lambda: 7) == 7
    assert not any(task.done() for task in waiting)
    resolver.over.set()
    failures = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(failure, socket.gaierror) for failure in failures)


async def test_a_name_that_is_being_looked_up_is_not_looked_up_once_more_by_whoever_gives_up_and_tries_again(
    resolver: Resolver,
) -> None:
    for _ in range(20):
        impatient = asyncio.create_task(resolve("dead"))
        await asyncio.sleep(0)
        impatient.cancel()
        await asyncio.wait([impatient])
    patient = asyncio.create_task(resolve("dead"))
    await asyncio.sleep(0)
    resolver.over.set()
    with pytest.raises(socket.gaierror):
        await patient
    assert resolver.asked == ["dead"]


async def test_where_too_many_are_waited_for_a_further_one_fails_at_once(resolver: Resolver) -> None:
    waiting = [asyncio.create_task(resolve(f"dead-{number}")) for number in range(MOST_LOOKUPS)]
    await asyncio.sleep(0)
    with pytest.raises(socket.gaierror, match="just now"):
        await resolve("healthy")
    resolver.over.set()
    await asyncio.wait(waiting)
    assert await resolve("healthy")


async def test_names_that_failed_before_leave_room_for_those_that_can_be_resolved(resolver: Resolver) -> None:
    dead = [f"dead-{number}" for number in range(2 * MOST_LOOKUPS)]
    resolver.over.set()
    for name in dead:
        with pytest.raises(socket.gaierror):
            await resolve(name)
    resolver.over.clear()
    waiting = [asyncio.create_task(resolve(name)) for name in dead]
    await asyncio.sleep(0)
    assert await resolve("healthy")
    refused = asyncio.as_completed(waiting)
    for _ in range(len(dead) - MOST_FAILING_LOOKUPS):
        with pytest.raises(socket.gaierror, match="just now"):
            await next(refused)
    assert sum(not task.done() for task in waiting) == MOST_FAILING_LOOKUPS
    resolver.over.set()
    await asyncio.gather(*waiting, *refused, return_exceptions=True)


async def test_what_else_is_done_in_threads_is_done_as_ever(resolver: Resolver) -> None:
    def fail() -> None:
        raise ValueError("as ever")

    with pytest.raises(ValueError, match="as ever"):
        await asyncio.to_thread(fail)
    assert resolver.asked == []
