"""Reads how much queues in PostgreSQL hold."""

from __future__ import annotations

from collections import defaultdict
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from headrace.queues.postgres import Place, PostgresBacklog
from headrace_operator.core.model import QueueDepth
from headrace_operator.providers.postgres.errors import operator_errors

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from types import TracebackType
    from typing import Self

    from headrace.queues.base import Depth
    from headrace_operator.providers.postgres.place import PostgresBackend, PostgresPlace


class PostgresBacklogReader:
    """Fills `core.provider.BacklogReader` for one database, inside an `async with` block."""

    def __init__(self, backend: PostgresBackend) -> None:
        self._backend = backend
        self._open = AsyncExitStack()
        self._backlogs: dict[str, PostgresBacklog] = {}
        """By schema."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.aclose()

    async def depths(self, places: Collection[PostgresPlace]) -> dict[PostgresPlace, QueueDepth]:
        """See `core.provider.BacklogReader`."""
        found: dict[PostgresPlace, QueueDepth] = {}
        for schema, wanted in _by_schema(places).items():
            with operator_errors():
                depths = await (await self._backlog(schema)).depths(sorted(wanted))
            found |= {wanted[queue]: _depth(depth) for queue, depth in depths.items()}
        return found

    async def have_ready(self, places: Collection[PostgresPlace]) -> set[PostgresPlace]:
        """See `core.provider.BacklogReader`."""
        found: set[PostgresPlace] = set()
        for schema, wanted in _by_schema(places).items():
            with operator_errors():
                have_ready = await (await self._backlog(schema)).have_ready(sorted(wanted))
            found |= {wanted[queue] for queue, has_ready in have_ready.items() if has_ready}
        return found

    async def _backlog(self, schema: str) -> PostgresBacklog:
        if schema not in self._backlogs:
            place = Place(dsn=self._backend.dsn, ca_certificates=self._backend.ca_certificates, schema=schema)
            self._backlogs[schema] = await self._open.enter_async_context(PostgresBacklog(place))
        return self._backlogs[schema]


def _by_schema(places: Iterable[PostgresPlace]) -> dict[str, dict[str, PostgresPlace]]:
    schemas: defaultdict[str, dict[str, PostgresPlace]] = defaultdict(dict)
    for place in places:
        schemas[place.schema][place.queue] = place
    return schemas


def _depth(depth: Depth) -> QueueDepth:
    return QueueDepth(
        ready=depth.ready,
        blocked=depth.blocked,
        delayed=depth.delayed,
        in_flight=depth.in_flight,
        dead_lettered=depth.dead_lettered,
        oldest_ready_age_seconds=depth.oldest_ready_age_seconds,
        paused=depth.paused,
        is_lower_bound=depth.is_lower_bound,
        arrived=None if depth.totals is None else depth.totals.arrived,
    )
