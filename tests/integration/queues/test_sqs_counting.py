"""Counting queues in SQS, by a process and by the operator: how often, and what one queue's trouble costs others."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from uuid import uuid4

import pytest

from headrace.queues.base import Depth, Witnessed
from headrace.queues.errors import (
    CountTooSlowError,
    QueueAccessError,
    QueueError,
    QueueNotFoundError,
    QueueUnavailableError,
    UnsupportedCapabilityError,
)
from headrace.queues.sqs import backlog
from headrace.queues.sqs.backlog import BacklogSession, QueueRef
from headrace.queues.sqs.client import SqsClient, open_client
from headrace.queues.sqs.counting import DEAD_LETTERS_SECONDS, Counting
from headrace.queues.sqs.errors import ThrottledError
from headrace.queues.sqs.place import Credentials, Place
from support.aws_proxy import AwsProxy
from support.moto import ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY, Moto

KEYS = Credentials(access_key_id=ACCESS_KEY_ID, secret_access_key=SECRET_ACCESS_KEY)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def proxy(moto: Moto) -> AsyncIterator[AwsProxy]:
    async with AwsProxy(moto.endpoint_url).running() as running:
        yield running


@pytest.fixture
def place(proxy: AwsProxy) -> Place:
    return Place(region=REGION, endpoint_url=proxy.endpoint_url, credentials=KEYS)


@pytest.fixture
async def client(place: Place) -> AsyncIterator[SqsClient]:
    async with open_client(place) as opened:
        yield opened


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def session(place: Place, clock: Clock) -> AsyncIterator[BacklogSession]:
    async with BacklogSession(place, clock=clock) as opened:
        yield opened


async def create(client: SqsClient, name: str | None = None) -> str:
    """A queue with its dead-letter queue; its name."""
    name = name or f"jobs-{uuid4().hex[:12]}"
    await client.call("CreateQueue", {"QueueName": f"{name}-dead"})
    arn = f"arn:aws:sqs:{REGION}:123456789012:{name}-dead"
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 10})
    await client.call("CreateQueue", {"QueueName": name, "Attributes": {"RedrivePolicy": policy}})
    return name


async def send(client: SqsClient, url: str, number: int = 1, delay_seconds: int = 0) -> None:
    entries = [{"Id": str(at), "MessageBody": "{}", "DelaySeconds": delay_seconds} for at in range(number)]
    answer = await client.call("SendMessageBatch", {"QueueUrl": url, "Entries": entries})
    assert len(answer["Successful"]) == number


async def one(session: BacklogSession, name: str) -> Depth | QueueError:
    ref = QueueRef(name=name)
    return (await session.depths([ref]))[ref]


async def ready(session: BacklogSession, name: str) -> int:
    depth = await one(session, name)
    assert isinstance(depth, Depth), depth
    return depth.ready


# By the operator


async def test_all_that_a_queue_holds_is_told_as_approximate(
    client: SqsClient, session: BacklogSession, moto: Moto
) -> None:
    name = await create(client)
    await send(client, moto.queue_url(name), 5)
    await send(client, moto.queue_url(name), 2, delay_seconds=900)
    await send(client, moto.queue_url(f"{name}-dead"), 3)
    await client.call("ReceiveMessage", {"QueueUrl": moto.queue_url(name), "VisibilityTimeout": 600})
    assert await one(session, name) == Depth(ready=4, delayed=2, in_flight=1, dead_lettered=3, is_approximate=True)


async def test_dead_letters_are_counted_twice_a_minute_and_the_queue_by_one_call_each_time(
    client: SqsClient, session: BacklogSession, proxy: AwsProxy, clock: Clock
) -> None:
    name = await create(client)
    proxy.calls.clear()
    for _ in range(25):
        assert await ready(session, name) == 0
        clock.now += 60 / 25
    assert proxy.calls["GetQueueAttributes"] == 25 + 60 / DEAD_LETTERS_SECONDS
    assert proxy.calls["GetQueueUrl"] == 2, "once for each of the two queues"


async def test_many_queues_are_counted_by_one_client(client: SqsClient, session: BacklogSession) -> None:
    names = [await create(client) for _ in range(60)]
    found = await session.depths([QueueRef(name=name) for name in names])
    assert set(found.values()) == {Depth(is_approximate=True)}


async def test_what_one_queue_is_refused_is_told_of_it_alone_and_it_is_left_alone_for_a_while(
    client: SqsClient, session: BacklogSession, proxy: AwsProxy, clock: Clock
) -> None:
    names = [await create(client) for _ in range(5)]
    refs = [QueueRef(name=name) for name in names]
    await session.depths(refs)
    denied, throttled = refs[:2]
    proxy.answer(403, "AccessDenied", "no", of=f"/{denied.name}", times=float("inf"))
    proxy.answer(400, "ThrottlingException", "slower", of=f"/{throttled.name}", times=float("inf"))
    found = await session.depths(refs)
    assert isinstance(found[denied], QueueAccessError)
    assert "sqs:GetQueueAttributes" in str(found[denied])
    assert isinstance(found[throttled], ThrottledError)
    assert [found[ref] for ref in refs[2:]] == [Depth(is_approximate=True)] * 3
    proxy.heal()
    proxy.calls.clear()
    clock.now += 4
    assert (await session.depths(refs))[denied] is found[denied]
    assert proxy.calls["GetQueueAttributes"] == 3, "those two were not asked for"
    clock.now += 2
    assert set((await session.depths(refs)).values()) == {Depth(is_approximate=True)}


async def test_a_queue_that_is_not_there_is_told_as_such(client: SqsClient, session: BacklogSession) -> None:
    name = await create(client)
    found = await session.depths([QueueRef(name=name), QueueRef(name="nobody-made-this")])
    assert isinstance(found[QueueRef(name="nobody-made-this")], QueueNotFoundError)
    assert found[QueueRef(name=name)] == Depth(is_approximate=True)


async def test_a_queue_that_is_slow_is_told_as_such_and_the_others_are_counted(
    client: SqsClient, session: BacklogSession, proxy: AwsProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "COUNT_SECONDS", 0.5)
    names = [await create(client) for _ in range(3)]
    refs = [QueueRef(name=name) for name in names]
    await session.depths(refs)
    proxy.slow(30, of=f"/{names[0]}", times=float("inf"))
    found = await session.depths(refs)
    assert isinstance(found[refs[0]], CountTooSlowError)
    assert [found[ref] for ref in refs[1:]] == [Depth(is_approximate=True)] * 2
    assert isinstance(await one(session, names[0]), CountTooSlowError), "another one answers, so it is not the place"


async def test_a_place_where_nobody_answers_is_away_whatever_is_asked_for(
    client: SqsClient, session: BacklogSession, proxy: AwsProxy
) -> None:
    names = [await create(client) for _ in range(3)]
    refs = [QueueRef(name=name) for name in names]
    await session.depths(refs)
    proxy.cut(times=float("inf"))
    with pytest.raises(QueueUnavailableError):
        await session.depths(refs[:1])
    with pytest.raises(QueueUnavailableError):
        await session.depths(refs)
    proxy.heal()
    assert set((await session.depths(refs)).values()) == {Depth(is_approximate=True)}


async def test_a_place_that_swallows_what_it_is_asked_is_away_from_the_first_question_on(
    client: SqsClient, session: BacklogSession, proxy: AwsProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "ROUND_SECONDS", 0.5)
    refs = [QueueRef(name=await create(client)) for _ in range(2)]
    proxy.slow(60, times=float("inf"))
    with pytest.raises(QueueUnavailableError):
        await session.depths(refs)


async def test_dead_letters_that_can_not_be_counted_hide_nothing_of_the_queue(
    client: SqsClient, session: BacklogSession, proxy: AwsProxy, moto: Moto
) -> None:
    name = await create(client)
    await send(client, moto.queue_url(name), 2)
    proxy.answer(403, "AccessDenied", "no", of=f"/{name}-dead", times=float("inf"))
    assert await ready(session, name) == 2


# By one process


def counting(
    client: SqsClient, urls: Sequence[str], clock: Clock, *, interval_seconds: float = 60, age_seconds: float = 0
) -> Counting:
    seen = Witnessed(held=0, empty_for_seconds=None, oldest_age_seconds=age_seconds)
    return Counting(
        lambda: client, urls[0], lambda: urls[1], interval_seconds=interval_seconds, witnessed=lambda: seen, clock=clock
    )


async def test_a_process_counts_as_often_as_it_may_and_gives_its_last_count_else(
    client: SqsClient, moto: Moto, proxy: AwsProxy, clock: Clock
) -> None:
    name = await create(client)
    urls = moto.queue_url(name), moto.queue_url(f"{name}-dead")
    await send(client, urls[0])
    queue = counting(client, urls, clock, age_seconds=7.5)
    proxy.calls.clear()
    first = await queue.depth(2)
    assert first == Depth(ready=1, oldest_ready_age_seconds=7.5, is_approximate=True)
    await send(client, urls[0], 2)
    clock.now += 59
    assert (await queue.depth(2)).ready == 1
    assert (await queue.depth()).age_seconds == 59
    assert await queue.has_ready()
    assert proxy.calls["GetQueueAttributes"] == 2, "of the queue and of its dead letters"
    clock.now += 1
    assert (await queue.depth(2)).ready == 3


async def test_a_process_that_is_refused_a_count_asks_no_more_often_than_it_may(
    client: SqsClient, moto: Moto, proxy: AwsProxy, clock: Clock
) -> None:
    name = await create(client)
    queue = counting(client, (moto.queue_url(name), moto.queue_url(f"{name}-dead")), clock)
    proxy.answer(403, "AccessDenied", "no", operation="GetQueueAttributes", times=float("inf"))
    proxy.calls.clear()
    for _ in range(20):
        with pytest.raises(QueueAccessError, match="allow sqs:GetQueueAttributes"):
            await queue.depth(2)
        clock.now += 2
    assert proxy.calls["GetQueueAttributes"] == 1
    proxy.heal()
    clock.now += 20
    assert (await queue.depth(2)).ready == 0


async def test_where_somebody_else_counts_no_call_is_made(
    client: SqsClient, moto: Moto, proxy: AwsProxy, clock: Clock
) -> None:
    name = await create(client)
    proxy.calls.clear()
    queue = counting(client, (moto.queue_url(name), moto.queue_url(f"{name}-dead")), clock, interval_seconds=0)
    with pytest.raises(UnsupportedCapabilityError, match="count_interval_seconds is 0"):
        await queue.depth()
    assert not proxy.calls
