"""A further migration while workers of the version before run, and producers produce."""

from __future__ import annotations

import asyncio
import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from headrace import new_job
from headrace.queues.base import Owner, QueueSettings
from headrace.queues.postgres import Place, PostgresProvisioner, PostgresQueue, migrate, statements
from headrace.queues.postgres.statements import Migration, code_version, migrations
from support.verbs import enqueue
from support.worker_process import WorkerProcess, eventually, records, running_worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from headrace import NewJob

OWNER = Owner(namespace="shop", name="orders", uid="1")
APP = ("--app", "support.worker_app:app")
SOON = {"BACKGROUND_JOBS__RETRY__INITIALDELAYSECONDS": "0.01"}


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch) -> Migration:
    """What a next version may well do: a column more, an index; and every function is replaced, as always."""
    tables = ("jobs", "parked_jobs", "dead_jobs", "finished_jobs")
    columns = "\n".join(f"ALTER TABLE {{schema}}.{table} ADD COLUMN note text;" for table in tables)
    index = "CREATE INDEX jobs_noted ON {schema}.jobs (queue_id) WHERE note IS NOT NULL;"
    step = Migration(
        version=code_version() + 1,
        name="further",
        compatible_with=code_version(),
        functions="",
        sql=f"{columns}\n{index}",
    )
    monkeypatch.setattr(migrate, "migrations", lambda: (*migrations(), step))
    for columns_of_a_job in ("_CARRIED", "_ROW"):
        monkeypatch.setattr(statements, columns_of_a_job, f"{getattr(statements, columns_of_a_job)}, note")
    return step


@pytest.fixture
async def place(database_dsn: str) -> Place:
    place = Place(dsn=database_dsn)
    await PostgresProvisioner(place).ensure("orders", QueueSettings(max_retries=1), OWNER)
    return place


@pytest.fixture
async def admin(place: Place) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(place.dsn)
    yield connection
    await connection.close()


def of_every_kind(number: int) -> list[NewJob]:
    return [
        new_job("quick"),
        new_job("quick", priority=number % 11),
        new_job("quick", delay_seconds=0.2),
        new_job("quick", group=f"tenant-{number % 3}"),
        new_job("quick", deduplication_key=f"report-{number}"),
    ]


async def test_old_workers_go_on_through_it(
    place: Place, tmp_path: Path, request: pytest.FixtureRequest, admin: asyncpg.Connection[asyncpg.Record]
) -> None:
    stop = asyncio.Event()

    async def produce() -> list[str]:
        ids: list[str] = []
        for number in itertools.count():
            ids += await enqueue(queue, of_every_kind(number))
            await queue.enqueue([new_job("failing", number)])
            await asyncio.sleep(0.02)
            if stop.is_set():
                return ids
        raise AssertionError

    async with PostgresQueue(place, "orders") as queue:
        with (
            running_worker(tmp_path, *APP, dsn=place.dsn, **SOON) as one,
            running_worker(tmp_path, *APP, dsn=place.dsn, **SOON) as other,
        ):
            producing = asyncio.create_task(produce())
            await eventually(lambda: len(records(tmp_path, "done")) > 100, what="well under way")

            request.getfixturevalue("step")
            made = await asyncio.gather(*(PostgresProvisioner(place).migrate() for _ in range(3)))
            assert sorted(provisioned.changed for provisioned in made) == [False, False, True]

            done_before = len(records(tmp_path, "done"))
            await eventually(lambda: len(records(tmp_path, "done")) > done_before + 100, what="going on")
            stop.set()
            ids = await producing
            await eventually(lambda: set(ids) <= records(tmp_path, "done").keys(), what="every job done")

            async def is_empty() -> bool:
                depth = await queue.depth()
                return not (depth.ready or depth.delayed or depth.blocked or depth.in_flight)

            await eventually(is_empty, what="an empty queue")
            for worker in (one, other):
                assert worker.process.poll() is None
                assert complaints(worker) == []
        assert records(tmp_path, "done") == dict.fromkeys(ids, 1), "nobody noticed"
        assert await admin.fetchval("SELECT count(*) FROM headrace.dead_jobs WHERE attempt <> 2") == 0

    with running_worker(tmp_path, *APP, dsn=place.dsn) as late:
        await eventually(lambda: late.get("/readyz")[0] == 200, what="an old worker starts after it, too")


async def test_it_never_holds_everybody_up_behind_an_applications_open_transaction(
    place: Place, tmp_path: Path, request: pytest.FixtureRequest, admin: asyncpg.Connection[asyncpg.Record]
) -> None:
    request.getfixturevalue("step")
    async with PostgresQueue(place, "orders") as queue:
        with running_worker(tmp_path, *APP, dsn=place.dsn):
            async with admin.transaction():
                await queue.enqueue_in(admin, [new_job("quick")])
                migrating = asyncio.create_task(PostgresProvisioner(place).migrate())
                await eventually(lambda: waits_for_a_lock(place.dsn), what="in line for the tables")
                ids = [job_id for number in range(20) for job_id in await enqueue(queue, of_every_kind(number))]
                await eventually(lambda: set(ids) <= records(tmp_path, "done").keys(), what="every job done")
                assert not migrating.done()
            assert (await migrating).changed


async def waits_for_a_lock(dsn: str) -> bool:
    connection = await asyncpg.connect(dsn)
    try:
        return bool(
            await connection.fetchval(
                "SELECT EXISTS (SELECT FROM pg_locks JOIN pg_database ON oid = database"
                " WHERE datname = current_database() AND NOT granted)"
            )
        )
    finally:
        await connection.close()


async def test_a_worker_that_is_too_old_says_so_and_waits(
    place: Place, tmp_path: Path, admin: asyncpg.Connection[asyncpg.Record]
) -> None:
    newer = code_version() + 1
    await admin.execute("INSERT INTO headrace.migrations VALUES ($1, 'further', $1)", newer)
    with running_worker(tmp_path, *APP, dsn=place.dsn) as worker:
        await eventually(lambda: f"needs code that knows version {newer} or later" in worker.log, what="said")
        assert worker.get("/readyz")[0] == 503
        await admin.execute("UPDATE headrace.migrations SET compatible_with = version - 1 WHERE version = $1", newer)
        await eventually(lambda: worker.get("/readyz")[0] == 200, what="at work where it is compatible after all")


def complaints(worker: WorkerProcess) -> list[str]:
    return [
        line
        for line in worker.log.splitlines()
        if re.search(r" (WARNING|ERROR|CRITICAL) ", line) and not re.search(r"jobs? failed|dead-letter", line)
    ]
