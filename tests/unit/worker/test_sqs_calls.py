"""Batches of calls: who waits for whom, and what is made of an answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from headrace.queues.sqs.calls import UNTOLD, Calls, outcomes
from headrace.queues.sqs.errors import SqsError
from headrace.queues.sqs.place import parse_url

if TYPE_CHECKING:
    from collections.abc import Mapping


class StandingDeletes:
    """A service that answers no delete."""

    def __init__(self) -> None:
        self.stands = asyncio.Event()

    async def call(
        self,
        operation: str,
        parameters: Mapping[str, Any],
        *,
        patience_seconds: float | None = None,  # noqa: ARG002 - the port's
    ) -> dict[str, Any]:
        if operation == "DeleteMessageBatch":
            self.stands.set()
            await asyncio.Event().wait()
        return {"Successful": [{"Id": entry["Id"]} for entry in parameters["Entries"]]}


async def test_an_extension_waits_for_no_settlement() -> None:
    service = StandingDeletes()
    calls = Calls(parse_url("sqs://sqs.eu-west-1.amazonaws.com/123456789012/orders"))
    calls._client = service
    deleting = asyncio.create_task(
        calls.in_tens("DeleteMessageBatch", [{"ReceiptHandle": f"{number}"} for number in range(1000)])
    )
    await service.stands.wait()
    entries = [{"ReceiptHandle": "held", "VisibilityTimeout": 60}]
    async with asyncio.timeout(10):
        assert await calls.in_tens("ChangeMessageVisibilityBatch", entries, is_urgent=True) == [None]
    deleting.cancel()


@pytest.mark.parametrize("found", ["2", "-1", "x", "", None, 1])
@pytest.mark.parametrize("which", ["Successful", "Failed"])
def test_an_answer_about_messages_that_nobody_sent_says_nothing_of_those_that_were(which: str, found: object) -> None:
    told = outcomes("SendMessageBatch", {which: [{"Id": found, "Code": "InternalError"}]}, 2)
    assert [error.code for error in told if isinstance(error, SqsError)] == [UNTOLD, UNTOLD]
