"""What is there of a queue: its attributes and its tags."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace.queues.sqs.errors import SqsError, SqsQueueNotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headrace.queues.sqs.client import SqsClient
    from headrace.queues.sqs.recent import QueueMemory, Recent

TAGS = "tags"
"""What stands for tags among what an endpoint refuses."""

_UNKNOWN_OPERATION = frozenset(
    {"InvalidAction", "UnsupportedOperation", "UnknownOperation", "UnknownOperationException", "NotImplemented"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """A queue that is there."""

    name: str
    url: str
    attributes: Mapping[str, str]
    tags: Mapping[str, str] | None
    """None where the endpoint keeps none."""

    @property
    def arn(self) -> str:
        """Its ARN."""
        return self.attributes["QueueArn"]


def is_unknown_operation(error: SqsError) -> bool:
    """Whether the endpoint does not know what was called."""
    return error.code in _UNKNOWN_OPERATION or error.status == 501


async def find(client: SqsClient, name: str, *, account: str | None = None) -> str | None:
    """The URL of the queue of this name; None without one.

    Parameters
    ----------
    account
        Whose it is. Defaults to that of the credentials.
    """
    parameters = {"QueueName": name} | ({} if account is None else {"QueueOwnerAWSAccountId": account})
    try:
        answer = await client.call("GetQueueUrl", parameters)
    except SqsQueueNotFoundError:
        return None
    return str(answer["QueueUrl"])


async def look(client: SqsClient, name: str, url: str, recent: Recent) -> Observed | None:
    """What is there at a URL; None where there is nothing."""
    found = await asyncio.gather(
        client.call("GetQueueAttributes", {"QueueUrl": url, "AttributeNames": ["All"]}),
        _tags(client, url, recent.of(url)),
        return_exceptions=True,
    )
    # Both have ended; of two failures that of the attributes says more.
    attributes, tags = found
    for result in found:
        if isinstance(result, SqsQueueNotFoundError):
            return None
    if isinstance(attributes, BaseException):
        raise attributes
    if isinstance(tags, BaseException):
        raise tags
    told = attributes.get("Attributes") or {}
    if "QueueArn" not in told:
        raise SqsError(f"GetQueueAttributes tells no QueueArn of {url}: is this an endpoint of SQS?")
    return Observed(name=name, url=url, attributes=told, tags=tags)


async def _tags(client: SqsClient, url: str, memory: QueueMemory) -> dict[str, str] | None:
    if TAGS in memory.refused:
        return None
    try:
        answer = await client.call("ListQueueTags", {"QueueUrl": url})
    except SqsError as error:
        if not is_unknown_operation(error):
            raise
        memory.refused.add(TAGS)
        return None
    return dict(answer.get("Tags") or {})
