"""What a queue's tags say: whose it is, and the settings that SQS has no attribute for. Pure.

Tags are on the queue and on its dead-letter queue alike. An operator proves by them that a queue is its own before it
changes or deletes anything; a worker reads its settings from them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from headrace.queues.base import Owner

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from headrace.queues.base import QueueSettings

CLUSTER = "headrace.dev/cluster"
NAMESPACE = "headrace.dev/namespace"
NAME = "headrace.dev/name"
UID = "headrace.dev/uid"
MAX_RETRIES = "headrace.dev/max-retries"
MESSAGE_RETENTION = "headrace.dev/message-retention-seconds"
DEAD_LETTER_ENABLED = "headrace.dev/dead-letter-enabled"
USERS = "headrace.dev/tags"
"""Which tags are the user's, so that one that is taken out of the spec is taken off the queue, and those of other tools
are left alone. Digests of the keys, of one length, one behind the other: the keys themselves would not fit."""

OWN_TAGS = (CLUSTER, NAMESPACE, NAME, UID, MAX_RETRIES, MESSAGE_RETENTION, DEAD_LETTER_ENABLED, USERS)

_DIGEST_LENGTH = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class TagChanges:
    """What to do so that the tags are as wanted."""

    tag: Mapping[str, str]
    untag: Sequence[str]

    def __bool__(self) -> bool:
        return bool(self.tag or self.untag)


def owner_in(tags: Mapping[str, str]) -> Owner | None:
    """Whose queue this is; None where it bears no owner's tags."""
    if not (tags.get(NAMESPACE) and tags.get(NAME)):
        return None
    return Owner(namespace=tags[NAMESPACE], name=tags[NAME], uid=tags.get(UID, ""), cluster=tags.get(CLUSTER, ""))


def settings_in(tags: Mapping[str, str], otherwise: QueueSettings) -> QueueSettings:
    """The settings that the tags tell; `otherwise` has those that they don't, or that can't be read."""
    max_retries = _whole(tags.get(MAX_RETRIES))
    retention = _number(tags.get(MESSAGE_RETENTION))
    is_ours = owner_in(tags) is not None and max_retries is not None
    return replace(
        otherwise,
        max_retries=otherwise.max_retries if max_retries is None else max_retries,
        # Without a tag of its own there is no limit, once it is clear that there are tags of ours.
        message_retention_seconds=retention if is_ours or retention else otherwise.message_retention_seconds,
        dead_letter_enabled={"true": True, "false": False}.get(
            tags.get(DEAD_LETTER_ENABLED, ""), otherwise.dead_letter_enabled
        ),
    )


def wanted_tags(owner: Owner, settings: QueueSettings, users: Sequence[tuple[str, str]]) -> dict[str, str]:
    """What the tags are to be."""
    retention = settings.message_retention_seconds
    wanted = dict(users) | {
        CLUSTER: owner.cluster,
        NAMESPACE: owner.namespace,
        NAME: owner.name,
        UID: owner.uid,
        MAX_RETRIES: str(settings.max_retries),
        MESSAGE_RETENTION: "" if retention is None else f"{retention:.10g}",
        DEAD_LETTER_ENABLED: "true" if settings.dead_letter_enabled else "false",
        USERS: "".join(sorted({_digest(key) for key, _ in users})),
    }
    return {key: value for key, value in wanted.items() if value or key not in OWN_TAGS}


def tag_changes(observed: Mapping[str, str], wanted: Mapping[str, str]) -> TagChanges:
    """From `observed` to `wanted`; tags of others are left alone."""
    recorded = observed.get(USERS, "")
    users = {recorded[at : at + _DIGEST_LENGTH] for at in range(0, len(recorded), _DIGEST_LENGTH)}
    return TagChanges(
        tag={key: value for key, value in wanted.items() if observed.get(key) != value},
        untag=sorted(key for key in observed if key not in wanted and (key in OWN_TAGS or _digest(key) in users)),
    )


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:_DIGEST_LENGTH]


def _whole(value: str | None) -> int | None:
    return int(value) if value is not None and value.isascii() and value.isdecimal() and len(value) < 10 else None


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if 0 < number < float("inf") else None
