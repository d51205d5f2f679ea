from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from headrace.job import NewJob
from headrace.queues.base import QueueError, QueueUnavailableError
from headrace.queues.batches import MAX_BATCH_JOBS
from headrace.queues.postgres.coalescer import Coalescer

if TYPE_CHECKING:
    from collections.abc import Sequence


class Backend:
    """Takes what is sent, when the test lets it."""

    def __init__(self) -> None:
        self.sent: list[list[str]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.away = False
        self._number = 0

    async def send(self, jobs: Sequence[NewJob]) -> list[str]:
        names = [job.name for job in jobs]
        self.sent.append(names)
        await self.open.wait()
        if self.away:
            raise QueueUnavailableError("away")
        if "bad" in names:
            raise QueueError("refused")
        return [f"id of {name}" for name in names]


async def test_a_call_alone_goes_at_once_and_gets_its_ids_in_order() -> None:
    backend = Backend()
    assert await Coalescer(backend.send).enqueue([NewJob(name="a"), NewJob(name="b")]) == ["id of a", "id of b"]
    assert backend.sent == [["a", "b"]]


async def test_what_is_asked_for_meanwhile_travels_together_and_each_gets_its_own() -> None:
    backend = Backend()
    coalescer = Coalescer(backend.send)
    backend.open.clear()
    first = asyncio.create_task(coalescer.enqueue([NewJob(name="first")]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    others = [asyncio.create_task(coalescer.enqueue([NewJob(name=f"{number}")])) for number in range(100)]
    await asyncio.sleep(0)
    assert not first.done()
    backend.open.set()
    assert await first == ["id of first"]
    assert await asyncio.gather(*others) == [[f"id of {number}"] for number in range(100)]
    assert [len(batch) for batch in backend.sent] == [1, 100]


async def test_nobody_pays_for_the_faulty_call_of_another() -> None:
    backend = Backend()
    coalescer = Coalescer(backend.send)
    good, bad, more = await asyncio.gather(
        *(coalescer.enqueue([NewJob(name=name)]) for name in ("good", "bad", "more")), return_exceptions=True
    )
    assert (good, more) == (["id of good"], ["id of more"])
    assert isinstance(bad, QueueError)


async def test_when_the_backend_is_away_all_callers_learn_it_and_the_next_call_tries_again() -> None:
    backend = Backend()
    coalescer = Coalescer(backend.send)
    backend.away = True
    answers = await asyncio.gather(*(coalescer.enqueue([NewJob()]) for _ in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [QueueUnavailableError] * 3
    assert len(backend.sent) == 1, "not tried for each of them: nobody knows whether it was done"
    backend.away = False
    assert await coalescer.enqueue([NewJob(name="again")]) == ["id of again"]


async def test_a_call_cancelled_before_its_turn_enqueues_nothing() -> None:
    backend = Backend()
    coalescer = Coalescer(backend.send)
    backend.open.clear()
    first = asyncio.create_task(coalescer.enqueue([NewJob(name="first")]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    given_up = asyncio.create_task(coalescer.enqueue([NewJob(name="given up")]))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.sleep(0)
    backend.open.set()
    await first
    await coalescer.flushed()
    assert backend.sent == [["first"]]
    with pytest.raises(asyncio.CancelledError):
        await given_up


async def test_a_batch_has_a_limit_and_a_call_is_never_split() -> None:
    backend = Backend()
    coalescer = Coalescer(backend.send)
    size = MAX_BATCH_JOBS // 2 + 1
    await asyncio.gather(*(coalescer.enqueue([NewJob()] * size) for _ in range(4)))
    assert [len(batch) for batch in backend.sent] == [2 * size, 2 * size]
