"""The sampler before real HTTP servers that answer as workers do; reading a backend is for the integration tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from headrace_operator.core.model import (
    ObjectKey,
    Sample,
    SampleSource,
    TransientError,
    WorkerPod,
)
from headrace_operator.providers import PROVIDERS
from headrace_operator.providers.postgres.place import PostgresBackend, PostgresPlace
from headrace_operator.sampling import Sampler

QUEUE = ObjectKey("shop", "thumbnails")

# Port 1 is nobody's: a connection is refused at once.
NOWHERE = PostgresPlace(
    backend=PostgresBackend(dsn="postgresql://someone:s3cret-word@127.0.0.1:1/shop"),
    schema="headrace",
    queue="thumbnails",
)


class SetClock:
    def __init__(self) -> None:
        self.time = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time


def page(ready: int, in_flight: int = 0) -> str:
    labels = f'{{namespace="{QUEUE.namespace}",queue="{QUEUE.name}"}}'
    return (
        f"background_jobs_queue_depth{labels} {ready}\n"
        f"background_jobs_queue_blocked{labels} 0\n"
        f"background_jobs_queue_delayed{labels} 0\n"
        f"background_jobs_queue_in_flight{labels} {in_flight}\n"
        f"background_jobs_queue_dead_lettered{labels} 0\n"
        f"background_jobs_queue_oldest_age_seconds{labels} 0.5\n"
        f"background_jobs_queue_paused{labels} 0\n"
        f"background_jobs_queue_depth_is_lower_bound{labels} 0\n"
    )


@asynccontextmanager
async def worker(answer: Callable[[], Awaitable[web.Response]], *, ready: bool = True) -> AsyncIterator[WorkerPod]:
    async def metrics(_request: web.Request) -> web.Response:
        return await answer()

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    async with TestServer(app) as server:
        yield WorkerPod(name=f"worker-{server.port}", address=f"http://127.0.0.1:{server.port}", ready=ready)


def publishing(ready: int, in_flight: int = 0) -> Callable[[], Awaitable[web.Response]]:
    async def answer() -> web.Response:
        return web.Response(text=page(ready, in_flight))

    return answer


async def failing() -> web.Response:
    return web.Response(status=500, text=page(99))


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
async def sampler(clock: SetClock) -> AsyncIterator[Sampler]:
    async with Sampler(clock, PROVIDERS) as opened:
        yield opened


async def test_the_depth_comes_from_what_a_worker_publishes(sampler: Sampler, clock: SetClock) -> None:
    async with worker(publishing(12, in_flight=3)) as pod:
        sample = await sampler.sample(QUEUE, NOWHERE, [pod], max_age_seconds=0)
    assert sample.source is SampleSource.WORKERS
    assert (sample.depth.ready, sample.depth.in_flight, sample.depth.load) == (12, 3, 15)
    assert sample.sampled_at == clock.time


async def test_of_several_workers_the_greatest_load_counts(sampler: Sampler) -> None:
    async with worker(publishing(1, 1)) as one, worker(publishing(5, 4)) as two, worker(publishing(8)) as three:
        sample = await sampler.sample(QUEUE, NOWHERE, [one, two, three], max_age_seconds=0)
    assert (sample.depth.ready, sample.depth.in_flight) == (5, 4)


async def test_at_most_three_ready_workers_are_asked(sampler: Sampler) -> None:
    async with (
        worker(publishing(100), ready=False) as unready,
        worker(publishing(1)) as one,
        worker(publishing(2)) as two,
        worker(publishing(3)) as three,
        worker(publishing(100)) as fourth,
    ):
        pods = [unready, WorkerPod(name="no-ip", address=None, ready=True), one, two, three, fourth]
        sample = await sampler.sample(QUEUE, NOWHERE, pods, max_age_seconds=0)
    assert sample.depth.ready == 3


async def test_a_worker_that_fails_does_not_hide_one_that_answers(sampler: Sampler) -> None:
    async with worker(failing) as broken, worker(publishing(4)) as healthy:
        sample = await sampler.sample(QUEUE, NOWHERE, [broken, healthy], max_age_seconds=0)
    assert sample.depth.ready == 4


async def test_a_worker_is_not_followed_elsewhere(sampler: Sampler) -> None:
    async with worker(publishing(4)) as target:

        async def redirecting() -> web.Response:
            return web.Response(status=302, headers={"Location": f"{target.address}/metrics"})

        async with worker(redirecting) as pod:
            with pytest.raises(TransientError):
                await sampler.sample(QUEUE, NOWHERE, [pod], max_age_seconds=0)


async def test_a_page_without_end_is_given_up(sampler: Sampler) -> None:
    async def endless() -> web.Response:
        return web.Response(text=page(4) + "# more\n" * 500_000)

    async with worker(endless) as pod:
        with pytest.raises(TransientError):
            await sampler.sample(QUEUE, NOWHERE, [pod], max_age_seconds=0)


async def test_unknown_is_an_error_that_names_the_cause_and_no_secret(sampler: Sampler) -> None:
    async with worker(failing) as pod:
        with pytest.raises(TransientError) as unknown:
            await sampler.sample(QUEUE, NOWHERE, [pod], max_age_seconds=0)
    assert unknown.value.reason == "DepthUnknown"
    assert "can't be reached" in unknown.value.message
    assert "s3cret-word" not in unknown.value.message


async def test_concurrent_callers_share_one_reading(sampler: Sampler) -> None:
    asked = 0
    everybody_waits, may_answer = asyncio.Event(), asyncio.Event()

    async def slow() -> web.Response:
        nonlocal asked
        asked += 1
        everybody_waits.set()
        await may_answer.wait()
        return web.Response(text=page(7))

    async with worker(slow) as pod:
        callers = [asyncio.create_task(sampler.sample(QUEUE, NOWHERE, [pod], max_age_seconds=0)) for _ in range(5)]
        await everybody_waits.wait()
        may_answer.set()
        samples = await asyncio.gather(*callers)
    assert asked == 1
    assert all(sample is samples[0] for sample in samples)


async def test_a_caller_that_gives_up_does_not_stop_the_others(sampler: Sampler) -> None:
    under_way, may_answer = asyncio.Event(), asyncio.Event()

    async def slow() -> web.Response:
        under_way.set()
        await may_answer.wait()
        return web.Response(text=page(7))

    async with worker(slow) as pod:
        impatient, patient = (
            asyncio.create_task(sampler.sample(QUEUE, NOWHERE, [pod], max_age_seconds=0)) for _ in range(2)
        )
        await under_way.wait()
        impatient.cancel()
        await asyncio.wait([impatient])
        may_answer.set()
        assert (await patient).depth.ready == 7


async def read_twice(sampler: Sampler, clock: SetClock, *, later: PostgresPlace, after_seconds: float) -> list[Sample]:
    depths = iter([1, 2])

    async def counting() -> web.Response:
        return web.Response(text=page(next(depths)))

    async with worker(counting) as pod:
        first = await sampler.sample(QUEUE, NOWHERE, [pod], max_age_seconds=5)
        clock.time += timedelta(seconds=after_seconds)
        second = await sampler.sample(QUEUE, later, [pod], max_age_seconds=5)
    return [first, second]


async def test_a_sample_young_enough_is_used_again(sampler: Sampler, clock: SetClock) -> None:
    first, second = await read_twice(sampler, clock, later=NOWHERE, after_seconds=5)
    assert second is first


async def test_a_sample_too_old_is_taken_anew(sampler: Sampler, clock: SetClock) -> None:
    _, second = await read_twice(sampler, clock, later=NOWHERE, after_seconds=5.001)
    assert second.depth.ready == 2


async def test_a_sample_of_another_place_is_none_of_this_one(sampler: Sampler, clock: SetClock) -> None:
    moved = PostgresPlace(backend=NOWHERE.backend, schema="other", queue=NOWHERE.queue)
    _, second = await read_twice(sampler, clock, later=moved, after_seconds=0)
    assert second.depth.ready == 2


async def test_a_failure_is_not_remembered(sampler: Sampler) -> None:
    with pytest.raises(TransientError):
        await sampler.sample(QUEUE, NOWHERE, [], max_age_seconds=60)
    async with worker(publishing(4)) as pod:
        sample = await sampler.sample(QUEUE, NOWHERE, [pod], max_age_seconds=60)
    assert sample.depth.ready == 4


async def test_stopping_ends_readings_that_are_under_way(clock: SetClock) -> None:
    under_way = asyncio.Event()

    async def never() -> web.Response:
        under_way.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with worker(never) as pod:
        async with Sampler(clock, PROVIDERS) as sampler:
            caller = asyncio.create_task(sampler.sample(QUEUE, NOWHERE, [pod], max_age_seconds=0))
            await under_way.wait()
        with pytest.raises(asyncio.CancelledError):
            await caller
