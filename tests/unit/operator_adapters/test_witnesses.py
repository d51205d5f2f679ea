"""Queues that the operator alone counts, and what workers say beside it: real HTTP servers, a backend in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from headrace_operator.core.model import ObjectKey, OperatorError, QueueDepth, SampleSource, WorkerPod
from headrace_operator.core.provider import Pace
from headrace_operator.providers.postgres import PostgresProvider
from support.sampling import SamplerStage, sampling

QUEUE = ObjectKey("shop", "thumbnails")
IDLE_SECONDS = 35.0


@dataclass(frozen=True)
class CountedPlace:
    queue: str = "thumbnails"
    backend: str = "service"
    administration: str = "service"
    provider: str = "Counted"

    @property
    def label(self) -> str:
        return f"queue {self.queue}"


class CountedBackend(PostgresProvider):
    """A service whose counts are approximate, each for its price."""

    name = "Counted"
    pace = Pace(workers_count=False, unscaled_seconds=0.05, gathers=False)

    def __init__(self) -> None:
        self.depth = QueueDepth(is_approximate=True)
        self.counts = 0

    def open_backlog(self, _backend: Any, _on_news: Any) -> Any:
        return self._open()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Any]:
        yield self

    async def depths(self, places: Collection[CountedPlace]) -> dict[CountedPlace, QueueDepth | OperatorError]:
        self.counts += 1
        return dict.fromkeys(places, self.depth)

    async def listen(self, _places: Collection[CountedPlace]) -> Collection[CountedPlace]:
        return ()

    async def listen_no_more(self, _places: Collection[CountedPlace]) -> None:
        pass


class Crew:
    """Worker pods of the queue, each with what it says."""

    def __init__(self, stage: SamplerStage, stack: AsyncExitStack) -> None:
        self._stage = stage
        self._stack = stack
        self.asked: list[int] = []
        """Which of them was asked, in order."""
        self.most_at_once = 0
        self._at_once = 0

    async def add(
        self,
        *,
        held: int = 0,
        empty_for: float | None = IDLE_SECONDS,
        age: float = 0.0,
        ready: bool = True,
        answers: bool = True,
    ) -> None:
        number = len(self._stage.pods.setdefault(QUEUE, []))
        line = {"namespace": QUEUE.namespace, "queue": QUEUE.name, "held": held}
        said = json.dumps([{**line, "empty_for_seconds": empty_for, "oldest_age_seconds": age}])

        async def depth(_request: web.Request) -> web.StreamResponse:
            self.asked.append(number)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            try:
                await asyncio.sleep(0.01)
                return web.Response(text=said) if answers else web.Response(status=500)
            finally:
                self._at_once -= 1

        app = web.Application()
        app.router.add_get("/depth", depth)
        server = await self._stack.enter_async_context(TestServer(app))
        address = f"http://127.0.0.1:{server.port}"
        self._stage.pods[QUEUE].append(WorkerPod(name=f"worker-{number}", address=address, ready=ready))


@pytest.fixture
def backend() -> CountedBackend:
    return CountedBackend()


@pytest.fixture
async def stage(backend: CountedBackend) -> AsyncIterator[SamplerStage]:
    async with sampling({"Counted": backend}) as opened:
        opened.intervals[QUEUE] = 0.05
        yield opened


@pytest.fixture
async def crew(stage: SamplerStage) -> AsyncIterator[Crew]:
    async with AsyncExitStack() as stack:
        yield Crew(stage, stack)


async def read(stage: SamplerStage) -> QueueDepth:
    sample = await stage.sample(QUEUE, CountedPlace())
    assert sample.source is SampleSource.BACKEND
    return sample.depth


async def test_a_zero_is_known_once_all_ready_workers_have_said_so(stage: SamplerStage, crew: Crew) -> None:
    await crew.add(empty_for=50)
    await crew.add(empty_for=40)
    await crew.add(ready=False, held=3)
    depth = await read(stage)
    assert depth.is_known_empty
    assert depth.witness is not None
    assert (depth.witness.asked, depth.witness.empty_for_seconds) == (2, 40)


@pytest.mark.parametrize("trouble", [{"answers": False}, {"empty_for": None}, {"held": 1}])
async def test_one_that_does_not_say_so_leaves_it_unknown(
    stage: SamplerStage, crew: Crew, trouble: dict[str, Any]
) -> None:
    await crew.add()
    await crew.add(**trouble)
    assert not (await read(stage)).is_known_empty


async def test_a_ready_worker_without_an_address_can_not_say_so(stage: SamplerStage, crew: Crew) -> None:
    await crew.add()
    stage.pods[QUEUE].append(WorkerPod(name="no-ip", address=None, ready=True))
    assert not (await read(stage)).is_known_empty


async def test_what_workers_hold_is_in_flight(stage: SamplerStage, crew: Crew) -> None:
    await crew.add(held=2)
    await crew.add(held=3)
    assert (await read(stage)).in_flight == 5


async def test_of_a_hundred_all_are_asked_but_only_eight_at_a_time(stage: SamplerStage, crew: Crew) -> None:
    for _ in range(100):
        await crew.add()
    assert (await read(stage)).is_known_empty
    assert sorted(crew.asked[:100]) == list(range(100))
    assert crew.most_at_once <= 8


async def test_while_there_is_something_to_do_a_few_are_asked_how_old_it_is(
    stage: SamplerStage, crew: Crew, backend: CountedBackend
) -> None:
    backend.depth = QueueDepth(ready=9, is_approximate=True)
    stage.intervals[QUEUE] = 3600
    for _ in range(10):
        await crew.add(age=12.5)
    depth = await read(stage)
    assert depth.oldest_ready_age_seconds == 12.5
    assert len(crew.asked) == 3


async def test_of_a_queue_without_workers_the_count_is_enough(stage: SamplerStage, crew: Crew) -> None:
    await crew.add()
    stage.intervals[QUEUE] = None
    depth = await read(stage)
    assert depth.witness is None
    assert not crew.asked


async def test_workers_are_never_asked_to_count(stage: SamplerStage, crew: Crew, backend: CountedBackend) -> None:
    await crew.add()
    backend.depth = QueueDepth(ready=4, is_approximate=True)
    assert (await read(stage)).ready == 4


async def test_an_exact_count_needs_no_witness(stage: SamplerStage, crew: Crew, backend: CountedBackend) -> None:
    await crew.add(held=5)
    backend.depth = QueueDepth()
    depth = await read(stage)
    assert depth.is_known_empty
    assert not crew.asked


async def test_workers_that_do_not_answer_hold_up_no_other_queue_and_are_left_alone_for_a_while(
    stage: SamplerStage, crew: Crew, backend: CountedBackend
) -> None:
    await crew.add(answers=False)
    assert not (await read(stage)).is_known_empty
    counts = backend.counts
    await stage.until(QUEUE, lambda _: backend.counts > counts + 3)
    assert len(crew.asked) == 1


async def test_it_is_news_when_workers_confirm_what_was_counted(stage: SamplerStage, crew: Crew) -> None:
    await crew.add(empty_for=None)
    await read(stage)
    news = len(stage.news)
    stage.pods[QUEUE].clear()
    await crew.add()
    await stage.until(QUEUE, lambda reading: reading.sample is not None and reading.sample.depth.is_known_empty)
    assert stage.news[news:] == [(QUEUE, False)]
