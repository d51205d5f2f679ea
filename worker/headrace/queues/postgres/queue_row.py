"""The queue's row: which number it has, and its settings, as of the last look at it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.queues.base import QueueSettings
from headrace.queues.errors import QueueNotFoundError, SchemaVersionError
from headrace.queues.postgres.compatibility import check_outgrown
from headrace.queues.postgres.rows import settings_from

if TYPE_CHECKING:
    import asyncpg

    from headrace.queues.postgres.database import Database


class QueueRow:
    """What one queue object knows of its queue."""

    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self.name = name
        self.id = 0
        self.settings = QueueSettings()
        self._outgrown: SchemaVersionError | None = None

    async def look_up(self, *, promptly: bool = False) -> None:
        """Read it again: settings change, and a queue made anew has another number.

        Parameters
        ----------
        promptly
            On the prompt lane: for who waits for no other work. Defaults to the work lane, the only one of producers.

        Raises
        ------
        QueueNotFoundError
            When there is none.
        """
        fetch = self._database.fetch_promptly if promptly else self._database.fetch
        rows = await fetch("find_queue", self.name, urgent=True)
        if not rows:
            raise self.not_found()
        self.id = rows[0]["id"]
        self.settings = settings_from(rows[0])

    def see(self, row: asyncpg.Record) -> None:
        """Take over what a heartbeat or a round of housekeeping has read.

        Raises
        ------
        SchemaVersionError
            When the schema has outgrown this code.
        """
        self.id = row["id"]
        self.settings = settings_from(row)
        self._outgrown = None
        try:
            check_outgrown(self._database.place.schema, row["compatible_with"])
        except SchemaVersionError as error:
            self._outgrown = error
            raise

    def check(self) -> None:
        """Raise `SchemaVersionError` where the schema had outgrown this code at the last look."""
        if self._outgrown is not None:
            raise SchemaVersionError(*self._outgrown.args)

    def not_found(self) -> QueueNotFoundError:
        """That there is no such queue, and the fix."""
        return QueueNotFoundError(
            f"queue {self.name!r} does not exist in schema {self._database.place.schema!r}: "
            f"apply its JobQueue, or run `headrace migrate --queue {self.name}`"
        )
