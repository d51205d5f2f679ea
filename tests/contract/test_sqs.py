"""The contract on servers that speak the protocol of SQS: ElasticMQ, and moto, whose errors are AWS's own.

Where they differ from AWS (tests rely on none of it):

- Both give what they have with any receive. AWS's standard queues give a sample of it to whoever does not wait, and
  may give a message twice: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-short-and-long-polling.html
- ElasticMQ refuses ``RedriveAllowPolicy`` (as the provisioner finds out, and does without):
  https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SetQueueAttributes.html
- Both keep to an order, more or less, and limit nothing to 120,000 messages in flight:
  https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from contract.queue.bench import LEASE_SECONDS, QUEUE
from contract.queue.dead_letters import DeadLetterContract
from contract.queue.faults import FaultContract
from contract.queue.lease import LeaseContract
from contract.queue.needs import Offer
from contract.queue.provision import ProvisionContract
from contract.queue.settle import SettleContract
from contract.queue.suite import QueueContract
from headrace.queues.sqs.inspector import SqsInspector
from headrace.queues.sqs.place import parse_url
from headrace.queues.sqs.provisioner import SqsProvisioner
from headrace.queues.sqs.queue import SqsQueue
from support.sqs import Sqs, queues_on

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from headrace.queues.base import Backlog, Owner, Provisioned, QueueSettings, Removed
    from headrace.queues.inspection import Inspector
    from support.elasticmq import ElasticMq
    from support.moto import Moto


class Prefixed:
    """A provisioner whose queues are a test's own, on a server that many tests share."""

    def __init__(self, inner: SqsProvisioner, prefix: str) -> None:
        self._inner = inner
        self._prefix = prefix

    async def ensure(self, queue: str, settings: QueueSettings, owner: Owner) -> Provisioned:
        return await self._inner.ensure(self._prefix + queue, settings, owner)

    async def remove(self, queue: str, owner: Owner) -> Removed | None:
        return await self._inner.remove(self._prefix + queue, owner)


class SqsBench:
    def __init__(self, sqs: Sqs) -> None:
        self._sqs = sqs
        self._inspector: Inspector | None = None
        self.stack = AsyncExitStack()
        self.provisioner = Prefixed(SqsProvisioner(sqs.client), sqs.prefix)

    @property
    def backlog(self) -> Backlog:
        raise NotImplementedError("nothing that this backend offers asks for one")

    @classmethod
    def offer(cls) -> Offer:
        address = parse_url("sqs://sqs.eu-central-1.amazonaws.com/123456789012/orders")
        queue, inspector = SqsQueue(address, QUEUE), SqsInspector(address)
        return Offer(name="SQS", queue=queue, inspector=inspector, moves_time=False, takes_parts=True)

    def queue(self, name: str = QUEUE, *, lease_seconds: float = LEASE_SECONDS) -> SqsQueue:
        # A round of housekeeping looks at the queue's settings each time.
        return self._sqs.queue(name, lease_seconds=lease_seconds, look_seconds=0)

    async def inspector(self) -> Inspector:
        if self._inspector is None:
            inspector = SqsInspector(self._sqs.address(), name=QUEUE)
            self._inspector = await self.stack.enter_async_context(inspector)
        return self._inspector

    async def pass_time(self, seconds: float) -> None:
        raise NotImplementedError("its clock is the real one")

    @asynccontextmanager
    async def faulty(self) -> AsyncIterator[None]:
        failing: set[str] = set()

        def every_other(entry: dict[str, Any]) -> bool:
            if "headrace-dead" in entry["MessageAttributes"]:
                return True
            job = entry["MessageAttributes"]["headrace"]["StringValue"]
            # Those that are sent again come in other places.
            if int(entry["Id"]) % 2:
                failing.add(job)
            return job in failing

        self._sqs.proxy.fail_entries("SendMessageBatch", every_other, times=float("inf"))
        yield
        self._sqs.proxy.heal()


class TestElasticMq(QueueContract):
    offer = SqsBench.offer

    @pytest.fixture
    async def bench(self, elasticmq: ElasticMq) -> AsyncIterator[SqsBench]:
        async with queues_on(elasticmq) as sqs:
            bench = SqsBench(sqs)
            async with bench.stack:
                yield bench


class TestMoto(SettleContract, LeaseContract, DeadLetterContract, ProvisionContract, FaultContract):
    """What is about answers and errors. Receives that come at once are given the same message by moto's server, and
    each takes as long as its queue is."""

    offer = SqsBench.offer

    @pytest.fixture
    async def bench(self, moto: Moto) -> AsyncIterator[SqsBench]:
        async with queues_on(moto) as sqs:
            bench = SqsBench(sqs)
            async with bench.stack:
                yield bench
