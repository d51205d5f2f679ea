"""What becomes of workers and their jobs when the database suffers: work goes on by itself, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg
import pytest

from headrace import new_job
from headrace.queues.base import Depth, Owner, QueueSettings
from headrace.queues.errors import QueueUnavailableError
from headrace.queues.postgres import Place, PostgresProvisioner, PostgresQueue
from support.postgres import PostgresServer, find_binaries, free_port, running_server, standby_of
from support.small_disk import fill, small_disk
from support.tcp_proxy import TcpProxy
from support.verbs import enqueue, standing
from support.worker_process import eventually, records, running_worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

APP = ("--app", "support.worker_app:app")

KILL_BACKENDS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE 'headrace%'
"""


async def provisioned(dsn: str) -> PostgresQueue:
    place = Place(dsn=dsn)
    await PostgresProvisioner(place).ensure("orders", QueueSettings(), Owner(namespace="shop", name="orders", uid="1"))
    return PostgresQueue(place, "orders")


async def enqueued(queue: PostgresQueue, count: int, name: str = "quick") -> list[str]:
    """Ids of jobs that are durable, however often it takes."""
    ids: list[str] = []
    while len(ids) < count:
        try:
            ids += await enqueue(queue, [new_job(name)])
        except QueueUnavailableError:
            await asyncio.sleep(0.1)
    return ids


async def until_unavailable(queue: PostgresQueue) -> tuple[list[str], QueueUnavailableError]:
    """Enqueue large jobs until that fails; gives the ids of those before."""
    ids: list[str] = []
    while True:
        try:
            ids += await enqueue(queue, [new_job("quick", os.urandom(50_000).hex())] * 10)
        except QueueUnavailableError as error:
            return ids, error


async def all_done(directory: Path, ids: list[str]) -> None:
    await eventually(lambda: set(ids) <= records(directory, "done").keys(), what="every job done")


async def empty(queue: PostgresQueue) -> None:
    async def is_empty() -> bool:
        with suppress(QueueUnavailableError):
            return await standing(queue) == Depth()
        return False

    await eventually(is_empty, what="an empty queue")


@pytest.fixture
async def admin(database_dsn: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(database_dsn)
    yield connection
    await connection.close()


@pytest.mark.parametrize("immediately", [False, True], ids=["restart", "crash"])
async def test_a_server_that_comes_back(own_postgres: PostgresServer, tmp_path: Path, immediately: bool) -> None:
    async with await provisioned(own_postgres.dsn) as queue:
        with running_worker(tmp_path, *APP, dsn=own_postgres.dsn):
            ids: list[str] = []
            for _ in range(3):
                producing = asyncio.create_task(enqueued(queue, 100))
                await asyncio.to_thread(own_postgres.stop, immediately=immediately)
                await asyncio.to_thread(own_postgres.start)
                ids += await producing
            await all_done(tmp_path, ids)
            await empty(queue)


async def test_sessions_that_are_ended_again_and_again(
    admin: asyncpg.Connection[asyncpg.Record], database_dsn: str, tmp_path: Path
) -> None:
    async with await provisioned(database_dsn) as queue:
        with running_worker(tmp_path, *APP, dsn=database_dsn):
            producing = asyncio.create_task(enqueued(queue, 1000))
            while not producing.done():
                await asyncio.sleep(0.1)
                await admin.execute(KILL_BACKENDS)
            await all_done(tmp_path, producing.result())
            await empty(queue)


async def test_dead_workers_are_found_though_sessions_end_again_and_again(
    admin: asyncpg.Connection[asyncpg.Record], database_dsn: str, tmp_path: Path
) -> None:
    async with await provisioned(database_dsn) as queue:
        (job_id,) = await enqueue(queue, [new_job("gated", "gate")])
        with running_worker(tmp_path, *APP, dsn=database_dsn) as killed:
            await eventually(lambda: records(tmp_path, "started")[job_id] == 1, what="under way")
            killed.kill()
        (tmp_path / "gate").touch()
        with running_worker(tmp_path, *APP, dsn=database_dsn):

            async def is_done() -> bool:
                await admin.execute(KILL_BACKENDS)
                await asyncio.sleep(1)
                return records(tmp_path, "done")[job_id] == 1

            await eventually(is_done, what="done by the other")


async def test_connections_that_went_dead_without_a_word(database_dsn: str, tmp_path: Path) -> None:
    port = urlsplit(database_dsn).port or 5432
    async with await provisioned(database_dsn) as queue, TcpProxy(port).running() as proxy:
        (running,) = await enqueue(queue, [new_job("gated", "gate")])
        dsn = database_dsn.replace(f":{port}", f":{proxy.port}")
        with running_worker(tmp_path, *APP, dsn=dsn) as worker:
            await eventually(lambda: records(tmp_path, "started")[running] == 1, what="under way")
            ids = await enqueued(queue, 50)
            proxy.silence()
            (tmp_path / "gate").touch()
            ids += await enqueued(queue, 50)
            await all_done(tmp_path, [running, *ids])
            await empty(queue)
            assert "lease out of reach" not in worker.log, "it found its way before its lease was in danger"
        assert records(tmp_path, "started") == {running: 1}


async def test_a_network_that_is_silent_for_longer_than_a_lease(database_dsn: str, tmp_path: Path) -> None:
    port = urlsplit(database_dsn).port or 5432
    async with await provisioned(database_dsn) as queue, TcpProxy(port).running() as proxy:
        (running,) = await enqueue(queue, [new_job("gated", "gate")])
        dsn = database_dsn.replace(f":{port}", f":{proxy.port}")
        with running_worker(tmp_path, *APP, dsn=dsn) as worker:
            await eventually(lambda: records(tmp_path, "started")[running] == 1, what="under way")
            proxy.silence(new_ones_too=True)
            await eventually(lambda: "lease out of reach" in worker.log, what="it stops its jobs by itself")
            (tmp_path / "gate").touch()
            proxy.resume()
            ids = await enqueued(queue, 20)
            await all_done(tmp_path, [running, *ids])
            await empty(queue)


async def test_a_transaction_that_is_open_all_the_while(
    admin: asyncpg.Connection[asyncpg.Record], database_dsn: str, tmp_path: Path
) -> None:
    async with await provisioned(database_dsn) as queue, admin.transaction(isolation="repeatable_read"):
        assert await admin.fetchval("SELECT count(*) FROM headrace.jobs") == 0
        with running_worker(tmp_path, *APP, dsn=database_dsn) as worker:
            for _ in range(10):
                await queue.enqueue([new_job("quick")] * 300)
            await eventually(lambda: worker.metric("completed_total") == 3000, what="all completed")
        assert await standing(queue) == Depth()


async def test_a_disk_that_is_full_for_data(own_postgres: PostgresServer, tmp_path: Path) -> None:
    with small_disk(24, owner="postgres") as disk:
        connection = await asyncpg.connect(own_postgres.dsn)
        await connection.execute(f"CREATE TABLESPACE small LOCATION '{disk}'")
        await connection.execute("CREATE DATABASE small TABLESPACE small")
        await connection.close()
        dsn = own_postgres.dsn.rpartition("/")[0] + "/small"
        async with await provisioned(dsn) as queue:
            with running_worker(tmp_path, *APP, dsn=dsn):
                ids = await enqueued(queue, 10)
                filler = fill(disk)
                more, error = await until_unavailable(queue)
                assert "No space left" in str(error)
                ids += more
                filler.unlink()
                ids += await enqueued(queue, 100)
                await all_done(tmp_path, ids)
                await empty(queue)
        own_postgres.stop()


async def test_a_disk_that_is_full_for_everything(tmp_path: Path) -> None:
    with small_disk(160, owner="postgres") as disk:
        data = disk / "data"
        data.mkdir(mode=0o700)
        shutil.chown(data, "postgres", "postgres")
        server = PostgresServer(binaries=find_binaries(), directory=data, port=free_port())
        server.initialize()
        server.start()
        try:
            async with await provisioned(server.dsn) as queue:
                with running_worker(tmp_path, *APP, dsn=server.dsn) as worker:
                    ids = await enqueued(queue, 50)
                    filler = fill(disk)
                    ids += (await until_unavailable(queue))[0]
                    filler.unlink()
                    if server.process is not None and server.process.poll() is not None:
                        server.start()  # A server that can't write its log gives up; someone starts it again.
                    ids += await enqueued(queue, 100)
                    await all_done(tmp_path, ids)
                    await empty(queue)
                    assert worker.process.poll() is None
        finally:
            server.stop()


async def test_a_failover_to_a_standby(tmp_path: Path) -> None:
    with running_server() as primary:
        primary.stop()
        with standby_of(primary) as standby:
            primary.start("synchronous_standby_names=*", "synchronous_commit=on")
            standby.start()
            dsn = (
                f"postgresql://postgres@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/postgres"
                "?target_session_attrs=read-write"
            )
            async with await provisioned(dsn) as queue:
                with running_worker(tmp_path, *APP, dsn=dsn) as worker:
                    (running,) = await enqueue(queue, [new_job("gated", "gate")])
                    await eventually(lambda: records(tmp_path, "started")[running] == 1, what="under way")
                    producing = asyncio.create_task(enqueued(queue, 300))
                    await eventually(lambda: len(records(tmp_path, "done")) > 50, what="some done")
                    await asyncio.to_thread(primary.stop, immediately=True)
                    (tmp_path / "gate").touch()
                    await asyncio.sleep(1)
                    standby.promote()
                    await all_done(tmp_path, [running, *await producing])
                    await empty(queue)
                    assert worker.process.poll() is None
                    assert records(tmp_path, "started") == {running: 1}
