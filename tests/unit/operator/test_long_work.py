"""Provisioning of many queues: what waits for what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from headrace_operator.core.model import ObjectKey, TransientError
from headrace_operator.core.provider import Provisioned, QueueOwner
from headrace_operator.reconcile.gate import Gate
from headrace_operator.reconcile.long_work import LongWork, WorkOrder
from support.memory_cluster import SetClock


@dataclass(frozen=True)
class SomePlace:
    queue: str
    administration: str = "one"
    provider: str = "Some"
    backend: str = "one"

    @property
    def label(self) -> str:
        return self.queue


@dataclass
class SomeProvider:
    """Provisions when it is let."""

    resync_seconds = 3600.0
    at_work: list[SomePlace] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    sessions: int = 0
    tries: int = 0
    held_up: dict[str, asyncio.Event] = field(default_factory=dict)
    """By administration."""
    failure: Exception | None = None
    opening_failure: Exception | None = None

    @asynccontextmanager
    async def open_provisioner(self) -> AsyncIterator[SomeProvider]:
        if self.opening_failure is not None:
            raise self.opening_failure
        self.sessions += 1
        yield self

    async def provision(
        self, place: SomePlace, _owner: QueueOwner, _settings: Any, progress: Callable[[str], None]
    ) -> Provisioned:
        self.at_work.append(place)
        self.tries += 1
        try:
            if (held_up := self.held_up.get(place.administration)) is not None:
                progress("waiting")
                await held_up.wait()
            if self.failure is not None:
                raise self.failure
            self.done.append(place.queue)
            return Provisioned(changed=True, details="")
        finally:
            self.at_work.remove(place)


class Crowd:
    def __init__(self) -> None:
        self.provider = SomeProvider()
        self.clock = SetClock()
        self.gate = Gate()
        self.woken: list[ObjectKey] = []
        self.work = LongWork({"Some": self.provider}, self.clock, self.woken.append, self.gate)  # type: ignore[dict-item]

    def order(self, name: str, *, administration: str = "one", max_retries: int = 3) -> WorkOrder:
        return WorkOrder(
            provider="Some",
            place=SomePlace(name, administration),
            owner=QueueOwner(namespace="shop", name=name, uid=name),
            settings={"max_retries": max_retries},
        )

    def ask(self, *names: str, administration: str = "one") -> None:
        for name in names:
            self.work.ask(ObjectKey("shop", name), self.order(name, administration=administration))

    def hold_up(self, administration: str = "one") -> asyncio.Event:
        held_up = self.provider.held_up[administration] = asyncio.Event()
        return held_up


@pytest.fixture
async def crowd() -> AsyncIterator[Crowd]:
    made = Crowd()
    async with made.work.running():
        yield made


async def settle() -> None:
    for _ in range(250):
        await asyncio.sleep(0)


QUEUES = [f"queue-{number}" for number in range(32)]


async def test_queues_that_wait_for_one_migration_wait_in_line_and_hold_up_no_other_database(crowd: Crowd) -> None:
    held_up = crowd.hold_up()
    crowd.ask(*QUEUES)
    crowd.ask("mails", administration="two")
    await settle()
    assert [place.queue for place in crowd.provider.at_work] == ["queue-0"]
    assert crowd.provider.done == ["mails"]
    held_up.set()
    await settle()
    assert sorted(crowd.provider.done) == sorted([*QUEUES, "mails"])


async def test_they_share_one_session(crowd: Crowd) -> None:
    crowd.ask(*QUEUES)
    await settle()
    assert (len(crowd.provider.done), crowd.provider.sessions) == (32, 1)


async def test_they_are_made_sure_of_together_and_so_by_one_session_again(crowd: Crowd) -> None:
    for name in QUEUES:
        crowd.clock.move(1)
        crowd.ask(name)
        await settle()
    moments = set()
    for second in range(int(1.5 * SomeProvider.resync_seconds)):
        before = sum(crowd.work.is_due(ObjectKey("shop", name), crowd.order(name)) for name in QUEUES)
        crowd.clock.move(1)
        if sum(crowd.work.is_due(ObjectKey("shop", name), crowd.order(name)) for name in QUEUES) > before:
            moments.add(second)
    # Two, where they were made while the middle between two moments passed.
    assert 1 <= len(moments) <= 2


async def test_a_database_that_can_not_be_reached_is_tried_once_for_all_that_wait_for_it(crowd: Crowd) -> None:
    crowd.provider.failure = TransientError("BackendUnreachable", "nobody answers")
    crowd.ask(*QUEUES)
    await settle()
    assert crowd.provider.sessions == 1
    errands = [crowd.work.ask(ObjectKey("shop", name), crowd.order(name)) for name in QUEUES]
    assert {errand.failure for errand in errands} == {crowd.provider.failure}
    assert set(crowd.woken) == {ObjectKey("shop", name) for name in QUEUES}


async def test_credentials_that_are_refused_are_tried_once_for_all_that_have_them(crowd: Crowd) -> None:
    crowd.provider.failure = TransientError("CredentialsExpired", "they have expired", is_of_all=True)
    crowd.ask(*QUEUES)
    crowd.ask("mails", administration="two")
    await settle()
    assert crowd.provider.tries == 2
    errands = [crowd.work.ask(ObjectKey("shop", name), crowd.order(name)) for name in QUEUES]
    assert {errand.failure for errand in errands} == {crowd.provider.failure}


async def test_a_call_that_failed_for_one_queue_fails_for_no_other(crowd: Crowd) -> None:
    crowd.provider.failure = TransientError("BackendUnreachable", "SQS can't serve now", is_of_all=False)
    crowd.ask(*QUEUES)
    await settle()
    assert crowd.provider.tries == len(QUEUES)


async def test_a_failure_of_one_queue_is_none_of_the_others(crowd: Crowd) -> None:
    held_up = crowd.hold_up()
    crowd.ask("orders", "mails")
    await settle()
    crowd.provider.failure = TransientError("CredentialsRefused", "no right on schema orders")
    held_up.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await settle()
    crowd.provider.failure = None
    crowd.clock.move(20)
    crowd.ask("orders", "mails")
    await settle()
    assert sorted(crowd.provider.done) == ["mails", "orders"]


async def test_whoever_says_when_to_come_again_is_asked_then_and_not_before(crowd: Crowd) -> None:
    failure = TransientError("QueueDeletedRecently", "the name is taken", retry_after_seconds=60)
    crowd.provider.failure = failure
    crowd.ask("orders")
    await settle()
    crowd.provider.failure = None
    crowd.clock.move(59)
    crowd.ask("orders")
    await settle()
    assert crowd.provider.done == []
    crowd.clock.move(1)
    crowd.ask("orders")
    await settle()
    assert crowd.provider.done == ["orders"]


async def test_a_provisioner_that_can_not_be_opened_is_a_failure_of_all(crowd: Crowd) -> None:
    crowd.provider.opening_failure = TimeoutError()
    crowd.ask("orders", "mails")
    await settle()
    errand = crowd.work.ask(ObjectKey("shop", "mails"), crowd.order("mails"))
    assert errand.failure is not None
    assert errand.failure.reason == "BackendUnreachable"


async def test_what_is_under_way_is_not_cut_off_by_another_order_and_what_waits_is_exchanged(crowd: Crowd) -> None:
    held_up = crowd.hold_up()
    crowd.ask("orders", "mails")
    await settle()
    orders, mails = ObjectKey("shop", "orders"), ObjectKey("shop", "mails")
    running = crowd.work.ask(orders, crowd.order("orders", max_retries=7))
    waiting = crowd.work.ask(mails, crowd.order("mails", max_retries=7))
    assert running.order == crowd.order("orders")
    assert waiting.order == crowd.order("mails", max_retries=7)
    held_up.set()
    await settle()
    assert crowd.provider.done == ["orders", "mails"]
    assert crowd.work.is_due(orders, crowd.order("orders", max_retries=7))


async def test_while_the_gate_is_closed_nothing_begins_and_what_had_begun_is_given_up(crowd: Crowd) -> None:
    held_up = crowd.hold_up()
    crowd.ask("orders", "mails")
    await settle()
    crowd.gate.close()
    held_up.set()
    crowd.ask("letters")
    await settle()
    assert (crowd.provider.done, crowd.provider.at_work) == ([], [])
    crowd.gate.open()
    await settle()
    assert crowd.provider.done == ["letters"]


async def test_what_can_not_be_read_is_made_sure_of_at_once_and_then_after_pauses_that_grow(crowd: Crowd) -> None:
    key = ObjectKey("shop", "orders")
    crowd.ask("orders")
    await settle()
    times = []
    for _ in range(300):
        crowd.clock.move(1)
        crowd.work.doubt(key)
        done = len(crowd.provider.done)
        crowd.ask("orders")
        await settle()
        times.append(len(crowd.provider.done) - done)
    assert times[0] == 1
    assert sum(times) < 11
    crowd.work.trust(key)
    crowd.work.doubt(key)
    crowd.clock.move(1)
    assert crowd.work.is_due(key, crowd.order("orders"))


async def test_what_was_cut_off_from_within_has_failed_and_is_tried_again(crowd: Crowd) -> None:
    crowd.provider.failure = asyncio.CancelledError()  # type: ignore[assignment]
    crowd.ask("orders")
    await settle()
    assert crowd.woken == [ObjectKey("shop", "orders")]
    crowd.provider.failure = None
    crowd.clock.move(20)
    crowd.ask("orders")
    await settle()
    assert crowd.provider.done == ["orders"]


async def test_leaving_ends_what_is_under_way() -> None:
    crowd = Crowd()
    crowd.hold_up()
    async with crowd.work.running():
        crowd.ask("orders")
        await settle()
        assert crowd.provider.at_work
    assert crowd.provider.at_work == []
