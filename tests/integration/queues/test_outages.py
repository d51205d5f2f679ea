"""What a queue in Postgres makes of dead connections, silent hosts, standbys and busy pools."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from headrace.job import NewJob
from headrace.queues.base import Delivery, Owner, QueueSettings
from headrace.queues.errors import LeaseLostError, QueueUnavailableError
from headrace.queues.postgres import Place, PostgresProvisioner, PostgresQueue
from headrace.queues.postgres.connection import addresses
from headrace.queues.postgres.database import Database
from headrace.queues.postgres.listener import Listener
from headrace.queues.postgres.patience import Patience
from headrace.queues.postgres.statements import queries
from headrace.queues.settlement import Complete, DeadLetter, Discard, Failure, Release, Retry, Settled, Settlement
from support.postgres import running_server, standby_of
from support.tcp_proxy import TcpProxy
from support.verbs import complete, enqueue
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
    async def test_after_one_dead_session_the_other_is_asked_before_it_is_trusted(
        self, place: Place, proxy: TcpProxy
    ) -> None:
        database = Database(through(proxy, place), command_timeout_seconds=3)
        await database.open()
        assert await database.fetch_promptly("find_queue", "orders")
        proxy.silence()
        with pytest.raises(QueueUnavailableError):
            await database.fetch("depths", ["orders"])
        assert await database.fetch_promptly("find_queue", "orders")
        assert await database.fetch("depths", ["orders"])
        await database.close()

    async def test_one_slow_statement_leaves_the_other_session_as_it_is(
        self, place: Place, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        database = Database(place, command_timeout_seconds=1)
        await database.open()
        prompt = await database.lanes.prompt.run(session_number)
        async with admin.transaction():
            await admin.execute("LOCK TABLE headrace.jobs")
            with pytest.raises(QueueUnavailableError, match="in time"):
                await database.fetch("depths", ["orders"])
        assert await database.lanes.prompt.run(session_number) == prompt
        await database.close()

    async def test_a_statement_that_the_server_cuts_off_costs_no_session(
        self, place: Place, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        name = urlsplit(place.dsn).path[1:]
        await admin.execute(f"ALTER DATABASE {name} SET statement_timeout = '100ms'")
        async with PostgresQueue(place, "orders") as queue:
            before = await queue._database.lanes.work.run(session_number)
            async with admin.transaction():
                await admin.execute("LOCK TABLE headrace.jobs")
                with pytest.raises(QueueUnavailableError, match="statement timeout"):
                    await queue.depth()
            assert await queue._database.lanes.work.run(session_number) == before

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
            async with admin.transaction():
                await admin.execute("LOCK TABLE headrace.jobs")
                call = asyncio.create_task(queue.depth())
                await eventually(lambda: blocked(admin), what="waiting")
                await end_sessions(admin)
                with pytest.raises(QueueUnavailableError):
                    await call
            assert (await queue.depth()).ready == 0

    async def test_a_heartbeat_gets_through_though_every_other_call_hangs(
        self, place: Place, admin: asyncpg.Connection[asyncpg.Record], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("headrace.queues.postgres.lanes.PROMPT_TIMEOUT_SECONDS", 0.5)
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
                await eventually(lambda: blocked(admin, 2), what="hanging on both lanes")
                with suppress(QueueUnavailableError):  # A claim that hangs is given up within its limit …
                    await queue.keep_alive()
                await queue.keep_alive()  # … and the next heartbeat comes before any other.
            for call in calls:
                with suppress(QueueUnavailableError):
                    await call


class TestEndedSessions:
    """The server ends sessions that are idle: at its restart, by idle_session_timeout, by an administrator."""

    async def test_nobody_hears_of_it(self, place: Place, admin: asyncpg.Connection[asyncpg.Record]) -> None:
        async with PostgresQueue(place, "orders") as queue:
            await queue.keep_alive()
            for number in range(20):
                # Not a turn of the event loop goes by in which the client could take notice.
                await end_sessions(admin)
                assert await enqueue(queue, [NewJob(name=f"{number}")])
                await end_sessions(admin)
                assert len(await queue.receive(1)) == 1
                await end_sessions(admin)
                assert not (await queue.keep_alive()).lost
        assert await admin.fetchval("SELECT count(*) FROM headrace.jobs") == 20, "each is there once"

    async def test_what_asks_before_the_client_has_taken_notice_is_sent_again(self, place: Place) -> None:
        async with PostgresQueue(place, "orders") as queue:
            session: Any = queue._database.lanes.work._connection
            # As if the server's goodbye had been read, and the end of the connection not yet.
            with suppress(asyncpg.PostgresError):
                await session.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            assert await enqueue(queue, [NewJob()])

    async def test_patient_producers_wait_for_a_server_that_is_away(self, own_postgres: PostgresServer) -> None:
        where = Place(dsn=own_postgres.dsn)
        await PostgresProvisioner(where).ensure("orders", QueueSettings(), OWNER)
        async with PostgresQueue(where, "orders", patience=Patience(seconds=60)) as queue:
            own_postgres.stop()
            calls = [asyncio.create_task(enqueue(queue, [NewJob()])) for _ in range(10)]
            await asyncio.sleep(0.2)
            assert not any(call.done() for call in calls)
            await asyncio.to_thread(own_postgres.start)
            ids = [job_id for call in calls for job_id in await call]
            assert (await queue.depth()).ready == len(set(ids)) == 10

    async def test_who_is_told_of_jobs_is_told_again_with_the_first_answer(self, own_postgres: PostgresServer) -> None:
        where = Place(dsn=own_postgres.dsn)
        await PostgresProvisioner(where).ensure("orders", QueueSettings(), OWNER)
        async with PostgresQueue(where, "orders", listens=True) as queue:
            await eventually(lambda: listens(queue), what="listening")
            own_postgres.stop()
            listener = queue._database.lanes.listener
            await eventually(lambda: pauses_long(listener), what="resting for long")
            await asyncio.to_thread(own_postgres.start)
            await queue.keep_alive()
            async with asyncio.timeout(5):  # The rest lasts for longer.
                while not queue.is_listening:  # noqa: ASYNC110 - nothing tells
                    await asyncio.sleep(0.01)


async def listens(queue: PostgresQueue) -> bool:
    return queue.is_listening


async def pauses_long(listener: Listener) -> bool:
    return listener.pause_seconds > 5


async def session_number(connection: asyncpg.Connection[asyncpg.Record]) -> int:
    return connection.get_server_pid()


async def end_sessions(admin: asyncpg.Connection[asyncpg.Record]) -> None:
    await admin.execute(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'headrace'"
    )


class TestLateAnswers:
    """A claim is committed, and its answer takes its time, or never comes."""

    async def claimed(self, admin: asyncpg.Connection[asyncpg.Record]) -> None:
        async def is_claimed() -> bool:
            return bool(await admin.fetchval("SELECT EXISTS (SELECT FROM headrace.claims)"))

        await eventually(is_claimed, what="claimed")

    async def test_what_nobody_has_heard_of_is_given_back_by_a_later_heartbeat(
        self,
        place: Place,
        proxy: TcpProxy,
        admin: asyncpg.Connection[asyncpg.Record],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("headrace.queues.postgres.lanes.PROMPT_TIMEOUT_SECONDS", 1.0)
        async with PostgresQueue(through(proxy, place), "orders") as queue:
            await queue.keep_alive()
            assert await queue.receive(1) == [], "prepared: from now on a claim is one question and one answer"
            (job_id,) = await enqueued_elsewhere(place)
            proxy.hold_answers()
            late = asyncio.create_task(queue.receive(1))
            await self.claimed(admin)
            with pytest.raises(QueueUnavailableError):
                await late
            assert not (await queue.keep_alive()).lost
            await admin.execute("UPDATE headrace.claims SET claimed_at = now() - interval '1 hour'")
            await queue.keep_alive()
            (delivery,) = await queue.receive(1)
            assert delivery.job.id == job_id
            assert (await complete(queue, [delivery])).accepted == 1

    async def test_after_a_claim_that_took_too_long_less_is_claimed_at_a_time(
        self, place: Place, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("headrace.queues.postgres.lanes.PROMPT_TIMEOUT_SECONDS", 1.0)
        async with PostgresQueue(through(proxy, place), "orders") as queue, PostgresQueue(place, "orders") as producer:
            await queue.keep_alive()
            proxy.hold_answers()
            with pytest.raises(QueueUnavailableError):
                await queue.receive(40)
            await producer.enqueue([NewJob() for _ in range(100)])
            assert [len(await queue.receive(40)) for _ in range(3)] == [20, 40, 40]

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


Settle = Callable[[Delivery], Settlement]


def completed(delivery: Delivery) -> Settlement:
    return Complete(delivery=delivery)


def released(delivery: Delivery) -> Settlement:
    return Release(delivery=delivery, delay_seconds=60)


def failed(delivery: Delivery) -> Settlement:
    return Retry(delivery=delivery, delay_seconds=60, failure=Failure(error="no"))


def given_up(delivery: Delivery) -> Settlement:
    return DeadLetter(delivery=delivery, reason="Hopeless")


def cancelled(delivery: Delivery) -> Settlement:
    return Discard(delivery=delivery)


class TestHeartbeatsAside:
    """While the event loop is stuck, another thread keeps the lease."""

    async def test_they_extend_the_lease_from_another_thread(
        self, place: Place, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        async with PostgresQueue(place, "orders") as queue:
            held = await holding_one(queue)
            await run_out(place.dsn)
            thread = threading.Thread(target=lambda: asyncio.run(queue.keep_alive_aside()))
            thread.start()
            thread.join(20)  # The loop does not turn meanwhile.
            assert await admin.fetchval("SELECT expires_at > now() FROM headrace.leases")
            assert (await complete(queue, [held])).accepted == 1

    async def test_a_lease_that_was_judged_stays_lost(
        self, place: Place, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        async with PostgresQueue(place, "orders") as queue:
            held = await holding_one(queue)
            await admin.execute("UPDATE headrace.leases SET was_alone = true, expires_at = now()")
            with pytest.raises(LeaseLostError):
                await asyncio.to_thread(lambda: asyncio.run(queue.keep_alive_aside()))
            assert not await admin.fetchval("SELECT expires_at > now() FROM headrace.leases")
            assert (await queue.keep_alive()).lost == {held.key}

    async def test_who_has_no_lease_has_nothing_to_extend(self, place: Place) -> None:
        async with PostgresQueue(place, "orders") as queue:
            await queue.keep_alive_aside()

    async def test_a_server_that_does_not_answer_is_an_error_of_ours(self, place: Place, proxy: TcpProxy) -> None:
        async with PostgresQueue(through(proxy, place), "orders") as queue:
            await queue.keep_alive()
            proxy.silence(new_ones_too=True)
            with pytest.raises(QueueUnavailableError):
                await queue.keep_alive_aside()
            proxy.resume()


class TestLostAnswers:
    """A job is settled, and the connection breaks before the answer: the worker tells once more."""

    @pytest.mark.parametrize(
        ("settle", "max_retries", "is_dead"),
        [
            (completed, 3, False),
            (released, 3, False),
            (failed, 3, False),
            (failed, 0, True),
            (given_up, 3, True),
            (cancelled, 3, False),
        ],
    )
    async def test_what_was_done_by_then_is_accepted(
        self,
        place: Place,
        proxy: TcpProxy,
        admin: asyncpg.Connection[asyncpg.Record],
        settle: Settle,
        max_retries: int,
        is_dead: bool,
    ) -> None:
        await admin.execute("UPDATE headrace.queues SET max_retries = $1", max_retries)
        async with PostgresQueue(through(proxy, place), "orders") as queue:
            settlement = settle(await one_of_two(place, queue, settle))
            await self.answer_is_lost(proxy, admin, queue.settle([settlement]))
            done = Settled(accepted=1, dead_lettered=(settlement,) if is_dead else ())
            assert await queue.settle([settlement]) == done
            assert await queue.settle([settlement]) == Settled(accepted=0, refused=(settlement,)), "but once"

    async def test_what_a_transaction_of_the_handlers_completed_is_accepted(
        self, place: Place, proxy: TcpProxy, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        async with PostgresQueue(through(proxy, place), "orders") as queue:
            first, second = await two_held(place, queue)
            for delivery in (first, second):
                async with admin.transaction():
                    await queue.complete_in(admin, delivery)
            assert (await complete(queue, [first])).accepted == 1
            await self.answer_is_lost(proxy, admin, complete(queue, [second]))
            assert await complete(queue, [second]) == Settled(accepted=1)

    async def test_what_was_not_done_is_done_by_the_next_call(self, place: Place, proxy: TcpProxy) -> None:
        async with PostgresQueue(through(proxy, place), "orders") as queue:
            delivery = await one_of_two(place, queue, completed)
            await self.question_is_lost(proxy, complete(queue, [delivery]))
            assert await complete(queue, [delivery]) == Settled(accepted=1)

    async def test_what_was_not_done_before_the_lease_was_lost_is_refused(self, place: Place, proxy: TcpProxy) -> None:
        async with PostgresQueue(through(proxy, place), "orders") as queue, PostgresQueue(place, "orders") as other:
            delivery = await one_of_two(place, queue, completed)
            await self.question_is_lost(proxy, complete(queue, [delivery]))
            await run_out(place.dsn)
            await execute(place.dsn, "UPDATE headrace.watches SET since = now() - interval '1 minute', seen_at = now()")
            assert (await other.maintain()).rescued == 1
            refused = Settled(accepted=0, refused=(Complete(delivery=delivery),))
            assert await complete(queue, [delivery]) == refused

    async def test_kinds_that_got_no_answer_are_told_from_those_that_did(
        self, place: Place, admin: asyncpg.Connection[asyncpg.Record]
    ) -> None:
        async with PostgresQueue(place, "orders") as queue:
            first, second = await two_held(place, queue)
            settlements = [completed(first), given_up(second)]
            await admin.execute("ALTER TABLE headrace.dead_jobs RENAME TO away")
            told = await queue.settle(settlements)
            assert (told.accepted, told.unsettled) == (1, (settlements[1],))
            assert "headrace" in told.error
            await admin.execute("ALTER TABLE headrace.away RENAME TO dead_jobs")
            assert (await queue.settle(told.unsettled)).dead_lettered == (settlements[1],)

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
    first, second = await two_held(place, queue)
    assert (await queue.settle([settle(first)])).accepted == 1
    return second


async def two_held(place: Place, queue: PostgresQueue) -> tuple[Delivery, Delivery]:
    await enqueued_elsewhere(place)
    await enqueued_elsewhere(place)
    await queue.keep_alive()
    first, second = await queue.receive(2)
    return first, second


async def enqueued_elsewhere(place: Place) -> list[str]:
    async with PostgresQueue(place, "orders") as producer:
        return await enqueue(producer, [NewJob()])


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


class BrokenLane:
    """The prompt lane, whose session is of no use any more, and says so in one of the client's ways."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    async def run(self, *_: object, **__: object) -> None:
        raise self._error


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
    async def test_however_its_session_breaks_a_worker_goes_on_by_polling(
        self, place: Place, error: BaseException
    ) -> None:
        async with PostgresQueue(place, "orders", listens=True) as queue:
            await eventually(lambda: listens(queue), what="listening")
            assert queue._rest.ear is not None
            broken: Any = BrokenLane(error)
            queue._database.lanes.listener._lane = broken
            assert not await queue._rest.ear.want(1)


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
    assert (await complete(alive, [held])).accepted == 1


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
