"""Least privilege: what producers, workers and readers may do, and how they find our names unqualified."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace.queues.errors import PlaceTakenError, QueueAccessError, QueueError, QueueNotFoundError
from headrace.queues.postgres.connection import Place, connect
from headrace.queues.postgres.statements import MAX_IDENTIFIER_BYTES, fits, quoted, render

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

_COMMAND_TIMEOUT_SECONDS = 60.0

# What a depth is counted from. No payload, no name, no header, no error can be read.
_COUNTED = "id, queue_id, enqueued_at, run_at, expires_at, attempt, priority, group_key"

_DONE = "completed, failed, dead_lettered, service_seconds, service_histogram"

# What every role may do: see whether the schema fits the code, and call the schema's functions, which run with the
# caller's own rights.
_EVERYBODY = (
    "USAGE ON SCHEMA {schema}",
    "SELECT ON {schema}.migrations, {schema}.queues",
    "EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema}",
)

_READER = (
    f"SELECT ({_COUNTED}) ON {{schema}}.jobs",
    f"SELECT ({_COUNTED}, state) ON {{schema}}.parked_jobs",
    "SELECT (queue_id, id) ON {schema}.dead_jobs",
    "SELECT (queue_id, priority, last_id, lease_id, claimed_at, job_ids) ON {schema}.claims",
    f"SELECT (id, queue_id, expires_at, lease_seconds, was_alone, {_DONE}) ON {{schema}}.leases",
    "SELECT ON {schema}.queue_stats, {schema}.queue_totals, {schema}.group_heads",
)

_PRODUCER = (
    "INSERT ON {schema}.jobs, {schema}.parked_jobs",
    # The ids come back.
    "SELECT (id) ON {schema}.jobs",
    "USAGE ON SEQUENCE {schema}.jobs_id_seq",
    # A key whose time is over makes place for the next.
    "SELECT, INSERT, DELETE ON {schema}.deduplication_keys",
    # Whom to wake.
    "SELECT ON {schema}.waiters",
)

_WORKER = (
    *_PRODUCER,
    "SELECT, INSERT, UPDATE, DELETE ON {schema}.jobs, {schema}.parked_jobs, {schema}.leases, {schema}.claims",
    "SELECT, INSERT, UPDATE, DELETE ON {schema}.dead_jobs, {schema}.finished_jobs, {schema}.deduplication_keys",
    "SELECT, INSERT, UPDATE, DELETE ON {schema}.cancellations, {schema}.waiters, {schema}.progress",
    "SELECT, INSERT, UPDATE, DELETE ON {schema}.completed_heads, {schema}.groups",
    "USAGE, SELECT ON SEQUENCE {schema}.returns",
    "SELECT, UPDATE ON {schema}.queue_stats",
    "SELECT, INSERT, UPDATE ON {schema}.queue_totals",
    "SELECT, INSERT, UPDATE ON {schema}.watches",
    "SELECT ON {schema}.background_jobs, {schema}.group_heads",
)

_RIGHTS = {"producer": _PRODUCER, "worker": _WORKER, "reader": _READER}

_ROLE_EXISTS = "SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1)"

# What holds for a role in this database: its own setting here, its own anywhere, the database's, the server's (which we
# know only where we have none of our own).
_SEARCH_PATH = """
SELECT coalesce(
    (
        SELECT substr(entry, length('search_path=') + 1)
        FROM pg_catalog.pg_db_role_setting AS setting, unnest(setting.setconfig) AS entry
        WHERE starts_with(entry, 'search_path=')
            AND setting.setrole IN (0, (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = $1))
            AND setting.setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))
        ORDER BY setting.setrole <> 0 DESC, setting.setdatabase <> 0 DESC
        LIMIT 1
    ),
    (
        SELECT reset_val
        FROM pg_catalog.pg_settings
        WHERE name = 'search_path' AND source IN ('default', 'configuration file')
    ),
    '"$user", public'
)
"""

_OWNER = """
SELECT nspowner::regrole::text AS name, pg_has_role(nspowner, 'USAGE') AS is_ours
FROM pg_catalog.pg_namespace
WHERE nspname = $1
"""

_WRAPPER = "wrapper of headrace's schema "

_PUBLIC_NAMES = """
SELECT 'background_jobs' AS name, CASE kind.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'view' ELSE 'table' END AS kind,
    obj_description(kind.oid, 'pg_class') AS comment
FROM pg_catalog.pg_class AS kind
WHERE kind.relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'public')
    AND kind.relname = 'background_jobs'
UNION ALL
SELECT 'recover_stuck_background_jobs', 'function', obj_description(function.oid, 'pg_proc')
FROM pg_catalog.pg_proc AS function
WHERE function.pronamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'public')
    AND function.proname = 'recover_stuck_background_jobs'
"""

_WRAPPERS = """
CREATE OR REPLACE VIEW public.background_jobs AS SELECT * FROM {schema}.background_jobs;
CREATE OR REPLACE FUNCTION public.recover_stuck_background_jobs(minutes integer)
RETURNS SETOF {schema}.background_jobs
LANGUAGE sql AS $body$ SELECT * FROM {schema}.recover_stuck_background_jobs(minutes) $body$;
"""

_COMMENTS = """
COMMENT ON VIEW public.background_jobs IS {comment};
COMMENT ON FUNCTION public.recover_stuck_background_jobs(integer) IS {comment};
"""

_READERS_OF_THE_VIEW = """
SELECT quote_ident(role.rolname) AS role
FROM pg_catalog.pg_class AS relation, aclexplode(relation.relacl) AS entry
    JOIN pg_catalog.pg_roles AS role ON role.oid = entry.grantee
WHERE relation.oid = to_regclass($1) AND entry.privilege_type = 'SELECT' AND entry.grantee <> relation.relowner
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grants:
    """Which roles are to have which rights."""

    producers: tuple[str, ...] = ()
    """May enqueue, and read no job."""
    workers: tuple[str, ...] = ()
    """May do whatever a worker does, enqueue, and look into jobs; not change the schema or the queues' settings."""
    readers: tuple[str, ...] = ()
    """May count jobs."""

    def __bool__(self) -> bool:
        return bool(self.producers or self.workers or self.readers)


class PostgresRoles:
    """Rights on one schema. Every call opens a connection of its own, of a user who owns the schema, and closes it."""

    def __init__(self, place: Place) -> None:
        self._place = place

    async def grant(self, grants: Grants, *, create: bool) -> list[str]:
        """Give these roles their rights, and the schema a place in their search path: the last. Returns what was done.

        Rights are added, none is taken away. Repeat it after an upgrade of the schema.

        Raises
        ------
        QueueError
            When a role does not exist and is not to be created, or the schema is not the DSN's user's to grant.
        """
        done: list[str] = []
        async with self._transaction() as connection:
            owner = await connection.fetchrow(_OWNER, self._place.schema)
            if owner is None:
                raise QueueNotFoundError(f"schema {self._place.schema!r} does not exist: run `headrace migrate` first")
            if not owner["is_ours"]:
                raise QueueAccessError(f"schema {self._place.schema!r} belongs to {owner['name']}: grant as that user")
            for kind, roles in (
                ("producer", grants.producers),
                ("worker", grants.workers),
                ("reader", grants.readers),
            ):
                for role in roles:
                    if not await connection.fetchval(_ROLE_EXISTS, role):
                        if not create:
                            raise QueueError(f"role {role!r} does not exist: create it, or add --create-roles")
                        await connection.execute(f"CREATE ROLE {_quoted_role(role)} LOGIN")
                        done.append(f"role {role} created, without a password")
                    for right in (*_EVERYBODY, *_RIGHTS[kind]):
                        what = render(right, self._place.schema)
                        await connection.execute(f"GRANT {what} TO {_quoted_role(role)}")
                    await self._extend_search_path(connection, role)
                    done.append(f"{role} is a {kind}")
            if await self._has_wrappers(connection):
                await self._share_wrappers(connection)
            else:
                done += [
                    f"public.{name} is somebody else's and is found first: write {self._place.schema}.{name}"
                    for name in {row["name"] for row in await connection.fetch(_PUBLIC_NAMES)}
                    if self._place.schema != "public"
                ]
        return done

    async def _extend_search_path(self, connection: asyncpg.Connection[asyncpg.Record], role: str) -> None:
        """Our schema comes last: it must hide no table of an application's own."""
        path: str = await connection.fetchval(_SEARCH_PATH, role)
        schema = quoted(self._place.schema)
        if {schema, self._place.schema} & {entry.strip() for entry in path.split(",")}:
            return
        database = await connection.fetchval("SELECT quote_ident(current_database())")
        await connection.execute(
            f"ALTER ROLE {_quoted_role(role)} IN DATABASE {database} SET search_path = {path or 'public'}, {schema}"
        )

    async def make_public_wrappers(self) -> bool:
        """Make `background_jobs` and `recover_stuck_background_jobs` in the schema ``public``; False if they are there.

        Raises
        ------
        PlaceTakenError
            When one of the names is somebody else's. Nothing is touched.
        """
        if self._place.schema == "public":
            return False
        async with self._transaction() as connection:
            were_there = await self._has_wrappers(connection)
            if not were_there:
                for row in await connection.fetch(_PUBLIC_NAMES):
                    raise PlaceTakenError(_taken(self._place.schema, row["name"], row["kind"], row["comment"]))
            await connection.execute(render(_WRAPPERS, self._place.schema))
            comment = await connection.fetchval("SELECT quote_literal($1::text)", _WRAPPER + self._place.schema)
            await connection.execute(_COMMENTS.format(comment=comment))
            await self._share_wrappers(connection)
        return not were_there

    async def _has_wrappers(self, connection: asyncpg.Connection[asyncpg.Record]) -> bool:
        """Whether names in ``public`` are wrappers of this schema, and only that."""
        comments = [row["comment"] for row in await connection.fetch(_PUBLIC_NAMES)]
        return bool(comments) and all(comment == _WRAPPER + self._place.schema for comment in comments)

    async def _share_wrappers(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        """Who may read the view itself may read its wrapper."""
        view = f"{quoted(self._place.schema)}.background_jobs"
        for row in await connection.fetch(_READERS_OF_THE_VIEW, view):
            await connection.execute(f"GRANT SELECT ON public.background_jobs TO {row['role']}")

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        async with (
            connect(self._place, command_timeout_seconds=_COMMAND_TIMEOUT_SECONDS) as connection,
            connection.transaction(isolation="read_committed"),
        ):
            yield connection


def _taken(schema: str, name: str, kind: str, comment: str | None) -> str:
    if comment is not None and comment.startswith(_WRAPPER):
        owner = f"belongs to the queues of schema {comment.removeprefix(_WRAPPER)!r}"
    else:
        owner = f"is a {kind} of somebody else's"
    return (
        f"public.{name} {owner} and stays as it is: query {schema}.{name} instead, "
        "or move the other one away before you ask for wrappers"
    )


def _quoted_role(role: str) -> str:
    if not fits(role):
        raise QueueError(f"role {role!r}: must have 1 to {MAX_IDENTIFIER_BYTES} bytes, none of them zero")
    return '"' + role.replace('"', '""') + '"'
