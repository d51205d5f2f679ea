"""Jobs in SQS when calls fail, whole or in part, are slow, or are cut off: nothing is lost, and nothing made up."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from headrace import App, RetryPolicy, new_job
from headrace.job import NewJob
from headrace.metrics import Metrics
from headrace.queues.errors import LeaseLostError, PartlyEnqueuedError, QueueError, QueueUnavailableError
from headrace.queues.settlement import Failure, Retry
from headrace.queues.sqs.errors import InFlightLimitError, ThrottledError
from headrace.queues.sqs.queue import SqsQueue
from headrace.runtime.handlers.python import PythonHandler
from headrace.runtime.worker import Worker
from support.sqs import Sqs, queues_on
from support.verbs import complete, enqueue, release
from support.worker_process import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from headrace.queues.base import Delivery, Queue
    from support.elasticmq import ElasticMq

PATIENCE_SECONDS = 30.0
ALWAYS = float("inf")


@pytest.fixture
async def sqs(elasticmq: ElasticMq) -> AsyncIterator[Sqs]:
    async with queues_on(elasticmq) as sqs:
        await sqs.made()
        yield sqs


async def arrivals(queue: Queue, count: int) -> list[Delivery]:
    deliveries: list[Delivery] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(deliveries) < count:
            deliveries += await queue.receive(count - len(deliveries), wait_seconds=0.5)
    return deliveries


# Enqueue


async def test_jobs_that_are_throttled_are_sent_again_and_their_callers_hear_nothing_of_it(sqs: Sqs) -> None:
    async with sqs.queue() as queue:
        sqs.proxy.fail_entries("SendMessageBatch", lambda entry: entry["Id"] in "24", code="RequestThrottled", times=2)
        enqueued = await queue.enqueue([NewJob(name=f"{number}") for number in range(10)])
        assert len({each.id for each in enqueued}) == 10
        assert sorted(held.job.name for held in await arrivals(queue, 10)) == [f"{number}" for number in range(10)]


async def test_a_job_that_the_service_refuses_is_its_callers_alone(sqs: Sqs) -> None:
    def is_bad(entry: dict[str, Any]) -> bool:
        return '"bad"' in entry["MessageAttributes"]["headrace"]["StringValue"]

    async with sqs.queue() as queue:
        sqs.proxy.fail_entries(
            "SendMessageBatch", is_bad, code="InvalidMessageContents", is_sender_fault=True, times=ALWAYS
        )
        good, bad, mixed = await asyncio.gather(
            queue.enqueue([NewJob(name="good")]),
            queue.enqueue([NewJob(name="bad")]),
            queue.enqueue([NewJob(name="good"), NewJob(name="bad")]),
            return_exceptions=True,
        )
        assert isinstance(good, list)
        assert isinstance(bad, QueueError)
        assert not isinstance(bad, QueueUnavailableError)
        assert isinstance(mixed, PartlyEnqueuedError)
        assert (list(mixed.done), list(mixed.failed)) == ([0], [1])
        assert sqs.proxy.calls["SendMessageBatch"] == 1, "sent once: the fault is the sender's"


async def test_a_service_that_takes_nothing_is_told_to_every_caller(sqs: Sqs) -> None:
    async with sqs.queue() as queue:
        sqs.proxy.fail_entries("SendMessageBatch", lambda _: True, code="ThrottlingException", times=ALWAYS)
        answers = await asyncio.gather(*(queue.enqueue([NewJob()]) for _ in range(3)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [ThrottledError] * 3
        assert len({id(answer) for answer in answers}) == 3
        sqs.proxy.heal()
        assert len(await queue.enqueue([NewJob()])) == 1


async def test_a_send_whose_answer_was_lost_makes_one_job_by_its_id(sqs: Sqs) -> None:
    async with sqs.queue() as queue:
        sqs.proxy.cut(operation="SendMessageBatch", is_done=True)
        (job_id,) = await enqueue(queue, [NewJob()])
        held = await arrivals(queue, 1)
        held += await queue.receive(10, wait_seconds=1)
        assert {each.job.id for each in held} == {job_id}, "however many messages, to be told apart by nobody"


async def test_a_caller_that_is_cancelled_before_its_turn_has_enqueued_nothing(sqs: Sqs) -> None:
    async with sqs.queue() as queue:
        calling = asyncio.create_task(queue.enqueue([NewJob(name="cancelled")]))
        others = asyncio.create_task(queue.enqueue([NewJob(name="other")]))
        await asyncio.sleep(0)
        calling.cancel()
        await others
        assert [held.job.name for held in await arrivals(queue, 1)] == ["other"]
        assert await queue.receive(10, wait_seconds=1) == []


# Receive


async def test_a_poll_that_fails_is_told_and_the_next_one_goes_on(sqs: Sqs) -> None:
    async with sqs.queue() as queue:
        await queue.enqueue([NewJob()])
        sqs.proxy.answer(500, "InternalError", operation="ReceiveMessage", times=ALWAYS)
        with pytest.raises(QueueUnavailableError):
            await queue.receive(1, wait_seconds=5)
        assert queue.witnessed().empty_for_seconds is None
        sqs.proxy.heal()
        assert len(await arrivals(queue, 1)) == 1


async def test_too_many_messages_in_flight_are_told_as_such(sqs: Sqs) -> None:
    async with sqs.queue() as queue:
        sqs.proxy.answer(403, "OverLimit", operation="ReceiveMessage")
        with pytest.raises(InFlightLimitError, match="120,000"):
            await queue.receive(1)


async def test_a_page_instead_of_an_answer_is_no_empty_queue(sqs: Sqs) -> None:
    async with sqs.queue() as queue:
        sqs.proxy.answer_page(200, "<html>login</html>", operation="ReceiveMessage", times=ALWAYS)
        with pytest.raises(QueueError):
            await queue.receive(1, wait_seconds=5)


async def test_a_service_that_answers_at_once_without_a_job_is_not_asked_without_a_pause(sqs: Sqs) -> None:
    async with sqs.queue(wait_time_seconds=20) as queue:
        await queue.keep_alive()
        sqs.proxy.answer_page(200, "{}", operation="ReceiveMessage", times=ALWAYS)
        assert await queue.receive(100, wait_seconds=1.5) == []
        assert sqs.proxy.calls["ReceiveMessage"] <= 3


async def test_messages_whose_answer_was_lost_come_again_uncharged(sqs: Sqs) -> None:
    async with sqs.queue(lease_seconds=0.8) as queue:
        await queue.keep_alive()
        (job_id,) = await enqueue(queue, [NewJob()])
        sqs.proxy.cut(operation="ReceiveMessage", is_done=True)
        (held,) = await arrivals(queue, 1)
        assert (held.job.id, held.job.attempt) == (job_id, 1)


# Leases


async def test_one_extension_of_ten_that_fails_costs_none_of_the_others(sqs: Sqs) -> None:
    async with sqs.queue(lease_seconds=2) as queue, sqs.queue() as other:
        await queue.keep_alive()
        await queue.enqueue([NewJob()] * 10)
        held = await arrivals(queue, 10)
        unlucky = held[3]
        sqs.proxy.fail_entries(
            "ChangeMessageVisibilityBatch",
            lambda entry: entry["ReceiptHandle"] == unlucky.receipt,
            times=ALWAYS,
        )
        lost: set[tuple[str, str]] = set()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not lost:
                await asyncio.sleep(0.2)
                assert await other.receive(10) == [], "it is told before others are given it"
                lost |= (await queue.keep_alive()).lost
        assert lost == {unlucky.key}
        sqs.proxy.heal()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (again := await other.receive(1)):
                assert not (await queue.keep_alive()).lost, "the others are held all the while"
        assert [each.job.id for each in again] == [unlucky.job.id]
        settled = await complete(queue, held)
        assert (settled.accepted, [each.delivery for each in settled.refused]) == (9, [unlucky])


async def test_an_extension_that_fails_once_is_made_up_for_by_the_next(sqs: Sqs) -> None:
    async with sqs.queue(lease_seconds=4) as queue:
        await queue.keep_alive()
        await queue.enqueue([NewJob()])
        held = await arrivals(queue, 1)
        sqs.proxy.fail_entries("ChangeMessageVisibilityBatch", lambda _: True)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while sqs.proxy.calls["ChangeMessageVisibilityBatch"] < 2:
                await asyncio.sleep(0.1)
                assert not (await queue.keep_alive()).lost, "there is time to try again"
        assert (await complete(queue, held)).accepted == 1


async def test_heartbeats_that_get_no_answer_are_told_and_cost_nothing_while_they_are_few(sqs: Sqs) -> None:
    async with sqs.queue(lease_seconds=3) as queue:
        await queue.keep_alive()
        await queue.enqueue([NewJob()] * 3)
        held = await arrivals(queue, 3)
        await asyncio.sleep(4)
        sqs.proxy.cut(operation="ChangeMessageVisibilityBatch", times=ALWAYS)
        with pytest.raises(QueueUnavailableError):
            await queue.keep_alive()
        sqs.proxy.heal()
        assert not (await queue.keep_alive()).lost
        assert (await complete(queue, held)).accepted == 3


async def test_who_released_a_job_during_a_slow_heartbeat_holds_it_no_more(sqs: Sqs) -> None:
    async with sqs.queue(lease_seconds=2) as queue, sqs.queue() as other:
        await queue.keep_alive()
        await queue.enqueue([NewJob()])
        held = await arrivals(queue, 1)
        await asyncio.sleep(2.6)
        sqs.proxy.slow(0.5, operation="ChangeMessageVisibilityBatch")
        beating = asyncio.create_task(queue.keep_alive())
        await eventually(lambda: sqs.proxy.under_way["ChangeMessageVisibilityBatch"] == 1, what="an extension")
        assert (await release(queue, held)).accepted == 1
        await beating
        assert len(await other.receive(1)) == 1, "the extension came before the release"


# Settle


async def test_deletes_that_fail_in_part_are_settled_again(sqs: Sqs) -> None:
    async with sqs.queue() as queue:
        await queue.enqueue([NewJob()] * 25)
        held = await arrivals(queue, 25)
        sqs.proxy.fail_entries("DeleteMessageBatch", lambda entry: entry["Id"] in "037", times=2)
        settled = await complete(queue, held)
        assert (settled.accepted, len(settled.unsettled), settled.refused) == (19, 6, ())
        assert (await queue.settle(settled.unsettled)).accepted == 6
        assert await sqs.counts() == (0, 0, 0)


@pytest.mark.parametrize("is_done", [False, True], ids=["before it is done", "after it is done"])
async def test_deletes_whose_answers_are_lost_can_be_repeated(sqs: Sqs, is_done: bool) -> None:
    async with sqs.queue() as queue:
        await queue.enqueue([NewJob()] * 5)
        held = await arrivals(queue, 5)
        sqs.proxy.cut(operation="DeleteMessageBatch", times=8, is_done=is_done)
        with pytest.raises(QueueUnavailableError):
            await complete(queue, held)
        sqs.proxy.heal()
        assert (await complete(queue, held)).accepted == 5
        assert await sqs.counts() == (0, 0, 0)


async def test_a_release_whose_answer_was_lost_does_not_take_the_job_from_who_has_it_now(sqs: Sqs) -> None:
    async with sqs.queue() as queue, sqs.queue() as other:
        await queue.enqueue([NewJob()])
        held = await arrivals(queue, 1)
        sqs.proxy.cut(operation="ChangeMessageVisibilityBatch", times=8, is_done=True)
        with pytest.raises(QueueUnavailableError):
            await release(queue, held)
        sqs.proxy.heal()
        taken = await arrivals(other, 1)
        assert (await release(queue, held)).accepted == 1, "it came about, unheard"
        assert await sqs.counts() == (0, 1, 0), "and was not done again"
        assert (await complete(other, taken)).accepted == 1


async def test_retries_that_can_not_be_sent_stay_held_and_are_charged_once(sqs: Sqs) -> None:
    async with sqs.queue() as queue:
        await queue.enqueue([NewJob()])
        (held,) = await arrivals(queue, 1)
        failed = [Retry(delivery=held, delay_seconds=0, failure=Failure(error="boom"))]
        for operation in ("SendMessageBatch", "DeleteMessageBatch"):
            sqs.proxy.fail_entries(operation, lambda _: True)
            with pytest.raises(QueueError):
                await queue.settle(failed)
        assert (await queue.settle(failed)).accepted == 1
        (again,) = await arrivals(queue, 1)
        assert again.job.attempt == 2
        assert await queue.receive(10, wait_seconds=1) == []


# A worker under fire


async def test_a_worker_under_all_of_it_runs_every_job_and_leaves_nothing_behind(sqs: Sqs) -> None:
    ran: Counter[str] = Counter()
    app = App()

    @app.job("note")
    async def note(payload: str) -> None:
        ran[payload] += 1
        if ran[payload] == 1 and int(payload) % 7 == 0:
            raise ValueError("once")

    def every_third(entry: dict[str, Any]) -> bool:
        return int(entry["Id"]) % 3 == 0

    async with sqs.queue() as producer:
        await producer.enqueue([new_job("note", f"{number}") for number in range(300)])
    proxy = sqs.proxy
    for _ in range(2):
        for operation in ("ReceiveMessage", "DeleteMessageBatch", "ChangeMessageVisibilityBatch", "SendMessageBatch"):
            proxy.answer(500, "InternalError", operation=operation, times=2)
            proxy.answer(400, "ThrottlingException", operation=operation, times=2)
            proxy.slow(0.3, operation=operation, times=2)
            proxy.cut(operation=operation, times=2)
            proxy.cut(operation=operation, is_done=True)
        for operation in ("DeleteMessageBatch", "SendMessageBatch", "ChangeMessageVisibilityBatch"):
            proxy.fail_entries(operation, every_third, times=3)
    worker = Worker(
        sqs.queue(lease_seconds=2),
        PythonHandler(app, threads=1),
        Metrics().of("shop", "orders"),
        slots=30,
        poll_interval_seconds=0.5,
        retry=RetryPolicy(initial_delay_seconds=0.1),
        heartbeat_seconds=0.4,
    )
    working = asyncio.create_task(worker.run())

    async def is_done() -> bool:
        return len(ran) == 300 and await sqs.counts() == (0, 0, 0)

    await eventually(is_done, what="every job done")
    worker.stop()
    await working
    assert await sqs.counts() == (0, 0, 0)
    assert await sqs.messages() == []


# An event loop that stands, and clocks that are wrong


async def beside(queue: SqsQueue) -> None:
    """A heartbeat from another thread's event loop, while this one stands."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, queue.keep_alive_aside()).result(PATIENCE_SECONDS)


async def test_another_thread_keeps_jobs_alive_while_the_event_loop_stands(sqs: Sqs, elasticmq: ElasticMq) -> None:
    # Past the proxy, which lives in the loop that stands.
    address = replace(sqs.address(), place=replace(sqs.address().place, endpoint_url=elasticmq.endpoint_url))
    async with SqsQueue(address, "orders", lease_seconds=2) as queue, sqs.queue() as other:
        await queue.keep_alive()
        await queue.enqueue([NewJob()] * 12)
        held = await arrivals(queue, 12)
        for _ in range(3):
            time.sleep(2.6)  # noqa: ASYNC251 - it is to stand
            await beside(queue)
        assert await other.receive(10) == []
        assert not (await queue.keep_alive()).lost
        assert (await complete(queue, held)).accepted == 12


async def test_what_ran_out_while_all_stood_is_told_and_not_brought_back(sqs: Sqs, elasticmq: ElasticMq) -> None:
    address = replace(sqs.address(), place=replace(sqs.address().place, endpoint_url=elasticmq.endpoint_url))
    async with SqsQueue(address, "orders", lease_seconds=0.8) as queue, sqs.queue() as other:
        await queue.keep_alive()
        await queue.enqueue([NewJob()])
        (held,) = await arrivals(queue, 1)
        time.sleep(2.1)  # noqa: ASYNC251 - as a process that was stopped
        with pytest.raises(LeaseLostError):
            await beside(queue)
        assert (await queue.keep_alive()).lost == {held.key}
        (taken,) = await arrivals(other, 1)
        assert [each.delivery for each in (await release(queue, [held])).refused] == [held]
        assert (await complete(other, [taken])).accepted == 1


async def test_a_worker_whose_clock_is_wrong_by_an_hour_signs_with_the_services_time_and_goes_on(sqs: Sqs) -> None:
    sqs.proxy.clock_ahead_seconds = 3600
    async with sqs.queue() as queue:
        await queue.keep_alive()
        (job_id,) = await enqueue(queue, [NewJob()])
        held = await arrivals(queue, 1)
        assert held[0].job.id == job_id
        assert (await release(queue, held, delay_seconds=1)).accepted == 1
        (again,) = await arrivals(queue, 1)
        assert (again.job.id, again.job.attempt) == (job_id, 1)
        assert (await complete(queue, [again])).accepted == 1
