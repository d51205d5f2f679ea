"""Samples read from a real PostgreSQL, where no worker publishes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace

import asyncpg
import pytest

from headrace.job import NewJob
from headrace.queues.postgres import Place, PostgresQueue
from headrace_operator.core.model import ObjectKey, OperatorError, QueueDepth, Reading, SampleSource, WorkerPod
from headrace_operator.core.provider import CountTooLongError, QueueOwner
from headrace_operator.providers import PROVIDERS
from headrace_operator.providers.postgres import backlog as backlog_reader
from headrace_operator.providers.postgres.place import PostgresBackend, PostgresPlace
from support.pooler import running_pooler
from support.postgres import PostgresServer
from support.sampling import SamplerStage, sampling
from support.worker_process import eventually

KEY = ObjectKey("shop", "thumbnails")

SOON = 10
"""Less than `schedule.SLEEPING_SECONDS`: what comes within it did not come by the next round."""


@pytest.fixture
async def stage() -> AsyncIterator[SamplerStage]:
    async with sampling() as opened:
        yield opened


async def provisioned(dsn: str, queue: str = KEY.name, schema: str = "headrace") -> PostgresPlace:
    place = PostgresPlace(backend=PostgresBackend(dsn=dsn), schema=schema, queue=queue)
    owner = QueueOwner(namespace="shop", name=queue, uid="uid-1")
    async with PROVIDERS["Postgres"].open_provisioner() as provisioner:
        await provisioner.provision(place, owner, {}, lambda _: None)
    return place


async def enqueue(place: PostgresPlace, *jobs: NewJob) -> None:
    async with PostgresQueue(Place(dsn=place.backend.dsn, schema=place.schema), place.queue) as queue:
        await queue.enqueue(jobs)


@asynccontextmanager
async def observing(dsn: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    observer = await asyncpg.connect(dsn)
    try:
        yield observer
    finally:
        await observer.close()


async def connections(dsn: str) -> int:
    async with observing(dsn) as observer:
        return int(
            await observer.fetchval(
                "SELECT count(*) FROM pg_stat_activity "
                "WHERE application_name = 'headrace-backlog' AND datname = current_database()"
            )
        )


async def until_flagged(dsn: str, number: int) -> None:
    """Wait until so many sessions want to be told of new jobs."""
    async with observing(dsn) as observer, asyncio.timeout(30):
        while await observer.fetchval("SELECT count(*) FROM headrace.waiters") != number:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_without_workers_the_backend_tells_the_depth(database_dsn: str, stage: SamplerStage) -> None:
    place = await provisioned(database_dsn)
    await enqueue(place, NewJob(), NewJob(), NewJob(delay_seconds=3600))
    sample = await stage.sample(KEY, place)
    assert sample.source is SampleSource.BACKEND
    assert (sample.depth.ready, sample.depth.delayed, sample.depth.in_flight) == (2, 1, 0)
    assert sample.depth.arrived == 3
    assert sample.depth.next_due_seconds == pytest.approx(3600, abs=60)


async def test_workers_that_do_not_answer_are_as_good_as_none(database_dsn: str, stage: SamplerStage) -> None:
    place = await provisioned(database_dsn)
    stage.pods[KEY] = [WorkerPod(name="gone", address="http://127.0.0.1:1", ready=True)]
    sample = await stage.sample(KEY, place)
    nothing = QueueDepth(arrived=0, completed=0, failed=0, service_seconds=0)
    assert (sample.source, sample.depth) == (SampleSource.BACKEND, nothing)


async def test_all_queues_of_a_database_in_whatever_schema_share_one_connection(
    database_dsn: str, stage: SamplerStage
) -> None:
    places = {
        ObjectKey("shop", f"queue-{number}"): await provisioned(
            database_dsn, f"queue-{number}", schema=("headrace", "other")[number % 2]
        )
        for number in range(10)
    }
    for number, place in enumerate(places.values()):
        await enqueue(place, *[NewJob()] * (number + 1))
    samples = await asyncio.gather(*(stage.sample(key, place) for key, place in places.items()))
    assert [sample.depth.ready for sample in samples] == list(range(1, 11))
    assert await connections(database_dsn) == 1


async def test_a_database_in_which_nothing_is_followed_any_more_is_left(database_dsn: str, stage: SamplerStage) -> None:
    await stage.sample(KEY, await provisioned(database_dsn))
    assert await connections(database_dsn) == 1
    stage.sampler.forget(KEY)
    assert stage.sampler.reading(KEY) is None
    while await connections(database_dsn):  # noqa: ASYNC110
        await asyncio.sleep(0.05)


async def test_the_connections_are_closed_with_the_sampler(database_dsn: str) -> None:
    async with sampling() as stage:
        await stage.sample(KEY, await provisioned(database_dsn))
        assert await connections(database_dsn) == 1
    assert await connections(database_dsn) == 0


async def test_of_a_queue_that_moved_what_was_read_of_the_old_place_is_dropped_at_once(
    database_dsn: str, stage: SamplerStage
) -> None:
    old, new = [await provisioned(database_dsn, schema=schema) for schema in ("headrace", "other")]
    await enqueue(old, NewJob())
    await stage.sample(KEY, old)
    stage.sampler.follow(KEY, new)
    assert stage.sampler.reading(KEY) is None
    assert (await stage.sample(KEY, new)).depth.ready == 0


async def test_what_does_not_exist_is_unknown_and_not_empty_and_hides_nothing_else(
    database_dsn: str, stage: SamplerStage
) -> None:
    place = await provisioned(database_dsn)
    assert "QueueMissing: " in await stage.failure(ObjectKey("shop", "mails"), replace(place, queue="mails"))
    assert "DatabaseMissing: " in await stage.failure(ObjectKey("shop", "other"), replace(place, schema="other"))
    assert (await stage.sample(KEY, place)).depth.ready == 0
    assert await connections(database_dsn) == 1


async def test_a_database_that_went_away_is_unknown_until_it_is_back(
    own_postgres: PostgresServer, stage: SamplerStage
) -> None:
    place = await provisioned(own_postgres.dsn)
    await enqueue(place, NewJob())
    assert (await stage.sample(KEY, place)).depth.ready == 1
    await asyncio.to_thread(own_postgres.stop)
    lost = await stage.until(KEY, lambda reading: reading.failure is not None)
    assert lost.failure is not None
    assert lost.failure.reason == "BackendUnreachable"
    assert lost.sample is not None, "it is remembered, for whom an old number is better than none"
    assert lost.current is None
    await asyncio.to_thread(own_postgres.start)
    found = await stage.until(KEY, lambda reading: reading.current is not None)
    assert found.sample is not None
    assert found.sample.depth.ready == 1
    assert [is_urgent for _, is_urgent in stage.news][-2:] == [True, True], "lost, and found"


async def test_a_job_in_a_queue_at_zero_is_noticed_at_once_and_producers_notify_for_no_longer(
    database_dsn: str, stage: SamplerStage
) -> None:
    place = await provisioned(database_dsn)
    await stage.sample(KEY, place)
    await until_flagged(database_dsn, 1)
    await enqueue(place, NewJob())
    await stage.until(KEY, is_startable, within_seconds=SOON)
    await until_flagged(database_dsn, 0)
    assert await connections(database_dsn) == 1, "it listens on the same"


async def test_a_job_of_an_applications_transaction_is_noticed_at_once(database_dsn: str, stage: SamplerStage) -> None:
    await stage.sample(KEY, await provisioned(database_dsn))
    await until_flagged(database_dsn, 1)
    async with observing(database_dsn) as application:
        await application.execute("SELECT headrace.enqueue('thumbnails', 'work')")
    await stage.until(KEY, is_startable, within_seconds=SOON)


async def test_a_queue_with_workers_asks_producers_for_no_notification(database_dsn: str, stage: SamplerStage) -> None:
    place = await provisioned(database_dsn)
    stage.intervals[KEY] = 0.1
    await stage.sample(KEY, place)
    for _ in range(5):
        seen = stage.readings
        await eventually(lambda seen=seen: stage.readings > seen, what="read again")  # type: ignore[misc]
    await until_flagged(database_dsn, 0)


async def test_a_session_that_the_server_ends_listens_again_by_itself(database_dsn: str, stage: SamplerStage) -> None:
    place = await provisioned(database_dsn)
    await stage.sample(KEY, place)
    await until_flagged(database_dsn, 1)
    async with observing(database_dsn) as observer:
        await observer.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'headrace-backlog'"
        )
        pid = None
        while pid is None:
            pid = await observer.fetchval(
                "SELECT waiters.pid FROM headrace.waiters JOIN pg_stat_activity AS session ON session.pid = waiters.pid"
            )
    await enqueue(place, NewJob())
    await stage.until(KEY, is_startable, within_seconds=SOON)


async def test_a_delayed_job_is_noticed_when_it_is_due(database_dsn: str, stage: SamplerStage) -> None:
    place = await provisioned(database_dsn)
    await enqueue(place, NewJob(delay_seconds=1.5))
    await stage.sample(KEY, place)
    await stage.until(KEY, is_startable, within_seconds=SOON)


async def test_through_a_pooler_the_depth_is_read_and_past_it_new_jobs_are_heard_of(
    own_postgres: PostgresServer, stage: SamplerStage
) -> None:
    place = await provisioned(own_postgres.dsn)
    with running_pooler(own_postgres.port, server_connections=3) as pooled:
        through = replace(place, backend=PostgresBackend(dsn=pooled))
        past = replace(place, backend=PostgresBackend(dsn=pooled, direct_dsn=own_postgres.dsn))
        assert (await stage.sample(KEY, through)).depth.ready == 0
        await until_flagged(own_postgres.dsn, 0)
        await stage.sample(KEY, past)
        await until_flagged(own_postgres.dsn, 1)
        await enqueue(place, NewJob())
        await stage.until(KEY, is_startable, within_seconds=SOON)


async def test_a_queue_that_can_not_be_counted_in_time_wakes_its_pool_nevertheless_and_holds_up_no_other(
    database_dsn: str, stage: SamplerStage
) -> None:
    place, other = [await provisioned(database_dsn, schema=schema) for schema in ("headrace", "other")]
    paused = await provisioned(database_dsn, "paused")
    await enqueue(place, NewJob(), NewJob())
    await enqueue(paused, NewJob())
    async with observing(database_dsn) as admin, admin.transaction():
        await admin.execute("UPDATE headrace.queues SET paused_by_hand = true WHERE name = 'paused'")
        await admin.execute("COMMIT; BEGIN")
        # Counting reads it, the short look does not.
        await admin.execute("LOCK TABLE headrace.queue_totals IN ACCESS EXCLUSIVE MODE")
        for key, where in places(("other", other), ("thumbnails", place), ("paused", paused)):
            stage.sampler.follow(key, where)
        seen = await stage.until(KEY, is_startable)
        assert seen.sample is not None
        assert (seen.sample.depth.ready, seen.sample.depth.is_lower_bound) == (1, True)
        assert (await stage.sample(ObjectKey("shop", "other"), other)).depth.ready == 0
        held = await stage.sample(ObjectKey("shop", "paused"), paused)
        assert held.depth.startable == 0
        # That is no number for workers that are there.
        stage.intervals[KEY] = 0.5
        lost = await stage.until(KEY, lambda reading: reading.failure is not None)
        assert lost.failure is not None
        assert "takes too long" in lost.failure.message


async def test_a_schema_that_is_locked_for_a_migration_holds_up_no_other_of_its_database(
    database_dsn: str, stage: SamplerStage
) -> None:
    place, other = [await provisioned(database_dsn, schema=schema) for schema in ("headrace", "other")]
    locked, free = ObjectKey("shop", "locked"), ObjectKey("shop", "free")
    stage.intervals[free] = 0.5
    async with observing(database_dsn) as admin, observing(database_dsn) as observer:
        await stage.sample(free, other)
        sessions = "SELECT array_agg(pid) FROM pg_stat_activity WHERE application_name = 'headrace-backlog'"
        session = await observer.fetchval(sessions)
        async with admin.transaction():
            await admin.execute("LOCK TABLE headrace.jobs IN ACCESS EXCLUSIVE MODE")
            assert "takes too long" in await stage.failure(locked, place)
            tried = stage.sampler.reading(free)
            assert tried is not None
            await stage.until(free, lambda reading: reading.current is not None and reading.tried_at > tried.tried_at)
        assert await observer.fetchval(sessions) == session, "the backend was not taken for one that is away"
    assert (await stage.until(locked, lambda reading: reading.current is not None)).current is not None


async def test_schemas_of_which_nothing_can_be_told_take_no_more_than_a_round_together(
    database_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = await provisioned(database_dsn)
    others = [replace(place, schema=f"other-{number}") for number in range(3)]
    async with PROVIDERS["Postgres"].open_backlog(place.backend, lambda _: None) as backlog:
        monkeypatch.setattr(backlog_reader, "_ROUND_SECONDS", -1.0)
        answers = await backlog.have_ready([place, *others])
    assert [type(answer) for answer in answers.values()] == [CountTooLongError] * 4


async def test_of_a_queue_that_is_gone_no_short_look_says_that_it_is_empty(database_dsn: str) -> None:
    place = await provisioned(database_dsn)
    gone = replace(place, queue="mails")
    async with PROVIDERS["Postgres"].open_backlog(place.backend, lambda _: None) as backlog:
        answers = await backlog.have_ready([place, gone])
    assert answers[place] is False
    missing = answers[gone]
    assert isinstance(missing, OperatorError)
    assert missing.reason == "QueueMissing"


def places(*named: tuple[str, PostgresPlace]) -> Iterable[tuple[ObjectKey, PostgresPlace]]:
    return [(ObjectKey("shop", name), place) for name, place in named]


async def test_databases_that_say_nothing_hold_up_no_other(database_dsn: str, stage: SamplerStage) -> None:
    place = await provisioned(database_dsn)
    async with silent_server() as port:
        dead = {
            ObjectKey("dead", f"queue-{number}"): replace(
                place, backend=PostgresBackend(dsn=f"postgresql://u@127.0.0.1:{port}/d{number}")
            )
            for number in range(100)
        }
        for key, where in dead.items():
            stage.sampler.follow(key, where)
        stage.intervals[KEY] = 0.1
        await stage.sample(KEY, place)
        for _ in range(5):
            tried = stage.sampler.reading(KEY)
            assert tried is not None
            await stage.until(KEY, lambda reading, tried=tried: reading.tried_at > tried.tried_at)  # type: ignore[misc]
        assert not any(stage.sampler.reading(key) for key in dead), "they are still waited for"
        lost = await stage.until(next(iter(dead)), lambda reading: reading.failure is not None)
        assert lost.failure is not None
        assert "did not answer in time" in lost.failure.message


@asynccontextmanager
async def silent_server() -> AsyncIterator[int]:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def is_startable(reading: Reading) -> bool:
    return reading.current is not None and reading.current.depth.startable > 0


async def test_credentials_that_are_refused_are_the_databases_matter_whatever_the_schema(
    own_postgres: PostgresServer, stage: SamplerStage
) -> None:
    async with observing(own_postgres.dsn) as admin:
        await admin.execute("CREATE ROLE nobody NOLOGIN")
    backend = PostgresBackend(dsn=own_postgres.dsn.replace("postgres@", "nobody@"))
    for schema in ("one", "two"):
        place = PostgresPlace(backend=backend, schema=schema, queue="work")
        assert (await stage.failure(ObjectKey("shop", schema), place)).startswith("CredentialsRefused: ")


async def test_of_a_schema_that_may_only_be_read_the_depth_is_known_and_no_news(
    own_postgres: PostgresServer, stage: SamplerStage
) -> None:
    place = await provisioned(own_postgres.dsn)
    async with observing(own_postgres.dsn) as admin:
        await admin.execute("CREATE ROLE reader LOGIN; GRANT USAGE ON SCHEMA headrace TO reader")
        await admin.execute("GRANT SELECT ON ALL TABLES IN SCHEMA headrace TO reader")
    reading = replace(place, backend=PostgresBackend(dsn=own_postgres.dsn.replace("postgres@", "reader@")))
    assert (await stage.sample(KEY, reading)).depth.ready == 0
    seen = stage.readings
    await eventually(lambda: stage.readings > seen, what="read again, as nothing tells of jobs")
    assert (await stage.until(KEY, lambda _: True)).failure is None
