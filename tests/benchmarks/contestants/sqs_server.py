"""What is asked of a server of SQS's protocol beside what is measured. Standard library only: peers use it, too."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from benchmarks.contestants.contestant import Counter
from benchmarks.contestants.order import Order

REGION = "eu-central-1"
ACCESS_KEY_ID = "AKIABENCH"
SECRET_ACCESS_KEY = "not-a-secret"
BATCH = 10
"""The most messages of one call."""

_COUNTS = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible", "ApproximateNumberOfMessagesDelayed")
_TIMEOUT_SECONDS = 30.0


def call(endpoint_url: str, operation: str, **parameters: Any) -> dict[str, Any]:
    """An operation's answer. The signature is none: the server that benchmarks use checks it as little."""
    scope = f"{ACCESS_KEY_ID}/20260101/{REGION}/sqs/aws4_request"
    request = urllib.request.Request(
        endpoint_url,
        json.dumps(parameters).encode(),
        {
            "X-Amz-Target": f"AmazonSQS.{operation}",
            "Content-Type": "application/x-amz-json-1.0",
            "Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0",
        },
    )
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
        body = response.read()
    answer: dict[str, Any] = json.loads(body) if body else {}
    return answer


def count(endpoint_url: str, queue_url: str) -> int:
    """How many messages there are, in whatever state."""
    answer = call(endpoint_url, "GetQueueAttributes", QueueUrl=queue_url, AttributeNames=["All"])
    return sum(int(answer["Attributes"][name]) for name in _COUNTS)


def endpoint_of(queue_url: str) -> str:
    """Where a queue is."""
    parts = urlsplit(queue_url)
    return f"{parts.scheme}://{parts.netloc}"


@asynccontextmanager
async def counting(order: Order) -> AsyncIterator[Counter]:
    """See `benchmarks.contestants.contestant.Contestant`: past any proxy, whose address the order's `dsn` has."""

    async def remaining() -> int:
        return await asyncio.to_thread(count, order.url, order.dsn)

    yield remaining
