"""The worker with an idempotency store: one effect a key, wherever it dies. On the reference queue and store."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from headrace import Context, DeadLetter, new_job
from headrace.idempotency.base import (
    DEFAULT_PREFIX,
    Claim,
    ClaimState,
    Hold,
    IdempotencyUnavailableError,
    stored_key,
)
from headrace.idempotency.memory import MemoryIdempotencyStore
from headrace.queues.base import Owner, QueueSettings
from headrace.queues.inspection import Redrive
from headrace.queues.memory import MemoryBackend, MemoryInspector, MemoryQueue
from headrace.runtime.handlers.python import PythonHandler
from headrace.runtime.idempotency_guard import Idempotency
from headrace.runtime.worker import Worker
from integration.worker.test_worker_in_memory import World
from support.verbs import enqueue
from support.worker_process import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from types import TracebackType

    from headrace.idempotency.memory import Record
    from headrace.queues.base import Delivery
    from headrace.queues.settlement import Settled, Settlement


class Shop(World):
    """A world with a store, whose clock goes with the queue's."""

    def __init__(self) -> None:
        super().__init__()
        self.records: dict[str, Record] = {}
        self.store = self.another_store()

    def another_store(self) -> MemoryIdempotencyStore:
        loop_time = asyncio.get_running_loop().time
        return MemoryIdempotencyStore(records=self.records, clock=lambda: loop_time() + self.passed.total_seconds())

    @asynccontextmanager
    async def once(self, **settings: Any) -> AsyncIterator[Worker]:
        store = settings.pop("store", self.store)
        on_unavailable = settings.pop("on_unavailable", "Retry")
        idempotency = Idempotency(store=store, on_unavailable=on_unavailable)
        async with self.working(idempotency=idempotency, **settings) as worker:
            yield worker

    @property
    def is_empty(self) -> bool:
        return not self.backend.places["orders"].entries


@pytest.fixture
async def shop() -> Shop:
    return Shop()


def one_waits(shop: Shop, gate: asyncio.Event, ran: list[int]) -> None:
    """Declares a job that is known to be brief until it is not, so that a worker takes one ahead."""

    @shop.app.job("slow")
    async def slow(payload: int) -> None:
        if payload:
            ran.append(payload)
            await gate.wait()


async def known_to_be_brief(shop: Shop, producer: MemoryQueue) -> None:
    await producer.enqueue([new_job("slow", 0)] * 50)
    await eventually(lambda: shop.counted("completed_total") == 50, what="known to be brief")


class TestKeys:
    async def test_of_jobs_with_one_key_one_runs(self, shop: Shop) -> None:
        ran: list[int] = []

        @shop.app.job("charge")
        async def charge(payload: int) -> None:
            ran.append(payload)

        async with shop.queue() as producer, shop.once():
            await producer.enqueue([new_job("charge", number, idempotency_key="order 7") for number in range(5)])
            await eventually(lambda: shop.counted("released_total") >= 1, what="put back")
            shop.passed += timedelta(seconds=6)
            await eventually(lambda: world_done(shop, 5), what="all completed")
        assert len(ran) == 1
        assert shop.counted("idempotency_hits_total") == 4
        assert shop.counted("idempotency_misses_total") == 1

    async def test_a_declaration_makes_the_key_of_the_payload(self, shop: Shop) -> None:
        ran: list[dict[str, int]] = []

        @shop.app.job("charge", idempotency_key=lambda payload: f"order {payload['order']}")
        async def charge(payload: dict[str, int]) -> None:
            ran.append(payload)

        async with shop.queue() as producer, shop.once():
            await producer.enqueue([new_job("charge", {"order": number % 2, "try": number}) for number in range(6)])
            await eventually(lambda: world_done(shop, 6), what="all completed")
        assert sorted(payload["order"] for payload in ran) == [0, 1]

    async def test_without_a_key_of_its_own_each_job_runs(self, shop: Shop) -> None:
        ran: list[int] = []

        @shop.app.job("note")
        async def note(payload: int) -> None:
            ran.append(payload)

        async with shop.queue() as producer, shop.once():
            await producer.enqueue([new_job("note", number) for number in range(20)])
            await eventually(lambda: world_done(shop, 20), what="all completed")
        assert sorted(ran) == list(range(20))

    async def test_a_job_whose_id_was_issued_before_is_another_job(self, shop: Shop) -> None:
        ran: list[str] = []

        @shop.app.job("note")
        async def note(payload: str) -> None:
            ran.append(payload)

        for payload in ("before", "after"):
            # A restore, a failover or a schema made anew: the ids begin again, and the store has a longer memory.
            shop.backend = MemoryBackend(clock=shop.backend.now)
            shop.backend.register("orders", QueueSettings(), Owner(namespace="", name="orders", uid=""))
            shop.passed += timedelta(microseconds=1)
            async with shop.queue() as producer, shop.once():
                assert await enqueue(producer, [new_job("note", payload)]) == ["1"]
                await eventually(lambda: shop.is_empty, what="done")
        assert ran == ["before", "after"]
        assert shop.counted("idempotency_hits_total") == 0

    async def test_a_retried_a_rescued_and_a_redriven_job_keeps_its_key(self, shop: Shop) -> None:
        @shop.app.job("note")
        async def note(payload: None, context: Context) -> None:
            if context.attempt == 1:
                raise ValueError("not yet")
            raise DeadLetter("never")

        keys: set[str] = set()

        class Noting(MemoryIdempotencyStore):
            async def claim(self, holds: Sequence[Hold], *, lease_seconds: float) -> list[Claim]:
                keys.update(hold.key for hold in holds)
                return await super().claim(holds, lease_seconds=lease_seconds)

        async with shop.queue() as other:
            await other.enqueue([new_job("note")])
            async with shop.queue() as dying:
                await dying.keep_alive()
                await dying.receive(1)
                shop.passed += timedelta(hours=1)
                await other.maintain()
            async with shop.once(store=Noting()):
                await eventually(lambda: shop.counted("retried_total") == 1, what="retried")
                shop.passed += timedelta(minutes=10)
                await eventually(lambda: shop.counted("failed_total") == 1, what="dead")
                await MemoryInspector(shop.backend).redrive("orders", Redrive())
                await eventually(lambda: shop.counted("retried_total") == 2, what="run again")
        assert len(keys) == 1

    async def test_a_key_function_that_fails_leaves_the_job_its_id(self, shop: Shop) -> None:
        @shop.app.job("note", idempotency_key=lambda payload: payload["missing"])
        async def note(payload: Any) -> None: ...

        async with shop.queue() as producer, shop.once():
            await producer.enqueue([new_job("note", {})])
            await eventually(lambda: world_done(shop, 1), what="completed")

    @pytest.mark.parametrize("nothing", [None, ""])
    async def test_jobs_of_which_a_declaration_makes_no_key_are_not_taken_for_one(
        self, shop: Shop, nothing: str | None
    ) -> None:
        ran: list[int] = []

        @shop.app.job("charge", idempotency_key=lambda _: nothing)
        async def charge(payload: int) -> None:
            ran.append(payload)

        async with shop.queue() as producer, shop.once():
            await producer.enqueue([new_job("charge", number) for number in range(3)])
            await producer.enqueue([new_job("charge", number, idempotency_key="order 7") for number in (3, 3)])
            await eventually(lambda: shop.counted("released_total") == 1, what="one of a producer's key put back")
            shop.passed += timedelta(seconds=6)
            await eventually(lambda: world_done(shop, 5), what="all completed")
        assert sorted(ran) == [0, 1, 2, 3]

    async def test_a_failed_attempt_and_a_dead_letter_leave_the_key_free(self, shop: Shop) -> None:
        attempts: list[int] = []

        @shop.app.job("charge")
        async def charge(payload: int) -> None:
            attempts.append(payload)
            if len(attempts) < 3:
                raise ValueError("not yet")

        async with shop.queue() as producer, shop.once():
            await producer.enqueue([new_job("charge", 1, idempotency_key="one")])
            for number in (1, 2):
                await eventually(lambda: shop.counted("retried_total") == number, what="retried")  # noqa: B023
                shop.passed += timedelta(minutes=10)
            await eventually(lambda: world_done(shop, 1), what="completed")
        assert len(attempts) == 3

    async def test_while_another_run_has_the_key_the_job_waits_uncharged(self, shop: Shop) -> None:
        @shop.app.job("charge")
        async def charge(payload: int) -> None: ...

        await shop.store.claim([Hold("one", "somebody else")], lease_seconds=20)
        async with shop.queue() as producer, shop.once():
            await producer.enqueue([new_job("charge", 1, idempotency_key="one")])
            await eventually(lambda: shop.counted("idempotency_in_progress_total") == 1, what="collided")
            await eventually(lambda: shop.counted("released_total") == 1, what="put back")
            assert await shop.store.finish([Hold("one", "somebody else")], ttl_seconds=3600) == [True]
            shop.passed += timedelta(seconds=6)
            await eventually(lambda: world_done(shop, 1), what="completed")
        assert shop.counted("idempotency_hits_total") == 1
        assert shop.counted("retried_total") == 0

    async def test_claims_are_kept_while_jobs_run(self, shop: Shop) -> None:
        gate = asyncio.Event()

        @shop.app.job("slow")
        async def slow(payload: int) -> None:
            await gate.wait()

        def ends_at() -> float:
            (record,) = shop.records.values()
            return record.ends_at

        async with shop.queue() as producer, shop.once():
            await producer.enqueue([new_job("slow", 1, idempotency_key="one")])
            await eventually(lambda: shop.counted("busy_slots") == 1, what="started")
            for _ in range(3):  # Each is shorter than the lease of 20 s, all of them are longer.
                before = ends_at()
                shop.passed += timedelta(seconds=15)
                await eventually(lambda before=before: ends_at() >= before + 15, what="extended")  # type: ignore[misc]
            (claim,) = await shop.store.claim([Hold("one", "somebody else")], lease_seconds=20)
            assert claim.state is ClaimState.IN_PROGRESS
            gate.set()
            await eventually(lambda: world_done(shop, 1), what="completed")

    @pytest.mark.parametrize("is_finished", [False, True])
    async def test_a_job_whose_key_another_has_by_now_is_stopped_and_put_back(
        self, shop: Shop, is_finished: bool
    ) -> None:
        stopped = asyncio.Event()

        @shop.app.job("slow")
        async def slow(payload: int) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                stopped.set()
                raise

        async with shop.queue() as producer, shop.once():
            await producer.enqueue([new_job("slow", 1, idempotency_key="one")])
            await eventually(lambda: shop.counted("busy_slots") == 1, what="started")
            shop.records.clear()
            await shop.store.claim([Hold("one", "somebody else")], lease_seconds=3600)
            if is_finished:
                await shop.store.finish([Hold("one", "somebody else")], ttl_seconds=3600)
            await eventually(stopped.is_set, what="stopped")
            await eventually(lambda: shop.counted("released_total") >= 1, what="put back")
            if is_finished:
                await eventually(lambda: world_done(shop, 1), what="completed without a run")
        assert shop.counted("completed_total") == is_finished

    async def test_a_waiting_job_whose_key_another_has_by_now_is_put_back(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("headrace.runtime.slots._WAIT_SECONDS", 3600.0)
        gate = asyncio.Event()
        ran: list[int] = []
        one_waits(shop, gate, ran)

        async with shop.queue() as producer, shop.once(slots=1):
            await known_to_be_brief(shop, producer)
            await producer.enqueue([new_job("slow", number, idempotency_key=str(number)) for number in (1, 2)])
            await eventually(lambda: shop.counted("prefetched") == 1, what="one waits")
            del shop.records[stored_key(DEFAULT_PREFIX, "2")]
            await shop.store.claim([Hold("2", "somebody else")], lease_seconds=3600)
            await eventually(lambda: shop.counted("prefetched") == 0, what="put back")
            gate.set()
            await eventually(lambda: shop.counted("completed_total") == 51, what="the other completed")
        assert ran == [1]

    async def test_a_waiting_job_whose_claim_ran_out_does_not_start(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("headrace.runtime.slots._WAIT_SECONDS", 3600.0)
        gate = asyncio.Event()
        ran: list[int] = []
        one_waits(shop, gate, ran)

        class OutOfReach(MemoryIdempotencyStore):
            async def extend(self, *_: Any, **__: Any) -> list[bool]:
                raise IdempotencyUnavailableError("the store can't be reached")

        async def is_taken_over() -> bool:
            (claim,) = await shop.store.claim([Hold("2", "somebody else")], lease_seconds=20)
            return claim.state is ClaimState.CLAIMED

        store = OutOfReach(records=shop.records)
        brief = MemoryQueue(shop.backend, "orders", lease_seconds=1.0)
        async with shop.queue() as producer, shop.once(queue=brief, slots=1, store=store):
            await known_to_be_brief(shop, producer)
            await producer.enqueue([new_job("slow", number, idempotency_key=str(number)) for number in (1, 2)])
            await eventually(lambda: shop.counted("prefetched") == 1, what="one waits")
            await eventually(is_taken_over, what="its claim ran out")
            assert await shop.store.finish([Hold("2", "somebody else")], ttl_seconds=3600) == [True]
            gate.set()
            await eventually(lambda: world_done(shop, 52), what="both completed")
        assert ran == [1]

    async def test_a_key_claimed_while_the_lease_was_lost_is_free_for_the_next_run(self, shop: Shop) -> None:
        claiming, gate = asyncio.Event(), asyncio.Event()

        class Slow(MemoryIdempotencyStore):
            async def claim(self, holds: Sequence[Hold], *, lease_seconds: float) -> list[Claim]:
                claims = await super().claim(holds, lease_seconds=lease_seconds)
                claiming.set()
                await gate.wait()
                return claims

        @shop.app.job("charge")
        async def charge(payload: int) -> None: ...

        async with shop.queue() as other, shop.once(store=Slow()):
            await other.enqueue([new_job("charge", 1, idempotency_key="one")])
            await eventually(claiming.is_set, what="claimed")
            shop.passed += timedelta(hours=1)
            await other.maintain()
            await eventually(lambda: shop.counted("lease_lost_total") == 1, what="lost")
            gate.set()
            await eventually(lambda: world_done(shop, 1), what="completed")
        assert shop.counted("idempotency_in_progress_total") == 0

    async def test_a_store_that_forgot_a_claim_is_told_again(self, shop: Shop) -> None:
        gate = asyncio.Event()

        @shop.app.job("slow")
        async def slow(payload: int) -> None:
            await gate.wait()

        async with shop.queue() as producer, shop.once():
            await producer.enqueue([new_job("slow", 1, idempotency_key="one")])
            await eventually(lambda: shop.counted("busy_slots") == 1, what="started")
            shop.records.clear()
            await eventually(lambda: bool(shop.records), what="claimed again")
            gate.set()
            await eventually(lambda: world_done(shop, 1), what="completed")

    async def test_what_was_done_when_the_lease_was_lost_is_recorded_all_the_same(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("headrace.runtime.worker._FLUSH_GRACE_SECONDS", 0.1)
        ran: list[int] = []

        @shop.app.job("charge")
        async def charge(payload: int) -> None:
            ran.append(payload)

        class Deaf(MemoryQueue):
            async def settle(self, settlements: Sequence[Settlement]) -> Settled:
                await asyncio.Event().wait()
                return await super().settle(settlements)

        async with shop.queue() as other, shop.once(queue=Deaf(shop.backend, "orders")):
            await other.enqueue([new_job("charge", 1)])
            await eventually(lambda: ran == [1], what="done")
            shop.passed += timedelta(hours=1)
            await other.maintain()
        async with shop.once():
            await eventually(lambda: shop.is_empty, what="gone")
        assert ran == [1]

    async def test_so_is_what_was_done_in_spite_of_being_stopped(self, shop: Shop) -> None:
        ran: list[int] = []

        @shop.app.job("charge")
        async def charge(payload: int) -> None:
            ran.append(payload)
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

        async with shop.queue() as other, shop.once():
            await other.enqueue([new_job("charge", 1)])
            await eventually(lambda: ran == [1], what="begun")
            shop.passed += timedelta(hours=1)
            await other.maintain()
            await eventually(lambda: shop.counted("lease_lost_total") == 1, what="lost")
            await eventually(lambda: any(record.is_finished for record in shop.records.values()), what="recorded")
            shop.passed += timedelta(seconds=6)
            shop.backend.changed()
            await eventually(lambda: shop.is_empty, what="gone")
        assert ran == [1]

    async def test_nor_is_it_forgotten_where_the_store_fails_at_that_moment(self, shop: Shop) -> None:
        finishing, gate = asyncio.Event(), asyncio.Event()
        ran: list[int] = []

        class FailingOnce(MemoryIdempotencyStore):
            async def finish(self, holds: Sequence[Hold], *, ttl_seconds: float) -> list[bool]:
                if not finishing.is_set():
                    finishing.set()
                    await gate.wait()
                    raise IdempotencyUnavailableError("no answer in time")
                return await super().finish(holds, ttl_seconds=ttl_seconds)

        @shop.app.job("charge")
        async def charge(payload: int) -> None:
            ran.append(payload)

        async with shop.queue() as other, shop.once(store=FailingOnce(records=shop.records)):
            await other.enqueue([new_job("charge", 1, idempotency_key="one")])
            await eventually(finishing.is_set, what="done")
            shop.passed += timedelta(hours=1)
            await other.maintain()
            await eventually(lambda: shop.counted("lease_lost_total") == 1, what="lost")
            gate.set()
            await eventually(lambda: any(record.is_finished for record in shop.records.values()), what="recorded")
            shop.passed += timedelta(seconds=6)
            await eventually(lambda: shop.is_empty, what="gone")
        assert ran == [1]


class Away(MemoryIdempotencyStore):
    """Does not answer until told otherwise."""

    is_away = True

    def _check(self) -> None:
        if self.is_away:
            raise IdempotencyUnavailableError("the store can't be reached")

    async def claim(self, holds: Sequence[Hold], *, lease_seconds: float) -> list[Claim]:
        self._check()
        return await super().claim(holds, lease_seconds=lease_seconds)

    async def finish(self, holds: Sequence[Hold], *, ttl_seconds: float) -> list[bool]:
        self._check()
        return await super().finish(holds, ttl_seconds=ttl_seconds)


class TestWithoutTheStore:
    async def test_jobs_wait_for_it_uncharged(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("headrace.runtime.receiver._AWAY_SECONDS", 0.05)
        ran: list[int] = []

        @shop.app.job("charge")
        async def charge(payload: int) -> None:
            ran.append(payload)

        store = Away()
        async with shop.queue() as producer, shop.once(store=store):
            await producer.enqueue([new_job("charge", number) for number in range(30)])
            await eventually(lambda: shop.counted("idempotency_failures_total") >= 3, what="tried again")
            assert ran == []
            assert shop.counted("released_total") < 20, "it looks for the store with one job at a time"
            store.is_away = False
            shop.passed += timedelta(minutes=1)
            await eventually(lambda: world_done(shop, 30), what="all completed")
        assert sorted(ran) == list(range(30))
        assert shop.counted("retried_total") == 0

    async def test_or_run_without_where_that_was_chosen(self, shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
        ran: list[int] = []

        @shop.app.job("charge")
        async def charge(payload: int) -> None:
            ran.append(payload)

        with caplog.at_level(logging.WARNING):
            async with shop.queue() as producer, shop.once(store=Away(), on_unavailable="Proceed"):
                await producer.enqueue([new_job("charge", number) for number in range(30)])
                await eventually(lambda: world_done(shop, 30), what="all completed")
        assert sorted(ran) == list(range(30))
        assert len([line for line in caplog.messages if "idempotency store fails" in line]) == 1, "said once"

    async def test_a_done_job_waits_for_its_finish_to_be_recorded(self, shop: Shop) -> None:
        store = Away()
        store.is_away = False

        @shop.app.job("charge")
        async def charge(payload: int) -> None:
            store.is_away = True

        async with shop.queue() as producer, shop.once(store=store):
            await producer.enqueue([new_job("charge", 1)])
            await eventually(lambda: shop.counted("idempotency_failures_total") >= 2, what="tried again")
            assert shop.counted("completed_total") == 0
            store.is_away = False
            await eventually(lambda: world_done(shop, 1), what="completed")

    async def test_the_keys_of_jobs_that_failed_meanwhile_are_freed_in_one_call(self, shop: Shop) -> None:
        gate = asyncio.Event()
        failed: list[int] = []
        calls: list[int] = []

        class Slow(MemoryIdempotencyStore):
            async def release(self, holds: Sequence[Hold]) -> list[bool]:
                calls.append(len(holds))
                await gate.wait()
                raise IdempotencyUnavailableError("no answer in time")

        @shop.app.job("charge")
        async def charge(payload: int) -> None:
            if payload:
                await eventually(lambda: bool(calls), what="the first is being freed")
            failed.append(payload)
            raise ValueError("not yet")

        async with shop.queue() as producer, shop.once(store=Slow()):
            await producer.enqueue([new_job("charge", number) for number in range(8)])
            await eventually(lambda: len(failed) == 8, what="all failed")
            gate.set()
            await eventually(lambda: shop.counted("retried_total") == 8, what="all go back")
        assert calls == [1, 7]

    async def test_a_stopping_worker_tells_the_queue_alone(self, shop: Shop) -> None:
        store = Away()
        store.is_away = False

        @shop.app.job("charge")
        async def charge(payload: int) -> None:
            store.is_away = True

        async with shop.queue() as producer, shop.once(store=store):
            await producer.enqueue([new_job("charge", 1)])
            await eventually(lambda: shop.counted("idempotency_failures_total") >= 1, what="tried")
        assert shop.counted("completed_total") == 1
        assert shop.is_empty


class Death:
    """Stops a worker for good before or after its n-th step: no call of its own has any effect from then on."""

    def __init__(self, at: int) -> None:
        self._left = at
        self.happened = asyncio.Event()
        self.steps = 0

    async def step(self) -> None:
        self.steps += 1
        self._left -= 1
        if self._left <= 0:
            self.happened.set()
        if self.happened.is_set():
            await asyncio.Event().wait()


class MortalQueue(MemoryQueue):
    """Its worker may die around each call that changes something."""

    def __init__(self, shop: Shop, death: Death) -> None:
        super().__init__(shop.backend, "orders")
        self._death = death

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._death.happened.is_set():
            await super().__aexit__(kind, error, trace)

    async def receive(self, limit: int, **how: Any) -> list[Delivery]:
        await self._death.step()
        received = await super().receive(limit, **how)
        if received:
            await self._death.step()
        return received

    async def settle(self, settlements: Sequence[Settlement]) -> Settled:
        await self._death.step()
        settled = await super().settle(settlements)
        await self._death.step()
        return settled


class MortalStore(MemoryIdempotencyStore):
    """The same; it tells when a finish was recorded."""

    def __init__(self, shop: Shop, death: Death, events: list[tuple[str, str]]) -> None:
        loop_time = asyncio.get_running_loop().time
        super().__init__(records=shop.records, clock=lambda: loop_time() + shop.passed.total_seconds())
        self._death = death
        self._events = events

    async def claim(self, holds: Sequence[Hold], *, lease_seconds: float) -> list[Claim]:
        await self._death.step()
        claims = await super().claim(holds, lease_seconds=lease_seconds)
        await self._death.step()
        return claims

    async def finish(self, holds: Sequence[Hold], *, ttl_seconds: float) -> list[bool]:
        await self._death.step()
        recorded = await super().finish(holds, ttl_seconds=ttl_seconds)
        self._events += [
            ("finished", hold.key) for hold, is_recorded in zip(holds, recorded, strict=True) if is_recorded
        ]
        await self._death.step()
        return recorded

    async def release(self, holds: Sequence[Hold]) -> list[bool]:
        await self._death.step()
        released = await super().release(holds)
        await self._death.step()
        return released


STEPS = 20
# Thousands at each step with HEADRACE_DEATHS_PER_STEP=2000: a quarter of an hour.
ROUNDS = int(os.environ.get("HEADRACE_DEATHS_PER_STEP", "20"))


@pytest.mark.parametrize("fails_first", [False, True], ids=["succeeding", "failing-first"])
async def test_a_worker_that_dies_at_any_step_loses_nothing_and_no_run_starts_after_a_finish(
    fails_first: bool,
) -> None:
    deaths = 0
    for at in range(1, STEPS + 1):
        for _ in range(ROUNDS):
            deaths += await die_and_recover(at, fails_first=fails_first)
    assert deaths > STEPS * ROUNDS // 2, "most of the steps are there to die at"


async def die_and_recover(at: int, *, fails_first: bool) -> bool:
    """One worker that dies at this step, a second that finds what it left; whether the first did die."""
    shop = Shop()
    death = Death(at)
    events: list[tuple[str, str]] = []
    attempts: dict[int, int] = {}

    @shop.app.job("charge")
    async def charge(payload: int) -> None:
        events.append(("started", f"order {payload}"))
        await death.step()
        attempts[payload] = attempts.get(payload, 0) + 1
        if fails_first and attempts[payload] == 1:
            raise ValueError("not yet")
        await death.step()

    async with shop.queue() as producer:
        await producer.enqueue([new_job("charge", number, idempotency_key=f"order {number}") for number in (1, 2)])
    first = Worker(
        MortalQueue(shop, death),
        PythonHandler(shop.app, threads=1),
        shop.metrics.of("shop", "orders"),
        poll_interval_seconds=0.005,
        heartbeat_seconds=0.005,
        idempotency=Idempotency(store=MortalStore(shop, death, events)),
    )
    working = asyncio.create_task(first.run())
    dying = asyncio.create_task(death.happened.wait())
    done = asyncio.create_task(until_empty(shop))
    await asyncio.wait([dying, done], return_when=asyncio.FIRST_COMPLETED)
    has_died = death.happened.is_set()
    for task in (working, dying, done):
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    if not has_died:
        death.happened.clear()

    # The first worker's leases run out, with the queue and in the store.
    death._left = 10**9
    death.happened.clear()
    shop.passed += timedelta(hours=1)
    immortal = Death(10**9)
    second = Worker(
        MemoryQueue(shop.backend, "orders"),
        PythonHandler(shop.app, threads=1),
        shop.metrics.of("shop", "orders"),
        poll_interval_seconds=0.005,
        heartbeat_seconds=0.005,
        idempotency=Idempotency(store=MortalStore(shop, immortal, events)),
    )
    recovering = asyncio.create_task(second.run())
    recovered = asyncio.create_task(until_empty(shop))
    await asyncio.wait([recovered], timeout=30)
    assert recovered.done(), f"at step {at}: jobs are left: {shop.backend.places['orders'].entries}"
    second.stop()
    await recovering
    for number in (1, 2):
        mine = [event for event, key in events if key == f"order {number}"]
        assert "finished" in mine, f"at step {at}: order {number} was lost: {mine}"
        assert "started" not in mine[mine.index("finished") :], f"at step {at}: a run after the finish: {mine}"
        assert mine.count("finished") == 1, f"at step {at}: {mine}"
    return has_died


async def until_empty(shop: Shop) -> None:
    while not shop.is_empty:
        shop.passed += timedelta(seconds=1)
        await asyncio.sleep(0.002)


def world_done(shop: Shop, count: int) -> bool:
    return shop.counted("completed_total") == count and shop.is_empty
