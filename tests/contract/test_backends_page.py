"""The contract itself, and docs/backends.md, which says of each promise who keeps it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from contract.backends_page import OFFERS, PAGE, written
from contract.queue import needs
from contract.queue.needs import Need, Offer, missing, needed_by, parts, promises
from contract.queue.suite import QueueContract
from contract.test_memory import MemoryBench
from headrace.queues import BACKENDS
from headrace.queues.base import Transactional

if TYPE_CHECKING:
    from headrace.queues.capabilities import Capabilities


def test_the_page_says_what_the_suite_says() -> None:
    assert PAGE.read_text() == written(), "run python tests/contract/backends_page.py, and commit"


def test_every_backend_has_a_column() -> None:
    declared = [backend.capabilities for backend in {id(each): each for each in BACKENDS.values()}.values()]
    assert [offer.capabilities for offer in OFFERS] == declared


def test_no_promise_hides_another_of_the_same_name() -> None:
    named = Counter(test for part in parts(QueueContract) for test in promises(part))
    assert [test for test, times in named.items() if times > 1] == []


@pytest.mark.parametrize("offer", OFFERS, ids=[offer.name for offer in OFFERS])
def test_what_a_backend_declares_of_transactions_its_queue_has(offer: Offer) -> None:
    assert offer.capabilities.transactions == isinstance(offer.queue, Transactional)


def test_a_backend_that_has_only_what_every_broker_has_still_runs_the_four_basic_parts() -> None:
    class Bare:
        @property
        def capabilities(self) -> Capabilities:
            return replace(
                MemoryBench.offer().capabilities,
                ordered=False,
                priorities=False,
                groups=False,
                fairness=False,
                expiry=False,
                max_enqueue_delay_seconds=0,
                max_retry_delay_seconds=0,
                deduplicates_unfinished=False,
                max_deduplication_window_seconds=0,
                attempts="deliveries",
                atomic_batches=False,
                fenced=False,
                cancellation=False,
                keeps_errors=False,
                pausing=False,
                skips_names=False,
            )

    broker = Offer(name="broker", queue=Bare(), inspector=None, moves_time=False)  # type: ignore[arg-type]
    runs = Counter(
        part.__name__
        for part in parts(QueueContract)
        for test in promises(part)
        if not missing(QueueContract, test, broker)
    )
    assert runs.keys() >= {"EnqueueContract", "ReceiveContract", "SettleContract", "LeaseContract", "ProvisionContract"}
    assert runs.keys().isdisjoint({"SuspectContract", "GroupContract", "CancelContract", "LeaseOverTimeContract"})


def test_what_a_backend_lacks_is_named() -> None:
    memory = MemoryBench.offer()
    assert missing(QueueContract, "test_transactions_are_of_the_backends_own_kind", memory) == ["transactions"]
    assert missing(QueueContract, "test_a_completed_job_is_gone", memory) == []


def test_every_need_is_some_promises() -> None:
    declared = {name: value for name, value in vars(needs).items() if isinstance(value, Need)}
    used = {need for part in parts(QueueContract) for test in promises(part) for need in needed_by(part, test)}
    assert [name for name, need in declared.items() if need not in used] == []
