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


@needs(TRANSACTIONS, COUNTING)
class TransactionContract(Part):
    """Which connections are taken is the backend's own: its own tests say what it promises of them."""

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
