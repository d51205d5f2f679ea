"""What the hot statements touch in a long queue, by the server's own account of every statement inside of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from headrace.queues.base import Owner, QueueSettings
from headrace.queues.postgres import Place, PostgresProvisioner
from headrace.queues.postgres.statements import queries

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

LIMIT = 100
MOST_ROWS = 15_000
"""That a statement may visit: housekeeping does a thousand jobs at a time, in a few steps. The queue has 200,000."""

_SMALL = (
    *("queues", "leases", "claims", "progress", "cancellations", "completed_heads"),
    *("queue_stats", "queue_totals", "waiters", "watches", "migrations"),
)

FILL = """
INSERT INTO headrace.jobs (queue_id, priority, name, expires_at)
SELECT 1, number % 11, 'job', CASE WHEN number % 4 = 0 THEN now() + interval '1 day' END
FROM generate_series(1, 200000) AS number;
INSERT INTO headrace.jobs (queue_id, name) SELECT 2, 'neighbour' FROM generate_series(1, 20000);
INSERT INTO headrace.jobs (queue_id, expires_at) SELECT 1, now() - interval '1 hour' FROM generate_series(1, 2000);
-- A thousand groups, each with a head that can be claimed and jobs behind it; three thousand that have just arrived.
INSERT INTO headrace.jobs (queue_id, group_key) SELECT 1, 'g' || number FROM generate_series(0, 999) AS number;
INSERT INTO headrace.groups (queue_id, head_id, next_id, head_priority, group_key)
SELECT 1, id, id + 1, 0, group_key FROM headrace.jobs WHERE group_key IS NOT NULL;
INSERT INTO headrace.parked_jobs (id, queue_id, group_key, state)
SELECT 1000000 + number, 1, 'g' || number % 1000, 'behind' FROM generate_series(1, 30000) AS number;
INSERT INTO headrace.parked_jobs (id, queue_id, group_key, state)
SELECT 2000000 + number, 1, 'n' || number % 3000, 'arrived' FROM generate_series(1, 9000) AS number;
-- Delayed, and due.
INSERT INTO headrace.parked_jobs (id, queue_id, run_at, expires_at, state)
SELECT 3000000 + number, 1, now() + interval '1 day', now() + interval '2 days', 'delayed'
FROM generate_series(1, 60000) AS number;
INSERT INTO headrace.parked_jobs (id, queue_id, run_at, state)
SELECT 4000000 + number, 1, now() - interval '1 hour', 'delayed' FROM generate_series(1, 9000) AS number;
INSERT INTO headrace.parked_jobs (id, queue_id, suspect, state)
SELECT 5000000 + number, 1, true, 'suspect' FROM generate_series(1, 5000) AS number;
INSERT INTO headrace.dead_jobs (id, queue_id, dead_at, reason)
SELECT 6000000 + number, 1, now() - number * interval '1 minute', 'x' FROM generate_series(1, 20000) AS number;
INSERT INTO headrace.finished_jobs (id, queue_id, finished_at, outcome)
SELECT 7000000 + number, 1, now() - number * interval '5 seconds', 'completed' FROM generate_series(1, 20000) AS number;
INSERT INTO headrace.deduplication_keys (queue_id, key, job_id, kept_until, finished)
SELECT 1, 'k' || number, 1, now() + (number - 1000) * interval '1 minute', number % 2 = 0
FROM generate_series(1, 20000) AS number;
-- Twenty workers hold ten jobs each.
INSERT INTO headrace.leases (queue_id, expires_at, lease_seconds, holder)
SELECT 1, now() + interval '1 day', 86400, 'worker' FROM generate_series(1, 20) AS number;
INSERT INTO headrace.claims (lease_id, last_id, queue_id, priority, job_ids)
SELECT lease.id, max(job.id), 1, 5, array_agg(job.id)
FROM (SELECT id, row_number() OVER () AS number FROM headrace.leases WHERE holder = 'worker') AS lease, LATERAL (
    SELECT id FROM headrace.jobs WHERE queue_id = 1 AND priority = 5 ORDER BY id OFFSET lease.number * 10 LIMIT 10
) AS job
GROUP BY lease.id;
"""


ALL_QUERIES = queries("headrace")


class Server:
    """A session that tells what every statement did, those inside of functions as well."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._connection = connection
        self._plans: list[dict[str, Any]] = []
        connection.add_log_listener(self._hear)

    def _hear(self, _connection: object, message: Any) -> None:
        _, found, text = message.message.partition("plan:\n")
        if found and is_ours(plan := json.loads(text)["Plan"]):
            self._plans.append(plan)

    async def prepare(self) -> None:
        for statement in (
            "LOAD 'auto_explain'",
            "SET auto_explain.log_min_duration = 0",
            "SET auto_explain.log_nested_statements = on",
            "SET auto_explain.log_analyze = on",
            "SET auto_explain.log_timing = off",
            "SET auto_explain.log_format = json",
            "SET client_min_messages = log",
        ):
            await self._connection.execute(statement)

    async def run(self, query: str, *arguments: object) -> tuple[list[asyncpg.Record], list[dict[str, Any]]]:
        """The rows, and the nodes of all plans."""
        self._plans.clear()
        rows = await self._connection.fetch(ALL_QUERIES[query], *arguments)
        # Messages come in order: after this answer all have been heard.
        await self._connection.fetch("SELECT 1")
        return rows, [node for plan in self._plans for node in nodes(plan)]


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def visited(node: dict[str, Any]) -> float:
    """The rows that a scan looked at."""
    if node["Node Type"] == "ModifyTable" or "Relation Name" not in node:
        return 0
    removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return float((node["Actual Rows"] + removed) * node["Actual Loops"])


@pytest.fixture
async def connection(database_dsn: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    for name in ("orders", "neighbour"):
        await PostgresProvisioner(Place(dsn=database_dsn)).ensure(
            name, QueueSettings(), Owner(namespace="shop", name=name, uid="1")
        )
    connection = await asyncpg.connect(database_dsn, statement_cache_size=0)
    try:
        await connection.execute("UPDATE headrace.queues SET completed_retention_seconds = 86400")
        yield connection
    finally:
        await connection.close()


async def every_statement(server: Server) -> dict[str, list[dict[str, Any]]]:
    """Run all that workers, producers and people run, once; gives the nodes of each one's plans."""
    found: dict[str, list[dict[str, Any]]] = {}

    async def run(query: str, *arguments: object) -> list[asyncpg.Record]:
        rows, found_nodes = await server.run(query, *arguments)
        found.setdefault(query, []).extend(found_nodes)
        return rows

    floors = [0] * 22
    failure = json.dumps({"error": "error", "traceback": "trace"})
    past, future = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
    plain: tuple[object, ...] = (1, [b"1"] * 60, ["job"], [7], [], [], [future, past], [], True)
    cancelled, *_ = [row["id"] for row in await run("enqueue", *plain)]
    parked, *_ = [
        row["id"]
        for row in await run(
            *("put", 1, [b"1"] * 4, ["job"], [], [], [], [past], [None] * 4, [60, 5, 0, 0], [None, None, "g5", "g5"]),
            *([None, "key", "key", "other"], [None, 60, None, None], []),
        )
    ]
    await run("housekeeping", "orders")
    await run("next_due", 1, 0.5)
    await run("has_ready", 1)
    await run("wake", 1)
    for query in ("promote", "expire"):
        await run(query, 1, 1000)
    for job_id in cancelled, parked:
        await run("inspect_make_due", 1, job_id)
        await run("inspect_cancel", 1, job_id)
    await run("catch_up_cancellations", 1)
    (lease,) = (row["id"] for row in await run("start_lease", 1, 20, "here"))
    held = [(row["claim_id"], row["id"]) for row in await run("claim", 1, lease, LIMIT, floors, ["another"], None)]
    claims = list({claim for claim, _ in held})
    await run("heartbeat", lease, 20, [job_id for _, job_id in held], claims, 1, 1, 1, 1.0, [1] * 12)
    await run("report_progress", [lease], claims[:1], [json.dumps({str(held[0][1]): {"fraction": 1}})])
    ids = [held.pop()[1] for _ in range(10)]
    assert len(await run("retry", lease, claims, ids, [5] * 10, [failure] * 10)) == 10
    ids = [held.pop()[1] for _ in range(10)]
    assert len(await run("dead_letter", lease, claims, ids, ["reason"] * 10, [failure] * 10)) == 10
    ids = [held.pop()[1] for _ in range(10)]
    assert len(await run("discard", lease, claims, ids)) == 10
    ids = [held.pop()[1] for _ in range(10)]
    assert len(await run("release", lease, claims, ids, [0, 5] * 5)) == 10
    assert len(await run("complete", lease, claims, [job_id for _, job_id in held])) == len(held)
    await run("settled_before", lease, claims[:1], [held[0][1]])
    await run("acknowledge_completed", 1, lease, [1], list(range(1, LIMIT)), ["g5"])
    await run("drop_strays", lease, [1])
    await run("make_room", 1, lease)
    (lost,) = (row["id"] for row in await run("start_lease", 1, -1, "lost"))
    await run("claim", 1, lost, LIMIT, floors, None, None)
    (alone,) = (row["id"] for row in await run("start_lease", 1, None, "alone"))
    await run("claim_suspect", 1, alone)
    await run("end_leases", [alone])
    await run("rescue", 1, 0.001, 1000)
    (lost,) = (row["id"] for row in await run("start_lease", 1, -1, "lost"))
    await server.run("claim", 1, lost, LIMIT, floors, None, None)
    (until,) = (row[0] for row in await run("inspect_judged_until", 1, 0.001, 0))
    await run("inspect_has_ended_leases", 1, 0)
    await run("inspect_recover_stuck", 1, 0, until, 1000)
    dead_ids = [row["id"] for row in (await server.run("inspect_dead", 1, None, None, 2 * LIMIT, None))[0]]
    await run("inspect_redrive", 1, dead_ids[:LIMIT])
    await run("inspect_purge", 1, dead_ids[LIMIT:])
    for query in ("prune_dead", "prune_finished", "prune_keys"):
        await run(query, 1, 1000)
    return found


@pytest.mark.parametrize("analyzed", [False, True])
async def test_no_statement_walks_a_long_queue(
    connection: asyncpg.Connection[asyncpg.Record], *, analyzed: bool
) -> None:
    """Neither with the plans that a session made while the queue was empty, nor once the tables are analyzed."""
    server = Server(connection)
    if not analyzed:
        for _ in range(6):  # By then a plan is kept for good.
            await every_statement(server)
    await connection.execute(FILL)
    await connection.execute("VACUUM (ANALYZE)" if analyzed else "VACUUM")
    await server.prepare()
    too_many = {}
    for query, found in (await every_statement(server)).items():
        if any(map(is_walk, found)) or sum(map(visited, found)) > MOST_ROWS:
            too_many[query] = [
                (node["Node Type"], node["Relation Name"], node.get("Index Name"), visited(node))
                for node in found
                if visited(node) > MOST_ROWS / 10 or is_walk(node)
            ]
    assert too_many == {}


def is_walk(node: dict[str, Any]) -> bool:
    return node["Node Type"] == "Seq Scan" and node["Relation Name"] not in _SMALL


def is_ours(plan: dict[str, Any]) -> bool:
    """Not of a catalog: those the driver asks, too."""
    return not any(node.get("Relation Name", "").startswith("pg_") for node in nodes(plan))


@pytest.mark.parametrize("query", ["depths", "count_and_share"])
async def test_counting_reads_indexes_alone_and_stops_where_the_queue_is_long(
    connection: asyncpg.Connection[asyncpg.Record], query: str
) -> None:
    server = Server(connection)
    await connection.execute(FILL)
    await connection.execute("VACUUM (ANALYZE)")
    await server.prepare()
    rows, found = await server.run(query, *([["orders"]] if query == "depths" else [1, 5]))
    assert (rows[0]["ready"] > 100_000, rows[0]["is_lower_bound"]) == (True, True)
    assert [node for node in found if is_walk(node)] == []
    fetched = [node for node in found if node["Node Type"] != "Index Only Scan"]
    # Arrivals, suspects and what has expired are looked at one by one, for none of them stays for long.
    assert sum(map(visited, fetched)) < 9_000 + 3 * 5_000 + 2_000 + 3 * 3_000
    (whole,) = [node for node in found if node.get("Index Name") == "jobs_pkey" and visited(node) > 50_000]
    assert (whole["Node Type"], whole["Heap Fetches"]) == ("Index Only Scan", 0)
    assert visited(whole) < 110_000


@pytest.mark.parametrize("analyzed", [False, True])
async def test_no_statement_looks_dear_to_the_planner(
    connection: asyncpg.Connection[asyncpg.Record], *, analyzed: bool
) -> None:
    """From a cost of 100,000 on, a stock server compiles each execution anew, which takes a tenth of a second."""
    server = Server(connection)
    if analyzed:
        await connection.execute(FILL)
        await connection.execute("VACUUM (ANALYZE)")
    await server.prepare()
    dear: dict[str, list[object]] = {}
    for _ in range(1 if analyzed else 6):  # By then a plan is kept for good.
        for query, found in (await every_statement(server)).items():
            for node in found:
                if node["Total Cost"] >= 100_000 and "Parent Relationship" not in node:
                    what = (node["Node Type"], node.get("Relation Name"), node["Total Cost"])
                    dear.setdefault(query, []).append(what)
    assert dear == {}


async def test_no_function_is_compiled_just_in_time(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Whatever the planner makes of one on another server."""
    rows = await connection.fetch(
        """
        SELECT proname FROM pg_proc
        WHERE pronamespace = 'headrace'::regnamespace AND prosrc ~ '"headrace"\\.[a-z_]+ |FROM' AND prosrc <> ''
            AND NOT coalesce('jit=off' = ANY (proconfig), false)
        """
    )
    assert [row["proname"] for row in rows] == []


async def test_looking_for_groups_without_a_head_hops_from_group_to_group(
    connection: asyncpg.Connection[asyncpg.Record],
) -> None:
    server = Server(connection)
    await connection.execute(FILL)
    await connection.execute("VACUUM (ANALYZE)")
    await server.prepare()
    _, found = await server.run("sweep_groups", 1)
    assert [node for node in found if is_walk(node)] == []
    assert sum(map(visited, found)) < 20 * 4000, "a few rows for each of the four thousand groups"
