"""Two-phase commit: a hint to workers fails no application's transaction that it can be left out of."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest
import sqlalchemy

from headrace import from_url, new_job, sync
from headrace.queues.base import Owner, QueueSettings
from headrace.queues.postgres import Place, PostgresProvisioner
from support import postgres
from support.verbs import complete
from support.worker_process import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from headrace.queues.base import Delivery

OWNER = Owner(namespace="", name="orders", uid="")


@pytest.fixture(scope="module")
def dsn() -> Iterator[str]:
    with postgres.running_server(settings=("max_prepared_transactions=5",)) as server:
        asyncio.run(PostgresProvisioner(Place(dsn=server.dsn)).ensure("orders", QueueSettings(), OWNER))
        yield server.dsn


@asynccontextmanager
async def a_worker_waits(dsn: str) -> AsyncIterator[list[Delivery]]:
    """Where somebody waits, enqueuing notifies; what arrives is in the list."""
    arrived: list[Delivery] = []
    stop = asyncio.Event()

    async def receive() -> None:
        while not stop.is_set():
            deliveries = await queue.receive(1, wait_seconds=1, stop=stop)
            arrived.extend(deliveries)
            await complete(queue, deliveries)

    def waits() -> bool:
        with psycopg.connect(dsn) as connection:
            return bool(connection.execute("SELECT count(*) FROM headrace.waiters").fetchone() != (0,))

    async with from_url(dsn, "orders", listens=True) as queue:
        await queue.keep_alive()
        receiving = asyncio.create_task(receive())
        await eventually(lambda: asyncio.to_thread(waits), what="it waits")
        yield arrived
        stop.set()
        await receiving


async def test_a_prepared_transaction_enqueues_where_nobody_is_to_be_notified(dsn: str) -> None:
    async with a_worker_waits(dsn) as arrived:
        with psycopg.connect(dsn) as connection:
            connection.tpc_begin(connection.xid(1, "order-17", "shop"))
            sync.enqueue_in(connection, "orders", [new_job("by psycopg")], notify=False)
            connection.tpc_prepare()
            connection.tpc_commit()
        await eventually(lambda: [delivery.job.name for delivery in arrived] == ["by psycopg"], what="it arrived")


async def test_sqlalchemy_prepares_one_too(dsn: str) -> None:
    async with a_worker_waits(dsn) as arrived:
        engine = sqlalchemy.create_engine(dsn.replace("postgresql://", "postgresql+psycopg://"))
        with engine.connect() as connection:
            transaction = connection.begin_twophase()
            sync.enqueue_in(connection, "orders", [new_job("by SQLAlchemy")], notify=False)
            transaction.prepare()
            transaction.commit()
        engine.dispose()
        await eventually(lambda: [delivery.job.name for delivery in arrived] == ["by SQLAlchemy"], what="it arrived")


async def test_notified_postgresql_would_prepare_none(dsn: str) -> None:
    async with a_worker_waits(dsn):
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("BEGIN")
            sync.enqueue_in(connection, "orders", [new_job("notified")])
            with pytest.raises(psycopg.errors.FeatureNotSupported, match="NOTIFY"):
                connection.execute("PREPARE TRANSACTION 'order-18'")
