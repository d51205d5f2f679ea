"""What is there of a queue: its attributes and its tags."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from headrace.queues.sqs.errors import SqsError, SqsQueueNotFoundError, ThrottledError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from headrace.queues.sqs.client import SqsClient
    from headrace.queues.sqs.recent import Recent

TAGS = "tags"
"""What stands for tags among what an endpoint refuses."""

_QUEUE_URL = re.compile(r"https?://[^/?#@\s]+(?:/[^/?#@\s]+)+/[A-Za-z0-9_-]{1,80}(?:\.fifo)?")
_LONGEST_NAME = 512
"""Of an ARN or a URL; longer ones are nobody's."""

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
    are_tags_remembered: bool = False
    """Whether they were read some time ago."""

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
    return told_url(answer)


def told_url(answer: Mapping[str, Any]) -> str:
    """A queue's URL, as an endpoint tells it. Others than AWS's may be anybody's, and this goes to where it is shown.

    Raises
    ------
    SqsError
        When it is none.
    """
    url = answer.get("QueueUrl")
    if not (isinstance(url, str) and len(url) <= _LONGEST_NAME and _QUEUE_URL.fullmatch(url)):
        raise SqsError("what the endpoint tells is no queue's URL: is this an endpoint of SQS?")
    return url


async def looked_at(*looks: Coroutine[Any, Any, Observed | None]) -> list[Observed | None]:
    """What these have found, all at once. When one fails, all have ended: none goes on behind its caller's back."""
    found = await asyncio.gather(*looks, return_exceptions=True)
    for result in found:
        if isinstance(result, BaseException):
            raise result
    return [result for result in found if not isinstance(result, BaseException)]


async def look(
    client: SqsClient, name: str, url: str, recent: Recent, *, now: float, tags_good_for_seconds: float = 0.0
) -> Observed | None:
    """What is there at a URL; None where there is nothing.

    Parameters
    ----------
    tags_good_for_seconds
        For how long tags need not be read again: accounts have few such calls a second. Defaults to reading them.
    """
    memory = recent.of(url)
    remembered = memory.remembered_tags(now, good_for_seconds=tags_good_for_seconds)
    found = await asyncio.gather(
        client.call("GetQueueAttributes", {"QueueUrl": url, "AttributeNames": ["All"]}),
        _tags(client, url, recent, now) if remembered is None else _as_remembered(remembered),
        return_exceptions=True,
    )
    # Both have ended; of two failures that of the attributes says more.
    attributes, tags = found
    for result in found:
        if isinstance(result, SqsQueueNotFoundError):
            return None
    if isinstance(attributes, BaseException):
        raise attributes
    if isinstance(tags, ThrottledError) and tags_good_for_seconds and memory.seen_tags is not None:
        # Older ones will do until something is to be changed: then they are read in any case.
        tags = remembered = memory.seen_tags
    if isinstance(tags, BaseException):
        raise tags
    told = attributes.get("Attributes") or {}
    if not (isinstance(told, dict) and isinstance(arn := told.get("QueueArn"), str) and len(arn) <= _LONGEST_NAME):
        raise SqsError(f"GetQueueAttributes tells no QueueArn of {url}: is this an endpoint of SQS?")
    return Observed(name=name, url=url, attributes=told, tags=tags, are_tags_remembered=remembered is not None)


async def look_at_tags(client: SqsClient, queue: Observed, recent: Recent, *, now: float) -> Observed:
    """The same, with its tags as they are now."""
    tags = await _tags(client, queue.url, recent, now)
    return replace(queue, tags=tags, are_tags_remembered=False)


async def _as_remembered(tags: Mapping[str, str]) -> Mapping[str, str]:
    return tags


async def _tags(client: SqsClient, url: str, recent: Recent, now: float) -> Mapping[str, str] | None:
    memory = recent.of(url)
    if TAGS in memory.refused:
        return None
    if seconds := recent.seconds_until_tags(client, now):
        await asyncio.sleep(seconds)
    try:
        answer = await client.call("ListQueueTags", {"QueueUrl": url})
    except SqsError as error:
        if memory.has_told_tags or not is_unknown_operation(error):
            # Whose a queue is stays to be proven where it once could be.
            raise
        memory.refused.add(TAGS)
        return None
    memory.seen_tags, memory.seen_tags_at, memory.has_told_tags = dict(answer.get("Tags") or {}), now, True
    return memory.seen_tags
