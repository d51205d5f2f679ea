"""Whose a queue is, and who may have it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headrace.queues.errors import PlaceTakenError
from headrace.queues.sqs.tags import NAME, NAMESPACE, owner_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headrace.queues.base import Owner


def check_owned(name: str, tags: Mapping[str, str], owner: Owner, *, adopts_from: str = "") -> bool:
    """See that a queue is this owner's, or may become it; gives whether it is already, in every letter.

    An object made anew in the same cluster takes back what was retained, from another cluster's only what it is told.

    Raises
    ------
    PlaceTakenError
        With the ways out.
    """
    present = owner_in(tags)
    if present is None:
        raise PlaceTakenError(
            f"there is a queue {name} that bears no JobQueue's tags: choose another queueName; or use it as it is, "
            f"with its URL in queueUrl; or make it this JobQueue's, which changes its settings and may delete it, with "
            f"the tags {NAMESPACE}={owner.namespace} and {NAME}={owner.name}"
        )
    if (present.namespace, present.name) != (owner.namespace, owner.name):
        raise PlaceTakenError(
            f"queue {name} belongs to JobQueue {present.namespace}/{present.name}: choose another queueName"
        )
    if present.cluster and present.cluster != owner.cluster and present.uid != adopts_from:
        raise PlaceTakenError(
            f"queue {name} belongs to JobQueue {present.namespace}/{present.name} of another cluster: choose another "
            f'queueName, or take it over with the annotation headrace.dev/adopt: "{present.uid}"'
        )
    return present == owner


def check_usable(name: str, url: str, tags: Mapping[str, str] | None, owner: Owner, *, needs_tag: bool) -> None:
    """See that a queue that is there already may be used by this owner.

    Raises
    ------
    PlaceTakenError
        With the way out.
    """
    present = owner_in(tags or {})
    if present is not None and (present.namespace, present.name) != (owner.namespace, owner.name):
        raise PlaceTakenError(
            f"queue {name} belongs to JobQueue {present.namespace}/{present.name}: work on it through that one"
        )
    if needs_tag and (tags or {}).get(NAMESPACE) != owner.namespace:
        raise PlaceTakenError(
            f"queue {name} has no tag that lets namespace {owner.namespace} use it with the operator's credentials: "
            f"let whoever owns it run aws sqs tag-queue --queue-url {url} --tags {NAMESPACE}={owner.namespace}, or "
            "give credentials of your own"
        )
