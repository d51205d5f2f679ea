"""What a JobQueue's queue is called in SQS. Pure."""

from __future__ import annotations

import hashlib

from headrace_operator.core.model import RefusedError

LONGEST = 75
"""Of the 80 characters of a name, five are the dead-letter queue's: ``-dead``."""

_SEPARATOR = "_"
"""Neither a namespace nor a JobQueue has one in its name: nothing but this pair makes the name."""

_HASH_LENGTH = 10


def namespace_prefix(prefix: str, namespace: str) -> str:
    """What the names of all queues of a namespace begin with, and those of no other namespace."""
    return f"{prefix}{namespace}{_SEPARATOR}"


def derived_name(prefix: str, namespace: str, name: str) -> str:
    """``PREFIXNAMESPACE_NAME``, which no other JobQueue has; where that is too long, with a hash of the name's rest.

    Raises
    ------
    RefusedError
        ``InvalidSpec`` where even the hash has no room.
    """
    start = namespace_prefix(prefix, namespace)
    whole = f"{start}{name}"
    if len(whole) <= LONGEST:
        return whole
    digest = hashlib.sha256(name.encode()).hexdigest()[:_HASH_LENGTH]
    room = LONGEST - len(start) - len(_SEPARATOR) - _HASH_LENGTH
    if room < 0:
        raise RefusedError(
            "InvalidSpec",
            f"spec.awsSqs.queueName: none can be derived, since {start!r} leaves no room for it: use a namespace with "
            "a shorter name, or shorten the operator's setting HEADRACE_AWS_QUEUE_PREFIX",
        )
    return f"{start}{name[:room]}{_SEPARATOR}{digest}"
