"""Make a queue, and set its attributes and tags; what an endpoint does not know is noted, and done without."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.queues.sqs.attributes import OPTIONAL
from headrace.queues.sqs.errors import SqsError
from headrace.queues.sqs.observing import TAGS, is_unknown_operation, told_url
from headrace.queues.sqs.spec import SqsSpecError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headrace.queues.sqs.client import SqsClient
    from headrace.queues.sqs.recent import QueueMemory
    from headrace.queues.sqs.tags import TagChanges

_REFUSALS = frozenset(
    {
        "InvalidAttributeName",
        "InvalidAttributeValue",
        "InvalidParameterValue",
        "UnsupportedOperation",
        "ValidationError",
    }
)
_IS_THERE = frozenset({"QueueNameExists", "QueueAlreadyExists"})
_FIELDS = {"Policy": "policy", "KmsMasterKeyId": "kms_key_id"}


async def create(
    client: SqsClient, name: str, attributes: Mapping[str, str], tags: Mapping[str, str]
) -> tuple[str, dict[str, str]] | None:
    """Make a queue, with its tags in the same call, so that it never belongs to nobody.

    Returns
    -------
    tuple[str, dict[str, str]] or None
        Its URL, and the attributes that it was made with: where some are refused, those that it can't do without. None
        where there is one of this name by now.

    Raises
    ------
    SqsError
        `QueueDeletedRecentlyError` among them.
    SqsSpecError
        When what is refused was asked for.
    """
    sent = dict(attributes)
    try:
        url = await _create(client, name, sent, tags)
    except SqsError as error:
        if error.code in _IS_THERE:
            return None
        if error.code not in _REFUSALS:
            raise
        # Which one it was, setting them one by one will tell; what was asked for must be there from the beginning.
        sent = {key: value for key, value in sent.items() if key not in OPTIONAL}
        try:
            url = await _create(client, name, sent, tags)
        except SqsError as again:
            if again.code in _IS_THERE:
                return None
            if again.code in _REFUSALS and (named := [key for key in _FIELDS if sent.get(key)]):
                guilty = next((key for key in named if key.lower() in str(again).lower()), named[0])
                raise SqsSpecError(_FIELDS[guilty], _mend(again)) from None
            raise
    return url, sent


async def _create(client: SqsClient, name: str, attributes: Mapping[str, str], tags: Mapping[str, str]) -> str:
    parameters = {"QueueName": name, "Attributes": dict(attributes), "tags": dict(tags)}
    return told_url(await client.call("CreateQueue", parameters))


async def set_attributes(
    client: SqsClient, url: str, changes: Mapping[str, str], memory: QueueMemory, now: float
) -> list[str]:
    """Set attributes, in one call if the endpoint knows them all; gives those that are set.

    Raises
    ------
    SqsSpecError
        When a policy or a key is refused.
    """
    wanted = {name: value for name, value in changes.items() if not memory.refuses(name, value)}
    if not wanted:
        return []
    try:
        await client.call("SetQueueAttributes", {"QueueUrl": url, "Attributes": wanted})
    except SqsError as error:
        if error.code not in _REFUSALS:
            raise
        if len(wanted) == 1:
            for name, value in wanted.items():
                _refuse(name, value, error, memory)
            return []
        return [
            done
            for name, value in wanted.items()
            for done in await set_attributes(client, url, {name: value}, memory, now)
        ]
    memory.attributes.note(wanted, now)
    return list(wanted)


def _refuse(name: str, value: str, error: SqsError, memory: QueueMemory) -> None:
    """Note what can be done without, and tell what can't."""
    if value and name in _FIELDS:
        raise SqsSpecError(_FIELDS[name], _mend(error)) from None
    if value and name not in OPTIONAL:
        raise error
    memory.refuse(name, value)


def _mend(error: SqsError) -> str:
    return f"{str(error).rstrip('.')}: mend it, or leave it out"


async def set_tags(client: SqsClient, url: str, changes: TagChanges, memory: QueueMemory, now: float) -> list[str]:
    """Tag and untag; gives the keys of what was changed."""
    if TAGS in memory.refused or not changes:
        return []
    try:
        if changes.tag:
            await client.call("TagQueue", {"QueueUrl": url, "Tags": dict(changes.tag)})
        if changes.untag:
            await client.call("UntagQueue", {"QueueUrl": url, "TagKeys": list(changes.untag)})
    except SqsError as error:
        if memory.has_told_tags or not is_unknown_operation(error):
            raise
        memory.refused.add(TAGS)
        return []
    memory.seen_tags = None
    memory.tags.note({**changes.tag, **dict.fromkeys(changes.untag)}, now)
    return sorted({*changes.tag, *changes.untag})
