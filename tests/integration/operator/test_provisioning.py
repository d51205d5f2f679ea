"""Provisioning against a real PostgreSQL: what a JobQueue's conditions will say."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from headrace.queues.postgres import CONNECTIONS_PER_WORKER
from headrace.queues.postgres import provisioner as provisioning
from headrace_operator.core.model import (
    OperatorError,
    RefusedError,
    TransientError,
)
from headrace_operator.core.provider import Provisioned, QueueOwner, Removed
from headrace_operator.providers.postgres import PostgresProvider
from headrace_operator.providers.postgres.place import PostgresBackend, PostgresPlace
from support.postgres import PostgresServer, free_port

SETTINGS = {"max_retries": 3}
PASSWORD = "s3cret-word"


def place(
    dsn: str,
    *,
    schema: str = "headrace",
    queue: str = "thumbnails",
    ca: str | None = None,
    admin_dsn: str | None = None,
    direct_dsn: str | None = None,
) -> PostgresPlace:
    backend = PostgresBackend(dsn=dsn, direct_dsn=direct_dsn, ca_certificates=ca)
    return PostgresPlace(backend=backend, admin_dsn=admin_dsn, schema=schema, queue=queue)


def job_queue(name: str = "thumbnails", *, namespace: str = "shop", uid: str = "uid-1") -> QueueOwner:
    return QueueOwner(namespace=namespace, name=name, uid=uid)


async def ensure(
    where: PostgresPlace, owner: QueueOwner | None = None, settings: dict[str, Any] = SETTINGS
) -> Provisioned:
    async with PostgresProvider().open_provisioner() as provisioner:
        return await provisioner.provision(where, owner or job_queue(), settings, lambda _: None)


async def remove(where: PostgresPlace, owner: QueueOwner | None = None) -> Removed | None:
    async with PostgresProvider().open_provisioner() as provisioner:
        return await provisioner.remove(where, owner or job_queue(), lambda _: None)


async def refusal(where: PostgresPlace) -> OperatorError:
    with pytest.raises(OperatorError) as refused:
        await ensure(where, job_queue(), SETTINGS)
    assert PASSWORD not in refused.value.message
    assert where.backend.dsn not in refused.value.message
    return refused.value


async def test_a_place_is_made_once_and_then_left_alone(database_dsn: str) -> None:
    made = await ensure(place(database_dsn), job_queue(), SETTINGS)
    assert made.changed
    assert made.status["schemaVersion"] >= 1
    assert "thumbnails" in made.details
    assert not (await ensure(place(database_dsn), job_queue(), SETTINGS)).changed


async def test_changed_settings_are_brought_to_the_place(database_dsn: str) -> None:
    await ensure(place(database_dsn), job_queue(), {"max_retries": 3})
    assert (await ensure(place(database_dsn), job_queue(), {"max_retries": 5})).changed


async def test_a_place_that_belongs_to_another_job_queue_is_refused_and_its_owner_named(database_dsn: str) -> None:
    await ensure(place(database_dsn), job_queue(namespace="rival"), SETTINGS)
    with pytest.raises(RefusedError, match="rival/thumbnails") as refused:
        await ensure(place(database_dsn), job_queue(namespace="shop"), SETTINGS)
    assert refused.value.reason == "NameTaken"


async def test_only_the_owner_removes_a_place(database_dsn: str) -> None:
    await ensure(place(database_dsn), job_queue(), SETTINGS)
    assert None is await remove(place(database_dsn), job_queue(namespace="rival"))
    assert await remove(place(database_dsn), job_queue()) == Removed(0)
    assert None is await remove(place(database_dsn), job_queue())


async def test_a_table_that_stays_locked_is_the_trouble_of_its_schema_and_not_of_the_database(
    database_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = place(database_dsn)
    await ensure(where)
    monkeypatch.setattr(provisioning, "_PATIENCE_SECONDS", -1.0)
    application = await asyncpg.connect(database_dsn)
    try:
        async with application.transaction():
            await application.execute("SELECT headrace.enqueue('thumbnails', 'job')")
            with pytest.raises(TransientError) as refused:
                await remove(where)
    finally:
        await application.close()
    assert refused.value.reason == "TablesInUse"


async def test_a_schema_from_the_future_is_refused(database_dsn: str) -> None:
    await ensure(place(database_dsn), job_queue(), SETTINGS)
    connection = await asyncpg.connect(database_dsn)
    try:
        await connection.execute(
            "INSERT INTO headrace.migrations (version, name, compatible_with) VALUES (9999, 'future', 9999)"
        )
    finally:
        await connection.close()
    refused = await refusal(place(database_dsn))
    assert refused.reason == "SchemaTooNew"
    assert isinstance(refused, RefusedError)


@pytest.fixture
async def guarded_dsn(own_postgres: PostgresServer) -> str:
    """A server that asks the user `worker` for a password."""
    rules = own_postgres.directory / "pg_hba.conf"
    rules.write_text("host all worker 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
    connection = await asyncpg.connect(own_postgres.dsn)
    try:
        await connection.execute(f"CREATE ROLE worker LOGIN PASSWORD '{PASSWORD}'")
        await connection.execute("SELECT pg_reload_conf()")
    finally:
        await connection.close()
    return f"postgresql://worker:{PASSWORD}@127.0.0.1:{own_postgres.port}/postgres"


async def test_a_wrong_password_is_said_without_saying_it(guarded_dsn: str) -> None:
    refused = await refusal(place(guarded_dsn.replace(PASSWORD, f"{PASSWORD}-mistyped")))
    assert refused.reason == "CredentialsRefused"
    assert isinstance(refused, TransientError), "it heals once the Secret is mended"


async def test_a_user_without_the_right_to_make_a_schema_is_told_which_right_is_missing(guarded_dsn: str) -> None:
    refused = await refusal(place(guarded_dsn))
    assert refused.reason == "CredentialsRefused"
    assert "permission denied" in refused.message


async def limit_connections(server: PostgresServer, number: int) -> None:
    """Of the user `worker`."""
    connection = await asyncpg.connect(server.dsn)
    try:
        await connection.execute(f"ALTER ROLE worker CONNECTION LIMIT {number}")
    finally:
        await connection.close()


async def test_the_workers_user_needs_no_right_where_another_provisions_and_its_limits_count(
    guarded_dsn: str, own_postgres: PostgresServer
) -> None:
    await limit_connections(own_postgres, 40)
    where = place(guarded_dsn, admin_dsn=own_postgres.dsn)
    made = await ensure(where, job_queue(), SETTINGS)
    assert (made.status["maxConnections"], made.status["connectionsPerWorker"]) == (40, CONNECTIONS_PER_WORKER)
    assert await remove(where, job_queue()) == Removed(0)


async def test_past_a_pooler_only_the_direct_connections_count(guarded_dsn: str, own_postgres: PostgresServer) -> None:
    await limit_connections(own_postgres, 40)
    where = place(own_postgres.dsn, direct_dsn=guarded_dsn)
    made = await ensure(where, job_queue(), SETTINGS)
    assert (made.status["maxConnections"], made.status["connectionsPerWorker"]) == (40, 1)


@pytest.mark.parametrize("which", ["connection", "adminConnection", "directConnection"])
async def test_of_several_connections_the_one_that_fails_is_named(
    guarded_dsn: str, own_postgres: PostgresServer, which: str
) -> None:
    wrong = guarded_dsn.replace(PASSWORD, f"{PASSWORD}-mistyped")
    refused = await refusal(
        place(
            wrong if which == "connection" else guarded_dsn,
            admin_dsn=wrong if which == "adminConnection" else own_postgres.dsn,
            direct_dsn=wrong if which == "directConnection" else own_postgres.dsn,
        )
    )
    assert refused.reason == "CredentialsRefused"
    assert refused.message.startswith(f"{which}: ")


async def test_an_unreachable_port_is_transient(database_dsn: str) -> None:
    nowhere = urlunsplit(urlsplit(database_dsn)._replace(netloc=f"worker:{PASSWORD}@127.0.0.1:{free_port()}"))
    refused = await refusal(place(nowhere))
    assert refused.reason == "BackendUnreachable"
    assert isinstance(refused, TransientError)


async def test_a_host_without_an_address_is_transient() -> None:
    refused = await refusal(place(f"postgresql://worker:{PASSWORD}@no-such-host.invalid/shop"))
    assert refused.reason == "BackendUnreachable"


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield listener.getsockname()[1]


async def test_a_server_that_never_answers_is_given_up(silent_port: int) -> None:
    refused = await refusal(place(f"postgresql://worker:{PASSWORD}@127.0.0.1:{silent_port}/shop"))
    assert refused.reason == "BackendUnreachable"


async def test_a_missing_database_is_named(database_dsn: str) -> None:
    refused = await refusal(place(urlunsplit(urlsplit(database_dsn)._replace(path="/nowhere"))))
    assert refused.reason == "DatabaseMissing"
    assert "nowhere" in refused.message


async def test_a_broken_ca_certificate_is_named(database_dsn: str) -> None:
    refused = await refusal(place(database_dsn, ca="rubbish"))
    assert refused.reason == "CredentialsRefused"
    assert "CA certificate" in refused.message
