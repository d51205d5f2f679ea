from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from headrace.job import NewJob
from headrace.queues.base import Enqueued
from headrace.queues.batches import MAX_BATCH_JOBS
from headrace.queues.errors import QueueError, QueueUnavailableError
from headrace.queues.postgres.coalescer import Coalescer
from headrace.queues.postgres.errors import KeyTakenForNowError
from headrace.queues.postgres.patience import NothingDoneError, Patience

if TYPE_CHECKING:
    from collections.abc import Sequence


class Backend:
    """Takes what is sent, when the test lets it."""

    def __init__(self) -> None:
        self.sent: list[list[str]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.says: QueueError | None = None
        self.held: set[str] = set()

    async def send(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        names = [job.name for job in jobs]
        self.sent.append(names)
        await self.open.wait()
        if self.says is not None:
            raise self.says
        if self.held.intersection(names):
            raise KeyTakenForNowError("somebody has it")
        if "bad" in names:
            raise QueueError("refused")
        return enqueued(*names)


def enqueued(*names: str) -> list[Enqueued]:
    return [Enqueued(id=f"id of {name}") for name in names]


async def test_a_call_alone_goes_at_once_and_gets_its_ids_in_order() -> None:
    backend = Backend()
    assert await Coalescer(backend.send).enqueue([NewJob(name="a"), NewJob(name="b")]) == enqueued("a", "b")
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
    assert await first == enqueued("first")
    assert await asyncio.gather(*others) == [enqueued(f"{number}") for number in range(100)]
    assert [len(batch) for batch in backend.sent] == [1, 100]


async def test_nobody_pays_for_the_faulty_call_of_another() -> None:
    backend = Backend()
    coalescer = Coalescer(backend.send)
    good, bad, more = await asyncio.gather(
        *(coalescer.enqueue([NewJob(name=name)]) for name in ("good", "bad", "more")), return_exceptions=True
    )
    assert (good, more) == (enqueued("good"), enqueued("more"))
    assert isinstance(bad, QueueError)


async def test_when_the_backend_is_away_all_callers_learn_it_and_the_next_call_tries_again() -> None:
    backend = Backend()
    coalescer = Coalescer(backend.send)
    backend.says = QueueUnavailableError("no answer")
    answers = await asyncio.gather(*(coalescer.enqueue([NewJob()]) for _ in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [QueueUnavailableError] * 3
    assert len(backend.sent) == 1, "not tried for each of them: nobody knows whether it was done"
    backend.says = None
    assert await coalescer.enqueue([NewJob(name="again")]) == enqueued("again")


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


class TestPatience:
    async def test_without_it_a_call_fails_at_once_though_nothing_was_done(self) -> None:
        backend = Backend()
        backend.says = NothingDoneError("away")
        with pytest.raises(QueueUnavailableError, match="away") as caught:
            await Coalescer(backend.send).enqueue([NewJob()])
        assert type(caught.value) is QueueUnavailableError, "callers know it by the port's name"

    async def test_calls_wait_in_order_until_the_database_is_back(self) -> None:
        backend = Backend()
        backend.says = NothingDoneError("away")
        coalescer = Coalescer(backend.send, patience=Patience(seconds=60))
        calls = [asyncio.create_task(coalescer.enqueue([NewJob(name=name)])) for name in ("first", "second")]
        await tried(backend, 2)
        calls.append(asyncio.create_task(coalescer.enqueue([NewJob(name="third")])))
        backend.says = None
        assert list(await asyncio.gather(*calls)) == [enqueued("first"), enqueued("second"), enqueued("third")]
        assert [name for batch in backend.sent[-2:] for name in batch][-3:] == ["first", "second", "third"]

    async def test_one_whose_time_is_over_is_told_why(self) -> None:
        backend = Backend()
        backend.says = NothingDoneError("away")
        coalescer = Coalescer(backend.send, patience=Patience(seconds=0.1))
        with pytest.raises(QueueUnavailableError, match="away"):
            await coalescer.enqueue([NewJob()])
        assert len(backend.sent) > 1

    async def test_what_may_have_been_done_is_not_done_again(self) -> None:
        backend = Backend()
        backend.says = QueueUnavailableError("no answer")
        coalescer = Coalescer(backend.send, patience=Patience(seconds=60))
        with pytest.raises(QueueUnavailableError, match="no answer"):
            await coalescer.enqueue([NewJob()])
        assert len(backend.sent) == 1

    async def test_no_more_wait_than_there_is_room_for(self) -> None:
        backend = Backend()
        backend.says = NothingDoneError("away")
        coalescer = Coalescer(backend.send, patience=Patience(seconds=60, max_bytes=12_000))
        waiting = asyncio.create_task(coalescer.enqueue([NewJob(payload=b" " * 8_000)]))
        await tried(backend, 1)
        with pytest.raises(QueueUnavailableError, match="12000 bytes are full"):
            await coalescer.enqueue([NewJob(payload=b" " * 8_000)])
        small = asyncio.create_task(coalescer.enqueue([NewJob(name="small")]))
        await asyncio.sleep(0)
        backend.says = None
        await asyncio.gather(waiting, small)

    async def test_who_gives_up_leaves_its_room_to_others(self) -> None:
        backend = Backend()
        backend.says = NothingDoneError("away")
        coalescer = Coalescer(backend.send, patience=Patience(seconds=60, max_bytes=10_000))
        impatient = asyncio.create_task(coalescer.enqueue([NewJob(payload=b" " * 8_000)]))
        await tried(backend, 1)
        impatient.cancel()
        await coalescer.flushed()
        patient = asyncio.create_task(coalescer.enqueue([NewJob(name="patient", payload=b" " * 8_000)]))
        await asyncio.sleep(0)
        backend.says = None
        assert await patient == enqueued("patient")

    async def test_who_waits_when_the_queue_is_closed_is_told(self) -> None:
        backend = Backend()
        backend.says = NothingDoneError("away")
        coalescer = Coalescer(backend.send, patience=Patience(seconds=60))
        waiting = asyncio.create_task(coalescer.enqueue([NewJob()]))
        await tried(backend, 1)
        coalescer.close()
        with pytest.raises(QueueUnavailableError, match="was closed"):
            await waiting


class TestKeysThatAreHeld:
    async def test_who_waits_for_one_holds_nobody_up(self) -> None:
        backend = Backend()
        backend.held = {"held"}
        coalescer = Coalescer(backend.send)
        waiting = asyncio.create_task(coalescer.enqueue([NewJob(name="held")]))
        assert await asyncio.gather(*(coalescer.enqueue([NewJob(name=name)]) for name in ("a", "b"))) == [
            enqueued("a"),
            enqueued("b"),
        ]
        assert not waiting.done()
        backend.held = set()
        assert await waiting == enqueued("held")

    async def test_whoever_travelled_with_it_is_sent_alone(self) -> None:
        backend = Backend()
        backend.held = {"held"}
        backend.open.clear()
        coalescer = Coalescer(backend.send)
        first = asyncio.create_task(coalescer.enqueue([NewJob(name="first")]))
        await tried(backend, 1)
        calls = [asyncio.create_task(coalescer.enqueue([NewJob(name=name)])) for name in ("a", "held", "b")]
        await asyncio.sleep(0)
        backend.open.set()
        answers = await asyncio.gather(first, calls[0], calls[2])
        assert list(answers) == [enqueued("first"), enqueued("a"), enqueued("b")]
        backend.held = set()
        assert await calls[1] == enqueued("held")


async def tried(backend: Backend, times: int) -> None:
    async with asyncio.timeout(20):
        while len(backend.sent) < times:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.001)
