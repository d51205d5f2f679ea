"""Any sequence of verbs, on Postgres and in memory: both must answer alike."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import asyncpg
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec import structs

from contract.queue.bench import LEASE_SECONDS, stripped
from contract.test_postgres import PostgresBench
from headrace.job import NewJob
from headrace.queues.base import Owner, QueueSettings
from headrace.queues.inspection import Cancel, JobFilter, Pause, Purge, Redrive, RetryNow
from headrace.queues.memory import MemoryBackend, MemoryInspector, MemoryQueue
from headrace.queues.postgres import PostgresQueue
from headrace.queues.settlement import Complete, DeadLetter, Discard, Failure, Release, Retry
from support import postgres

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from headrace.queues.base import Delivery, KeptAlive
    from headrace.queues.settlement import Settlement

    Opened = PostgresQueue | MemoryQueue

WORKERS = (0, 1, 2)
# Everything is a multiple of five seconds: what is due to the model is due on the server.
SECONDS = (5, 15, 60)
NAMES = ("resize", "mail", "bill")

_numbers = itertools.count(1)

jobs = st.builds(
    NewJob,
    priority=st.sampled_from([0, 0, 5, 10]),
    delay_seconds=st.sampled_from([0, 0, 0, 10, 30]),
    group=st.sampled_from([None, None, "a", "b"]),
    deduplication_key=st.sampled_from([None, None, "k", "l"]),
)
workers = st.sampled_from(WORKERS)


class World:
    """One queue, on both sides, and the workers on it."""

    def __init__(self, bench: PostgresBench, wanted: QueueSettings) -> None:
        self.bench = bench
        self.name = f"queue-{next(_numbers)}"
        self.wanted = wanted
        self.backend = MemoryBackend()
        self.inspector = MemoryInspector(self.backend)
        self.pairs: list[tuple[PostgresQueue, MemoryQueue]] = []
        self.held: list[tuple[int, Delivery, Delivery]] = []
        self.numbers: dict[str, str] = {}
        """Ids on the server, by those in memory."""

    async def open(self) -> None:
        owner = Owner(namespace="shop", name=self.name, uid="1")
        for provisioner in (self.bench.provisioner, self.backend):
            await provisioner.ensure(self.name, self.wanted, owner)
        for _ in WORKERS:
            pair = (self.bench.queue(self.name), MemoryQueue(self.backend, self.name, lease_seconds=LEASE_SECONDS))
            for queue in pair:
                await queue.__aenter__()
                await queue.keep_alive()
            self.pairs.append(pair)

    async def compare_totals(self) -> None:
        for worker in WORKERS:
            # A lease that is lost takes nothing along that was counted: the next one tells it.
            await self.keep_alive(worker)
            await self.keep_alive(worker)
        real, model = await self.both(0, lambda queue: queue.depth())
        assert replace(real.totals, service_seconds=0) == replace(model.totals, service_seconds=0)
        assert abs(real.totals.service_seconds - model.totals.service_seconds) < 0.001

    async def close(self) -> None:
        for pair in self.pairs:
            for queue in pair:
                await queue.__aexit__(None, None, None)

    async def both(self, worker: int, verb: Callable[[Opened], Awaitable[Any]]) -> tuple[Any, Any]:
        real, model = self.pairs[worker]
        return await verb(real), await verb(model)

    async def enqueue(self, worker: int, new: list[NewJob]) -> None:
        real, model = await self.both(worker, lambda queue: queue.enqueue(new))
        for theirs, ours in zip(real, model, strict=True):
            assert self.numbers.setdefault(ours.id, theirs.id) == theirs.id, "the same job stands for a taken key"
            assert theirs.is_new == ours.is_new

    async def receive(self, worker: int, limit: int, without: frozenset[str]) -> None:
        # Suspects are known to who keeps house; twice, since what was found by one round is known to the next.
        await self.maintain(worker)
        await self.maintain(worker)
        if self.held_by(worker) and self.backend.place(self.name).order.counts["suspect"]:
            # Of workers that hold as much, either may be the one that makes room.
            return
        real, model = await self.both(worker, lambda queue: queue.receive(limit, without=without))
        assert [self.seen(delivery) for delivery in real] == [
            replace_id(self.seen(delivery), self.numbers[delivery.job.id]) for delivery in model
        ]
        self.held += [(worker, theirs, ours) for theirs, ours in zip(real, model, strict=True)]

    def seen(self, delivery: Delivery) -> tuple[Any, ...]:
        job = delivery.job
        return (
            job.id,
            job.name,
            job.priority,
            job.group,
            job.deduplication_key,
            job.attempt,
            job.extra,
            delivery.is_suspect,
        )

    def held_by(self, worker: int) -> list[tuple[int, Delivery, Delivery]]:
        return [held for held in self.held if held[0] == worker]

    async def settle(self, worker: int, count: int, kinds: list[Callable[[Delivery], Settlement]]) -> None:
        """Settle so many of what a worker holds, each in the next of these ways."""
        chosen = list(zip(self.held_by(worker)[:count], itertools.cycle(kinds)))
        for held, _ in chosen:
            self.held.remove(held)
        real = await self.pairs[worker][0].settle([kind(theirs) for (_, theirs, _), kind in chosen])
        model = await self.pairs[worker][1].settle([kind(ours) for (_, _, ours), kind in chosen])
        assert real.accepted == model.accepted
        assert real.unsettled == ()
        assert ids(real.refused) == sorted(self.numbers[job_id] for job_id in ids(model.refused))
        assert ids(real.dead_lettered) == sorted(self.numbers[job_id] for job_id in ids(model.dead_lettered))

    async def keep_alive(self, worker: int) -> None:
        real: KeptAlive
        model: KeptAlive
        real, model = await self.both(worker, lambda queue: queue.keep_alive())
        assert {job_id for _, job_id in real.lost} == {self.numbers[job_id] for _, job_id in model.lost}
        assert {job_id for _, job_id in real.cancelled} == {self.numbers[job_id] for _, job_id in model.cancelled}

    async def maintain(self, worker: int) -> None:
        real, model = await self.both(worker, lambda queue: queue.maintain())
        # In memory being due is all that makes a job ready: nothing is promoted.
        assert replace(real, promoted=0) == model

    async def cancel(self, ours: str) -> None:
        outcome = await (await self.bench.inspector()).cancel(self.name, Cancel(job_id=self.numbers[ours]))
        assert outcome == await self.inspector.cancel(self.name, Cancel(job_id=ours))

    async def retry_now(self, ours: str) -> None:
        did = await (await self.bench.inspector()).retry_now(self.name, RetryNow(job_id=self.numbers[ours]))
        assert did == await self.inspector.retry_now(self.name, RetryNow(job_id=ours))

    async def redrive(self, which: JobFilter) -> None:
        did = await (await self.bench.inspector()).redrive(self.name, Redrive(which=which))
        assert did == await self.inspector.redrive(self.name, Redrive(which=which))

    async def purge(self, which: JobFilter) -> None:
        did = await (await self.bench.inspector()).purge(self.name, Purge(which=which))
        assert did == await self.inspector.purge(self.name, Purge(which=which))

    async def pass_time(self, seconds: int) -> None:
        await self.bench.pass_time(seconds)
        self.backend.pass_time(seconds)

    async def pause(self, *, paused: bool) -> None:
        await (await self.bench.inspector()).pause(self.name, Pause(paused=paused))
        await self.inspector.pause(self.name, Pause(paused=paused))

    async def compare(self) -> None:
        real, model = await self.both(0, lambda queue: queue.depth())
        assert stripped(real) == stripped(model)
        assert real.paused == model.paused
        assert (real.next_due_seconds is None) == (model.next_due_seconds is None)
        assert abs((real.next_due_seconds or 0) - (model.next_due_seconds or 0)) < 5
        assert abs(real.oldest_ready_age_seconds - model.oldest_ready_age_seconds) < 5
        assert abs(real.in_flight_seconds - model.in_flight_seconds) < 5 * (1 + real.in_flight)
        assert await self.pairs[0][0].has_ready() == (real.ready > 0)
        assert await self.pairs[0][1].has_ready() == (model.ready > 0)
        ended = 'SELECT name, reason, error, attempt FROM "head ""race".dead_jobs JOIN "head ""race".queues AS queue '
        rows = await self.bench.connection.fetch(
            ended.replace("name,", "dead_jobs.name,", 1) + "ON queue.id = queue_id WHERE queue.name = $1", self.name
        )
        assert sorted(map(tuple, rows), key=repr) == sorted(
            ((dead.job.name, dead.reason, dead.error, dead.job.attempt) for dead in self.pairs[0][1].dead_jobs),
            key=repr,
        )


def replace_id(seen: tuple[Any, ...], job_id: str) -> tuple[Any, ...]:
    return (job_id, *seen[1:])


def ids(settlements: tuple[Settlement, ...]) -> list[str]:
    return sorted(settlement.delivery.job.id for settlement in settlements)


def kind_of(verb: str, delay_seconds: float) -> Callable[[Delivery], Settlement]:
    def settlement(delivery: Delivery) -> Settlement:
        match verb:
            case "complete":
                return Complete(delivery=delivery, run_seconds=0.1)
            case "retry":
                failure = Failure(error=f"error {delay_seconds:g}")
                return Retry(delivery=delivery, delay_seconds=delay_seconds, failure=failure)
            case "release":
                return Release(delivery=delivery, delay_seconds=delay_seconds)
            case "dead_letter":
                return DeadLetter(delivery=delivery, reason="GaveUp")
            case _:
                return Discard(delivery=delivery)

    return settlement


class Machine(RuleBasedStateMachine):
    runner: asyncio.Runner
    bench: PostgresBench

    def run(self, step: Awaitable[None]) -> None:
        async def awaited() -> None:
            await step

        self.runner.run(awaited())

    @initialize(
        max_retries=st.sampled_from([0, 1, 5]),
        retention=st.sampled_from([None, None, 40]),
        dead_letter=st.sampled_from([True, True, False]),
    )
    def begin(self, max_retries: int, retention: int | None, *, dead_letter: bool) -> None:
        self.world = World(
            self.bench,
            QueueSettings(
                max_retries=max_retries, message_retention_seconds=retention, dead_letter_enabled=dead_letter
            ),
        )
        self.run(self.world.open())

    @rule(worker=workers, new=st.lists(jobs, min_size=1, max_size=5), window=st.sampled_from([None, 50]))
    def enqueue(self, worker: int, new: list[NewJob], window: int | None) -> None:
        named = [
            structs.replace(
                job,
                name=NAMES[place % len(NAMES)],
                extra={"place": f"{len(self.world.numbers)}/{place}"},
                deduplication_window_seconds=window if job.deduplication_key else None,
            )
            for place, job in enumerate(new)
        ]
        self.run(self.world.enqueue(worker, named))

    @rule(worker=workers, limit=st.sampled_from([1, 2, 10]), without=st.sets(st.sampled_from(NAMES), max_size=1))
    def receive(self, worker: int, limit: int, without: set[str]) -> None:
        self.run(self.world.receive(worker, limit, frozenset(without)))

    @precondition(lambda self: self.world.held)
    @rule(
        place=st.integers(min_value=0, max_value=99),
        count=st.integers(min_value=1, max_value=4),
        verbs=st.lists(
            st.sampled_from(["complete", "retry", "release", "dead_letter", "discard"]), min_size=1, max_size=4
        ),
        delay=st.sampled_from([0, 10]),
    )
    def settle(self, place: int, count: int, verbs: list[str], delay: int) -> None:
        worker = self.world.held[place % len(self.world.held)][0]
        kinds = [kind_of(verb, delay * (1 + number % 2)) for number, verb in enumerate(verbs)]
        self.run(self.world.settle(worker, count, kinds))

    @precondition(lambda self: self.world.held)
    @rule()
    def complete_all(self) -> None:
        while self.world.held:
            self.run(self.world.settle(self.world.held[0][0], 100, [kind_of("complete", 0)]))

    @rule(worker=workers)
    def keep_alive(self, worker: int) -> None:
        self.run(self.world.keep_alive(worker))

    @rule(worker=workers)
    def maintain(self, worker: int) -> None:
        self.run(self.world.maintain(worker))

    @rule(seconds=st.sampled_from(SECONDS), survivors=st.sets(workers))
    def pass_time(self, seconds: int, survivors: set[int]) -> None:
        """Workers that do not survive have not reported since."""
        self.run(self.world.pass_time(seconds))
        for worker in sorted(survivors):
            self.run(self.world.keep_alive(worker))

    @precondition(lambda self: self.world.numbers)
    @rule(place=st.integers(min_value=0, max_value=99))
    def cancel(self, place: int) -> None:
        ours = list(self.world.numbers)
        self.run(self.world.cancel(ours[place % len(ours)]))

    @precondition(lambda self: self.world.numbers)
    @rule(place=st.integers(min_value=0, max_value=99))
    def retry_now(self, place: int) -> None:
        ours = list(self.world.numbers)
        self.run(self.world.retry_now(ours[place % len(ours)]))

    @rule(name=st.sampled_from([None, *NAMES]), reason=st.sampled_from([None, "GaveUp", "Expired"]))
    def redrive(self, name: str | None, reason: str | None) -> None:
        self.run(self.world.redrive(JobFilter(name=name, reason=reason)))

    @rule(name=st.sampled_from(NAMES))
    def purge(self, name: str) -> None:
        self.run(self.world.purge(JobFilter(name=name)))

    @rule(paused=st.sampled_from([False, False, True]))
    def pause(self, *, paused: bool) -> None:
        self.run(self.world.pause(paused=paused))

    @invariant()
    def alike(self) -> None:
        if hasattr(self, "world"):
            self.run(self.world.compare())

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.run(self.world.compare_totals())
            self.run(self.world.close())


def test_any_sequence_of_verbs_ends_as_in_memory(postgres_dsn: str) -> None:
    with asyncio.Runner() as runner:
        database = postgres.fresh_database(postgres_dsn)
        dsn = runner.run(database.__aenter__())
        connection = runner.run(asyncpg.connect(dsn))
        try:
            bench = PostgresBench(dsn, connection)
            machine = type("Machine", (Machine,), {"runner": runner, "bench": bench})
            run_state_machine_as_test(
                machine,
                settings=settings(
                    max_examples=15,
                    stateful_step_count=30,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                    print_blob=True,
                ),
            )
        finally:
            runner.run(connection.close())
            runner.run(database.__aexit__(None, None, None))
