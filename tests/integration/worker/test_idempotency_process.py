"""Idempotency as it runs in a pod: a worker process, a real database and a real Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from headrace import new_job
from headrace.queues.base import Owner, QueueSettings
from headrace.queues.postgres import Place, PostgresProvisioner, PostgresQueue
from support.redis import RedisServer, running_redis
from support.worker_process import eventually, records, running_worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

APP = ("--app", "support.worker_app:app")


@pytest.fixture
async def queue(database_dsn: str) -> AsyncIterator[PostgresQueue]:
    place = Place(dsn=database_dsn)
    await PostgresProvisioner(place).ensure("orders", QueueSettings(), Owner(namespace="shop", name="orders", uid="1"))
    async with PostgresQueue(place, "orders") as opened:
        yield opened


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


async def test_of_jobs_with_one_key_one_runs_whichever_worker_gets_them(
    queue: PostgresQueue, database_dsn: str, redis: RedisServer, tmp_path: Path
) -> None:
    settings = {"BACKGROUND_JOBS__REDIS__CONNECTIONSTRING": redis.url}
    with (
        running_worker(tmp_path, *APP, dsn=database_dsn, **settings) as first,
        running_worker(tmp_path, *APP, dsn=database_dsn, **settings) as second,
    ):
        for number in range(10):
            await queue.enqueue([new_job("quick", idempotency_key=f"order {number}")] * 3)

        async def is_empty() -> bool:
            depth = await queue.depth()
            return not (depth.ready or depth.delayed or depth.in_flight)

        await eventually(is_empty, what="all done")
        hits = sum(worker.metric("idempotency_hits_total") or 0 for worker in (first, second))
    assert sum(records(tmp_path, "done").values()) == 10
    assert hits == 20


async def test_a_redis_that_stops_lets_jobs_wait_and_kills_no_worker(
    queue: PostgresQueue, database_dsn: str, redis: RedisServer, tmp_path: Path
) -> None:
    with running_worker(tmp_path, *APP, dsn=database_dsn, BACKGROUND_JOBS__REDIS__CONNECTIONSTRING=redis.url) as worker:
        await queue.enqueue([new_job("quick")])
        await eventually(lambda: worker.metric("completed_total") == 1, what="one done")
        redis.stop()
        await queue.enqueue([new_job("quick")])
        await eventually(lambda: (worker.metric("idempotency_failures_total") or 0) > 0, what="noticed")
        assert worker.get("/healthz")[0] == 200
        assert sum(records(tmp_path, "done").values()) == 1
        redis.start()
        await eventually(lambda: worker.metric("completed_total") == 2, what="the other done")
    assert "jobs wait for it" in worker.log
    assert "answers again" in worker.log


async def test_a_redis_that_will_not_do_ends_the_worker_with_one_sentence(
    queue: PostgresQueue, database_dsn: str, tmp_path: Path
) -> None:
    with (
        running_redis("requirepass right-password") as redis,
        running_worker(
            tmp_path,
            *APP,
            dsn=database_dsn,
            BACKGROUND_JOBS__REDIS__CONNECTIONSTRING=redis.url.replace("//", "//:wrong-password@"),
        ) as worker,
    ):
        assert await worker.exit_status() == 2
    said = worker.log.splitlines()[-1]
    assert said.startswith("headrace: ")
    assert "password" in said
    assert "wrong-password" not in worker.log
