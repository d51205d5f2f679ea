"""A queue behind PgBouncer in transaction mode, where every transaction may find itself in another session."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg
import pytest

from contract.queue.bench import standing
from contract.queue.suite import QueueContract
from contract.test_postgres import PostgresBench
from headrace import from_url, new_job
from headrace.job import MAX_PAYLOAD_BYTES
from headrace.queues.base import Depth, Owner, QueueSettings
from headrace.queues.postgres import Place, PostgresBacklog, PostgresProvisioner, PostgresQueue
from support.pooler import running_pooler
from support.verbs import complete, enqueue
from support.worker_process import WorkerProcess, eventually, records, running_worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from support.postgres import PostgresServer

OWNER = Owner(namespace="shop", name="orders", uid="1")
CLIENTS = 6


@pytest.fixture
def pooled_dsn(own_postgres: PostgresServer) -> Iterator[str]:
    """Fewer sessions than clients, so that they take turns, and no prepared statement is where it was made."""
    with running_pooler(own_postgres.port, server_connections=3) as dsn:
        yield dsn


@pytest.fixture
async def place(pooled_dsn: str, own_postgres: PostgresServer) -> Place:
    where = Place(dsn=pooled_dsn, direct_dsn=own_postgres.dsn)
    await PostgresProvisioner(where).ensure("orders", QueueSettings(completed_retention_seconds=60), OWNER)
    return where


async def test_every_job_runs_once_however_sessions_change(place: Place) -> None:
    done: Counter[str] = Counter()

    async def client(number: int) -> list[str]:
        ids: list[str] = []
        async with PostgresQueue(place, "orders") as queue:
            await queue.keep_alive()
            for turn in range(10):
                group = new_job("in-group", group=f"tenant-{turn % 2}", deduplication_key=f"{number}/{turn}")
                enqueued, *_ = await asyncio.gather(
                    queue.enqueue([new_job("plain"), group]), queue.keep_alive(), queue.depth(), queue.maintain()
                )
                ids += [job.id for job in enqueued]
                deliveries = await queue.receive(5)
                done.update(delivery.job.id for delivery in deliveries)
                assert (await complete(queue, deliveries)).refused == ()
        return ids

    enqueued = [job_id for ids in await asyncio.gather(*map(client, range(CLIENTS))) for job_id in ids]
    async with PostgresQueue(place, "orders") as queue:
        while deliveries := await queue.receive(100):
            done.update(delivery.job.id for delivery in deliveries)
            await complete(queue, deliveries)
    assert done == Counter(enqueued)
    assert len(enqueued) == CLIENTS * 20


async def test_what_takes_several_statements_is_enqueued_through_it(place: Place) -> None:
    large = [new_job("large", b" " * MAX_PAYLOAD_BYTES)] * 17

    async def client() -> list[str]:
        async with PostgresQueue(place, "orders") as queue:
            return [job_id for _ in range(2) for job_id in await enqueue(queue, large)]

    ids = [job_id for ids in await asyncio.gather(*(client() for _ in range(CLIENTS))) for job_id in ids]
    assert len(set(ids)) == CLIENTS * 2 * len(large)


async def test_it_is_said_once_what_the_pooler_lacks(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    async with PostgresQueue(place, "orders") as one, PostgresQueue(place, "orders") as two:
        for _ in range(20):
            await asyncio.gather(*(queue.depth() for queue in (one, two) for _ in range(3)))
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len([message for message in warnings if "max_prepared_statements" in message]) <= 2


async def test_the_operator_reads_and_removes_through_it(place: Place) -> None:
    async with from_url(place.dsn, "orders") as queue:
        await queue.enqueue([new_job("work")] * 3)
    async with PostgresBacklog(place) as backlog:
        assert (await backlog.depths(["orders"]))["orders"].ready == 3
    assert await PostgresProvisioner(place).allowed_connections() == 197
    assert await PostgresProvisioner(place).remove("orders", OWNER)


async def test_past_it_workers_are_told_of_new_jobs(place: Place, own_postgres: PostgresServer) -> None:
    async with (
        from_url(place.dsn, "orders", listens=True, direct_url=own_postgres.dsn) as worker,
        from_url(place.dsn, "orders") as producer,
    ):
        assert isinstance(worker, PostgresQueue)
        while not worker.is_listening:  # noqa: ASYNC110 - there is nothing to wait on
            await asyncio.sleep(0.01)
        waiting = asyncio.create_task(worker.receive(1, wait_seconds=300))
        await asyncio.sleep(0.1)
        await producer.enqueue([new_job("work")])
        async with asyncio.timeout(20):
            assert len(await waiting) == 1


async def test_where_the_way_past_it_leads_nowhere_workers_go_through_it(place: Place) -> None:
    async with from_url(place.dsn, "orders", listens=True, direct_url="postgresql://me@127.0.0.1:1/x") as worker:
        await worker.enqueue([new_job("work")])
        assert isinstance(worker, PostgresQueue)
        await worker.keep_alive()
        deliveries = await worker.receive(1)
        assert (await complete(worker, deliveries)).accepted == 1
        assert not worker.is_listening


async def test_through_it_nobody_believes_to_be_told(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    async with from_url(place.dsn, "orders", listens=True) as worker:
        assert isinstance(worker, PostgresQueue)
        async with asyncio.timeout(15):
            while "behind a pooler, LISTEN needs a direct connection" not in caplog.text:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert not worker.is_listening


class TestContract(QueueContract):
    """All that every backend promises, it promises through a pooler, too."""

    offer = PostgresBench.offer

    @pytest.fixture
    async def bench(self, database_dsn: str) -> AsyncIterator[PostgresBench]:
        parts = urlsplit(database_dsn)
        connection = await asyncpg.connect(database_dsn)
        try:
            with running_pooler(parts.port or 5432, server_connections=3) as dsn:
                bench = PostgresBench(dsn.rpartition("/")[0] + parts.path, connection)
                yield bench
                await bench.close()
        finally:
            await connection.close()


async def test_a_worker_does_its_work_through_it(place: Place, tmp_path: Path) -> None:
    app = ("--app", "support.worker_app:app")
    async with PostgresQueue(place, "orders") as queue:
        with (
            running_worker(tmp_path, *app, dsn=place.dsn) as one,
            running_worker(tmp_path, *app, dsn=place.dsn) as other,
        ):
            for worker in (one, other):
                await eventually(partial(is_ready, worker), what="ready")
            ids = await enqueue(queue, [new_job("quick")] * 200)
            await eventually(lambda: len(records(tmp_path, "done")) == 200, what="all done")
            for worker in (one, other):
                worker.terminate()
                assert await worker.exit_status() == 0
        assert records(tmp_path, "done") == dict.fromkeys(ids, 1)
        assert await standing(queue) == Depth()


def is_ready(worker: WorkerProcess) -> bool:
    return worker.get("/readyz")[0] == 200
