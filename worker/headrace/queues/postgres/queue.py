"""The queue itself: enqueue, receive, settle, keep house."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import time
from dataclasses import replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any, TypeAlias

from headrace import trace_context
from headrace.queues.base import (
    LEASE_SECONDS,
    Capabilities,
    Delivery,
    LeaseLostError,
    Maintained,
    QueueError,
    QueueNotFoundError,
    QueueSettings,
    QueueUnavailableError,
    Settled,
    refuse_unsupported,
)
from headrace.queues.batches import batches
from headrace.queues.postgres import transactions
from headrace.queues.postgres.coalescer import Coalescer
from headrace.queues.postgres.connection import CLOSE_TIMEOUT_SECONDS, Database, Place
from headrace.queues.postgres.listener import Listener
from headrace.queues.postgres.rows import (
    all_columns,
    deliveries_from,
    depth_from,
    is_plain,
    plain_columns,
    settings_from,
    storable,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

    from asyncpg import Record

    from headrace.job import NewJob
    from headrace.queues.base import Depth, Progress

_Key: TypeAlias = tuple[int, str]  # A delivery's claim and job.

CAPABILITIES = Capabilities(
    priorities=True, delays=True, groups=True, deduplication=True, uncharged_abandon=True, transactions=True
)

# Receiving, settling, keeping alive and counting each may want one at the same time.
_MAX_CONNECTIONS = 4

CONNECTIONS_PER_WORKER = _MAX_CONNECTIONS + 1
"""At most so many does one worker hold: its pool, and the session that listens."""

DIRECT_CONNECTIONS_PER_WORKER = 1
"""Of these, so many go past a pooler, where a direct DSN says how."""

# A round of housekeeping touches at most so many rows of each kind at a time, so that no lock is held for long …
_HOUSEKEEPING_BATCH = 1000
# … and at most so many times: the next round comes in seconds, from any worker.
_HOUSEKEEPING_BATCHES = 10

_SWEEP_SECONDS = 60.0

# How soon a waiting receiver looks again; doubles up to what the caller allows.
_FIRST_LOOK_SECONDS = 0.05
_LAST_LOOK_SECONDS = 1.0

# How soon to try again what must be done sooner or later.
_AGAIN_SECONDS = 1.0

# More goes in several statements, within one transaction: the server takes messages of up to 1 GB, and both sides hold
# what a statement says several times over.
_STATEMENT_BYTES = 16 * 1024 * 1024

# Producers tell idle workers at most so often.
_WAKE_SECONDS = 0.01

_LEVELS = 11
_NO_FLOORS = [0] * _LEVELS

# Where to look for jobs is remembered between claims, for at most so long …
_FLOORS_SECONDS = 0.5
# … or, where a look from the start is expensive (an old transaction keeps the dead rows there), for so many times as
# long as that look took.
_FLOORS_FACTOR = 20
_EXPENSIVE_SECONDS = 0.005


class PostgresQueue:
    """A `Queue` in PostgreSQL. Use it as an async context manager.

    Parameters
    ----------
    place
        The database and the schema.
    name
        The queue's name.
    holder
        What stands beside our leases, for people to read. Defaults to host name and process id.
    lease_seconds
        How long a heartbeat lease lasts. Defaults to `LEASE_SECONDS`; every worker of a queue must agree.
    listens
        Whether `wait` is cut short by new jobs (LISTEN, on a connection of its own). Defaults to polling alone.
    """

    def __init__(
        self,
        place: Place,
        name: str,
        *,
        holder: str | None = None,
        lease_seconds: float = LEASE_SECONDS,
        listens: bool = False,
    ) -> None:
        self._database = Database(place, max_connections=_MAX_CONNECTIONS)
        self._name = name
        self._holder = holder or f"{socket.gethostname()}:{os.getpid()}"
        self._lease_seconds = lease_seconds
        self._queue_id = 0
        self._settings = QueueSettings()
        self._coalescer = Coalescer(self._send)
        # A key may be held by an application's open transaction: only who wants keys shall wait for it.
        self._keyed_coalescer = Coalescer(self._send)
        self._waking: asyncio.Task[None] | None = None
        self._receiving = asyncio.Lock()
        self._ending: set[asyncio.Task[None]] = set()
        self._has_news = False
        self._heartbeat_lease: int | None = None
        self._heartbeats = False
        # What this object holds: of each claim, its lease and the jobs not settled yet.
        self._held: dict[int, tuple[int, set[str]]] = {}
        # What was given back, or lost, before its answer arrived: not to be held any more when it does.
        self._gone_claims: set[int] = set()
        self._gone_leases: set[int] = set()
        # What may have been completed in a transaction of its handler's own: claim and job.
        self._completed_in: set[_Key] = set()
        self._gone_unreported: set[_Key] = set()
        # What was settled, and by which query, in a call that got no answer: it may be done.
        self._unanswered: dict[_Key, str] = {}
        self._holds_suspect = False
        self._suspects_wait = False
        self._makes_room = False
        self._floors = list(_NO_FLOORS)
        self._floors_end_at = 0.0
        self._full_look_allowed_at = 0.0
        self._was_short = True
        # What this object itself put back stands below the floors.
        self._came_back = False
        self._swept_at = 0.0
        self._may_have_jobs = asyncio.Event()
        self._listener = Listener(place, self._may_have_jobs.set) if listens else None
        self._listening: asyncio.Task[None] | None = None
        self._pause_seconds = _FIRST_LOOK_SECONDS

    @property
    def name(self) -> str:
        """See `headrace.queues.base.Queue`."""
        return self._name

    @property
    def capabilities(self) -> Capabilities:
        """See `headrace.queues.base.Queue`."""
        return CAPABILITIES

    @property
    def settings(self) -> QueueSettings:
        """See `headrace.queues.base.Queue`."""
        return self._settings

    @property
    def is_listening(self) -> bool:
        """See `headrace.queues.base.Queue`."""
        return self._listener is not None and self._listener.is_up

    async def __aenter__(self) -> Self:
        try:
            await self._database.open()
            await self._look_up()
        except BaseException:
            await self._database.close()
            raise
        if self._listener is not None:
            self._listening = asyncio.create_task(self._listener.run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        leases = {lease for lease, _ in self._held.values()}
        if self._heartbeat_lease is not None:
            leases.add(self._heartbeat_lease)
        self._heartbeat_lease = None
        self._held.clear()
        try:
            # Where that fails, others wait as long as the lease lasts.
            with contextlib.suppress(QueueError, TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                    await self._coalescer.flushed()
                    await self._keyed_coalescer.flushed()
                    if background := [*self._ending, *([self._waking] if self._waking is not None else [])]:
                        await asyncio.wait(background)
                    if leases:
                        await self._database.fetch("end_leases", list(leases))
        finally:
            for task in self._ending:
                task.cancel()
            if self._listening is not None:
                self._listening.cancel()
                await asyncio.wait([self._listening])
            await self._database.close()

    # Enqueue

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[str]:
        """See `headrace.queues.base.Queue`."""
        if not jobs:
            return []
        refuse_unsupported(jobs, CAPABILITIES)
        jobs = trace_context.carried(jobs)
        is_keyed = any(job.deduplication_key is not None for job in jobs)
        return await (self._keyed_coalescer if is_keyed else self._coalescer).enqueue(jobs)

    async def enqueue_in(self, connection: Any, jobs: Sequence[NewJob]) -> list[str]:
        """See `headrace.queues.base.Queue`. Needs no connection of this queue's own: it may be closed."""
        refuse_unsupported(jobs, CAPABILITIES)
        return await transactions.enqueue(connection, self._database.place.schema, self._name, jobs)

    async def _send(self, jobs: Sequence[NewJob]) -> list[str]:
        rows = await self._insert(jobs)
        if not rows:
            # The queue may have been removed and made again, under another id.
            await self._look_up()
            rows = await self._insert(jobs)
        if not rows:
            raise self._not_found()
        self._has_news = True
        if self._waking is None:
            self._waking = asyncio.create_task(self._wake())
        return [str(row[0]) for row in rows]

    async def _insert(self, jobs: Sequence[NewJob]) -> list[Record]:
        if sum([len(job.payload) for job in jobs]) <= _STATEMENT_BYTES:
            query, columns = _insertion(jobs)
            return await self._database.fetch(query, self._queue_id, *columns)
        insertions = map(_insertion, batches(jobs, max_bytes=_STATEMENT_BYTES))
        return await self._database.fetch_together(
            [(query, (self._queue_id, *columns)) for query, columns in insertions]
        )

    async def _wake(self) -> None:
        """Tell idle workers, as long as there is news. After the commit: who sets its flag later looks later, too."""
        try:
            while self._has_news:
                self._has_news = False
                with contextlib.suppress(QueueError):  # Whoever waits looks by itself, too.
                    await self._database.fetch("wake", self._queue_id)
                await asyncio.sleep(_WAKE_SECONDS)
        finally:
            self._waking = None

    # Receive

    async def receive(self, limit: int, *, wait_seconds: float = 0.0) -> list[Delivery]:
        """See `headrace.queues.base.Queue`."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + wait_seconds
        while True:
            deliveries = await self._receive_now(limit)
            remaining = deadline - clock()
            if deliveries or remaining <= 0:
                return deliveries
            await self.wait(min(remaining, _LAST_LOOK_SECONDS))

    async def _receive_now(self, limit: int) -> list[Delivery]:
        async with self._receiving:  # What is held is known only once a claim is answered.
            if self._holds_suspect or (self._heartbeats and self._heartbeat_lease is None):
                return []  # A lease that is lost: the next heartbeat starts another.
            if self._heartbeat_lease is not None:
                return await self._receive_under(self._heartbeat_lease, limit)
            lease = await self._database.fetch_value("start_lease", self._queue_id, None, self._holder)
            if lease is None:
                raise self._not_found()
            deliveries: list[Delivery] = []
            try:
                deliveries = await self._receive_under(lease, limit)
            finally:
                if not deliveries:
                    # In any case: a call that was cut off may have leased what nobody will settle.
                    self._end_soon(lease)
            return deliveries

    def _end_soon(self, lease: int) -> None:
        """End a lease under which nothing is held."""

        async def end() -> None:
            while True:
                try:
                    await self._database.fetch("end_leases", [lease])
                except QueueUnavailableError:
                    await asyncio.sleep(_AGAIN_SECONDS)
                except QueueError:
                    return
                else:
                    return

        task = asyncio.create_task(end())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _receive_under(self, lease: int, limit: int) -> list[Delivery]:
        deliveries: list[Delivery] = []
        if not self._held and self._suspects_wait:
            deliveries = await self._claim_suspect(lease)
        if not deliveries and not (self._makes_room and self._held):
            deliveries = await self._claim(lease, limit)
        if not deliveries and not self._held and not self._heartbeats:
            deliveries = await self._claim_suspect(lease)  # Who does not keep house does not know.
        if deliveries:
            self._pause_seconds = _FIRST_LOOK_SECONDS
        return deliveries

    async def _claim(self, lease: int, limit: int) -> list[Delivery]:
        started = time.monotonic()
        from_start = self._came_back or started >= (
            self._full_look_allowed_at if self._was_short else self._floors_end_at
        )
        rows = await self._look(lease, limit, from_start=from_start)
        if not rows and not from_start and time.monotonic() >= self._full_look_allowed_at:
            rows = await self._look(lease, limit, from_start=True)
        # What others handed back, or what came late, may stand below; a short batch says that there is time to look.
        self._was_short = len(rows) < limit
        if not self._was_short and self._listener is not None:
            await self._listener.want_no_more()
        return self._take(lease, rows)

    async def _look(self, lease: int, limit: int, *, from_start: bool) -> list[Record]:
        self._came_back = False
        started = time.monotonic()
        floors = _NO_FLOORS if from_start else self._floors
        rows = await self._database.fetch("claim", self._queue_id, lease, limit, floors)
        if from_start:
            ended = time.monotonic()
            expense = _FLOORS_FACTOR * (ended - started) if ended - started > _EXPENSIVE_SECONDS else 0.0
            self._full_look_allowed_at = ended + expense
            self._floors_end_at = ended + max(expense, _FLOORS_SECONDS)
        rows.sort(key=itemgetter(1))
        if len({row[3] for row in rows}) > 1:
            rows.sort(key=itemgetter(3), reverse=True)  # Stable: within a priority the order by id stays.
        for row in rows:
            self._floors[row[3]] = row[1] + 1
        return rows

    async def _claim_suspect(self, lease: int) -> list[Delivery]:
        rows = await self._database.fetch("claim_suspect", self._queue_id, lease)
        deliveries = self._take(lease, rows)
        self._suspects_wait = bool(rows)
        self._holds_suspect = bool(deliveries)
        self._makes_room = self._makes_room and bool(rows)
        return deliveries

    def _take(self, lease: int, rows: Sequence[Record]) -> list[Delivery]:
        if lease in self._gone_leases:
            return []
        if self._gone_claims:
            rows = [row for row in rows if row[0] not in self._gone_claims]
        deliveries = deliveries_from(self._name, rows)
        for delivery in deliveries:
            claim = int(delivery.lease)
            if claim not in self._held:
                self._held[claim] = (lease, set())
            self._held[claim][1].add(delivery.job.id)
        return deliveries

    async def wait(self, seconds: float) -> None:
        """See `headrace.queues.base.Queue`."""
        if self._listener is not None and not self._may_have_jobs.is_set():
            with contextlib.suppress(QueueError):
                if await self._listener.want(self._queue_id):
                    return  # Newly announced: what came before that is found by looking once more.
        pause = min(seconds, self._pause_seconds)
        self._pause_seconds = min(self._pause_seconds * 2, max(seconds, _FIRST_LOOK_SECONDS))
        if pause > _LAST_LOOK_SECONDS:
            with contextlib.suppress(QueueError):
                due_seconds = await self._database.fetch_value("next_due", self._queue_id)
                if due_seconds is not None:
                    pause = min(pause, due_seconds)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._may_have_jobs.wait()
        self._may_have_jobs.clear()

    # Settle

    async def complete(self, deliveries: Sequence[Delivery]) -> Settled:
        """See `headrace.queues.base.Queue`."""
        gone = await self._gone(deliveries)
        return self._with(gone, await self._settle("complete", _without(gone, deliveries)))

    async def complete_in(self, connection: Any, delivery: Delivery) -> None:
        """See `headrace.queues.base.Queue`."""
        fence = self._fence(delivery)
        await transactions.complete(connection, self._database.place.schema, *fence)

    def complete_in_sync(self, connection: Any, delivery: Delivery) -> None:
        """See `headrace.queues.base.Queue`."""
        fence = self._fence(delivery)
        transactions.complete_sync(connection, self._database.place.schema, *fence)

    def _fence(self, delivery: Delivery) -> tuple[int, int, int]:
        """What proves that a job is ours: lease, claim and id. Remembered before its use: the answer may get lost."""
        claim = int(delivery.lease)
        held = self._held.get(claim)
        if held is None or delivery.job.id not in held[1]:
            raise LeaseLostError(f"job {delivery.job.id} of queue {self._name!r} is not held any more: roll back")
        self._completed_in.add(_key(delivery))
        return held[0], claim, int(delivery.job.id)

    async def _gone(self, deliveries: Sequence[Delivery]) -> set[_Key]:
        """Let go of those that were completed in a transaction: whatever their handlers said later comes too late.

        They are remembered until their end has been reported, since what else is settled with them may fail.
        """
        if not self._completed_in and not self._gone_unreported:
            return set()
        by_lease: dict[int, list[Delivery]] = {}
        for delivery in deliveries:
            held = self._held.get(int(delivery.lease))
            if _key(delivery) in self._completed_in and held is not None and delivery.job.id in held[1]:
                by_lease.setdefault(held[0], []).append(delivery)
        for lease, group in by_lease.items():
            claims = list({int(delivery.lease) for delivery in group})
            ids = [int(delivery.job.id) for delivery in group]
            groups = list({delivery.job.group for delivery in group if delivery.job.group is not None})
            still = await self._ask("forget", lease, group, self._queue_id, lease, claims, ids, groups)
            forgotten = [delivery for delivery in group if delivery.job.id not in still]
            self._gone_unreported.update(map(_key, forgotten))
            self._came_back = self._came_back or bool(groups)  # The next of its group has an old id.
            await self._let_go(forgotten)
        return self._gone_unreported.intersection(map(_key, deliveries))

    def _with(self, gone: set[_Key], settled: Settled) -> Settled:
        self._gone_unreported -= gone
        return replace(settled, accepted=settled.accepted + len(gone)) if gone else settled

    async def release(self, deliveries: Sequence[Delivery], *, delay_seconds: float = 0.0) -> Settled:
        """See `headrace.queues.base.Queue`."""
        self._came_back = True
        gone = await self._gone(deliveries)
        return self._with(gone, await self._settle("release", _without(gone, deliveries), delay_seconds))

    async def _settle(self, query: str, deliveries: Sequence[Delivery], *arguments: object) -> Settled:
        """Settle all that is held under one lease in one statement; workers have one."""
        by_lease: dict[int, list[Delivery]] = {}
        refused: list[Delivery] = []
        for delivery in deliveries:
            held = self._held.get(int(delivery.lease))
            if held is None or delivery.job.id not in held[1]:
                refused.append(delivery)
            else:
                by_lease.setdefault(held[0], []).append(delivery)
            if delivery.job.group is not None:
                self._came_back = True  # The next of its group has an old id.
        accepted = 0
        for lease, group in by_lease.items():
            claims = list({int(delivery.lease) for delivery in group})
            ids = [int(delivery.job.id) for delivery in group]
            missing = await self._ask(query, lease, group, lease, claims, ids, *arguments)
            accepted += len(ids) - len(missing)
            if missing:
                refused += [delivery for delivery in group if delivery.job.id in missing]
            await self._let_go(group)
        return Settled(accepted=accepted, refused=tuple(refused))

    async def _ask(self, query: str, lease: int, deliveries: Sequence[Delivery], *arguments: object) -> set[str]:
        """The ids of those that this query does not settle, nor has settled before in a call that got no answer."""
        try:
            rows = await self._database.fetch(query, *arguments)
            if len(rows) == len(deliveries):
                return set()
            missing = {delivery.job.id for delivery in deliveries} - {str(row[0]) for row in rows}
            return missing - await self._settled_before(query, lease, deliveries)
        except QueueUnavailableError:
            self._unanswered.update(dict.fromkeys(map(_key, deliveries), query))
            raise

    async def _settled_before(self, query: str, lease: int, deliveries: Sequence[Delivery]) -> set[str]:
        asked = [_key(delivery) for delivery in deliveries if self._unanswered.get(_key(delivery)) == query]
        if not asked:
            return set()
        claims, ids = zip(*asked, strict=True)
        rows = await self._database.fetch("settled_before", lease, list(claims), list(map(int, ids)))
        return {str(row[0]) for row in rows}

    async def retry(
        self, delivery: Delivery, *, delay_seconds: float, error: str, traceback: str | None = None
    ) -> Settled:
        """See `headrace.queues.base.Queue`."""
        if gone := await self._gone([delivery]):
            return self._with(gone, Settled(accepted=0))
        trace = None if traceback is None else storable(traceback)
        ended = await self._settle_one("retry", delivery, delay_seconds, storable(error), trace)
        if not ended:
            return Settled(accepted=0, refused=(delivery,))
        if ended is True:  # By a call before, which got no answer.
            ended = "dead" if delivery.job.attempt > self._settings.max_retries else "again"
        return Settled(accepted=1, dead_lettered=int(ended == "dead"))

    async def dead_letter(
        self, delivery: Delivery, *, reason: str, error: str | None = None, traceback: str | None = None
    ) -> Settled:
        """See `headrace.queues.base.Queue`."""
        if gone := await self._gone([delivery]):
            return self._with(gone, Settled(accepted=0))
        texts = [None if text is None else storable(text) for text in (reason, error, traceback)]
        if await self._settle_one("dead_letter", delivery, *texts):
            return Settled(accepted=1, dead_lettered=1)
        return Settled(accepted=0, refused=(delivery,))

    async def discard(self, delivery: Delivery) -> Settled:
        """See `headrace.queues.base.Queue`."""
        if gone := await self._gone([delivery]):
            return self._with(gone, Settled(accepted=0))
        if await self._settle_one("discard", delivery):
            return Settled(accepted=1)
        return Settled(accepted=0, refused=(delivery,))

    async def _settle_one(self, query: str, delivery: Delivery, *arguments: object) -> Any:
        claim = int(delivery.lease)
        held = self._held.get(claim)
        if held is None or delivery.job.id not in held[1]:
            return None
        try:
            answer = await self._database.fetch_value(query, held[0], claim, int(delivery.job.id), *arguments)
            if not answer:
                answer = bool(await self._settled_before(query, held[0], [delivery]))
        except QueueUnavailableError:
            self._unanswered[_key(delivery)] = query
            raise
        self._came_back = True
        await self._let_go([delivery])
        return answer

    async def _let_go(self, deliveries: Sequence[Delivery]) -> None:
        """Forget what is settled; drop the leases that a receive without heartbeats made, once nothing is held."""
        done = set()
        for delivery in deliveries:
            claim = int(delivery.lease)
            held = self._held.get(claim)
            key = _key(delivery)
            self._completed_in.discard(key)
            self._unanswered.pop(key, None)
            if held is None:
                continue
            lease, ids = held
            ids.discard(delivery.job.id)
            if not ids:
                del self._held[claim]
                if lease != self._heartbeat_lease:
                    done.add(lease)
        if not self._held:
            self._holds_suspect = False
        done -= {lease for lease, _ in self._held.values()}
        if done:
            with contextlib.suppress(QueueError):  # The jobs are settled, and the lease runs out by itself.
                await self._database.fetch("end_leases", list(done))

    # Keep house

    async def keep_alive(self) -> frozenset[str]:
        """See `headrace.queues.base.Queue`."""
        self._heartbeats = True
        if self._heartbeat_lease is None:
            await self._look_up(urgent=True)
            self._heartbeat_lease = await self._database.fetch_value(
                "start_lease", self._queue_id, self._lease_seconds, self._holder, urgent=True
            )
            return frozenset()
        lease = self._heartbeat_lease
        ids = [int(job_id) for _, held in self._held.values() for job_id in held]
        rows = await self._database.fetch("heartbeat", lease, self._lease_seconds, ids, list(self._held), urgent=True)
        if not rows:
            self._heartbeat_lease = None
            self._gone_leases.add(lease)
            self._held = {claim: held for claim, held in self._held.items() if held[0] != lease}
            # A copy first: handlers in threads may add to it meanwhile.
            self._gone_unreported.clear()
            self._completed_in -= {key for key in list(self._completed_in) if key[0] not in self._held}
            self._unanswered = {key: query for key, query in self._unanswered.items() if key[0] in self._held}
            self._holds_suspect = False
            raise LeaseLostError(f"the lease on jobs of queue {self._name!r} ran out: others have them now")
        self._settings = settings_from(rows[0])
        # An answer may have arrived while this call was under way; one that comes later finds its claim gone.
        if strays := [claim for claim in rows[0]["strays"] if claim not in self._held]:
            self._gone_claims.update(strays)
            await self._database.fetch("drop_strays", lease, strays, urgent=True)
            self._came_back = True
        return frozenset(map(str, rows[0]["cancelled"]))

    async def report_progress(self, reports: Sequence[tuple[Delivery, Progress]]) -> None:
        """See `headrace.queues.base.Queue`."""
        by_claim: dict[int, dict[str, dict[str, float | str | None]]] = {}
        for delivery, progress in reports:
            told = {"fraction": progress.fraction, "message": storable(progress.message)}
            by_claim.setdefault(int(delivery.lease), {})[delivery.job.id] = told
        held = [
            (self._held[claim][0], claim, json.dumps(told)) for claim, told in by_claim.items() if claim in self._held
        ]
        if held:
            await self._database.fetch("report_progress", *map(list, zip(*held, strict=True)))

    async def maintain(self) -> Maintained:
        """See `headrace.queues.base.Queue`."""
        rows = await self._database.fetch("housekeeping", self._name)
        if not rows:
            raise self._not_found()
        todo = rows[0]
        self._queue_id = todo["id"]
        self._settings = settings_from(todo)
        rescued = poisoned = 0
        if todo["rescue"]:
            (row,) = await self._database.fetch("rescue", self._queue_id, self._lease_seconds, _HOUSEKEEPING_BATCH)
            rescued, poisoned = row["rescued"], row["poisoned"]
        self._suspects_wait = bool(todo["suspects"] or rescued)
        # One worker at a time makes room for a suspect; others take one when they happen to hold nothing.
        self._makes_room = bool(
            self._suspects_wait
            and self._heartbeat_lease is not None
            and await self._database.fetch_value("oldest_lease", self._queue_id, self._heartbeat_lease)
        )
        # Who died after a handler's own transaction had completed a job left the job's group without a head.
        if todo["groups"] and (todo["rescue"] or time.monotonic() >= self._swept_at + _SWEEP_SECONDS):
            self._swept_at = time.monotonic()
            if await self._database.fetch_value("sweep_groups", self._queue_id):
                self._came_back = True
        if todo["prune_keys"]:
            await self._in_batches("prune_keys")
        promoted = await self._in_batches("promote") if todo["promote"] else 0
        if promoted:
            self._came_back = True
        cancelled = 0
        if todo["cancellations"]:
            cancelled = await self._database.fetch_value("catch_up_cancellations", self._queue_id)
        return Maintained(
            rescued=rescued,
            poisoned=poisoned,
            promoted=promoted,
            cancelled=cancelled,
            expired=await self._in_batches("expire") if todo["expire"] else 0,
            pruned=(await self._in_batches("prune_dead") if todo["prune_dead"] else 0)
            + (await self._in_batches("prune_finished") if todo["prune_finished"] else 0),
        )

    async def _in_batches(self, query: str) -> int:
        total = 0
        for _ in range(_HOUSEKEEPING_BATCHES):
            count: int = await self._database.fetch_value(query, self._queue_id, _HOUSEKEEPING_BATCH)
            total += count
            if count < _HOUSEKEEPING_BATCH:
                break
        return total

    async def depth(self, *, max_age_seconds: float = 0.0) -> Depth:
        """See `headrace.queues.base.Queue`."""
        if max_age_seconds <= 0:
            return self._one(await self._database.fetch("depths", [self._name]))
        for query in ("count_and_share", "shared_depth"):
            if rows := await self._database.fetch(query, self._queue_id, max_age_seconds):
                return depth_from(rows[0])
        raise QueueUnavailableError(f"no worker could count queue {self._name!r} in time")

    def _one(self, rows: Sequence[Record]) -> Depth:
        if not rows:
            raise self._not_found()
        return depth_from(rows[0])

    async def _look_up(self, *, urgent: bool = False) -> None:
        """Read the queue's row again: settings change, and a queue made anew has another id."""
        rows = await self._database.fetch("find_queue", self._name, urgent=urgent)
        if not rows:
            raise self._not_found()
        self._queue_id = rows[0]["id"]
        self._settings = settings_from(rows[0])

    def _not_found(self) -> QueueNotFoundError:
        return QueueNotFoundError(
            f"queue {self._name!r} does not exist in schema {self._database.place.schema!r}: "
            f"apply its JobQueue, or run `headrace migrate --queue {self._name}`"
        )


def _insertion(jobs: Sequence[NewJob]) -> tuple[str, tuple[list[object], ...]]:
    """The query that enqueues them, and its columns."""
    return ("enqueue", plain_columns(jobs)) if all(map(is_plain, jobs)) else ("put", all_columns(jobs))


def _key(delivery: Delivery) -> _Key:
    return int(delivery.lease), delivery.job.id


def _without(keys: set[_Key], deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
    return [delivery for delivery in deliveries if _key(delivery) not in keys] if keys else deliveries
