"""Make, adjust and remove a queue.

The facts of `Provisioned`: ``schema_version``, and ``max_connections``, which the server allows ordinary users.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import asyncpg

from headrace.queues.base import Owner, Provisioned, QueueSettings, Removed
from headrace.queues.errors import PlaceTakenError
from headrace.queues.postgres.connection import Place, connect
from headrace.queues.postgres.errors import our_errors
from headrace.queues.postgres.migrate import migrate
from headrace.queues.postgres.rows import settings_from
from headrace.queues.postgres.statements import code_version, queries, quoted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

# Migrations may rewrite tables. A server that is gone is noticed long before.
_COMMAND_TIMEOUT_SECONDS = 3600.0
# For how long locks are waited for in all.
_PATIENCE_SECONDS = 120.0
_REMOVE_BATCH = 10_000
# However many rows these have, they go before anything is locked that other queues need.
_REMOVED_IN_BATCHES = ("jobs", "parked_jobs", "dead_jobs", "finished_jobs", "deduplication_keys", "cancellations")
_COUNTED = ("jobs", "parked_jobs", "dead_jobs")
_LOCK_PAUSE_SECONDS = 1.0
# Long enough that others get on with their work in between.
_MIGRATION_PAUSE_SECONDS = 3.0

OWNER_STALE_SECONDS = 10_800.0
"""An owner of another cluster that has not been seen for so long is gone: its queue may be taken over. Operators make
sure of their queues twice as often."""
_SEEN_STEP_SECONDS = 60.0


class ProvisioningSession:
    """A connection that several calls share: opened by the first of them, and left for good when one fails."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._open = AsyncExitStack()
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None

    @asynccontextmanager
    async def connected(self, schema: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        """The connection, for one call after another; `schema` is what errors are about."""
        if self._connection is None or self._connection.is_closed():
            await self.close()
            place = replace(self._place, schema=schema)
            self._connection = await self._open.enter_async_context(
                connect(place, command_timeout_seconds=_COMMAND_TIMEOUT_SECONDS)
            )
        try:
            with our_errors(schema):
                yield self._connection
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End the connection."""
        self._connection = None
        opened, self._open = self._open, AsyncExitStack()
        await opened.aclose()


class PostgresProvisioner:
    """The `Provisioner` of one schema.

    Parameters
    ----------
    place
        The database and the schema.
    session
        What calls share. None: every call opens a connection of its own and closes it.
    progress
        Is told what may take long, in a few words.
    """

    def __init__(
        self,
        place: Place,
        *,
        session: ProvisioningSession | None = None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._place = place
        self._session = session
        self._progress = progress
        self._queries = queries(place.schema)

    async def migrate(self) -> Provisioned:
        """Bring the schema to this code's version, with no queue in mind."""
        return await self._patiently(self._migrate)

    async def _migrate(self, connection: asyncpg.Connection[asyncpg.Record]) -> Provisioned:
        steps = await migrate(connection, self._place.schema, self._progress)
        return Provisioned(
            changed=bool(steps),
            details=", ".join(f"{step.version:04} {step.name}" for step in steps) or "nothing to do",
            facts=await self._facts(connection),
        )

    def _connected(self) -> AbstractAsyncContextManager[asyncpg.Connection[asyncpg.Record]]:
        if self._session is None:
            return connect(self._place, command_timeout_seconds=_COMMAND_TIMEOUT_SECONDS)
        return self._session.connected(self._place.schema)

    async def _patiently(
        self, work: Callable[[asyncpg.Connection[asyncpg.Record]], Awaitable[Provisioned]]
    ) -> Provisioned:
        """Do this in a transaction, again and again where tables are in use."""
        async with self._connected() as connection:
            deadline = time.monotonic() + _PATIENCE_SECONDS
            while True:
                try:
                    async with connection.transaction(isolation="read_committed"):
                        return await work(connection)
                except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
                    if time.monotonic() > deadline:
                        raise
                    self._progress(f"waiting for a table of schema {self._place.schema} that is in use ({error})")
                    await asyncio.sleep(_MIGRATION_PAUSE_SECONDS)

    async def ensure(self, queue: str, settings: QueueSettings, owner: Owner, *, adopts_from: str = "") -> Provisioned:
        """See `headrace.queues.base.Provisioner`.

        Parameters
        ----------
        adopts_from
            The uid of an owner of the same name in another cluster: take the queue over from it, be it alive. From
            nobody else, so that two of whom this is asked don't pull it to and fro.
        """
        return await self._patiently(
            lambda connection: self._ensure(connection, queue, settings, owner, adopts_from=adopts_from)
        )

    async def _ensure(
        self,
        connection: asyncpg.Connection[asyncpg.Record],
        queue: str,
        settings: QueueSettings,
        owner: Owner,
        *,
        adopts_from: str,
    ) -> Provisioned:
        steps = await migrate(connection, self._place.schema, self._progress)
        done = [f"schema {self._place.schema} migrated to version {steps[-1].version}"] if steps else []
        row = await connection.fetchrow(self._queries["lock_queue"], queue)
        if row is None:
            await connection.execute(
                self._queries["register_queue"],
                *(queue, owner.namespace, owner.name, owner.uid, owner.cluster, *_columns(settings)),
            )
            done.append(f"queue {queue} made")
        else:
            present = _owner(row)
            _check_adoptable(
                queue,
                self._place.schema,
                present,
                owner,
                unseen_seconds=row["owner_unseen_seconds"],
                adopts_from=adopts_from,
            )
            if present != owner:
                done.append(f"queue {queue} adopted")
            if settings_from(row) != settings:
                done.append(f"settings of queue {queue} changed")
            is_seen = row["owner_unseen_seconds"] < _SEEN_STEP_SECONDS
            if present != owner or settings_from(row) != settings or not is_seen:
                await connection.execute(
                    self._queries["update_queue"], row["id"], owner.uid, owner.cluster, *_columns(settings)
                )
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
        async with self._connected() as connection, connection.transaction(isolation="read_committed"):
            allowed: int = await connection.fetchval(self._queries["allowed_connections"])
            return allowed

    async def remove(self, queue: str, owner: Owner) -> Removed | None:
        """See `headrace.queues.base.Provisioner`. Safe to repeat when it was interrupted: the queue's row goes last."""
        async with self._connected() as connection:
            queue_id = await self._pause_own(connection, queue, owner)
            if queue_id is None:
                return None
            jobs = 0
            for table in _REMOVED_IN_BATCHES:
                while removed := await self._remove_some(connection, f"remove_{table}", queue_id):
                    jobs += removed if table in _COUNTED else 0
                    self._progress(f"removing the jobs of queue {queue}: {jobs} are gone")
            deadline = time.monotonic() + _PATIENCE_SECONDS
            while True:
                try:
                    jobs += await self._remove_rest(connection, queue_id)
                except asyncpg.LockNotAvailableError:
                    if time.monotonic() > deadline:
                        raise
                    self._progress(
                        f"waiting for an application's transaction that has enqueued into schema {self._place.schema}"
                    )
                    await asyncio.sleep(_LOCK_PAUSE_SECONDS)
                else:
                    return Removed(jobs=jobs)

    async def _remove_rest(self, connection: asyncpg.Connection[asyncpg.Record], queue_id: int) -> int:
        async with connection.transaction(isolation="read_committed"):
            for lock in ("wait_briefly", "lock_jobs"):
                await connection.execute(self._queries[lock])
            jobs: int = await connection.fetchval(self._queries["remove_queue"], queue_id)
            return jobs

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
    return Owner(
        namespace=row["owner_namespace"],
        name=row["owner_name"],
        uid=row["owner_uid"],
        cluster=row["owner_cluster"],
    )


def _check_adoptable(
    queue: str, schema: str, present: Owner, owner: Owner, *, unseen_seconds: float, adopts_from: str
) -> None:
    """An object made anew in the same cluster takes its queue back; from another cluster's, only what is left there."""
    place = f"queue {queue!r} in schema {schema!r}"
    if (present.namespace, present.name) != (owner.namespace, owner.name):
        holder = f"JobQueue {present.namespace}/{present.name}"
        if not present.namespace:
            holder = "`headrace migrate` (no JobQueue)"
        raise PlaceTakenError(f"{place} belongs to {holder}: choose another schema, database or name")
    is_elsewhere = present.cluster and present.cluster != owner.cluster
    if is_elsewhere and present.uid != adopts_from and unseen_seconds < OWNER_STALE_SECONDS:
        raise PlaceTakenError(
            f"{place} belongs to JobQueue {present.namespace}/{present.name} of another cluster, whose operator was "
            f"there {unseen_seconds / 60:.0f} minutes ago: choose another schema, database or name, or take it over "
            f'with the annotation headrace.dev/adopt: "{present.uid}"'
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
