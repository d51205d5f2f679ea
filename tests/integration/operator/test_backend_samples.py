"""Samples read from a real PostgreSQL, where no worker publishes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import asyncpg
import pytest

from headrace.job import NewJob
from headrace.queues.postgres import Place, PostgresQueue
from headrace_operator.core.model import (
    ObjectKey,
    QueueDepth,
    SampleSource,
    TransientError,
    WorkerPod,
)
from headrace_operator.core.provider import QueueOwner
from headrace_operator.providers import PROVIDERS
from headrace_operator.providers.postgres.place import PostgresBackend, PostgresPlace
from headrace_operator.sampling import Sampler
from support.postgres import PostgresServer

APPLICATION_NAME = "headrace-backlog"


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


@pytest.fixture
async def sampler() -> AsyncIterator[Sampler]:
    async with Sampler(SystemClock(), PROVIDERS) as opened:
        yield opened


async def provisioned(dsn: str, queue: str) -> PostgresPlace:
    place = PostgresPlace(backend=PostgresBackend(dsn=dsn), schema="headrace", queue=queue)
    owner = QueueOwner(namespace="shop", name=queue, uid="uid-1")
    await PROVIDERS["Postgres"].provision(place, owner, {}, lambda _: None)
    return place


async def enqueue(place: PostgresPlace, *jobs: NewJob) -> None:
    async with PostgresQueue(Place(dsn=place.backend.dsn, schema=place.schema), place.queue) as queue:
        await queue.enqueue(jobs)


async def connections(dsn: str) -> int:
    observer = await asyncpg.connect(dsn)
    try:
        return int(
            await observer.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database()",
                APPLICATION_NAME,
            )
        )
    finally:
        await observer.close()


async def test_without_workers_the_backend_tells_the_depth(database_dsn: str, sampler: Sampler) -> None:
    place = await provisioned(database_dsn, "thumbnails")
    await enqueue(place, NewJob(), NewJob(), NewJob(delay_seconds=3600))
    sample = await sampler.sample(ObjectKey("shop", "thumbnails"), place, [], max_age_seconds=0)
    assert sample.source is SampleSource.BACKEND
    assert (sample.depth.ready, sample.depth.delayed, sample.depth.in_flight) == (2, 1, 0)


async def test_workers_that_do_not_answer_are_as_good_as_none(database_dsn: str, sampler: Sampler) -> None:
    place = await provisioned(database_dsn, "thumbnails")
    gone = WorkerPod(name="gone", address="http://127.0.0.1:1", ready=True)
    sample = await sampler.sample(ObjectKey("shop", "thumbnails"), place, [gone], max_age_seconds=0)
    assert (sample.source, sample.depth) == (SampleSource.BACKEND, QueueDepth(arrived=0))


async def test_many_queues_of_one_database_share_one_connection(database_dsn: str, sampler: Sampler) -> None:
    names = [f"queue-{number}" for number in range(10)]
    places = [await provisioned(database_dsn, name) for name in names]
    for number, place in enumerate(places):
        await enqueue(place, *[NewJob()] * (number + 1))
    samples = await asyncio.gather(
        *(
            sampler.sample(ObjectKey("shop", name), place, [], max_age_seconds=0)
            for name, place in zip(names, places, strict=True)
        )
    )
    assert [sample.depth.ready for sample in samples] == list(range(1, 11))
    assert await connections(database_dsn) == 1


async def test_the_connections_are_closed_with_the_sampler(database_dsn: str) -> None:
    place = await provisioned(database_dsn, "thumbnails")
    async with Sampler(SystemClock(), PROVIDERS) as sampler:
        await sampler.sample(ObjectKey("shop", "thumbnails"), place, [], max_age_seconds=0)
        assert await connections(database_dsn) == 1
    assert await connections(database_dsn) == 0


async def test_a_queue_that_does_not_exist_is_unknown_and_not_empty(database_dsn: str, sampler: Sampler) -> None:
    place = await provisioned(database_dsn, "thumbnails")
    missing = PostgresPlace(backend=place.backend, schema=place.schema, queue="mails")
    with pytest.raises(TransientError, match="no such queue") as unknown:
        await sampler.sample(ObjectKey("shop", "mails"), missing, [], max_age_seconds=0)
    assert unknown.value.reason == "DepthUnknown"


async def test_a_schema_that_does_not_exist_is_unknown_and_not_empty(database_dsn: str, sampler: Sampler) -> None:
    place = PostgresPlace(backend=PostgresBackend(dsn=database_dsn), schema="headrace", queue="mails")
    with pytest.raises(TransientError, match="holds no queues") as unknown:
        await sampler.sample(ObjectKey("shop", "mails"), place, [], max_age_seconds=0)
    assert unknown.value.reason == "DepthUnknown"


async def test_a_database_that_went_away_is_unknown_until_it_is_back(
    own_postgres: PostgresServer, sampler: Sampler
) -> None:
    place = await provisioned(own_postgres.dsn, "thumbnails")
    await enqueue(place, NewJob())
    key = ObjectKey("shop", "thumbnails")
    assert (await sampler.sample(key, place, [], max_age_seconds=0)).depth.ready == 1
    await asyncio.to_thread(own_postgres.stop)
    with pytest.raises(TransientError) as unknown:
        await sampler.sample(key, place, [], max_age_seconds=0)
    assert unknown.value.reason == "DepthUnknown"
    await asyncio.to_thread(own_postgres.start)
    assert (await sampler.sample(key, place, [], max_age_seconds=0)).depth.ready == 1
