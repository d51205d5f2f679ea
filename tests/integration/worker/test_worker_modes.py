"""How a worker learns of jobs: by looking alone, or told of them as well; and whom it connects to for that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg

from headrace.queues.base import Owner, QueueSettings
from headrace.queues.postgres import CONNECTIONS_PER_WORKER, Place, PostgresProvisioner
from support.worker_process import WorkerProcess, eventually, running_worker

if TYPE_CHECKING:
    from pathlib import Path

EXEC = ("--exec", "/bin/true")


async def provision(dsn: str) -> None:
    owner = Owner(namespace="shop", name="orders", uid="1")
    await PostgresProvisioner(Place(dsn=dsn)).ensure("orders", QueueSettings(), owner)


async def sessions(dsn: str, application_name: str) -> int:
    """How many sessions of this name the database has."""
    connection = await asyncpg.connect(dsn)
    try:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1"
        count: int = await connection.fetchval(query, application_name)
        return count
    finally:
        await connection.close()


async def is_up(worker: WorkerProcess) -> None:
    await eventually(lambda: worker.get("/readyz")[0] == 200, what="ready")


async def test_a_worker_listens_beside_looking_and_keeps_to_its_connections(database_dsn: str, tmp_path: Path) -> None:
    await provision(database_dsn)
    with running_worker(tmp_path, *EXEC, dsn=database_dsn) as worker:
        await is_up(worker)

        await eventually(lambda: worker.metric("listener_up") == 1, what="it listens")
        assert await sessions(database_dsn, "headrace") <= CONNECTIONS_PER_WORKER


async def test_a_polling_worker_has_no_session_that_listens(database_dsn: str, tmp_path: Path) -> None:
    await provision(database_dsn)
    with running_worker(tmp_path, *EXEC, "--mode", "Polling", dsn=database_dsn) as worker:
        await is_up(worker)
        assert await sessions(database_dsn, "headrace") >= 1
        assert worker.metric("listener_up") == 0


async def test_a_worker_whose_direct_connection_cannot_be_reached_works_through_the_pooler(
    database_dsn: str, tmp_path: Path
) -> None:
    await provision(database_dsn)
    nowhere = "postgresql://postgres@127.0.0.1:1/nowhere"
    with running_worker(tmp_path, *EXEC, "--direct-dsn", nowhere, dsn=database_dsn) as worker:
        await is_up(worker)
        assert 1 <= await sessions(database_dsn, "headrace") <= CONNECTIONS_PER_WORKER


async def test_a_url_that_leads_to_no_queue_ends_the_worker_in_one_line(tmp_path: Path) -> None:
    with running_worker(tmp_path, *EXEC, dsn="mysql://db/jobs") as worker:
        assert await worker.exit_status() == 2
        assert worker.log.startswith("headrace: HEADRACE_DSN: must be postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
        assert worker.log.count("\n") == 1
