"""Make, adjust and remove a queue.

The facts of `Provisioned`: ``schema_version``, and ``max_connections``, which the server allows ordinary users.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import asyncpg

from headrace.queues.base import Owner, Provisioned, QueueSettings
from headrace.queues.errors import PlaceTakenError
from headrace.queues.postgres.connection import COMMAND_TIMEOUT_SECONDS, Place, connect
from headrace.queues.postgres.migrate import migrate
from headrace.queues.postgres.rows import settings_from
from headrace.queues.postgres.statements import code_version, queries, quoted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

# Migrations may rewrite tables, and removing goes batch by batch.
_COMMAND_TIMEOUT_SECONDS = 120.0
_REMOVE_BATCH = 10_000
# However many rows these have, they go before anything is locked that other queues need.
_REMOVED_IN_BATCHES = ("jobs", "parked_jobs", "dead_jobs", "finished_jobs", "deduplication_keys", "cancellations")
_LOCK_PAUSE_SECONDS = 1.0
# Long enough that others get on with their work in between.
_MIGRATION_PAUSE_SECONDS = 3.0


class PostgresProvisioner:
    """The `Provisioner` of one schema. Every call opens a connection of its own and closes it."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._queries = queries(place.schema)

    async def migrate(self) -> Provisioned:
        """Bring the schema to this code's version, with no queue in mind."""
        return await self._patiently(self._migrate)

    async def _migrate(self, connection: asyncpg.Connection[asyncpg.Record]) -> Provisioned:
        steps = await migrate(connection, self._place.schema)
        return Provisioned(
            changed=bool(steps),
            details=", ".join(f"{step.version:04} {step.name}" for step in steps) or "nothing to do",
            facts=await self._facts(connection),
        )

    async def _patiently(
        self, work: Callable[[asyncpg.Connection[asyncpg.Record]], Awaitable[Provisioned]]
    ) -> Provisioned:
        """Do this in a transaction, again and again where tables are in use."""
        async with connect(self._place, command_timeout_seconds=_COMMAND_TIMEOUT_SECONDS) as connection:
            deadline = time.monotonic() + _COMMAND_TIMEOUT_SECONDS
            while True:
                try:
                    async with connection.transaction(isolation="read_committed"):
                        return await work(connection)
                except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
                    if time.monotonic() > deadline:
                        raise
                    await asyncio.sleep(_MIGRATION_PAUSE_SECONDS)

    async def ensure(self, queue: str, settings: QueueSettings, owner: Owner) -> Provisioned:
        """See `headrace.queues.base.Provisioner`."""
        return await self._patiently(lambda connection: self._ensure(connection, queue, settings, owner))

    async def _ensure(
        self, connection: asyncpg.Connection[asyncpg.Record], queue: str, settings: QueueSettings, owner: Owner
    ) -> Provisioned:
        steps = await migrate(connection, self._place.schema)
        done = [f"schema {self._place.schema} migrated to version {steps[-1].version}"] if steps else []
        row = await connection.fetchrow(self._queries["lock_queue"], queue)
        if row is None:
            await connection.execute(
                self._queries["register_queue"], queue, owner.namespace, owner.name, owner.uid, *_columns(settings)
            )
            done.append(f"queue {queue} made")
        else:
            present = _owner(row)
            _check_adoptable(queue, self._place.schema, present, owner)
            if present != owner:
                done.append(f"queue {queue} adopted")
            if settings_from(row) != settings:
                done.append(f"settings of queue {queue} changed")
            if present != owner or settings_from(row) != settings:
                await connection.execute(self._queries["update_queue"], row["id"], owner.uid, *_columns(settings))
        return Provisioned(
            changed=bool(done),
            details=", ".join(done) or f"queue {queue} is as wanted",
            facts=await self._facts(connection),
        )

    async def _facts(self, connection: asyncpg.Connection[asyncpg.Record]) -> dict[str, Any]:
        allowed: int = await connection.fetchval(self._queries["allowed_connections"])
        return {"schema_version": code_version(), "max_connections": allowed}

    async def allowed_connections(self) -> int:
        """How many connections the server allows ordinary users, ours among them; needs no right but to log in."""
        async with (
            connect(self._place, command_timeout_seconds=COMMAND_TIMEOUT_SECONDS) as connection,
            connection.transaction(isolation="read_committed"),
        ):
            allowed: int = await connection.fetchval(self._queries["allowed_connections"])
            return allowed

    async def remove(self, queue: str, owner: Owner) -> bool:
        """See `headrace.queues.base.Provisioner`. Safe to repeat when it was interrupted: the queue's row goes last."""
        async with connect(self._place, command_timeout_seconds=_COMMAND_TIMEOUT_SECONDS) as connection:
            queue_id = await self._pause_own(connection, queue, owner)
            if queue_id is None:
                return False
            for table in _REMOVED_IN_BATCHES:
                while await self._remove_some(connection, f"remove_{table}", queue_id):
                    pass
            deadline = time.monotonic() + _COMMAND_TIMEOUT_SECONDS
            while True:
                try:
                    await self._remove_rest(connection, queue_id)
                except asyncpg.LockNotAvailableError:
                    # An application's transaction is open that has enqueued, into whichever queue of the schema.
                    if time.monotonic() > deadline:
                        raise
                    await asyncio.sleep(_LOCK_PAUSE_SECONDS)
                else:
                    return True

    async def _remove_rest(self, connection: asyncpg.Connection[asyncpg.Record], queue_id: int) -> None:
        async with connection.transaction(isolation="read_committed"):
            for lock in ("wait_briefly", "lock_jobs"):
                await connection.execute(self._queries[lock])
            await connection.execute(self._queries["remove_queue"], queue_id)

    async def _remove_some(self, connection: asyncpg.Connection[asyncpg.Record], batch: str, queue_id: int) -> int:
        async with connection.transaction(isolation="read_committed"):
            removed: int = await connection.fetchval(self._queries[batch], queue_id, _REMOVE_BATCH)
            return removed

    async def _pause_own(self, connection: asyncpg.Connection[asyncpg.Record], queue: str, owner: Owner) -> int | None:
        """Stop the queue and give its id; None where there is none of this very owner's."""
        queues = f"{quoted(self._place.schema)}.queues"
        async with connection.transaction(isolation="read_committed"):
            if not await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", queues):
                return None
            row = await connection.fetchrow(self._queries["lock_queue"], queue)
            if row is None or _owner(row) != owner:
                return None
            await connection.execute(self._queries["pause_queue"], row["id"])
            return int(row["id"])


def _owner(row: asyncpg.Record) -> Owner:
    return Owner(namespace=row["owner_namespace"], name=row["owner_name"], uid=row["owner_uid"])


def _check_adoptable(queue: str, schema: str, present: Owner, owner: Owner) -> None:
    if (present.namespace, present.name) == (owner.namespace, owner.name):
        return
    holder = f"JobQueue {present.namespace}/{present.name}" if present.namespace else "`headrace migrate` (no JobQueue)"
    raise PlaceTakenError(
        f"queue {queue!r} in schema {schema!r} belongs to {holder}: choose another schema, database or name"
    )


def _columns(settings: QueueSettings) -> tuple[object, ...]:
    """The settings, in the order in which `register_queue` and `update_queue` take them."""
    return (
        settings.visibility_timeout_seconds,
        settings.max_retries,
        settings.message_retention_seconds,
        settings.completed_retention_seconds,
        settings.dead_letter_enabled,
        settings.dead_letter_retention_days,
        settings.paused,
    )
