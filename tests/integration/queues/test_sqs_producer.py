"""Enqueuing into SQS from synchronous code: threads share calls, forks begin anew, errors have a fix."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from headrace import new_job
from headrace.job import InvalidJobError, NewJob
from headrace.queues.errors import (
    PartlyEnqueuedError,
    QueueError,
    QueueNotFoundError,
    QueueUnavailableError,
    UnsupportedCapabilityError,
)
from headrace.sync import Producer
from support.sqs import CREDENTIALS, QUEUE, Sqs, queues_on

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support.elasticmq import ElasticMq


@pytest.fixture
async def sqs(elasticmq: ElasticMq) -> AsyncIterator[Sqs]:
    async with queues_on(elasticmq) as sqs:
        await sqs.made()
        yield sqs


def producer(sqs: Sqs, name: str = QUEUE) -> Producer:
    """By way of the proxy, which runs on the test's event loop: its calls are made in threads."""
    url = sqs.server.url(sqs.prefix + name)
    return Producer(url, queue=name, endpoint_url=sqs.proxy.endpoint_url, **CREDENTIALS)


async def enqueued(using: Producer, jobs: list[NewJob], queue: str = QUEUE) -> list[str]:
    return [one.id for one in await asyncio.to_thread(using.enqueue, queue, jobs)]


async def test_jobs_are_there_when_the_call_returns(sqs: Sqs) -> None:
    with producer(sqs) as using:
        ids = await enqueued(using, [new_job("resize", {"a": 1}), new_job("resize", delay_seconds=600)])
        assert await enqueued(using, []) == []
        assert await sqs.counts() == (1, 0, 1)
        await enqueued(using, [NewJob()], queue=sqs.prefix + QUEUE)
    assert len(set(ids)) == 2
    assert await sqs.counts() == (2, 0, 1)


async def test_threads_that_enqueue_at_once_share_calls(sqs: Sqs) -> None:
    with producer(sqs) as using, ThreadPoolExecutor(50) as threads:
        await enqueued(using, [NewJob()])
        sqs.proxy.calls.clear()
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(threads, using.enqueue, QUEUE, [NewJob()]) for _ in range(500)]
        ids = [one.id for each in await asyncio.gather(*calls) for one in each]
    assert len(set(ids)) == 500
    assert sqs.proxy.calls["SendMessageBatch"] < 250
    assert (await sqs.counts())[0] == 501


async def test_a_process_that_forks_begins_anew(sqs: Sqs) -> None:
    using = producer(sqs)
    await enqueued(using, [NewJob(name="parent")])

    def fork() -> int:
        child = os.fork()
        if child == 0:
            try:
                using.enqueue(QUEUE, [NewJob(name="child")])
                using.close()
                os._exit(0)
            finally:
                os._exit(1)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert await asyncio.to_thread(fork) == 0
    await enqueued(using, [NewJob(name="parent again")])
    await asyncio.to_thread(using.close)
    assert (await sqs.counts())[0] == 3


async def test_what_of_a_call_was_not_enqueued_is_told(sqs: Sqs) -> None:
    with producer(sqs) as using:
        # What failed is sent again, in another place.
        sqs.proxy.fail_entries("SendMessageBatch", lambda entry: entry["MessageBody"] == '"bad"', times=float("inf"))
        with pytest.raises(PartlyEnqueuedError) as caught:
            await enqueued(using, [new_job("resize", payload) for payload in ("good", "bad", "good")])
        sqs.proxy.heal()
    assert (set(caught.value.done), set(caught.value.failed)) == ({0, 2}, {1})


async def test_what_can_not_be_is_refused_with_the_fix(sqs: Sqs) -> None:
    with producer(sqs) as using:
        with pytest.raises(QueueNotFoundError, match="this producer's URL leads to queue orders; give that name"):
            using.enqueue("mails", [NewJob()])
        with pytest.raises(UnsupportedCapabilityError, match="group: "):
            using.enqueue(QUEUE, [NewJob(group="g")])
        with pytest.raises(InvalidJobError, match="must be a list of NewJob"):
            using.enqueue(QUEUE, "resize")  # type: ignore[arg-type]
    with producer(sqs, "nowhere") as nowhere, pytest.raises(QueueNotFoundError):
        await enqueued(nowhere, [NewJob()], queue="nowhere")
    with pytest.raises(QueueError, match="schema: no option of sqs"):
        Producer("sqs://sqs.eu-central-1.amazonaws.com/1/orders", schema="jobs")
    with pytest.raises(QueueError, match="region: no option of postgresql"):
        Producer("postgresql://db/jobs", region="eu-central-1")
    with pytest.raises(UnsupportedCapabilityError, match="no synchronous producer"):
        Producer("memory://here")


async def test_an_endpoint_that_is_away_is_told_and_tried_again_with_the_next_call(sqs: Sqs) -> None:
    away = Producer("sqs+http://127.0.0.1:1/1/orders", region="eu-central-1", **CREDENTIALS)
    for _ in range(2):
        with pytest.raises(QueueUnavailableError, match="SQS can't be reached"):
            await enqueued(away, [NewJob()])
    await asyncio.to_thread(away.close)
