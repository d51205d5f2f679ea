"""Headrace on SQS, driven as `headrace worker` drives it: metrics on and served.

Settings: ``slots``, how many jobs run at a time; left out, it is the worker's default. ``client``: see `from_url`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks.contestants import ours, sqs_server
from benchmarks.contestants.contestant import Contestant, Counter, Producer
from benchmarks.contestants.order import Order
from headrace.queues import from_url
from headrace.queues.base import Queue
from headrace.queues.sqs.place import queue_url_to_sqs


class HeadraceOnSqs(ours.Headrace):
    """See `benchmarks.contestants.contestant.Contestant`."""

    async def install(self) -> None:
        assert self._order.dsn, "the queue is there"

    @asynccontextmanager
    async def producing(self) -> AsyncIterator[Producer]:
        async with self._queue(waits=False) as queue:
            yield ours.producer(queue, self._order.workload)

    @asynccontextmanager
    async def counting(self) -> AsyncIterator[Counter]:
        async with sqs_server.counting(self._order) as remaining:
            yield remaining

    def _queue(self, *, waits: bool) -> Queue:
        del waits  # Whoever asks SQS waits.
        return from_url(
            queue_url_to_sqs(self._order.dsn),
            ours.QUEUE,
            region=sqs_server.REGION,
            access_key_id=sqs_server.ACCESS_KEY_ID,
            secret_access_key=sqs_server.SECRET_ACCESS_KEY,
            client=self._order.settings.get("client"),
            # Counting is the operator's.
            count_interval_seconds=0,
        )


def create(order: Order) -> Contestant:
    """The contestant of this module."""
    return HeadraceOnSqs(order)
