"""Samples read from a server of SQS's protocol: how soon a pool wakes, what that costs, and whose trouble is whose."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from headrace.queues.sqs import backlog
from headrace.queues.sqs.client import SqsClient, open_client
from headrace_operator.core.model import ObjectKey, Reading, SampleSource, WorkerPod
from headrace_operator.core.provider import Pace
from headrace_operator.core.scaling import History, SeenQueue, Situation, decide
from headrace_operator.core.spec import Autoscaling, ScalingMode
from headrace_operator.providers import PROVIDERS
from headrace_operator.providers.aws_sqs.access import client_place
from headrace_operator.providers.aws_sqs.place import SqsBackend, SqsCredentials, SqsPlace
from support.aws_proxy import AwsProxy
from support.moto import ACCESS_KEY_ID, ACCOUNT, REGION, SECRET_ACCESS_KEY, Moto
from support.sampling import SamplerStage, sampling
from support.worker_process import eventually

KEY = ObjectKey("shop", "thumbnails")
OTHER = ObjectKey("shop", "mails")
PACE: Pace = PROVIDERS["AwsSqs"].pace


@pytest.fixture
async def stage() -> AsyncIterator[SamplerStage]:
    async with sampling() as opened:
        yield opened


@pytest.fixture
async def proxy(moto: Moto) -> AsyncIterator[AwsProxy]:
    async with AwsProxy(moto.endpoint_url).running() as running:
        yield running


def backend(endpoint_url: str) -> SqsBackend:
    keys = SqsCredentials(access_key_id=ACCESS_KEY_ID, secret_access_key=SECRET_ACCESS_KEY)
    return SqsBackend(region=REGION, endpoint_url=endpoint_url, credentials=keys)


@pytest.fixture
async def client(moto: Moto) -> AsyncIterator[SqsClient]:
    async with open_client(client_place(backend(moto.endpoint_url))) as opened:
        yield opened


async def provisioned(client: SqsClient, endpoint_url: str) -> SqsPlace:
    name = f"jobs-{uuid4().hex[:12]}"
    await client.call("CreateQueue", {"QueueName": f"{name}-dead"})
    arn = f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}-dead"
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 10})
    await client.call("CreateQueue", {"QueueName": name, "Attributes": {"RedrivePolicy": policy}})
    return SqsPlace(backend=backend(endpoint_url), queue=name)


async def send(client: SqsClient, moto: Moto, place: SqsPlace, number: int = 1) -> None:
    entries = [{"Id": str(at), "MessageBody": "{}"} for at in range(number)]
    await client.call("SendMessageBatch", {"QueueUrl": moto.queue_url(place.queue), "Entries": entries})


class Worker:
    """A pod that tells what it has seen."""

    def __init__(self) -> None:
        self.held = 0
        self.empty_for_seconds: float | None = None

    async def serve(self, stack: AsyncExitStack) -> WorkerPod:
        async def depth(_request: web.Request) -> web.StreamResponse:
            line = {"namespace": KEY.namespace, "queue": KEY.name, "held": self.held, "oldest_age_seconds": 0}
            return web.json_response([{**line, "empty_for_seconds": self.empty_for_seconds}])

        app = web.Application()
        app.router.add_get("/depth", depth)
        server = await stack.enter_async_context(TestServer(app))
        return WorkerPod(name=f"worker-{server.port}", address=f"http://127.0.0.1:{server.port}", ready=True)


class Pool:
    """A pool on the queue, decided on with each reading as a look would."""

    def __init__(self, stage: SamplerStage, mode: str, current: int) -> None:
        self._stage = stage
        self._spec = Autoscaling(mode=ScalingMode(mode), scale_to_zero_after_seconds=1)
        self._history = History()
        self.current = current
        self.reason = ""

    def decide(self, reading: Reading) -> int:
        seen = (SeenQueue(name=KEY.name, sample=reading.current),)
        situation = Situation(current=self.current, scaled_to_zero=self.current == 0, queues=seen)
        decision = decide(self._spec, situation, self._history, datetime.now(UTC))
        self._history, self.current, self.reason = decision.history, decision.desired_replicas, decision.reason
        self._stage.intervals[KEY] = self._spec.sample_interval_seconds if self.current else None
        return self.current


@pytest.mark.parametrize("mode", ["Direct", "HPA"])
async def test_a_pool_at_zero_wakes_to_what_was_enqueued(
    stage: SamplerStage, client: SqsClient, moto: Moto, mode: str
) -> None:
    place = await provisioned(client, moto.endpoint_url)
    pool = Pool(stage, mode, current=0)
    sample = await stage.sample(KEY, place)
    assert (sample.source, sample.depth.is_approximate) == (SampleSource.BACKEND, True)
    assert pool.decide(Reading(sample=sample, failure=None, tried_at=sample.sampled_at)) == 0
    for _ in range(4):
        await send(client, moto, place, 10)
    await stage.until(KEY, lambda reading: pool.decide(reading) > 0)
    assert (pool.current, pool.reason) == (4, "Woken")


@pytest.mark.parametrize("mode", ["Direct", "HPA"])
async def test_a_pool_goes_to_zero_when_its_workers_have_polled_in_vain_and_not_by_counts_alone(
    stage: SamplerStage, client: SqsClient, moto: Moto, mode: str
) -> None:
    place = await provisioned(client, moto.endpoint_url)
    pool, worker = Pool(stage, mode, current=2), Worker()
    stage.intervals[KEY] = 2.5
    reasons = []

    def is_decided(reading: Reading) -> bool:
        pool.decide(reading)
        reasons.append(pool.reason)
        return pool.current == 0 or reasons.count("EmptinessUnconfirmed") == 2

    async with AsyncExitStack() as stack:
        stage.pods[KEY] = [await worker.serve(stack)]
        stage.sampler.follow(KEY, place)
        while not is_decided(await stage.next(KEY)):
            assert pool.current == 2
        assert pool.current == 2
        worker.empty_for_seconds = 60.0
        await stage.until(KEY, lambda reading: pool.decide(reading) == 0)
    assert pool.reason == "Idle"


@pytest.mark.parametrize("workers", [1, 100])
async def test_however_many_workers_there_are_a_queue_is_counted_thirty_times_a_minute_at_most(
    stage: SamplerStage, client: SqsClient, proxy: AwsProxy, workers: int
) -> None:
    place = await provisioned(client, proxy.endpoint_url)
    async with AsyncExitStack() as stack:
        # All of them are the same process: it is who counts that is looked at.
        stage.pods[KEY] = [await Worker().serve(stack)] * workers
        stage.intervals[KEY] = 1.0
        await stage.sample(KEY, place)
        began, first = time.monotonic(), proxy.calls["GetQueueAttributes"]
        while proxy.calls["GetQueueAttributes"] < first + 3:
            await stage.next(KEY)
        counted_every_seconds = (time.monotonic() - began) / 3
    assert counted_every_seconds >= 60 / 28
    assert 60 / PACE.shortest_seconds + 60 / 30 <= 30, "with the dead letters"
    assert 60 / PACE.unscaled_seconds + 60 / 30 <= 30, "and while there are no workers"


async def test_a_region_that_is_away_costs_another_nothing(
    stage: SamplerStage, client: SqsClient, proxy: AwsProxy, moto: Moto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "COUNT_SECONDS", 0.5)
    monkeypatch.setattr(backlog, "ROUND_SECONDS", 1.0)
    place, other = await provisioned(client, proxy.endpoint_url), await provisioned(client, moto.endpoint_url)
    await stage.sample(KEY, place)
    proxy.slow(60, times=float("inf"))
    stage.intervals[OTHER] = 2.5
    await stage.sample(OTHER, other)
    for _ in range(3):
        assert (await stage.next(OTHER)).failure is None
    await stage.until(KEY, lambda reading: reading.failure is not None)
    proxy.heal()
    await stage.until(KEY, lambda reading: reading.failure is None, within_seconds=60)


async def test_what_one_queue_is_refused_is_told_of_it_and_heals(
    stage: SamplerStage, client: SqsClient, proxy: AwsProxy
) -> None:
    place, other = await provisioned(client, proxy.endpoint_url), await provisioned(client, proxy.endpoint_url)
    await stage.sample(OTHER, other)
    proxy.answer(403, "AccessDenied", "no", of=f"/{place.queue}", times=float("inf"))
    failure = await stage.failure(KEY, place)
    assert "sqs:GetQueueAttributes" in failure
    assert f"the backend doesn't tell the depth of queue {place.queue}" in failure
    assert (await stage.next(OTHER)).failure is None
    proxy.heal()
    await stage.until(KEY, lambda reading: reading.failure is None, within_seconds=60)


async def test_stopping_ends_counts_that_are_under_way(client: SqsClient, proxy: AwsProxy) -> None:
    place = await provisioned(client, proxy.endpoint_url)
    async with sampling() as stage:
        await stage.sample(KEY, place)
        proxy.slow(60, times=float("inf"))
        await eventually(lambda: proxy.under_way["GetQueueAttributes"] > 0, what="a count under way")
