"""Any sequence of verbs, on Postgres and in memory: both must answer alike."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
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

from contract.queue_contract import LEASE_SECONDS
from contract.test_queues import PostgresBench
from headrace.job import NewJob
from headrace.queues.base import LeaseLostError, Owner, QueueSettings
from headrace.queues.memory import MemoryBackend, MemoryInspector, MemoryQueue
from headrace.queues.postgres import PostgresQueue
from support import postgres

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from headrace.queues.base import Delivery, Depth, Queue

WORKERS = (0, 1, 2)
# Everything is a multiple of five seconds: what is due to the model is due on the server.
SECONDS = (5, 15, 60)

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

    async def close(self) -> None:
        for pair in self.pairs:
            for queue in pair:
                await queue.__aexit__(None, None, None)

    async def both(self, worker: int, verb: Callable[[Queue], Awaitable[Any]]) -> tuple[Any, Any]:
        real, model = self.pairs[worker]
        return await verb(real), await verb(model)

    async def enqueue(self, worker: int, new: list[NewJob]) -> None:
        real, model = await self.both(worker, lambda queue: queue.enqueue(new))
        for theirs, ours in zip(real, model, strict=True):
            assert self.numbers.setdefault(ours, theirs) == theirs, "the same job stands for a taken key"

    async def receive(self, worker: int, limit: int) -> None:
        # Suspects are known to who keeps house; twice, since what was found by one round is known to the next.
        await self.maintain(worker)
        await self.maintain(worker)
        real, model = await self.both(worker, lambda queue: queue.receive(limit))
        assert [self.seen(delivery) for delivery in real] == [
            replace_id(self.seen(delivery), self.numbers[delivery.job.id]) for delivery in model
        ]
        self.held += [(worker, theirs, ours) for theirs, ours in zip(real, model, strict=True)]

    def seen(self, delivery: Delivery) -> tuple[Any, ...]:
        job = delivery.job
        return (job.id, job.name, job.priority, job.group, job.deduplication_key, job.attempt, delivery.is_suspect)

    async def settle(self, place: int, verb: str, arguments: dict[str, Any]) -> None:
        worker, theirs, ours = self.held.pop(place)
        many = verb in {"complete", "release"}
        real = await getattr(self.pairs[worker][0], verb)([theirs] if many else theirs, **arguments)
        model = await getattr(self.pairs[worker][1], verb)([ours] if many else ours, **arguments)
        assert (real.accepted, len(real.refused), real.dead_lettered) == (
            model.accepted,
            len(model.refused),
            model.dead_lettered,
        )

    async def keep_alive(self, worker: int) -> None:
        async def beat(queue: Queue) -> frozenset[str] | None:
            try:
                return await queue.keep_alive()
            except LeaseLostError:
                await queue.keep_alive()
                return None

        real, model = await self.both(worker, beat)
        assert real == (None if model is None else {self.numbers[job_id] for job_id in model})

    async def maintain(self, worker: int) -> None:
        real, model = await self.both(worker, lambda queue: queue.maintain())
        # In memory being due is all that makes a job ready: nothing is promoted.
        assert replace(real, promoted=0) == model

    async def cancel(self, ours: str) -> None:
        outcome = await (await self.bench.inspector()).cancel(self.name, self.numbers[ours])
        assert outcome == await self.inspector.cancel(self.name, ours)

    async def pass_time(self, seconds: int) -> None:
        await self.bench.pass_time(seconds)
        self.backend.pass_time(seconds)

    async def pause(self, *, paused: bool) -> None:
        await (await self.bench.inspector()).pause(self.name, paused=paused)
        await self.inspector.pause(self.name, paused=paused)

    async def compare(self) -> None:
        real, model = await self.both(0, lambda queue: queue.depth())
        assert without_age(real) == without_age(model)
        assert abs(real.oldest_ready_age_seconds - model.oldest_ready_age_seconds) < 5
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


def without_age(depth: Depth) -> Depth:
    return replace(depth, oldest_ready_age_seconds=0.0)


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
                name=f"{len(self.world.numbers)}/{place}",
                deduplication_window_seconds=window if job.deduplication_key else None,
            )
            for place, job in enumerate(new)
        ]
        self.run(self.world.enqueue(worker, named))

    @rule(worker=workers, limit=st.sampled_from([1, 2, 10]))
    def receive(self, worker: int, limit: int) -> None:
        self.run(self.world.receive(worker, limit))

    @precondition(lambda self: self.world.held)
    @rule(
        place=st.integers(min_value=0, max_value=99),
        verb=st.sampled_from(["complete", "retry", "release", "dead_letter", "discard"]),
        delay=st.sampled_from([0, 10]),
    )
    def settle(self, place: int, verb: str, delay: int) -> None:
        arguments: dict[str, dict[str, Any]] = {
            "retry": {"delay_seconds": delay, "error": f"error {delay}"},
            "release": {"delay_seconds": delay},
            "dead_letter": {"reason": "GaveUp"},
        }
        self.run(self.world.settle(place % len(self.world.held), verb, arguments.get(verb, {})))

    @precondition(lambda self: self.world.held)
    @rule()
    def complete_all(self) -> None:
        while self.world.held:
            self.run(self.world.settle(0, "complete", {}))

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

    @rule(paused=st.sampled_from([False, False, True]))
    def pause(self, *, paused: bool) -> None:
        self.run(self.world.pause(paused=paused))

    @invariant()
    def alike(self) -> None:
        if hasattr(self, "world"):
            self.run(self.world.compare())

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.run(self.world.close())


def test_any_sequence_of_verbs_ends_as_in_memory(postgres_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Every look from the start: where to look is remembered for the sake of speed, and skips what others handed back.
    monkeypatch.setattr("headrace.queues.postgres.queue._FLOORS_SECONDS", 0.0)
    monkeypatch.setattr("headrace.queues.postgres.queue._EXPENSIVE_SECONDS", float("inf"))
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
