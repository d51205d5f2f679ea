"""What statements touch while somebody's transaction stays open for hours, so that no dead row is removed.

Pages are counted, not seconds: those that the server looked at, whatever else the machine is busy with.
"""

from __future__ import annotations

from operator import itemgetter
from statistics import median
from typing import TYPE_CHECKING

import asyncpg
import pytest

from headrace.queues.base import Owner, QueueSettings
from headrace.queues.postgres import Place, PostgresProvisioner
from headrace.queues.postgres.frontier import Frontier
from headrace.queues.postgres.statements import queries

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

QUEUE = 1
LEASE_SECONDS = 20.0
ALL_QUERIES = queries("headrace")

_OF_FRONTIER = itemgetter("priority", "id", "came_back", "look")

ROUNDS = 400
SAMPLES = 15
AT_MOST = 2.5
"""By so much may a statement touch more pages in the last rounds than in the first: indexes grow by a level, and what
has arrived within two seconds is passed."""


class Meter:
    """A session that counts the pages of what it runs."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self.connection = connection
        self.pages = 0

    async def run(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """As a worker does, in a transaction of its own."""
        async with self.connection.transaction():
            before = await self._pages()
            rows = await self.connection.fetch(ALL_QUERIES[query], *arguments)
            self.pages += await self._pages() - before
        return rows

    async def _pages(self) -> int:
        """Of this transaction; to look at them touches none."""
        count: int = await self.connection.fetchval(
            """
            SELECT sum(pg_stat_get_xact_blocks_fetched(oid))::bigint
            FROM pg_class
            WHERE relnamespace = 'headrace'::regnamespace AND relkind IN ('r', 'i')
            """
        )
        return count


class Worker:
    """Claims and completes, by the statements that workers send."""

    def __init__(self, meter: Meter, lease: int) -> None:
        self._meter = meter
        self._lease = lease
        self._frontier = Frontier()

    async def work(self, limit: int = 10, *, without: frozenset[str] = frozenset()) -> list[asyncpg.Record]:
        """Once; gives what was done."""
        floors, look = self._frontier.of(without, 0.0)
        rows = await self._meter.run("claim", QUEUE, self._lease, limit, floors, list(without) or None, look)
        marks = [row for row in rows if row["claim_id"] is None]
        rows = [row for row in rows if row["claim_id"] is not None]
        self._frontier.passed(without, map(_OF_FRONTIER, marks), 0.0)
        self._frontier.found(without, map(_OF_FRONTIER, rows), 0.0)
        claims = list({row["claim_id"] for row in rows})
        if rows:
            await self._meter.run("complete", self._lease, claims, [row["id"] for row in rows])
        return rows


@pytest.fixture
async def meter(database_dsn: str) -> AsyncIterator[Meter]:
    await PostgresProvisioner(Place(dsn=database_dsn)).ensure(
        "orders", QueueSettings(), Owner(namespace="shop", name="orders", uid="1")
    )
    connection = await asyncpg.connect(database_dsn)
    try:
        yield Meter(connection)
    finally:
        await connection.close()


@pytest.fixture
async def worker(meter: Meter) -> Worker:
    (row,) = await meter.run("start_lease", QUEUE, LEASE_SECONDS, "here")
    return Worker(meter, row["id"])


@pytest.fixture
async def _old_transaction(worker: Worker, database_dsn: str) -> AsyncIterator[None]:
    connection = await asyncpg.connect(database_dsn)
    try:
        async with connection.transaction(isolation="repeatable_read"):
            await connection.fetch("SELECT count(*) FROM pg_class")
            yield
    finally:
        await connection.close()


async def put(meter: Meter, groups: list[str | None]) -> None:
    count = len(groups)
    nothing: list[object] = [None] * count
    await meter.run(
        *("put", QUEUE, [b"1"] * count, ["job"], [], [], [], [], nothing, [0.0] * count),
        *(groups, [], nothing, []),
    )


def growth(pages: list[int]) -> float:
    """Of rounds; those between the first and the last look from the start don't count."""
    return median(pages[-SAMPLES:]) / median(pages[SAMPLES : 2 * SAMPLES])


@pytest.mark.usefixtures("_old_transaction")
class TestAGroup:
    """A group's jobs that are done are not passed by whoever looks for the next."""

    async def test_that_is_idle_each_time(self, meter: Meter, worker: Worker) -> None:
        pages = []
        for _ in range(ROUNDS):
            await put(meter, ["g"])
            meter.pages = 0
            assert len(await worker.work()) == 1
            pages.append(meter.pages)
        assert growth(pages) < AT_MOST, (pages[SAMPLES : 2 * SAMPLES], pages[-SAMPLES:])

    async def test_whose_jobs_wait_for_each_other(self, meter: Meter, worker: Worker) -> None:
        await put(meter, ["g"] * ROUNDS)
        pages = []
        for _ in range(ROUNDS):
            meter.pages = 0
            assert len(await worker.work()) == 1
            pages.append(meter.pages)
        assert growth(pages) < AT_MOST, (pages[SAMPLES : 2 * SAMPLES], pages[-SAMPLES:])

    async def test_that_many_jobs_come_to_while_one_runs(self, meter: Meter, worker: Worker) -> None:
        """To see whether the group has a head, whoever admits them doesn't look at those that it had."""
        pages = []
        for _ in range(ROUNDS):
            await put(meter, ["g"] * 2)
            meter.pages = 0
            assert len(await worker.work()) == 1
            pages.append(meter.pages)
        assert growth(pages) < AT_MOST, (pages[SAMPLES : 2 * SAMPLES], pages[-SAMPLES:])


UPDATES = """
DO $$
BEGIN
    FOR number IN 1 .. 1500 LOOP
        UPDATE headrace.leases SET expires_at = now() + interval '1 hour';
        UPDATE headrace.watches SET seen_at = now();
        COMMIT;
    END LOOP;
END $$
"""


@pytest.mark.usefixtures("_old_transaction")
async def test_a_claim_passes_no_older_versions_of_lease_and_watch(meter: Meter, worker: Worker) -> None:
    """They are written every few seconds: in three hours, by twenty workers, fifty thousand times."""
    pages = []
    for _ in range(2):
        await worker.work()
        await put(meter, [None])
        meter.pages = 0
        assert len(await worker.work()) == 1
        pages.append(meter.pages)
        await meter.connection.execute(UPDATES)
    assert pages[1] < 1.5 * pages[0]


@pytest.mark.parametrize("query", ["heartbeat", "extend_lease", "housekeeping"])
@pytest.mark.usefixtures("_old_transaction", "worker")
async def test_who_keeps_a_lease_and_the_house_passes_no_older_versions(meter: Meter, query: str) -> None:
    lease = await meter.connection.fetchval("SELECT id FROM headrace.leases")
    arguments: dict[str, tuple[object, ...]] = {
        "heartbeat": (lease, LEASE_SECONDS, [], [], 1, 0, 0, 0.5, [1]),
        "extend_lease": (lease, LEASE_SECONDS),
        "housekeeping": ("orders",),
    }
    pages = []
    for _ in range(2):
        meter.pages = 0
        assert len(await meter.run(query, *arguments[query])) == 1
        pages.append(meter.pages)
        await meter.connection.execute(UPDATES)
    assert pages[1] < 1.5 * pages[0]
