"""Backends that do what no database can be made to do in a test: they stand in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from headrace_operator.core.model import ObjectKey, OperatorError, QueueDepth, TransientError
from headrace_operator.core.provider import CountTooLongError
from headrace_operator.metrics import OperatorMetrics
from headrace_operator.providers.postgres import PostgresProvider
from headrace_operator.sampling import questions
from support.sampling import SamplerStage, sampling

QUEUE = ObjectKey("shop", "thumbnails")


@dataclass(frozen=True)
class MemoryPlace:
    queue: str
    backend: str = "database"
    administration: str = "database"
    provider: str = "Memory"

    @property
    def label(self) -> str:
        return f"queue {self.queue}"


PLACE = MemoryPlace("thumbnails")


class StubbornBackend(PostgresProvider):
    """Answers what a test says."""

    name = "Memory"

    def __init__(self) -> None:
        self.answer: Callable[[], Awaitable[QueueDepth | OperatorError]] = self.well
        self.opened = 0
        self.questions: list[set[str]] = []
        self.ready: set[str] = set()
        self.on_news: Callable[[Any], None] = lambda _: None
        self.listening: set[MemoryPlace] = set()

    async def well(self) -> QueueDepth:
        return QueueDepth(ready=1)

    async def away(self) -> QueueDepth:
        raise TransientError("BackendUnreachable", "it is away")

    async def hang(self) -> QueueDepth:
        return await asyncio.Event().wait()  # type: ignore[return-value]

    async def break_off(self) -> QueueDepth:
        raise RuntimeError("nobody has thought of that")

    def open_backlog(self, _backend: Any, on_news: Callable[[Any], None]) -> Any:
        self.opened += 1
        self.on_news = on_news
        return self._open()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Any]:
        yield self

    async def depths(self, places: Collection[MemoryPlace]) -> dict[MemoryPlace, QueueDepth | OperatorError]:
        self.questions.append({place.queue for place in places})
        answer = await self.answer()
        return dict.fromkeys(places, answer)

    async def have_ready(self, places: Collection[MemoryPlace]) -> dict[MemoryPlace, bool]:
        return {place: place.queue in self.ready for place in places}

    async def listen(self, places: Collection[MemoryPlace]) -> Collection[MemoryPlace]:
        self.listening |= set(places)
        return places

    async def listen_no_more(self, places: Collection[MemoryPlace]) -> None:
        self.listening -= set(places)


@pytest.fixture
def backend() -> StubbornBackend:
    return StubbornBackend()


@pytest.fixture
async def stage(backend: StubbornBackend) -> AsyncIterator[SamplerStage]:
    async with sampling({"Memory": backend}) as opened:
        yield opened


async def test_a_backend_that_is_away_is_tried_at_once_where_something_was_changed(
    backend: StubbornBackend, stage: SamplerStage
) -> None:
    backend.answer = backend.away
    assert "it is away" in await stage.failure(QUEUE, PLACE)
    while len(backend.questions) < 4:
        seen = stage.readings
        await stage.until(QUEUE, lambda _, seen=seen: stage.readings > seen)  # type: ignore[misc]
    # Now it is left alone for seconds.
    backend.answer = backend.well
    stage.sampler.follow(ObjectKey("shop", "mails"), MemoryPlace("mails"))
    mended = await stage.until(ObjectKey("shop", "mails"), lambda reading: reading.current is not None)
    assert mended.current is not None
    assert len(backend.questions) == 5
    await stage.until(QUEUE, lambda reading: reading.current is not None)


async def test_whoever_is_followed_while_the_backend_is_left_alone_hears_that_it_is_away(
    backend: StubbornBackend, stage: SamplerStage
) -> None:
    backend.answer = backend.away
    await stage.failure(QUEUE, PLACE)
    asked = len(backend.questions)
    assert "it is away" in await stage.failure(ObjectKey("shop", "mails"), MemoryPlace("mails"))
    assert len(backend.questions) <= asked + 2


async def test_a_fault_of_ours_is_a_failure_of_that_backend_and_heals_by_itself(
    backend: StubbornBackend, stage: SamplerStage
) -> None:
    backend.answer = backend.break_off
    assert "RuntimeError" in await stage.failure(QUEUE, PLACE)
    backend.answer = backend.well
    await stage.until(QUEUE, lambda reading: reading.current is not None)
    assert backend.opened > 1, "it was opened anew"


async def test_a_question_that_never_ends_is_given_up(
    backend: StubbornBackend, stage: SamplerStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "_QUESTION_SECONDS", 0.1)
    backend.answer = backend.hang
    assert "did not answer in time" in await stage.failure(QUEUE, PLACE)
    backend.answer = backend.well
    await stage.until(QUEUE, lambda reading: reading.current is not None)


async def test_what_is_refused_of_one_queue_is_no_trouble_of_the_backend(
    backend: StubbornBackend, stage: SamplerStage
) -> None:
    async def refuse() -> OperatorError:
        return TransientError("DepthUnknown", "no such queue")

    backend.answer = refuse
    assert "no such queue" in await stage.failure(QUEUE, PLACE)
    assert backend.opened == 1


async def test_of_a_queue_that_can_not_be_counted_it_is_known_whether_there_is_anything(
    backend: StubbornBackend, stage: SamplerStage
) -> None:
    async def count_for_too_long() -> OperatorError:
        return CountTooLongError("DepthUnknown", "counting takes too long")

    backend.answer = count_for_too_long
    sample = await stage.sample(QUEUE, PLACE)
    assert (sample.depth.startable, sample.depth.is_lower_bound) == (0, True)
    backend.ready.add("thumbnails")
    backend.on_news(PLACE)
    woken = await stage.until(QUEUE, lambda reading: reading.current is not None and reading.current.depth.ready > 0)
    assert woken.current is not None
    assert (woken.current.depth.startable, woken.current.depth.is_lower_bound) == (1, True)
    assert len(backend.questions) == 1, "it is not counted again before long"


async def test_news_are_looked_at_in_one_question_for_a_burst(backend: StubbornBackend, stage: SamplerStage) -> None:
    backend.answer = nothing
    places = {ObjectKey("shop", f"queue-{number}"): MemoryPlace(f"queue-{number}") for number in range(50)}
    for key, place in places.items():
        stage.sampler.follow(key, place)
    for key in places:
        await stage.until(key, lambda reading: reading.current is not None)
    while len(backend.listening) < 50 or len(backend.questions) < 2:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    backend.questions.clear()
    backend.answer = backend.well
    for place in places.values():
        for _ in range(10):
            backend.on_news(place)
    for key in places:
        await stage.until(key, lambda reading: reading.current is not None and reading.current.depth.ready == 1)
    assert backend.questions == [{place.queue for place in places.values()}]
    while backend.listening:  # noqa: ASYNC110 - producers are to be told that nobody listens
        await asyncio.sleep(0.01)


async def nothing() -> QueueDepth:
    return QueueDepth()


def held(depth: QueueDepth) -> tuple[asyncio.Event, Callable[[], Awaitable[QueueDepth]]]:
    """An answer that comes when the event is set, and is as old as its question."""
    let_go = asyncio.Event()

    async def answer() -> QueueDepth:
        await let_go.wait()
        return depth

    return let_go, answer


async def until_asked(backend: StubbornBackend, times: int) -> None:
    while len(backend.questions) < times:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def test_of_jobs_that_come_while_their_queue_is_counted_nobody_hears_late(
    backend: StubbornBackend, stage: SamplerStage
) -> None:
    backend.answer = nothing
    await stage.sample(QUEUE, PLACE)
    await until_asked(backend, 2)
    let_go, backend.answer = held(QueueDepth())
    backend.on_news(PLACE)
    await until_asked(backend, 3)
    backend.on_news(PLACE)
    # News are gathered for half a second: by then the count is still under way.
    await asyncio.sleep(1)
    backend.answer = backend.well
    let_go.set()
    # Long before the queue would be counted without news.
    await stage.until(
        QUEUE, lambda reading: reading.current is not None and reading.current.depth.ready > 0, within_seconds=8
    )


async def test_of_a_queue_that_moved_within_a_backend_no_count_of_the_old_place_comes_in_late(
    backend: StubbornBackend, stage: SamplerStage
) -> None:
    let_go, backend.answer = held(QueueDepth(ready=99))
    stage.sampler.follow(ObjectKey("shop", "mails"), MemoryPlace("mails"))
    stage.sampler.follow(QUEUE, PLACE)
    await until_asked(backend, 1)
    stage.sampler.follow(QUEUE, MemoryPlace("elsewhere"))
    backend.answer = nothing
    let_go.set()
    read = await stage.until(QUEUE, lambda reading: reading.sample is not None)
    assert read.sample is not None
    assert read.sample.depth.ready == 0


async def test_a_queue_that_is_followed_no_more_is_listened_to_no_more(
    backend: StubbornBackend, stage: SamplerStage
) -> None:
    backend.answer = nothing
    mails = MemoryPlace("mails")
    await stage.sample(QUEUE, PLACE)
    await stage.sample(ObjectKey("shop", "mails"), mails)
    async with asyncio.timeout(10):
        while backend.listening != {PLACE, mails}:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        stage.sampler.forget(QUEUE)
        backend.on_news(mails)
        while backend.listening != {mails}:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_backend_that_breaks_off_while_it_is_left_is_left_nevertheless(backend: StubbornBackend) -> None:
    @asynccontextmanager
    async def open_badly() -> AsyncIterator[Any]:
        try:
            yield backend
        finally:
            raise RuntimeError("nobody has thought of that")

    backend._open = open_badly  # type: ignore[method-assign]
    async with asyncio.timeout(10), sampling({"Memory": backend}) as stage:
        await stage.sample(QUEUE, PLACE)


async def test_metrics_tell_how_many_backends_are_away(backend: StubbornBackend) -> None:
    metrics = OperatorMetrics(SamplerStage({}).observations)
    get = metrics.registry.get_sample_value
    async with sampling({"Memory": backend}, observer=metrics) as stage:
        await stage.sample(QUEUE, PLACE)
        assert get("headrace_operator_backends", {"state": "Answering"}) == 1
        backend.answer = backend.away
        await stage.failure(ObjectKey("shop", "mails"), MemoryPlace("mails"))
        assert get("headrace_operator_backends", {"state": "Answering"}) == 0
        assert get("headrace_operator_backends", {"state": "Away"}) == 1
        assert get("headrace_operator_samples_total", {"source": "Backend", "outcome": "succeeded"}) == 1
        assert (get("headrace_operator_samples_total", {"source": "Backend", "outcome": "failed"}) or 0) >= 1
        assert (get("headrace_operator_backend_question_seconds_count", {"outcome": "failed"}) or 0) >= 1
    assert get("headrace_operator_backends", {"state": "Away"}) == 0
