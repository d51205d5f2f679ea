"""The limits of what works on SQS: the same calls with no library around them, in batches of ten.

Settings: ``client``, which is "signed" (requests made and signed by hand, over aiohttp) or "aiobotocore", bare;
``callers``, how many go on at a time, each of which receives, handles and deletes, one after the other.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore import xform_name
from botocore.credentials import ReadOnlyCredentials

from benchmarks.contestants import sqs_server
from benchmarks.contestants.contestant import Contestant, Counter, Producer
from benchmarks.contestants.ledger import Ledger, clock
from benchmarks.contestants.order import Order
from headrace.queues.sqs.signing import Signer

_DEFAULT_CALLERS = 16
_POOL = 120

Call = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]


@asynccontextmanager
async def signed(endpoint_url: str) -> AsyncIterator[Call]:
    """Requests by hand."""
    signer = Signer(endpoint_url=endpoint_url, region=sqs_server.REGION)
    keys = ReadOnlyCredentials(sqs_server.ACCESS_KEY_ID, sqs_server.SECRET_ACCESS_KEY, None)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def call(operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
            body = json.dumps(parameters).encode()
            headers = signer.headers(
                target=f"AmazonSQS.{operation}",
                body=body,
                keys=keys,
                timestamp=time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()),
            )
            async with session.post(endpoint_url, data=body, headers=headers) as response:
                said = await response.read()
                assert response.status == 200, said
                answer: dict[str, Any] = json.loads(said) if said else {}
                return answer

        yield call


@asynccontextmanager
async def bare_aiobotocore(endpoint_url: str) -> AsyncIterator[Call]:
    """What botocore makes of them."""
    async with get_session().create_client(
        "sqs",
        region_name=sqs_server.REGION,
        endpoint_url=endpoint_url,
        aws_access_key_id=sqs_server.ACCESS_KEY_ID,
        aws_secret_access_key=sqs_server.SECRET_ACCESS_KEY,
        config=AioConfig(max_pool_connections=_POOL),
    ) as client:

        async def call(operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
            answer: dict[str, Any] = await getattr(client, xform_name(operation))(**parameters)
            return answer

        yield call


class _Producer:
    """Sends what callers ask for at the same time in batches of ten."""

    def __init__(self, call: Call, queue_url: str) -> None:
        self._call = call
        self._queue_url = queue_url
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []
        self._sending: set[asyncio.Task[None]] = set()

    def prepare(self, numbers: Sequence[int]) -> list[str]:
        return [json.dumps({"number": number}) for number in numbers]

    async def enqueue(self, prepared: list[str]) -> None:
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._send)
        sent = [loop.create_future() for _ in prepared]
        self._waiting += zip(prepared, sent, strict=True)
        await asyncio.gather(*sent)

    def _send(self) -> None:
        for start in range(0, len(self._waiting), sqs_server.BATCH):
            sending = asyncio.create_task(self._send_batch(self._waiting[start : start + sqs_server.BATCH]))
            self._sending.add(sending)
            sending.add_done_callback(self._sending.discard)
        self._waiting = []

    async def _send_batch(self, batch: list[tuple[str, asyncio.Future[None]]]) -> None:
        entries = [{"Id": str(place), "MessageBody": body} for place, (body, _) in enumerate(batch)]
        answer = await self._call("SendMessageBatch", {"QueueUrl": self._queue_url, "Entries": entries})
        for done in answer["Successful"]:
            batch[int(done["Id"])][1].set_result(None)


class ByHand:
    """See `benchmarks.contestants.contestant.Contestant`."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._callers = int(order.settings.get("callers", _DEFAULT_CALLERS))

    def _calling(self) -> AbstractAsyncContextManager[Call]:
        endpoint_url = sqs_server.endpoint_of(self._order.dsn)
        return (
            bare_aiobotocore(endpoint_url)
            if self._order.settings.get("client") == "aiobotocore"
            else signed(endpoint_url)
        )

    async def install(self) -> None:
        assert self._order.dsn, "the queue is there"

    @asynccontextmanager
    async def producing(self) -> AsyncIterator[Producer]:
        async with self._calling() as call:
            yield _Producer(call, self._order.dsn)

    def counting(self) -> AbstractAsyncContextManager[Counter]:
        return sqs_server.counting(self._order)

    @asynccontextmanager
    async def working(self, ledger: Ledger, *, waits: bool) -> AsyncIterator[asyncio.Task[None]]:
        assert not waits, "nobody enqueues"
        async with self._calling() as call:
            ledger.receiving_at = clock()
            running = asyncio.create_task(self._drain(call, ledger))
            yield running
            await running

    async def _drain(self, call: Call, ledger: Ledger) -> None:
        queue = {"QueueUrl": self._order.dsn}

        async def caller() -> None:
            while len(ledger.numbers) < self._order.workload.jobs:
                answer = await call("ReceiveMessage", queue | {"MaxNumberOfMessages": sqs_server.BATCH})
                messages = answer.get("Messages", [])
                for message in messages:
                    ledger.handled(json.loads(message["Body"])["number"])
                entries = [
                    {"Id": str(place), "ReceiptHandle": message["ReceiptHandle"]}
                    for place, message in enumerate(messages)
                ]
                if entries:
                    await call("DeleteMessageBatch", queue | {"Entries": entries})

        await asyncio.gather(*(caller() for _ in range(self._callers)))


def create(order: Order) -> Contestant:
    """The contestant of this module."""
    return ByHand(order)
