"""What a queue in Postgres makes of dead connections, silent hosts, standbys and busy pools."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from headrace.job import NewJob
from headrace.queues.base import LeaseLostError, Owner, QueueSettings, QueueUnavailableError
from headrace.queues.postgres import Place, PostgresProvisioner, PostgresQueue
from headrace.queues.postgres.connection import Database, addresses
from headrace.queues.postgres.listener import Listener
from support.tcp_proxy import TcpProxy
from support.worker_process import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

OWNER = Owner(namespace="shop", name="orders", uid="1")


@pytest.fixture
async def place(database_dsn: str) -> Place:
    place = Place(dsn=database_dsn)
    await PostgresProvisioner(place).ensure("orders", QueueSettings(), OWNER)
    return place


@pytest.fixture
async def admin(place: Place) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(place.dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def proxy(place: Place) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(urlsplit(place.dsn).port or 5432).running() as proxy:
        yield proxy


def through(proxy: TcpProxy, place: Place) -> Place:
    return Place(dsn=place.dsn.replace(f":{urlsplit(place.dsn).port}", f":{proxy.port}"))


class TestSilence:
    async def test_after_one_dead_connection_the_idle_ones_are_not_trusted_either(
        self, place: Place, proxy: TcpProxy
    ) -> None:
        database = Database(through(proxy, place), max_connections=4, command_timeout_seconds=1)
        await database.open()
        await asyncio.gather(*(database.fetch("depths", ["orders"]) for _ in range(3)))
        proxy.silence()
        with pytest.raises(QueueUnavailableError):
            await database.fetch("depths", ["orders"])
        assert await database.fetch("depths", ["orders"])
        await database.close()

    async def test_a_call_on_a_dead_connection_can_be_cancelled(self, place: Place, proxy: TcpProxy) -> None:
        async with PostgresQueue(through(proxy, place), "orders") as queue:
            proxy.silence(new_ones_too=True)
            call = asyncio.create_task(queue.depth())
            await asyncio.sleep(0.1)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

    async def test_a_heartbeat_gets_through_though_every_other_call_hangs(
        self, place: Place, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        async with PostgresQueue(place, "orders") as queue:
            await queue.keep_alive()
            async with admin.transaction():
                await admin.execute("LOCK TABLE headrace.jobs, headrace.queue_stats")
                calls = [
                    asyncio.create_task(call)
                    for call in (
                        queue.enqueue([NewJob()]),
                        queue.receive(1),
                        queue.depth(),
                        queue.depth(max_age_seconds=1),
                        queue.maintain(),
                    )
                ]
                await asyncio.sleep(0.2)
                await queue.keep_alive()
            for call in calls:
                with suppress(QueueUnavailableError):
                    await call


class TestLateAnswers:
    """A claim is committed, and its answer takes its time, or never comes."""

    async def claimed(self, admin: asyncpg.Connection[asyncpg.Record]) -> None:
        async def is_claimed() -> bool:
            return bool(await admin.fetchval("SELECT EXISTS (SELECT FROM headrace.claims)"))

        await eventually(is_claimed, what="claimed")

    async def test_what_a_heartbeat_gave_back_meanwhile_is_not_received(
        self, place: Place, proxy: TcpProxy, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        async with PostgresQueue(through(proxy, place), "orders") as queue:
            await queue.keep_alive()
            assert await queue.receive(1) == [], "prepared: from now on a claim is one question and one answer"
            (job_id,) = await enqueued_elsewhere(place)
            proxy.hold_answers()
            late = asyncio.create_task(queue.receive(1))
            await self.claimed(admin)
            await admin.execute("UPDATE headrace.claims SET claimed_at = now() - interval '1 hour'")
            await queue.keep_alive()
            proxy.resume()
            assert await late == []
            (delivery,) = await queue.receive(1)
            assert delivery.job.id == job_id
            assert (await queue.complete([delivery])).accepted == 1

    async def test_what_was_leased_under_a_lease_lost_meanwhile_is_not_received(
        self, place: Place, proxy: TcpProxy, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        async with PostgresQueue(through(proxy, place), "orders") as queue:
            await queue.keep_alive()
            assert await queue.receive(1) == [], "prepared, as above"
            await enqueued_elsewhere(place)
            proxy.hold_answers()
            late = asyncio.create_task(queue.receive(1))
            await self.claimed(admin)
            await admin.execute("DELETE FROM headrace.leases")
            with pytest.raises(LeaseLostError):
                await queue.keep_alive()
            proxy.resume()
            assert await late == []

    async def test_without_heartbeats_what_a_cancelled_call_had_leased_is_there_for_the_next(
        self, place: Place, proxy: TcpProxy, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        async with PostgresQueue(through(proxy, place), "orders") as queue:
            await enqueued_elsewhere(place)
            async with admin.transaction():
                await admin.execute("LOCK TABLE headrace.claims IN SHARE MODE")
                late = asyncio.create_task(queue.receive(1))
                await eventually(lambda: blocked(admin), what="claiming")
                proxy.hold_answers()
            await self.claimed(admin)
            late.cancel()
            await asyncio.wait([late])
            proxy.resume()
            await eventually(lambda: receives_one(queue), what="received after all")


async def enqueued_elsewhere(place: Place) -> list[str]:
    async with PostgresQueue(place, "orders") as producer:
        return await producer.enqueue([NewJob()])


async def blocked(admin: asyncpg.Connection[asyncpg.Record]) -> bool:
    return bool(
        await admin.fetchval(
            "SELECT EXISTS (SELECT FROM pg_locks JOIN pg_database ON oid = database"
            " WHERE datname = current_database() AND NOT granted)"
        )
    )


async def receives_one(queue: PostgresQueue) -> bool:
    return len(await queue.receive(1)) == 1


class TestSeveralHosts:
    @pytest.mark.parametrize(
        ("dsn", "each"),
        [
            ("postgresql://u:p@a/d", ["postgresql://u:p@a/d"]),
            ("postgresql://u:p@a,b/d", ["postgresql://u:p@a/d", "postgresql://u:p@b/d"]),
            ("postgresql://u:p@a:1,[::1]:2/d?x=y", ["postgresql://u:p@a:1/d?x=y", "postgresql://u:p@[::1]:2/d?x=y"]),
            ("postgresql://u@/d?host=a,b&port=5,6", ["postgresql://u@a:5/d", "postgresql://u@b:6/d"]),
            ("postgresql:///d?host=a,b&port=5&x=y", ["postgresql://a:5/d?x=y", "postgresql://b:5/d?x=y"]),
            ("postgresql:///d?host=/run/p,b", ["postgresql://%2Frun%2Fp/d", "postgresql://b/d"]),
            ("nonsense", ["nonsense"]),
        ],
    )
    def test_a_dsn_names_each_of_them(self, dsn: str, each: list[str]) -> None:
        assert addresses(dsn) == each

    async def test_one_that_says_nothing_does_not_keep_from_the_next(self, place: Place, proxy: TcpProxy) -> None:
        proxy.silence(new_ones_too=True)
        port = urlsplit(place.dsn).port
        both = place.dsn.replace(f"127.0.0.1:{port}", f"127.0.0.1:{proxy.port},127.0.0.1:{port}")
        async with PostgresQueue(Place(dsn=both + "?target_session_attrs=read-write"), "orders") as queue:
            assert (await queue.depth()).ready == 0

    async def test_without_any_that_answers_the_error_is_as_with_one(self) -> None:
        with pytest.raises(QueueUnavailableError, match="can't be reached"):
            async with PostgresQueue(Place(dsn="postgresql://u:hidden@127.0.0.1:1,127.0.0.1:2/d"), "orders"):
                pass

    async def test_a_connection_to_what_became_a_standby_is_not_used_again(
        self, place: Place, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        name = urlsplit(place.dsn).path[1:]
        await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        async with PostgresQueue(place, "orders") as queue:
            await admin.execute("SET default_transaction_read_only = off")
            await admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
            with pytest.raises(QueueUnavailableError, match="read-only"):
                await queue.enqueue([NewJob()])
            assert await queue.enqueue([NewJob()]), "connected anew"


class BrokenSession:
    """A listener's session that is of no use any more, and says so in one of the client's ways."""

    def __init__(self, error: BaseException) -> None:
        self._error = error
        self.is_terminated = False

    async def execute(self, *_: object) -> None:
        raise self._error

    def terminate(self) -> None:
        self.is_terminated = True


class TestListening:
    @pytest.mark.parametrize(
        "error",
        [
            asyncpg.ConnectionDoesNotExistError("gone"),
            asyncpg.QueryCanceledError("by hand"),
            asyncpg.InterfaceError("closed"),
            asyncpg.InternalClientError("cannot switch to state 11; another operation (2) is in progress"),
            ConnectionResetError(),
            TimeoutError(),
        ],
        ids=lambda error: type(error).__name__,
    )
    async def test_however_its_session_breaks_a_worker_goes_on_by_polling(self, error: BaseException) -> None:
        listener = Listener(Place(dsn="postgresql://nobody@127.0.0.1:1/none"), lambda: None)
        session: Any = BrokenSession(error)
        listener._connection = session
        assert not await listener.want(1)
        assert session.is_terminated, "for the next to take its place"


class TestJudgement:
    async def test_a_moments_loss_of_a_connection_keeps_nobody_from_judging(
        self, place: Place, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        database = Database(place, max_connections=2)
        await database.open()
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        with suppress(QueueUnavailableError):
            await database.fetch("depths", ["orders"])
        assert database.seconds_since_reconnect() == float("inf")
        assert await database.fetch("depths", ["orders"])
        assert database.seconds_since_reconnect() == float("inf")
        await database.close()
