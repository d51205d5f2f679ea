"""Enqueuing from synchronous code by itself: connections, threads, forks, and errors with a fix."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from msgspec import structs

from headrace import new_job
from headrace.job import MAX_PAYLOAD_BYTES, NewJob
from headrace.queues.base import Owner, QueueSettings
from headrace.queues.errors import QueueAccessError, QueueError, QueueNotFoundError, QueueUnavailableError
from headrace.queues.postgres import Place, PostgresProvisioner
from headrace.sync import Producer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.postgres import PostgresServer

SCHEMA = 'he%s "ra:ce{}'
OWNER = Owner(namespace="", name="o", uid="")
QUOTED = '"he%s ""ra:ce{}"'


@pytest.fixture
def admin(database_dsn: str) -> Iterator[psycopg.Connection[Any]]:
    place = Place(dsn=database_dsn, schema=SCHEMA)
    asyncio.run(PostgresProvisioner(place).ensure("orders", QueueSettings(), OWNER))
    with psycopg.connect(database_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def producer(admin: psycopg.Connection[Any], database_dsn: str) -> Iterator[Producer]:
    with Producer(database_dsn, schema=SCHEMA) as producer:
        yield producer


def names(admin: psycopg.Connection[Any]) -> list[str]:
    return [row[0] for row in admin.execute(f"SELECT name FROM {QUOTED}.jobs ORDER BY id").fetchall()]


def enqueued(producer: Producer, jobs: list[NewJob]) -> list[str]:
    return [each.id for each in producer.enqueue("orders", jobs)]


def sessions(admin: psycopg.Connection[Any]) -> list[int]:
    query = (
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'headrace-producer' AND datname = current_database()"
    )
    return [row[0] for row in admin.execute(query).fetchall()]


def test_jobs_are_there_when_the_call_returns(producer: Producer, admin: psycopg.Connection[Any]) -> None:
    ids = enqueued(producer, [new_job("100 % 'a' \\ %s", {"b": "c"}), new_job("d", b"\x00")])
    assert names(admin) == ["100 % 'a' \\ %s", "d"]
    assert ids == sorted(ids, key=int)
    assert producer.enqueue("orders", []) == []


def test_threads_share_it_and_connections_are_used_again(producer: Producer, admin: psycopg.Connection[Any]) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: producer.enqueue("orders", [new_job(str(number))]), range(100)))
    assert sorted(names(admin), key=int) == [str(number) for number in range(100)]
    while len(sessions(admin)) > 4:
        time.sleep(0.01)  # Those that are not kept are about to go.


def test_all_or_none(producer: Producer, admin: psycopg.Connection[Any]) -> None:
    bad = new_job("b")
    structs.force_setattr(bad, "priority", 11)  # As if the server knew a rule that this code does not.
    with pytest.raises(QueueError, match=r"the database refused \(22023\): job 2: priority 11"):
        producer.enqueue("orders", [new_job("a"), bad])
    with pytest.raises(QueueNotFoundError, match="headrace migrate --queue nowhere"):
        producer.enqueue("nowhere", [new_job("a")])
    assert names(admin) == []
    producer.enqueue("orders", [new_job("c")])
    assert names(admin) == ["c"], "its connection is as good as new"


def test_after_the_server_has_ended_an_idle_connection_the_next_call_works(
    producer: Producer, admin: psycopg.Connection[Any]
) -> None:
    producer.enqueue("orders", [new_job("a")])
    (pid,) = sessions(admin)
    admin.execute("SELECT pg_terminate_backend(%s)", (pid,))
    while sessions(admin):
        time.sleep(0.01)
    producer.enqueue("orders", [new_job("b")])
    assert names(admin) == ["a", "b"]


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_leaves_its_parents_connections_alone(producer: Producer, admin: psycopg.Connection[Any]) -> None:
    producer.enqueue("orders", [new_job("parent")])
    before = sessions(admin)
    child = os.fork()
    if child == 0:
        try:
            producer.enqueue("orders", [new_job("child")])
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    producer.enqueue("orders", [new_job("parent")])
    assert names(admin) == ["parent", "child", "parent"]
    assert set(before) <= set(sessions(admin))


def test_a_lock_that_somebody_forgot_ends_in_an_error(
    producer: Producer, admin: psycopg.Connection[Any], database_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(database_dsn) as other, monkeypatch.context() as patched:
        patched.setattr("headrace.queues.postgres.sync.COMMAND_TIMEOUT_SECONDS", 0.2)
        other.execute(f"LOCK TABLE {QUOTED}.jobs")
        with pytest.raises(QueueUnavailableError, match="timeout"):
            producer.enqueue("orders", [new_job("a")])
    producer.enqueue("orders", [new_job("b")])
    assert names(admin) == ["b"]
    assert admin.execute("SHOW statement_timeout").fetchone() == ("0",)


def test_a_session_with_a_server_that_is_read_only_is_not_used_again(
    producer: Producer, admin: psycopg.Connection[Any]
) -> None:
    admin.execute(f"ALTER DATABASE {admin.info.dbname} SET default_transaction_read_only = on")
    with pytest.raises(QueueUnavailableError, match="read-only"):
        producer.enqueue("orders", [new_job("a")])
    admin.execute("SET default_transaction_read_only = off")
    admin.execute(f"ALTER DATABASE {admin.info.dbname} RESET default_transaction_read_only")
    producer.enqueue("orders", [new_job("b")])
    assert names(admin) == ["b"]


def test_a_server_that_says_nothing_any_more_is_not_waited_for(
    own_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.queues.postgres.sync.COMMAND_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr("headrace.queues.postgres.sync._SILENCE_SECONDS", 0.2)
    asyncio.run(PostgresProvisioner(Place(dsn=own_postgres.dsn)).ensure("orders", QueueSettings(), OWNER))
    with Producer(own_postgres.dsn) as producer, psycopg.connect(own_postgres.dsn, autocommit=True) as admin:
        producer.enqueue("orders", [new_job("a")])
        (pid,) = sessions(admin)
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(QueueUnavailableError, match="did not answer in time"):
                producer.enqueue("orders", [new_job("b")])
            producer.enqueue("orders", [new_job("c")])
        finally:
            os.kill(pid, signal.SIGCONT)
        rows = admin.execute("SELECT name FROM headrace.jobs WHERE name IN ('a', 'c') ORDER BY id").fetchall()
    assert [name for (name,) in rows] == ["a", "c"]


def test_more_than_one_statement_takes_is_all_there_or_none(producer: Producer, admin: psycopg.Connection[Any]) -> None:
    admin.execute(f"ALTER TABLE {QUOTED}.jobs ADD CHECK (name <> 'refused')")
    large = [new_job(f"{number}", b" " * MAX_PAYLOAD_BYTES) for number in range(9)]
    with pytest.raises(QueueError, match="refused"):
        producer.enqueue("orders", [*large, new_job("refused")])
    assert names(admin) == []
    ids = enqueued(producer, [*large, new_job("9")])
    assert admin.execute(f"SELECT id::text, name FROM {QUOTED}.jobs ORDER BY id").fetchall() == [
        (job_id, f"{number}") for number, job_id in enumerate(ids)
    ]


@pytest.mark.parametrize(
    ("dsn", "kind", "fix"),
    [
        ("nonsense hidden", QueueAccessError, "postgresql://USER"),
        ("postgresql://me:hidden@db/x?nonsense=1", QueueAccessError, "postgresql://USER"),
        ("postgresql://me:hidden@127.0.0.1:1/x", QueueUnavailableError, "can't be reached"),
    ],
)
def test_a_dsn_that_leads_nowhere(dsn: str, kind: type[QueueError], fix: str) -> None:
    with pytest.raises(QueueError, match=fix) as caught:
        Producer(dsn).enqueue("orders", [new_job("a")])
    assert type(caught.value) is kind, "by the port's own name"
    assert "hidden" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_an_unknown_user_and_an_unknown_database(database_dsn: str) -> None:
    with pytest.raises(QueueAccessError, match="credentials"):
        Producer(database_dsn.replace("//", "//nobody_here@").replace("@postgres@", "@")).enqueue("o", [new_job("a")])
    with pytest.raises(QueueUnavailableError, match="does not exist"):
        Producer(database_dsn + "_not").enqueue("orders", [new_job("a")])


def test_without_psycopg_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(QueueError, match=r"pip install 'headrace\[sync\]'"):
        Producer("postgresql://db/x")


def test_no_thread_waits_for_another(producer: Producer, database_dsn: str) -> None:
    done = threading.Event()

    def enqueue() -> None:
        producer.enqueue("orders", [new_job("a", deduplication_key="k")])
        done.set()

    with psycopg.connect(database_dsn) as other:
        other.execute(f"SELECT {QUOTED}.enqueue('orders', 'a', deduplication_key => 'k')")
        blocked = threading.Thread(target=enqueue)
        blocked.start()
        producer.enqueue("orders", [new_job("b")])
        assert not done.is_set()
        other.commit()
        blocked.join(10)
    assert done.is_set()


def test_what_has_a_key_that_is_taken_is_not_new(producer: Producer) -> None:
    job = new_job("a", deduplication_key="k")
    (first,), (again,) = producer.enqueue("orders", [job]), producer.enqueue("orders", [job])
    assert (first.is_new, again.is_new) == (True, False)
    assert again.id == first.id


class TestPatience:
    def test_threads_wait_for_a_server_that_is_away(self, own_postgres: PostgresServer) -> None:
        asyncio.run(PostgresProvisioner(Place(dsn=own_postgres.dsn)).ensure("orders", QueueSettings(), OWNER))
        with Producer(own_postgres.dsn, patience_seconds=60) as producer, ThreadPoolExecutor(4) as threads:
            producer.enqueue("orders", [new_job("before")])
            own_postgres.stop()
            calls = [threads.submit(producer.enqueue, "orders", [new_job(f"{number}")]) for number in range(4)]
            time.sleep(0.2)
            assert not any(call.done() for call in calls)
            own_postgres.start()
            assert len({call.result(60)[0].id for call in calls}) == 4
        with psycopg.connect(own_postgres.dsn) as admin:
            assert admin.execute("SELECT count(*) FROM headrace.jobs").fetchone() == (5,)

    def test_they_are_told_when_their_time_is_over(self) -> None:
        with pytest.raises(QueueUnavailableError, match="can't be reached") as caught:
            Producer("postgresql://me@127.0.0.1:1/x", patience_seconds=0.2).enqueue("orders", [new_job("a")])
        assert type(caught.value) is QueueUnavailableError

    def test_no_more_wait_than_there_is_room_for(self) -> None:
        producer = Producer("postgresql://me@127.0.0.1:1/x", patience_seconds=60, patience_bytes=1000)
        with pytest.raises(QueueUnavailableError, match="1000 bytes are full"):
            producer.enqueue("orders", [new_job("a")])

    @pytest.mark.parametrize(("seconds", "size"), [(-1, 1), (float("nan"), 1), (1, 0)])
    def test_it_has_bounds(self, seconds: float, size: int) -> None:
        with pytest.raises(QueueError, match="patience_seconds: must be 0 or more"):
            Producer("postgresql://db/x", patience_seconds=seconds, patience_bytes=size)
