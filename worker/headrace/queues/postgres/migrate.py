"""Migrations: versioned, forward only, one migrator at a time, all or nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg

from headrace.queues.errors import QueueError
from headrace.queues.postgres.compatibility import check_version
from headrace.queues.postgres.statements import Migration, functions, migrations, quoted, render

if TYPE_CHECKING:
    from collections.abc import Callable

_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('headrace.dev/migrate/' || $1, 0))"

_TRY_LOCK = "SELECT pg_try_advisory_xact_lock(hashtextextended('headrace.dev/migrate/' || $1, 0))"

_SCHEMA_EXISTS = "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1)"

_TABLE_EXISTS = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_tables WHERE schemaname = $1 AND tablename = 'migrations')
"""

_CREATE_TABLE = """
CREATE TABLE {schema}.migrations (
    version integer PRIMARY KEY,
    name text NOT NULL,
    compatible_with integer NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""

_NEWEST = "SELECT version, compatible_with FROM {schema}.migrations ORDER BY version DESC LIMIT 1"

# Whoever waits for a table holds up everybody who comes later, so not for long: an application's transaction may be
# open for minutes. Longer than the second after which the server ends its own vacuuming that is in the way.
_WAIT_BRIEFLY = "SET LOCAL lock_timeout = '2s'"
_WAIT_AS_BEFORE = "SET LOCAL lock_timeout = DEFAULT"

# Those who work hold one table and want another. Who holds some and waits a second for the next makes the server end
# one of the two as a deadlock: so all are had within moments, or let go again.
_TABLES = """
SELECT string_agg(format('%I.%I', schemaname, tablename), ', ' ORDER BY tablename)
FROM pg_catalog.pg_tables WHERE schemaname = $1 AND tablename <> 'migrations'
"""
_WAIT_A_MOMENT = "SET LOCAL lock_timeout = '200ms'"
_TRIES = 10
_PAUSE_SECONDS = 0.05

_RECORD = "INSERT INTO {schema}.migrations (version, name, compatible_with) VALUES ($1, $2, $3)"


async def migrate(
    connection: asyncpg.Connection[asyncpg.Record], schema: str, progress: Callable[[str], None] = lambda _: None
) -> list[Migration]:
    """Bring the schema to this code's version, within the caller's transaction; returns the steps made.

    Parameters
    ----------
    progress
        Is told what may take long, in a few words.

    Raises
    ------
    QueueError
        When the database's encoding is not UTF8.
    SchemaVersionError
        When the schema is too new for this code.
    asyncpg.LockNotAvailableError
        When a table could not be had within moments: roll back, and try again later.
    """
    if (encoding := await connection.fetchval("SHOW server_encoding")) != "UTF8":
        raise QueueError(
            f"the database's encoding is {encoding}, which can't hold every text: give another, made by "
            "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        )
    if not await connection.fetchval(_TRY_LOCK, schema):
        progress(f"waiting for somebody else's migration of schema {schema}")
        await connection.execute(_LOCK, schema)
    # Looked up first: CREATE … IF NOT EXISTS asks for rights that a user of an existing schema need not have.
    if not await connection.fetchval(_SCHEMA_EXISTS, schema):
        await connection.execute(f"CREATE SCHEMA {quoted(schema)}")
    if not await connection.fetchval(_TABLE_EXISTS, schema):
        await connection.execute(render(_CREATE_TABLE, schema))
    newest = await connection.fetchrow(render(_NEWEST, schema))
    version = newest["version"] if newest else 0
    steps = [migration for migration in migrations() if migration.version > version]
    if steps:
        if newest:
            await _lock_tables(connection, schema)
        await connection.execute(_WAIT_BRIEFLY)
        for step in steps:
            progress(f"migrating schema {schema} to version {step.version} ({step.name})")
            await connection.execute(render(step.sql, schema))
            await connection.execute(render(_RECORD, schema), step.version, step.name, step.compatible_with)
        # All of them anew, whatever has changed. What takes or gives other columns was dropped by its step before. In a
        # schema that was none of ours yet, what has such a name is somebody else's, and not to be replaced.
        anew = functions() if newest else functions().replace("CREATE OR REPLACE ", "CREATE ")
        await connection.execute(render(anew, schema))
        await connection.execute(_WAIT_AS_BEFORE)
    if newest and not steps:
        check_version(schema, version, newest["compatible_with"])
    return steps


async def _lock_tables(connection: asyncpg.Connection[asyncpg.Record], schema: str) -> None:
    """Have all tables for ourselves where that goes within moments; else the steps wait for theirs."""
    tables = await connection.fetchval(_TABLES, schema)
    for _ in range(_TRIES):
        try:
            async with connection.transaction():
                await connection.execute(_WAIT_A_MOMENT)
                await connection.execute(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE")
        except asyncpg.LockNotAvailableError:
            await asyncio.sleep(_PAUSE_SECONDS)
        else:
            return
