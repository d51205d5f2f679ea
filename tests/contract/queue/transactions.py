from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from contract.queue.bench import (
    Bench,
    made,
    received_one,
    standing,
)
from contract.queue.needs import (
    COUNTING,
    NO_TRANSACTIONS,
    TRANSACTIONS,
    Part,
    needs,
)
from headrace.job import NewJob
from headrace.queues.base import (
    Depth,
    Transactional,
)
from headrace.queues.errors import UnsupportedCapabilityError

if TYPE_CHECKING:
    pass


class TransactionContract(Part):
    """What is promised of transactions to those who have none; Postgres's own tests say what it promises of its own."""

    @needs(NO_TRANSACTIONS)
    async def test_who_has_no_transactions_has_no_such_methods(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            assert not isinstance(queue, Transactional)

    @needs(TRANSACTIONS, COUNTING)
    async def test_transactions_are_of_the_backends_own_kind(self, bench: Bench) -> None:
        await made(bench)
        async with bench.queue() as queue:
            assert isinstance(queue, Transactional)
            await queue.enqueue([NewJob()])
            delivery = await received_one(queue)
            with pytest.raises(UnsupportedCapabilityError):
                await queue.enqueue_in(object(), [NewJob()])
            with pytest.raises(UnsupportedCapabilityError):
                await queue.complete_in(object(), delivery)
            assert await standing(queue) == Depth(in_flight=1)
