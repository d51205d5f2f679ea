"""The sampler before real HTTP servers that answer as workers do; reading a backend is for the integration tests."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from headrace_operator.core.model import ObjectKey, SampleSource, WorkerPod
from headrace_operator.providers.postgres.place import PostgresBackend, PostgresPlace
from headrace_operator.sampling.sampler import NoObserver
from support.sampling import SamplerStage, sampling

QUEUE = ObjectKey("shop", "thumbnails")

# Port 1 is nobody's: a connection is refused at once.
NOWHERE = PostgresPlace(
    backend=PostgresBackend(dsn="postgresql://someone:s3cret-word@127.0.0.1:1/shop"),
    schema="headrace",
    queue="thumbnails",
)


def page(ready: int, in_flight: int = 0, *, age_seconds: float = 0.0, queue: ObjectKey = QUEUE) -> str:
    line: dict[str, Any] = {
        "namespace": queue.namespace,
        "queue": queue.name,
        "age_seconds": age_seconds,
        "ready": ready,
        "in_flight": in_flight,
        "next_due_seconds": None,
        "paused": False,
        "is_lower_bound": False,
    }
    zeros = ("blocked", "delayed", "in_flight_seconds", "dead_lettered", "oldest_ready_age_seconds")
    totals = ("arrived", "completed", "failed", "service_seconds")
    return json.dumps([{**line, **dict.fromkeys(zeros, 0), **dict.fromkeys(totals)}])


@asynccontextmanager
async def worker(
    answer: Callable[[], Awaitable[web.StreamResponse]], *, ready: bool = True
) -> AsyncIterator[WorkerPod]:
    async def depth(_request: web.Request) -> web.StreamResponse:
        return await answer()

    app = web.Application()
    app.router.add_get("/depth", depth)
    async with TestServer(app) as server:
        yield WorkerPod(name=f"worker-{server.port}", address=f"http://127.0.0.1:{server.port}", ready=ready)


def publishing(ready: int, in_flight: int = 0, **more: Any) -> Callable[[], Awaitable[web.StreamResponse]]:
    async def answer() -> web.StreamResponse:
        return web.Response(text=page(ready, in_flight, **more))

    return answer


async def failing() -> web.StreamResponse:
    return web.Response(status=500, text=page(99))


async def hanging() -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.fixture
async def stage() -> AsyncIterator[SamplerStage]:
    async with sampling() as opened:
        yield opened


async def test_the_depth_comes_from_what_a_worker_publishes(stage: SamplerStage) -> None:
    async with worker(publishing(12, in_flight=3, age_seconds=4)) as pod:
        stage.pods[QUEUE] = [pod]
        asked_at = stage.clock.now()
        sample = await stage.sample(QUEUE, NOWHERE)
    assert sample.source is SampleSource.WORKERS
    assert (sample.depth.ready, sample.depth.in_flight, sample.depth.load) == (12, 3, 15)
    assert (sample.sampled_at - asked_at).total_seconds() == pytest.approx(-4, abs=1), "it is as old as the count"


async def test_the_first_fresh_answer_is_enough(stage: SamplerStage) -> None:
    asked = []

    async def counting() -> web.StreamResponse:
        asked.append(1)
        return web.Response(text=page(2))

    async with worker(publishing(1)) as one, worker(counting) as two:
        stage.pods[QUEUE] = [one, two]
        assert (await stage.sample(QUEUE, NOWHERE)).depth.ready == 1
    assert not asked


async def test_a_count_that_is_too_old_is_none_and_another_worker_is_asked(stage: SamplerStage) -> None:
    async with worker(publishing(1, age_seconds=16)) as old, worker(publishing(2, age_seconds=14)) as fresh:
        stage.pods[QUEUE] = [old, fresh]
        assert (await stage.sample(QUEUE, NOWHERE)).depth.ready == 2


async def test_at_most_three_ready_workers_are_asked(stage: SamplerStage) -> None:
    async with (
        worker(publishing(100), ready=False) as unready,
        worker(failing) as one,
        worker(failing) as two,
        worker(failing) as three,
        worker(publishing(100)) as fourth,
    ):
        stage.pods[QUEUE] = [unready, WorkerPod(name="no-ip", address=None, ready=True), one, two, three, fourth]
        assert "can't be reached" in await stage.failure(QUEUE, NOWHERE)


@pytest.mark.parametrize("broken", [failing, hanging])
async def test_a_worker_that_does_not_answer_does_not_hide_one_that_does(
    stage: SamplerStage, broken: Callable[[], Awaitable[web.StreamResponse]]
) -> None:
    async with worker(broken) as silent, worker(publishing(4)) as healthy:
        stage.pods[QUEUE] = [silent, healthy]
        assert (await stage.sample(QUEUE, NOWHERE)).depth.ready == 4


async def test_whoever_answered_is_asked_first_the_next_time(stage: SamplerStage) -> None:
    asked = []

    async def counting() -> web.StreamResponse:
        asked.append(1)
        return web.Response(status=500)

    async with worker(counting) as broken, worker(publishing(4)) as healthy:
        stage.pods[QUEUE] = [broken, healthy]
        stage.intervals[QUEUE] = 0.1
        first = await stage.sample(QUEUE, NOWHERE)
        await stage.until(QUEUE, lambda reading: reading.sample is not None and reading.sample is not first)
    assert len(asked) == 1


async def test_a_worker_is_not_followed_elsewhere(stage: SamplerStage) -> None:
    async with worker(publishing(4)) as target:

        async def redirecting() -> web.StreamResponse:
            return web.Response(status=302, headers={"Location": f"{target.address}/depth"})

        async with worker(redirecting) as pod:
            stage.pods[QUEUE] = [pod]
            assert "can't be reached" in await stage.failure(QUEUE, NOWHERE)


async def test_a_page_without_end_is_given_up(stage: SamplerStage) -> None:
    async def long() -> web.StreamResponse:
        return web.Response(text=page(4) + " " * 100_000)

    async with worker(long) as pod:
        stage.pods[QUEUE] = [pod]
        assert "can't be reached" in await stage.failure(QUEUE, NOWHERE)


async def test_what_unfolds_to_more_than_it_seems_is_not_unfolded(stage: SamplerStage) -> None:
    async def bomb() -> web.StreamResponse:
        content = gzip.compress(page(4).encode() + b" " * 50_000_000)
        return web.Response(body=content, headers={"Content-Encoding": "gzip"})

    async with worker(bomb) as pod:
        stage.pods[QUEUE] = [pod]
        assert "can't be reached" in await stage.failure(QUEUE, NOWHERE)


async def test_unknown_is_an_error_that_names_the_cause_and_no_secret(stage: SamplerStage) -> None:
    async with worker(failing) as pod:
        stage.pods[QUEUE] = [pod]
        message = await stage.failure(QUEUE, NOWHERE)
    assert message.startswith("BackendUnreachable: no worker publishes the depth of queue thumbnails in schema")
    assert "can't be reached" in message
    assert "s3cret-word" not in message


async def test_pods_of_one_namespace_that_hang_cost_another_nothing(stage: SamplerStage) -> None:
    async with worker(hanging) as silent, worker(publishing(4)) as pod:
        crowd = [ObjectKey("crowd", f"queue-{number}") for number in range(100)]
        for queue in crowd:
            stage.pods[queue] = [silent]
            stage.sampler.follow(queue, NOWHERE)
        stage.pods[QUEUE] = [pod]
        assert (await stage.sample(QUEUE, NOWHERE)).depth.ready == 4
        assert not any(stage.sampler.reading(queue) for queue in crowd), "they are still waited for"


async def test_workers_that_did_not_answer_are_left_alone_until_there_are_others(stage: SamplerStage) -> None:
    asked = []

    async def counting() -> web.StreamResponse:
        asked.append(1)
        return web.Response(status=500)

    async with worker(counting) as broken, worker(publishing(4)) as healthy:
        stage.pods[QUEUE] = [broken]
        await stage.failure(QUEUE, NOWHERE)
        seen = stage.sampler.reading(QUEUE)
        await stage.until(QUEUE, lambda reading: reading is not seen)
        assert len(asked) == 1
        stage.pods[QUEUE] = [broken, healthy]
        await stage.until(QUEUE, lambda reading: reading.current is not None)


async def test_only_what_a_decision_reads_is_news(stage: SamplerStage) -> None:
    depths = iter([(0, 0), (0, 0), (5, 0), (5, 0), (4, 1), (4, 0), (0, 0)])

    async def changing() -> web.StreamResponse:
        return web.Response(text=page(*next(depths, (0, 0))))

    async with worker(changing) as pod:
        stage.pods[QUEUE] = [pod]
        stage.intervals[QUEUE] = 0.05
        await stage.sample(QUEUE, NOWHERE)
        await stage.until(QUEUE, lambda _: len(stage.news) == 5)
    assert [is_urgent for _, is_urgent in stage.news] == [True, True, False, False, True]


async def test_a_fault_of_ours_with_what_a_worker_tells_does_not_end_its_reading() -> None:
    class FaultyOnce(NoObserver):
        is_faulty = True

        def sampled(self, *_: object) -> None:
            if self.is_faulty:
                self.is_faulty = False
                raise RuntimeError("nobody has thought of that")

    async with worker(publishing(4)) as pod, sampling(observer=FaultyOnce()) as stage:
        stage.pods[QUEUE] = [pod]
        assert (await stage.sample(QUEUE, NOWHERE)).depth.ready == 4


async def test_stopping_ends_readings_that_are_under_way() -> None:
    under_way = asyncio.Event()

    async def never() -> web.StreamResponse:
        under_way.set()
        return await hanging()

    async with worker(never) as pod, sampling() as stage:
        stage.pods[QUEUE] = [pod]
        stage.sampler.follow(QUEUE, NOWHERE)
        await under_way.wait()
    assert stage.sampler.reading(QUEUE) is None
