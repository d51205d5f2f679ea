"""Least privilege: producers, workers and readers can each do their work, and nothing more."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from headrace.job import NewJob, new_job
from headrace.queues.base import Owner, QueueSettings
from headrace.queues.errors import QueueAccessError, QueueError
from headrace.queues.inspection import Cancel, Redrive
from headrace.queues.postgres import Place, PostgresBacklog, PostgresInspector, PostgresProvisioner, PostgresQueue
from support.shell import headrace, headrace_json
from support.verbs import complete, dead_letter, discard, release, retry
from support.worker_process import eventually, running_worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

OWNER = Owner(namespace="shop", name="orders", uid="1")
PASSWORD = "hidden"

numbers = itertools.count(1)


@pytest.fixture
async def admin(database_dsn: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(database_dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def role(admin: asyncpg.Connection[asyncpg.Record]) -> AsyncIterator[str]:
    """The name of a role that does not exist yet; it needs quoting."""
    name = f"Headrace-test {os.getpid()} {next(numbers)}"
    yield name
    if await admin.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", name):
        await admin.execute(f'DROP OWNED BY "{name}"; DROP ROLE "{name}"')


@pytest.fixture
async def place(database_dsn: str) -> Place:
    place = Place(dsn=database_dsn)
    await PostgresProvisioner(place).ensure("orders", QueueSettings(max_retries=1), OWNER)
    return place


async def granted(kind: str, role: str, admin: asyncpg.Connection[asyncpg.Record], dsn: str) -> str:
    """Make the role, of this kind; its DSN."""
    done = await headrace("migrate", f"--grant-{kind}", role, "--create-roles", dsn=dsn)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{role} is a {kind}" in done.stdout
    await admin.execute(f"ALTER ROLE \"{role}\" PASSWORD '{PASSWORD}'")
    parts = urlsplit(dsn)
    user = role.replace(" ", "%20")
    return urlunsplit(parts._replace(netloc=f"{user}:{PASSWORD}@{parts.netloc.rpartition('@')[2]}"))


async def assert_refused(dsn: str, *statements: str) -> None:
    connection = await asyncpg.connect(dsn)
    for statement in statements:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    await connection.close()


DDL = (
    "CREATE TABLE headrace.x ()",
    "DROP TABLE headrace.jobs",
    "ALTER TABLE headrace.jobs ADD COLUMN x integer",
    "CREATE INDEX ON headrace.jobs (name)",
    "CREATE FUNCTION headrace.f() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    "TRUNCATE headrace.dead_jobs",
    "INSERT INTO headrace.migrations VALUES (99, 'x', 1)",
    "UPDATE headrace.queues SET max_retries = 0",
    "DELETE FROM headrace.queues",
)
WORK = (
    "SELECT payload FROM headrace.jobs",
    "SELECT payload FROM headrace.dead_jobs",
    "SELECT * FROM headrace.background_jobs",
    "DELETE FROM headrace.jobs",
    "UPDATE headrace.jobs SET priority = 0",
    "INSERT INTO headrace.leases (queue_id, expires_at, holder) VALUES (1, now(), 'x')",
    "INSERT INTO headrace.watches VALUES (1, now(), now())",
    "SELECT * FROM headrace.claim(1, 1, 1, '{}', NULL, 0)",
    "SELECT headrace.cancel(1, 1)",
    "SELECT headrace.redrive(1, '{1}')",
)


async def test_a_reader_can_count_and_nothing_more(
    place: Place, role: str, admin: asyncpg.Connection[asyncpg.Record]
) -> None:
    async with PostgresQueue(place, "orders") as queue:
        await queue.enqueue([NewJob(), NewJob(delay_seconds=60), NewJob(group="g"), new_job("dead")])
        await queue.receive(1)
    dsn = await granted("reader", role, admin, place.dsn)
    async with PostgresBacklog(Place(dsn=dsn)) as backlog:
        depth = (await backlog.depths(["orders"]))["orders"]
        assert (depth.ready, depth.delayed) == (3, 1)
    assert [queue["name"] for queue in await headrace_json("queues", "list", dsn=dsn)] == ["orders"]
    await assert_refused(
        dsn,
        *DDL,
        *WORK,
        "SELECT name FROM headrace.jobs",
        "INSERT INTO headrace.jobs (queue_id) VALUES (1)",
        "SELECT * FROM headrace.deduplication_keys",
    )
    async with PostgresQueue(Place(dsn=dsn), "orders") as queue:
        with pytest.raises(QueueAccessError, match="grant the right"):
            await queue.enqueue([NewJob()])


async def test_a_producer_can_enqueue_whatever_there_is_and_nothing_more(
    place: Place, role: str, admin: asyncpg.Connection[asyncpg.Record]
) -> None:
    dsn = await granted("producer", role, admin, place.dsn)
    async with PostgresQueue(Place(dsn=dsn), "orders") as queue:
        ids = [
            *await queue.enqueue([new_job("plain", {"a": 1}, priority=3, headers={"trace": "00"})]),
            *await queue.enqueue(
                [
                    new_job("delayed", delay_seconds=60),
                    new_job("grouped", group="g"),
                    new_job("key", deduplication_key="k"),
                ]
            ),
        ]
        await admin.execute("UPDATE headrace.deduplication_keys SET finished = true, kept_until = now()")
        again = await queue.enqueue([new_job("key", deduplication_key="k", deduplication_window_seconds=60)])
        assert len({*ids, *again}) == 5
    done = await headrace("enqueue", "orders", "by-hand", dsn=dsn)
    assert (done.returncode, done.stdout.endswith(" enqueued into orders\n")) == (0, True)
    connection = await asyncpg.connect(dsn)
    assert await connection.fetchval("SELECT enqueue('orders', 'by-sql')"), "found unqualified"
    await connection.close()
    await assert_refused(
        dsn,
        *DDL,
        *WORK,
        "SELECT * FROM headrace.jobs",
        "SELECT id FROM headrace.parked_jobs",
        "SELECT headrace.complete(1, '{1}', '{1}')",
        "UPDATE headrace.deduplication_keys SET finished = true",
    )
    for arguments in (("jobs", "list", "orders"), ("dlq", "purge", "orders", "--all"), ("queues", "pause", "orders")):
        refused = await headrace(*arguments, dsn=dsn)
        assert refused.returncode == 1
        assert "grant the right" in refused.stderr
        assert PASSWORD not in refused.stderr


async def test_a_worker_can_do_all_that_workers_do_and_change_neither_schema_nor_settings(
    place: Place, role: str, admin: asyncpg.Connection[asyncpg.Record]
) -> None:
    settings = QueueSettings(max_retries=1, completed_retention_seconds=60)
    await PostgresProvisioner(place).ensure("orders", settings, OWNER)
    dsn = await granted("worker", role, admin, place.dsn)
    own = Place(dsn=dsn)
    async with PostgresQueue(own, "orders", listens=True, lease_seconds=0.001) as queue:
        await queue.keep_alive()
        assert await queue.receive(1, wait_seconds=0.01) == []
        await queue.enqueue(
            [new_job(name) for name in ("complete", "retry", "release", "give-up", "discard", "lost")]
            + [new_job("grouped", group="g"), new_job("keyed", deduplication_key="k")]
        )
        held = {delivery.job.name: delivery for delivery in await queue.receive(10)}
        assert len(held) == 8
        async with PostgresInspector(own, lease_seconds=0.001) as inspector:
            assert await inspector.cancel("orders", Cancel(job_id=held["discard"].job.id)) == "requested"
        await discard(queue, held["discard"])
        await complete(queue, [held["complete"], held["grouped"], held["keyed"]])
        await retry(queue, held["retry"], error="x")
        await release(queue, [held["release"]], delay_seconds=0.001)
        await dead_letter(queue, held["give-up"], reason="Broken")
        await queue.enqueue([NewJob(delay_seconds=0.001)])
        await admin.execute("INSERT INTO headrace.cancellations (queue_id, job_id) VALUES (1, 999)")
        await admin.execute("INSERT INTO headrace.jobs (queue_id, expires_at) VALUES (1, now())")
        await admin.execute("UPDATE headrace.leases SET expires_at = now()")
        await admin.execute("UPDATE headrace.watches SET seen_at = now() - interval '5 seconds'")
        await admin.execute(
            "INSERT INTO headrace.deduplication_keys (queue_id, key, job_id, finished, kept_until) "
            "VALUES (1, 'old', 1, true, now())"
        )
        async with PostgresQueue(own, "orders", lease_seconds=0.001) as other:
            maintained = await other.maintain()
        assert (maintained.rescued, maintained.expired) == (1, 1)
        await admin.execute("DELETE FROM headrace.watches")
        await admin.execute(
            "UPDATE headrace.dead_jobs SET dead_at = dead_at - interval '1 year' WHERE reason = 'Expired'"
        )
        await admin.execute("UPDATE headrace.finished_jobs SET finished_at = now() - interval '1 year'")
        assert (await queue.maintain()).pruned > 1
        await queue.depth(max_age_seconds=0.001)
        assert (await queue.keep_alive()).lost == {held["lost"].key}
    async with PostgresInspector(own) as inspector:
        assert await inspector.redrive("orders", Redrive()) == 1
    connection = await asyncpg.connect(dsn)
    assert await connection.fetchval("SELECT count(*) FROM background_jobs") > 0, "found unqualified"
    assert await connection.fetch("SELECT * FROM recover_stuck_background_jobs(60)") == []
    await connection.close()
    await assert_refused(dsn, *DDL)


async def test_a_whole_worker_runs_with_a_workers_rights(
    place: Place, role: str, admin: asyncpg.Connection[asyncpg.Record], tmp_path: Path
) -> None:
    dsn = await granted("worker", role, admin, place.dsn)
    async with PostgresQueue(Place(dsn=dsn), "orders") as queue:
        await queue.enqueue([new_job("quick")] * 20)
    with running_worker(tmp_path, "--app", "support.worker_app:app", dsn=dsn) as worker:
        await eventually(lambda: worker.metric("completed_total") == 20, what="20 completed")
        await eventually(lambda: worker.metric("queue_depth") == 0, what="an empty queue")
        worker.terminate()
        assert await worker.exit_status() == 0
        assert "permission denied" not in worker.log


async def test_granting_is_safe_to_repeat_and_a_role_can_have_several_kinds(
    place: Place, role: str, admin: asyncpg.Connection[asyncpg.Record]
) -> None:
    command = ("migrate", "--grant-producer", role, "--grant-reader", role, "--create-roles")
    kinds = [f"{role} is a producer", f"{role} is a reader"]
    first = await headrace_json(*command, dsn=place.dsn)
    assert first["roles"] == [f"role {role} created, without a password", *kinds]
    again = await headrace_json(*command, dsn=place.dsn)
    assert again["roles"] == kinds
    path = await admin.fetchval(
        "SELECT setconfig[1] FROM pg_db_role_setting JOIN pg_roles ON pg_roles.oid = setrole WHERE rolname = $1", role
    )
    assert path == 'search_path="$user", public, headrace', "last: it hides no table of an application's own"


async def test_a_role_keeps_the_search_path_that_it_has(
    place: Place, role: str, admin: asyncpg.Connection[asyncpg.Record]
) -> None:
    await admin.execute(f'CREATE ROLE "{role}" LOGIN; ALTER ROLE "{role}" SET search_path = shop, "odd, name"')
    report = await headrace_json("migrate", "--grant-producer", role, dsn=place.dsn)
    assert report["roles"] == [f"{role} is a producer"]
    dsn = await granted("producer", role, admin, place.dsn)
    connection = await asyncpg.connect(dsn)
    assert await connection.fetchval("SHOW search_path") == 'shop, "odd, name", headrace'
    await connection.close()


@pytest.mark.parametrize("schema", ["headrace", 'odd "schema'])
async def test_grants_hold_for_one_schema(
    database_dsn: str, role: str, admin: asyncpg.Connection[asyncpg.Record], schema: str
) -> None:
    for name in (schema, "elsewhere"):
        await PostgresProvisioner(Place(dsn=database_dsn, schema=name)).ensure("orders", QueueSettings(), OWNER)
    await headrace("migrate", "--grant-worker", role, "--create-roles", "--schema", schema, dsn=database_dsn)
    await admin.execute(f'SET ROLE "{role}"')
    quoted = schema.replace('"', '""')
    assert await admin.fetchval(f'SELECT count(*) FROM "{quoted}".background_jobs') == 0
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await admin.fetchval("SELECT count(*) FROM elsewhere.background_jobs")
    await admin.execute("RESET ROLE")


async def test_a_role_that_does_not_exist_is_refused_with_the_way_out(place: Place, role: str) -> None:
    done = await headrace("migrate", "--grant-worker", role, dsn=place.dsn)
    assert (done.returncode, done.stderr) == (
        1,
        f"headrace: role {role!r} does not exist: create it, or add --create-roles\n",
    )
    alone = await headrace("migrate", "--create-roles", dsn=place.dsn)
    assert (alone.returncode, "--grant-producer" in alone.stderr) == (2, True)


async def test_who_does_not_own_the_schema_can_grant_nothing(
    place: Place, role: str, admin: asyncpg.Connection[asyncpg.Record]
) -> None:
    dsn = await granted("worker", role, admin, place.dsn)
    done = await headrace("migrate", "--grant-worker", role, dsn=dsn)
    assert done.returncode == 1
    assert "grant as that user" in done.stderr


async def test_who_may_not_migrate_is_told(place: Place, role: str, admin: asyncpg.Connection[asyncpg.Record]) -> None:
    dsn = await granted("reader", role, admin, place.dsn)
    with pytest.raises(QueueError, match="permission denied"):
        await PostgresProvisioner(Place(dsn=dsn, schema="new")).migrate()
