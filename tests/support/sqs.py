"""Queues on a server that speaks the protocol of SQS, behind a proxy that does what networks and AWS do."""

from __future__ import annotations

import uuid
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from headrace.queues.base import Owner, QueueSettings
from headrace.queues.sqs.client import SqsClient, open_client
from headrace.queues.sqs.place import SqsAddress, parse_url
from headrace.queues.sqs.provisioner import SqsProvisioner
from headrace.queues.sqs.queue import SqsQueue
from support.aws_proxy import AwsProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support.elasticmq import ElasticMq
    from support.moto import Moto

QUEUE = "orders"
CREDENTIALS = {"access_key_id": "AKIATEST", "secret_access_key": "not-a-secret"}
LEASE_SECONDS = 5.0
WAIT_SECONDS = 1
"""How long a poll waits: one that outlasts its test would hold it up."""


class Sqs:
    """One server behind a proxy, and on it the queues of one test."""

    def __init__(self, server: ElasticMq | Moto, proxy: AwsProxy, client: SqsClient) -> None:
        self.server = server
        self.proxy = proxy
        self.client = client
        """Goes past the proxy."""
        self.prefix = f"t{uuid.uuid4().hex[:8]}-"

    def address(self, name: str = QUEUE, *, wait_time_seconds: int = WAIT_SECONDS, **options: Any) -> SqsAddress:
        """By way of the proxy."""
        return parse_url(
            self.server.url(self.prefix + name),
            endpoint_url=self.proxy.endpoint_url,
            wait_time_seconds=wait_time_seconds,
            **CREDENTIALS,
            **options,
        )

    def queue(
        self,
        name: str = QUEUE,
        *,
        lease_seconds: float = LEASE_SECONDS,
        wait_time_seconds: int = WAIT_SECONDS,
        **how: Any,
    ) -> SqsQueue:
        """One more worker's or producer's own view of a queue; not yet open."""
        address = self.address(name, wait_time_seconds=wait_time_seconds)
        return SqsQueue(address, name, lease_seconds=lease_seconds, **how)

    async def made(self, name: str = QUEUE, **settings: Any) -> None:
        """Make a queue with its dead-letter queue."""
        owner = Owner(namespace="shop", name=name, uid="1")
        settings_wanted = replace(QueueSettings(max_retries=3), **settings)
        await SqsProvisioner(self.client).ensure(self.prefix + name, settings_wanted, owner)

    async def call(self, operation: str, name: str = QUEUE, **parameters: Any) -> dict[str, Any]:
        """An operation on a queue, past the proxy."""
        return await self.client.call(operation, {"QueueUrl": self.server.queue_url(self.prefix + name), **parameters})

    async def send(
        self, body: str, attributes: dict[str, str] | None = None, *, queue: str = QUEUE, **fields: Any
    ) -> None:
        """A message of somebody else's."""
        told = {name: {"DataType": "String", "StringValue": value} for name, value in (attributes or {}).items()}
        entry = {"Id": "0", "MessageBody": body, "MessageAttributes": told, **fields}
        assert not (await self.call("SendMessageBatch", queue, Entries=[entry])).get("Failed")

    async def messages(self, name: str = f"{QUEUE}-dead") -> list[dict[str, Any]]:
        """What is in a queue, such as that of dead letters; it stays there."""
        found: list[dict[str, Any]] = []
        while True:
            answer = await self.call(
                "ReceiveMessage", name, MaxNumberOfMessages=10, VisibilityTimeout=2, MessageAttributeNames=["All"]
            )
            if not (messages := answer.get("Messages")):
                break
            found += messages
        if found:
            await self.call(
                "ChangeMessageVisibilityBatch",
                name,
                Entries=[
                    {"Id": str(place), "ReceiptHandle": message["ReceiptHandle"], "VisibilityTimeout": 0}
                    for place, message in enumerate(found[:10])
                ],
            )
        return found

    async def counts(self, name: str = QUEUE) -> tuple[int, int, int]:
        """How many messages are visible, in flight, and delayed."""
        names = [f"ApproximateNumberOfMessages{which}" for which in ("", "NotVisible", "Delayed")]
        attributes = (await self.call("GetQueueAttributes", name, AttributeNames=names))["Attributes"]
        visible, in_flight, delayed = (int(attributes[each]) for each in names)
        return visible, in_flight, delayed

    async def remove_all(self) -> None:
        """Delete the test's queues."""
        found = await self.client.call("ListQueues", {"QueueNamePrefix": self.prefix})
        for url in found.get("QueueUrls") or []:
            await self.client.call("DeleteQueue", {"QueueUrl": url})


@asynccontextmanager
async def queues_on(server: ElasticMq | Moto) -> AsyncIterator[Sqs]:
    """Queues of a prefix of their own; removed afterwards."""
    place = parse_url(server.url(QUEUE), **CREDENTIALS).place
    async with AwsProxy(server.endpoint_url).running() as proxy, open_client(place) as client:
        sqs = Sqs(server, proxy, client)
        try:
            yield sqs
        finally:
            await sqs.remove_all()
