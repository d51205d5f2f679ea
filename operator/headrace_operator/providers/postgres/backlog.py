"""Reads how much queues in PostgreSQL hold."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

from headrace.queues.errors import CountTooSlowError
from headrace.queues.postgres import BacklogSession, Place
from headrace_operator.core.model import OperatorError, QueueDepth, TransientError
from headrace_operator.core.provider import CountTooLongError
from headrace_operator.providers.postgres.errors import operator_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from types import TracebackType
    from typing import Self

    from headrace.queues.base import Depth
    from headrace_operator.providers.postgres.place import PostgresBackend, PostgresPlace

_ROUND_SECONDS = 8.0
"""How long the schemas of a database may take together, each asked after the other."""


class PostgresBacklogReader:
    """Fills `core.provider.BacklogReader` for one database, inside an `async with` block."""

    def __init__(self, backend: PostgresBackend, on_news: Callable[[PostgresPlace | None], None]) -> None:
        self._on_news = on_news
        self._listening: dict[tuple[str, str], PostgresPlace] = {}
        """By schema and queue."""
        self._deaf: set[str] = set()
        """Schemas in which we may not ask to be told."""
        place = Place(dsn=backend.dsn, ca_certificates=backend.ca_certificates, direct_dsn=backend.direct_dsn)
        self._session = BacklogSession(place, on_jobs=self._hear)
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._open.enter_async_context(self._session)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.aclose()

    async def depths(self, places: Collection[PostgresPlace]) -> dict[PostgresPlace, QueueDepth | OperatorError]:
        """See `core.provider.BacklogReader`."""
        found: dict[PostgresPlace, QueueDepth | OperatorError] = {}
        until = time.monotonic() + _ROUND_SECONDS
        for schema, wanted in _by_schema(places).items():
            if time.monotonic() > until:
                found |= dict.fromkeys(wanted.values(), _TOO_LONG)
            else:
                found |= await self._depths(schema, wanted)
        return found

    async def _depths(
        self, schema: str, wanted: Mapping[str, PostgresPlace]
    ) -> dict[PostgresPlace, QueueDepth | OperatorError]:
        """One schema's; what is wrong with it alone is no other's matter."""
        try:
            with operator_errors():
                depths = await self._session.depths(schema, sorted(wanted))
        except CountTooSlowError:
            return dict.fromkeys(wanted.values(), _TOO_LONG)
        except OperatorError as failure:
            if not self._session.is_open:
                raise
            return dict.fromkeys(wanted.values(), failure)
        return {
            place: _depth(depths[queue]) if queue in depths else _missing(schema) for queue, place in wanted.items()
        }

    async def have_ready(self, places: Collection[PostgresPlace]) -> dict[PostgresPlace, bool | OperatorError]:
        """See `core.provider.BacklogReader`."""
        found: dict[PostgresPlace, bool | OperatorError] = {}
        until = time.monotonic() + _ROUND_SECONDS
        for schema, wanted in _by_schema(places).items():
            if time.monotonic() > until:
                found |= dict.fromkeys(wanted.values(), _TOO_LONG)
                continue
            try:
                with operator_errors():
                    have_ready = await self._session.have_ready(schema, sorted(wanted))
            except CountTooSlowError:
                found |= dict.fromkeys(wanted.values(), _TOO_LONG)
            except OperatorError as failure:
                if not self._session.is_open:
                    raise
                found |= dict.fromkeys(wanted.values(), failure)
            else:
                for queue, place in wanted.items():
                    if queue not in have_ready:
                        found[place] = _missing(schema)
                        continue
                    has_ready, is_paused = have_ready[queue]
                    found[place] = has_ready and not is_paused
        return found

    async def listen(self, places: Collection[PostgresPlace]) -> set[PostgresPlace]:
        """See `core.provider.BacklogReader`. Whoever may only read a schema is told of nothing in it."""
        found: set[PostgresPlace] = set()
        until = time.monotonic() + _ROUND_SECONDS
        for schema, wanted in _by_schema(places).items():
            if schema in self._deaf or time.monotonic() > until:
                continue
            self._listening |= {(schema, queue): place for queue, place in wanted.items()}
            try:
                with operator_errors():
                    found |= {wanted[queue] for queue in await self._session.listen(schema, sorted(wanted))}
            except CountTooSlowError:
                continue
            except OperatorError:
                if not self._session.is_open:
                    raise
                self._deaf.add(schema)
        return found

    async def listen_no_more(self, places: Collection[PostgresPlace]) -> None:
        """See `core.provider.BacklogReader`."""
        for schema, wanted in _by_schema(places).items():
            for queue in wanted:
                self._listening.pop((schema, queue), None)
            with suppress(CountTooSlowError), operator_errors():
                await self._session.listen_no_more(schema, sorted(wanted))

    def _hear(self, schema: str | None, queue: str) -> None:
        if schema is None:
            self._listening.clear()
            self._on_news(None)
        elif (place := self._listening.get((schema, queue))) is not None:
            self._on_news(place)


_TOO_LONG = CountTooLongError("DepthUnknown", "counting takes too long")


def _missing(schema: str) -> OperatorError:
    return TransientError("QueueMissing", f"schema {schema} has no such queue")


def _by_schema(places: Iterable[PostgresPlace]) -> dict[str, dict[str, PostgresPlace]]:
    schemas: defaultdict[str, dict[str, PostgresPlace]] = defaultdict(dict)
    for place in places:
        schemas[place.schema][place.queue] = place
    return schemas


def _depth(depth: Depth) -> QueueDepth:
    totals = depth.totals
    return QueueDepth(
        ready=depth.ready,
        blocked=depth.blocked,
        delayed=depth.delayed,
        in_flight=depth.in_flight,
        in_flight_seconds=depth.in_flight_seconds,
        dead_lettered=depth.dead_lettered,
        oldest_ready_age_seconds=depth.oldest_ready_age_seconds,
        next_due_seconds=depth.next_due_seconds,
        paused=depth.paused,
        is_lower_bound=depth.is_lower_bound,
        arrived=None if totals is None else totals.arrived,
        completed=None if totals is None else totals.completed,
        failed=None if totals is None else totals.failed,
        service_seconds=None if totals is None else totals.service_seconds,
    )
