"""Whether this code can work with what it finds: the schema's version, and how the database is set up for its user."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from headrace.queues.errors import QueueError, SchemaVersionError
from headrace.queues.postgres.statements import code_version

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

_SHORTEST_STATEMENT_MS = 30_000
_SHORTEST_LOCK_MS = 2_000
_SHORTEST_IDLE_MS = 10_000

_said: set[str] = set()


def check_version(schema: str, version: int, compatible_with: int) -> None:
    """Raise `SchemaVersionError` where code and schema are too far apart."""
    known = code_version()
    if version < known:
        raise SchemaVersionError(
            f"schema {schema!r} has version {version}, this code needs {known}: "
            "let the operator upgrade it, or run `headrace migrate`"
        )
    check_outgrown(schema, compatible_with)


def check_outgrown(schema: str, compatible_with: int) -> None:
    """Raise `SchemaVersionError` where the schema has outgrown this code; it may do so while we are at work."""
    known = code_version()
    if known < compatible_with:
        raise SchemaVersionError(
            f"schema {schema!r} needs code that knows version {compatible_with} or later, and this code knows {known}: "
            "upgrade this program"
        )


def check_isolation(isolation: str) -> None:
    """Raise where a look under a lock would not be the newest. We can't set it: a pooler's sessions are not ours."""
    if isolation in {"repeatable read", "serializable"}:
        raise QueueError(
            f"transactions of this user are {isolation} by default, under which two workers would get one job: "
            "ALTER ROLE … IN DATABASE … SET default_transaction_isolation = 'read committed'"
        )


def hindrances(settings: Mapping[str, Any]) -> list[str]:
    """Which of a session's settings will trouble us, each with the fix.

    Parameters
    ----------
    settings
        As the query ``server_settings`` gives them: limits in milliseconds, 0 for none.
    """
    limits = (
        ("statement_timeout", _SHORTEST_STATEMENT_MS, "long counts and housekeeping are cut off, and tried again"),
        ("lock_timeout", _SHORTEST_LOCK_MS, "outcomes of jobs in groups are cut off, and tried again"),
        ("idle_session_timeout", _SHORTEST_IDLE_MS, "sessions end between two heartbeats, and with them LISTEN"),
    )
    found = [
        f"{name} is {settings[f'{name}_ms']} ms, so {consequence}: ALTER ROLE … SET {name} = {shortest} or more, or 0"
        for name, shortest, consequence in limits
        if 0 < settings[f"{name}_ms"] < shortest
    ]
    if not settings["has_autovacuum"]:
        found.append("autovacuum is off, so queues slow down without end: ALTER SYSTEM SET autovacuum = on")
    return found


def say_once(settings: Mapping[str, Any]) -> None:
    """Log what will trouble us, once in this process."""
    line = "; ".join(hindrances(settings))
    if line and line not in _said:
        _said.add(line)
        log.warning("the database's settings will hinder its queues: %s", line)
