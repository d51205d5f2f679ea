"""What a queue in Postgres makes of dead connections, silent hosts, standbys and busy pools."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from headrace.job import NewJob
from headrace.queues.base import Delivery, LeaseLostError, Owner, QueueSettings, QueueUnavailableError, Settled
from headrace.queues.postgres import Place, PostgresProvisioner, PostgresQueue
from headrace.queues.postgres.connection import Database, addresses
from headrace.queues.postgres.listener import Listener
from headrace.queues.postgres.statements import queries
from support.postgres import running_server, standby_of
from support.tcp_proxy import TcpProxy
from support.worker_process import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support.postgres import PostgresServer

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

    async def test_whoever_loses_a_session_under_way_is_told_of_that(
        self, place: Place, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        async with PostgresQueue(place, "orders") as queue:
            await queue.enqueue([NewJob()])
            async with admin.transaction():
                await admin.execute("LOCK TABLE headrace.jobs")
                calls = [asyncio.create_task(queue.depth()) for _ in range(3)]
                await eventually(lambda: blocked(admin, 3), what="waiting")
                await admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'headrace'"
                )
                errors = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(error) for error in errors} == {QueueUnavailableError}
        assert not [error for error in errors if "pool" in str(error)]

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


Settle = Callable[[PostgresQueue, Delivery], Awaitable[Settled]]


async def complete(queue: PostgresQueue, delivery: Delivery) -> Settled:
    return await queue.complete([delivery])


async def release(queue: PostgresQueue, delivery: Delivery) -> Settled:
    return await queue.release([delivery], delay_seconds=60)


async def retry(queue: PostgresQueue, delivery: Delivery) -> Settled:
    return await queue.retry(delivery, delay_seconds=60, error="no")


async def dead_letter(queue: PostgresQueue, delivery: Delivery) -> Settled:
    return await queue.dead_letter(delivery, reason="Hopeless")


async def discard(queue: PostgresQueue, delivery: Delivery) -> Settled:
    return await queue.discard(delivery)


class TestLostAnswers:
    """A job is settled, and the connection breaks before the answer: the worker tells once more."""

    @pytest.mark.parametrize(
        ("settle", "max_retries", "dead_lettered"),
        [(complete, 3, 0), (release, 3, 0), (retry, 3, 0), (retry, 0, 1), (dead_letter, 3, 1), (discard, 3, 0)],
    )
    async def test_what_was_done_by_then_is_accepted(
        self,
        place: Place,
        proxy: TcpProxy,
        admin: asyncpg.Connection[asyncpg.Record],
        settle: Settle,
        max_retries: int,
        dead_lettered: int,
    ) -> None:
        await admin.execute("UPDATE headrace.queues SET max_retries = $1", max_retries)
        async with PostgresQueue(through(proxy, place), "orders") as queue:
            delivery = await one_of_two(place, queue, settle)
            await self.answer_is_lost(proxy, admin, settle(queue, delivery))
            assert await settle(queue, delivery) == Settled(accepted=1, dead_lettered=dead_lettered)
            assert await settle(queue, delivery) == Settled(accepted=0, refused=(delivery,)), "but once"

    async def test_what_a_transaction_of_the_handlers_completed_is_accepted(
        self, place: Place, proxy: TcpProxy, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        async def commit(queue: PostgresQueue, delivery: Delivery) -> Settled:
            async with admin.transaction():
                await queue.complete_in(admin, delivery)
            return await queue.complete([delivery])

        async with PostgresQueue(through(proxy, place), "orders") as queue:
            delivery = await one_of_two(place, queue, commit)
            async with admin.transaction():
                await queue.complete_in(admin, delivery)
            await self.answer_is_lost(proxy, admin, queue.complete([delivery]))
            assert await queue.complete([delivery]) == Settled(accepted=1)

    async def test_what_was_not_done_is_done_by_the_next_call(self, place: Place, proxy: TcpProxy) -> None:
        async with PostgresQueue(through(proxy, place), "orders") as queue:
            delivery = await one_of_two(place, queue, complete)
            await self.question_is_lost(proxy, queue.complete([delivery]))
            assert await queue.complete([delivery]) == Settled(accepted=1)

    async def test_what_was_not_done_before_the_lease_was_lost_is_refused(self, place: Place, proxy: TcpProxy) -> None:
        async with PostgresQueue(through(proxy, place), "orders") as queue, PostgresQueue(place, "orders") as other:
            delivery = await one_of_two(place, queue, complete)
            await self.question_is_lost(proxy, queue.complete([delivery]))
            await run_out(place.dsn)
            await execute(place.dsn, "UPDATE headrace.watches SET since = now() - interval '1 minute', seen_at = now()")
            assert (await other.maintain()).rescued == 1
            assert await queue.complete([delivery]) == Settled(accepted=0, refused=(delivery,))

    async def answer_is_lost(
        self, proxy: TcpProxy, admin: asyncpg.Connection[asyncpg.Record], call: Awaitable[Settled]
    ) -> None:
        async def is_settled() -> bool:
            return not await admin.fetchval("SELECT EXISTS (SELECT FROM headrace.claims)")

        proxy.hold_answers()
        telling = asyncio.ensure_future(call)
        await eventually(is_settled, what="settled")
        proxy.cut()
        with pytest.raises(QueueUnavailableError):
            await telling

    async def question_is_lost(self, proxy: TcpProxy, call: Awaitable[Settled]) -> None:
        proxy.silence()
        telling = asyncio.ensure_future(call)
        await proxy.something_held()
        proxy.cut()
        with pytest.raises(QueueUnavailableError):
            await telling


async def one_of_two(place: Place, queue: PostgresQueue, settle: Settle) -> Delivery:
    """A job that is held. One before it is settled: so its statement is prepared, and the next is but one question."""
    await enqueued_elsewhere(place)
    await enqueued_elsewhere(place)
    await queue.keep_alive()
    first, second = await queue.receive(2)
    assert (await settle(queue, first)).accepted == 1
    return second


async def enqueued_elsewhere(place: Place) -> list[str]:
    async with PostgresQueue(place, "orders") as producer:
        return await producer.enqueue([NewJob()])


async def blocked(admin: asyncpg.Connection[asyncpg.Record], count: int = 1) -> bool:
    return bool(
        await admin.fetchval(
            "SELECT count(*) >= $1 FROM pg_locks JOIN pg_database ON oid = database"
            " WHERE datname = current_database() AND NOT granted",
            count,
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


WATCH_LEASE_SECONDS = 3.0


def worker(dsn: str) -> PostgresQueue:
    return PostgresQueue(Place(dsn=dsn), "orders", lease_seconds=WATCH_LEASE_SECONDS)


async def holding_one(queue: PostgresQueue) -> Delivery:
    await queue.keep_alive()
    await queue.enqueue([NewJob()])
    (delivery,) = await queue.receive(1)
    return delivery


async def answers(queue: PostgresQueue) -> bool:
    with suppress(QueueUnavailableError):
        return bool(await queue.depth())
    return False


async def run_out(dsn: str) -> None:
    """Let every lease there is run out, as if the backend had been away for long."""
    await execute(dsn, "UPDATE headrace.leases SET expires_at = now() - interval '1 second'")


async def execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute(statement)
    await connection.close()


async def everybody_reports_first(alive: PostgresQueue, held: Delivery, fresh: PostgresQueue) -> None:
    """A worker that starts when the backend is back judges nobody at once, and the dead once a lease has passed."""
    assert (await fresh.maintain()).rescued == 0
    rescued = 0

    async def is_judged() -> bool:
        nonlocal rescued
        await alive.keep_alive()
        rescued += (await fresh.maintain()).rescued
        return rescued > 0

    await eventually(is_judged, what="judged")
    assert rescued == 1, "the dead one's"
    assert (await alive.complete([held])).accepted == 1


class TestJudgement:
    """After the backend itself was away, nobody's lease is judged before one full lease has passed."""

    async def test_after_a_failover_to_a_standby_that_has_been_up_for_long(self) -> None:
        with running_server() as primary:
            primary.stop()
            with standby_of(primary) as standby:
                primary.start("synchronous_standby_names=*", "synchronous_commit=remote_apply")
                standby.start()
                both = (
                    f"postgresql://postgres@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/postgres"
                    "?target_session_attrs=read-write"
                )
                await PostgresProvisioner(Place(dsn=both)).ensure("orders", QueueSettings(), OWNER)
                async with worker(both) as dead, worker(both) as alive:
                    await holding_one(dead)
                    held = await holding_one(alive)
                    await execute(standby.dsn, f"SELECT pg_sleep({WATCH_LEASE_SECONDS})")
                    await run_out(primary.dsn)
                    await asyncio.to_thread(primary.stop, immediately=True)
                    standby.promote()
                    await eventually(lambda: answers(alive), what="connected anew")
                    async with worker(both) as fresh:
                        await everybody_reports_first(alive, held, fresh)

    @pytest.mark.parametrize("what", ["the server", "one session"])
    async def test_after_a_crash_of(self, own_postgres: PostgresServer, what: str) -> None:
        await PostgresProvisioner(Place(dsn=own_postgres.dsn)).ensure("orders", QueueSettings(), OWNER)
        async with worker(own_postgres.dsn) as dead, worker(own_postgres.dsn) as alive:
            await holding_one(dead)
            held = await holding_one(alive)
            await execute(own_postgres.dsn, f"SELECT pg_sleep({WATCH_LEASE_SECONDS})")
            await run_out(own_postgres.dsn)
            if what == "the server":
                own_postgres.stop(immediately=True)
                own_postgres.start()
            else:  # Then the server ends all others, and recovers; it counts as up all the while.
                session, other = [await asyncpg.connect(own_postgres.dsn) for _ in range(2)]
                os.kill(session.get_server_pid(), signal.SIGKILL)
                await eventually(other.is_closed, what="ended with it")
            await eventually(lambda: answers(alive), what="connected anew")
            async with worker(own_postgres.dsn) as fresh:
                await everybody_reports_first(alive, held, fresh)

    async def test_after_an_outage_of_the_network_for_all(self, place: Place) -> None:
        async with worker(place.dsn) as dead, worker(place.dsn) as alive:
            await holding_one(dead)
            held = await holding_one(alive)
            await alive.maintain()
            await execute(
                place.dsn,
                "UPDATE headrace.watches SET since = since - interval '1 hour', seen_at = now() - interval '11 s'",
            )
            await run_out(place.dsn)
            async with worker(place.dsn) as fresh:
                await everybody_reports_first(alive, held, fresh)

    async def test_a_worker_that_starts_again_within_seconds_still_judges_what_it_held_before(
        self, place: Place, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        async with worker(place.dsn) as killed:
            await holding_one(killed)
            await killed.maintain()
            await admin.execute(
                "UPDATE headrace.watches SET since = now() - interval '1 hour', seen_at = now() - interval '5 seconds'"
            )
            await run_out(place.dsn)
            async with worker(place.dsn) as restarted:
                assert (await restarted.maintain()).rescued == 1

    async def test_a_queue_is_watched_from_its_registration_on(
        self, place: Place, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        assert await admin.fetchval("SELECT since > now() - interval '1 minute' FROM headrace.watches")
        await PostgresProvisioner(place).remove("orders", OWNER)
        assert await admin.fetch("SELECT FROM headrace.watches") == []

    async def test_who_was_suspended_between_looking_and_judging_judges_nobody(
        self, place: Place, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        async with worker(place.dsn) as dead:
            await holding_one(dead)
            await run_out(place.dsn)
            await admin.execute("UPDATE headrace.watches SET since = now() - interval '1 hour', seen_at = now()")
            aged = "UPDATE headrace.watches SET seen_at = now() - interval '11 seconds'"
            rescue = queries("headrace")["rescue"]
            async with admin.transaction():
                await admin.execute(aged)
                assert await admin.fetchval(rescue, 1, WATCH_LEASE_SECONDS, 1000) == 0
            await admin.execute("UPDATE headrace.watches SET seen_at = now()")
            assert await admin.fetchval(rescue, 1, WATCH_LEASE_SECONDS, 1000) == 1

    async def test_a_worker_whose_housekeeping_takes_long_watches_all_the_same(
        self, place: Place, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        async with worker(place.dsn) as busy:
            await busy.keep_alive()
            await admin.execute("UPDATE headrace.watches SET seen_at = now() - interval '5 seconds'")
            await busy.keep_alive()
            assert await admin.fetchval("SELECT seen_at > now() - interval '2 seconds' FROM headrace.watches")

    async def test_watching_writes_once_in_a_while_and_waits_for_nobody(
        self, place: Place, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        seen = "SELECT seen_at FROM headrace.watches"
        async with worker(place.dsn) as one, worker(place.dsn) as other:
            before = await admin.fetchval(seen)
            await one.maintain()
            assert await admin.fetchval(seen) == before, "a moment ago is soon enough"
            await admin.execute("UPDATE headrace.watches SET seen_at = now() - interval '3 seconds'")
            async with admin.transaction(), asyncio.timeout(20):
                await admin.execute("SELECT FROM headrace.watches FOR UPDATE")
                await asyncio.gather(one.maintain(), other.maintain())
            await asyncio.gather(one.maintain(), other.maintain())
            assert await admin.fetchval("SELECT seen_at > now() - interval '2 seconds' FROM headrace.watches")
