"""The published depth is fresh, and costs the database the same however many workers there are."""

from __future__ import annotations

import asyncio
import itertools
from datetime import timedelta
from typing import TYPE_CHECKING

import asyncpg

from headrace import App, new_job
from headrace.metrics import Metrics
from headrace.queues.base import Owner, QueueSettings
from headrace.queues.postgres import Place, PostgresProvisioner, PostgresQueue
from headrace.runtime.chores import STATS_SECONDS
from headrace.runtime.handlers.python import PythonHandler
from headrace.runtime.worker import Worker
from support.worker_process import eventually

if TYPE_CHECKING:
    from datetime import datetime

WORKERS = 8
COUNTS = 3

# What the shared count is replaced with, when.
NOTE_COUNTS = """
CREATE TABLE counts (at timestamptz NOT NULL);
CREATE FUNCTION note_count() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO counts VALUES (new.counted_at);
    RETURN NULL;
END $$;
CREATE TRIGGER note_count AFTER UPDATE ON headrace.queue_stats FOR EACH ROW EXECUTE FUNCTION note_count();
"""


async def test_many_workers_count_no_more_often_than_one_and_all_publish_the_count(database_dsn: str) -> None:
    place = Place(dsn=database_dsn)
    owner = Owner(namespace="shop", name="orders", uid="1")
    await PostgresProvisioner(place).ensure("orders", QueueSettings(), owner)
    admin = await asyncpg.connect(database_dsn)
    await admin.execute(NOTE_COUNTS)
    app = App()

    @app.job("another")
    async def another(payload: None) -> None: ...

    async with PostgresQueue(place, "orders") as producer:
        # Nobody here knows them, so that there is always something to count.
        await producer.enqueue([new_job("unknown")] * 5 + [new_job("unknown", delay_seconds=3600)] * 7)
        metrics = [Metrics().of("shop", "orders") for _ in range(WORKERS)]
        workers = [
            Worker(PostgresQueue(place, "orders"), PythonHandler(app, threads=1), published) for published in metrics
        ]
        running = [asyncio.create_task(worker.run()) for worker in workers]

        async def counts() -> list[datetime]:
            return [row["at"] for row in await admin.fetch("SELECT at FROM counts ORDER BY at")]

        async def counted_and_published() -> bool:
            return len(await counts()) >= COUNTS and all(
                published.depth is not None and published.depth.delayed >= 7 for published in metrics
            )

        await eventually(counted_and_published, what="counted by some, published by all")
        for worker in workers:
            worker.stop()
        await asyncio.gather(*running)
    moments = await counts()
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert min(gaps) >= timedelta(seconds=STATS_SECONDS)
    await admin.close()
