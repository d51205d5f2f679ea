"""Use a queue that is there already: look at it, say what it lacks, change nothing."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from headrace.queues.errors import QueueNotFoundError
from headrace.queues.sqs.attributes import redrive_target
from headrace.queues.sqs.observing import find, look
from headrace.queues.sqs.ownership import check_usable
from headrace.queues.sqs.place import region_of_host
from headrace.queues.sqs.spec import SqsSpecError

if TYPE_CHECKING:
    from headrace.queues.base import Owner
    from headrace.queues.sqs.client import SqsClient
    from headrace.queues.sqs.observing import Observed
    from headrace.queues.sqs.recent import Recent

_ACCOUNT = re.compile(r"\d{12}")


async def usable(
    client: SqsClient, field: str, url: str, owner: Owner, *, region: str, needs_tag: bool, recent: Recent, now: float
) -> Observed:
    """A queue to use.

    Parameters
    ----------
    field
        What names it, for messages.

    Raises
    ------
    SqsSpecError
        When it is another region's or account's.
    PlaceTakenError
        When it is not this owner's to use.
    QueueNotFoundError
        When it is not there.
    """
    account, name = _parts(field, url)
    theirs = region_of_host(urlsplit(url).hostname or "")
    if region and theirs and theirs != region:
        raise SqsSpecError(field, f"{url} is in {theirs}, and region says {region}: let both say the same")
    ours = await find(client, name)
    if ours is not None and _are_two(account, _parts(field, ours)[0]):
        raise SqsSpecError(
            field,
            f"{url} is of account {account}, and the credentials are of {_parts(field, ours)[0]}: give credentials of "
            f"{account}; a queue of another account can't be used",
        )
    observed = None if ours is None else await look(client, name, url, recent, now=now)
    if observed is None:
        raise QueueNotFoundError(
            f"{field}: there is no queue {url} in the account and region of the credentials: mend the URL, make the "
            "queue, or leave the URL out, and one is made"
        )
    check_usable(name, url, observed.tags, owner, needs_tag=needs_tag)
    return observed


async def dead_letter_queue_of(client: SqsClient, queue: Observed, recent: Recent, now: float) -> Observed | None:
    """The dead-letter queue that a queue's own redrive policy names; None without one, or where it can't be found."""
    target = redrive_target(queue.attributes)
    if target is None:
        return None
    *_, account, name = ["", "", *target[0].split(":")]
    *_, of_queue, _ = ["", "", *queue.arn.split(":")]
    url = await find(client, name, account=None if account == of_queue else account)
    return None if url is None else await look(client, name, url, recent, now=now)


def _parts(field: str, url: str) -> tuple[str, str]:
    *_, account, name = ["", "", *urlsplit(url).path.split("/")]
    if not (account and name):
        raise SqsSpecError(field, f"{url} is no queue's URL: write https://sqs.REGION.amazonaws.com/ACCOUNT/NAME")
    return account, name


def _are_two(one: str, other: str) -> bool:
    """Whether these are accounts that differ; some endpoints have other words in their place."""
    return bool(_ACCOUNT.fullmatch(one) and _ACCOUNT.fullmatch(other)) and one != other
