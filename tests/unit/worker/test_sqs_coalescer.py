"""Which jobs travel together to SQS, and what their callers are told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from headrace.queues.errors import PartlyEnqueuedError, QueueError, QueueUnavailableError
from headrace.queues.sqs.coalescer import Coalescer
from headrace.queues.sqs.errors import SqsError, ThrottledError
from headrace.queues.sqs.messages import Outgoing


def job(name: str, size_bytes: int = 100) -> Outgoing:
    return Outgoing(name, {"MessageBody": name}, size_bytes)


class Service:
    """Takes batches, and answers when it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.answers: list[Any] = []
        """What becomes of the next calls: an exception, or a set of names that fail."""
        self.gate = asyncio.Event()
        self.gate.set()
        self.under_way = self.most = 0

    async def send(self, entries: list[dict[str, Any]]) -> dict[str, Any]:
        self.batches.append([entry["MessageBody"] for entry in entries])
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
        finally:
            self.under_way -= 1
        answer = self.answers.pop(0) if self.answers else ()
        if isinstance(answer, Exception):
            raise answer
        return {
            "Successful": [{"Id": entry["Id"]} for entry in entries if entry["MessageBody"] not in answer],
            "Failed": [
                {"Id": entry["Id"], "Code": "InternalError", "SenderFault": False, "Message": ""}
                for entry in entries
                if entry["MessageBody"] in answer
            ],
        }


async def test_callers_of_one_turn_travel_together_ten_to_a_call() -> None:
    service = Service()
    coalescer = Coalescer(service.send)
    answers = await asyncio.gather(*(coalescer.enqueue([job(f"{number}")]) for number in range(25)))
    assert [each.id for (each,) in answers] == [f"{number}" for number in range(25)]
    assert [len(batch) for batch in service.batches] == [10, 10, 5]


async def test_what_is_large_travels_in_as_many_calls_as_it_takes() -> None:
    service = Service()
    await Coalescer(service.send).enqueue([job(f"{number}", 400_000) for number in range(5)])
    assert [len(batch) for batch in service.batches] == [2, 2, 1]


async def test_a_few_wait_a_moment_for_company_while_others_are_under_way() -> None:
    service = Service()
    coalescer = Coalescer(service.send)
    service.gate.clear()
    first = asyncio.create_task(coalescer.enqueue([job("first")]))
    await asyncio.sleep(0.001)
    others = [asyncio.create_task(coalescer.enqueue([job(f"{number}")])) for number in range(3)]
    await asyncio.sleep(0)
    assert service.batches == [["first"]]
    await asyncio.sleep(0.02)
    assert service.batches == [["first"], ["0", "1", "2"]], "and not for as long as the others take"
    service.gate.set()
    await asyncio.gather(first, *others)


async def test_there_are_never_more_calls_at_once_than_may_be() -> None:
    service = Service()
    await Coalescer(service.send).enqueue([job(f"{number}") for number in range(1000)])
    assert service.most == 16
    assert len(service.batches) == 100


async def test_what_was_throttled_as_a_whole_is_sent_again() -> None:
    service = Service()
    service.answers = [ThrottledError("slower", code="ThrottlingException")]
    assert [each.id for each in await Coalescer(service.send).enqueue([job("a"), job("b")])] == ["a", "b"]
    assert service.batches == [["a", "b"]] * 2


async def test_an_answer_that_says_nothing_of_a_job_is_no_word_that_it_was_not_taken() -> None:
    async def send(entries: list[dict[str, Any]]) -> dict[str, Any]:
        sent.append(len(entries))
        return {"Successful": [{"Id": "0"}]}

    sent: list[int] = []
    with pytest.raises(PartlyEnqueuedError) as raised:
        await Coalescer(send).enqueue([job("a"), job("b")])
    assert (list(raised.value.done), list(raised.value.failed)) == ([0], [1])
    assert sent == [2], "it may have been: sent again it would be there twice"


async def test_one_caller_at_fault_keeps_nobody_else_from_being_served() -> None:
    service = Service()
    service.answers = [SqsError("too long", code="BatchRequestTooLong"), SqsError("too long", code="X"), ()]
    coalescer = Coalescer(service.send)
    bad, good = await asyncio.gather(
        coalescer.enqueue([job("bad")]), coalescer.enqueue([job("good")]), return_exceptions=True
    )
    assert isinstance(bad, QueueError)
    assert isinstance(good, list)
    assert service.batches == [["bad", "good"], ["bad"], ["good"]]


async def test_a_call_without_an_answer_is_told_to_all_of_its_callers_and_not_repeated() -> None:
    service = Service()
    service.answers = [QueueUnavailableError("cut off")]
    coalescer = Coalescer(service.send)
    answers = await asyncio.gather(*(coalescer.enqueue([job(name)]) for name in "ab"), return_exceptions=True)
    assert [type(answer) for answer in answers] == [QueueUnavailableError] * 2
    assert answers[0] is not answers[1]
    assert len(service.batches) == 1


async def test_who_waits_when_it_is_closed_is_told() -> None:
    service = Service()
    service.gate.clear()
    coalescer = Coalescer(service.send)
    waiting = asyncio.create_task(coalescer.enqueue([job("a")] * 200))
    await asyncio.sleep(0.01)
    coalescer.close()
    with pytest.raises(QueueUnavailableError):
        await waiting


async def test_who_waits_for_a_pause_to_end_when_it_is_closed_is_told() -> None:
    service = Service()
    service.answers = [ThrottledError("slower", code="ThrottlingException")]
    coalescer = Coalescer(service.send)
    waiting = asyncio.create_task(coalescer.enqueue([job("a"), job("b")]))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    coalescer.close()
    async with asyncio.timeout(10):
        with pytest.raises(QueueUnavailableError):
            await waiting


async def test_who_waits_behind_another_one_that_is_sent_alone_is_told_when_it_is_closed() -> None:
    service = Service()
    service.answers = [SqsError("too long", code="BatchRequestTooLong")]
    coalescer = Coalescer(service.send)
    waiting = [asyncio.create_task(coalescer.enqueue([job(name)])) for name in "abc"]
    while len(service.batches) < 2:
        await asyncio.sleep(0)
        service.gate.clear()
        if service.batches and len(service.batches) < 2:
            service.gate.set()
    coalescer.close()
    async with asyncio.timeout(10):
        told = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(each) for each in told] == [QueueUnavailableError] * 3


async def test_who_was_about_to_be_sent_when_it_is_closed_is_told() -> None:
    coalescer = Coalescer(Service().send)
    waiting = asyncio.create_task(coalescer.enqueue([job("a")] * 20))
    await asyncio.sleep(0)
    coalescer._flush_now()
    coalescer.close()
    async with asyncio.timeout(10):
        with pytest.raises(QueueUnavailableError):
            await waiting


async def test_it_is_flushed_once_all_is_answered() -> None:
    service = Service()
    service.answers = [{"a"}]
    coalescer = Coalescer(service.send)
    waiting = asyncio.create_task(coalescer.enqueue([job("a"), job("b")]))
    await asyncio.sleep(0)
    await coalescer.flushed()
    await asyncio.sleep(0)
    assert waiting.done()
    assert [each.id for each in waiting.result()] == ["a", "b"]
