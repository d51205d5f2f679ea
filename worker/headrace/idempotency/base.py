"""The idempotency port: who runs a key, and which keys are finished.

A key is free, in progress (somebody holds it, for a lease) or finished (for days). A run claims its key before it
starts, extends the claim while it runs, and ends it by `finish` or `release`. No run starts after a recorded finish,
and a key has one valid finish. One contract suite (``tests/contract``) runs over every store.

Exceptions::

    IdempotencyError
    ├── IdempotencyUnavailableError    the store can't answer now: try again later, or go on without it
    └── IdempotencyConfigurationError  the store is not what it was said to be: the message has the fix
"""

from __future__ import annotations

import hashlib
import re
from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

DEFAULT_PREFIX = "headrace:idempotency:"
"""What the names of all keys begin with."""

_MAX_KEY_BYTES = 200
_HASHED = "sha256:"
_FAILURES = "failures:"
# No UTF-8 says it.
_SURROGATE = re.compile("[\ud800-\udfff]")


class IdempotencyError(Exception):
    """Whatever goes wrong with a store."""


class IdempotencyUnavailableError(IdempotencyError):
    """The store can't be reached, did not answer in time, or can't write now. Trying again later may help."""


class IdempotencyConfigurationError(IdempotencyError):
    """The address, the credentials, their rights or the mode are wrong; the message says what to mend, no secret."""


class Hold(NamedTuple):
    """What a run holds, or wants to."""

    key: str
    token: str
    """The owner's, never used for another claim: it fences what is said of the key later."""


class ClaimState(Enum):
    """What a claim found."""

    CLAIMED = auto()
    """The key is the caller's, for as long as its lease lasts."""
    IN_PROGRESS = auto()
    """Somebody else has it."""
    FINISHED = auto()
    """What the key stands for has been done."""


class Claim(NamedTuple):
    """The answer to one claim."""

    state: ClaimState
    retry_after_seconds: float
    """In progress: how long the other's claim lasts at most, unless it is extended. Otherwise 0."""


class IdempotencyStore(Protocol):
    """A store, opened. Use it as an async context manager.

    Every verb answers in the order of the holds, asks in one round trip (one a shard), and takes a few seconds at most.
    Every verb may be repeated when its answer was lost. All raise `IdempotencyUnavailableError` and
    `IdempotencyConfigurationError`.
    """

    @property
    def may_evict(self) -> bool | None:
        """Whether the server forgets keys when its memory is full, finished ones too; None while that is unknown."""
        ...

    async def __aenter__(self) -> Self:
        """Connect. A server that can't be reached is no error: each call tries anew.

        Raises
        ------
        IdempotencyConfigurationError
            When a server answers that will not do.
        """
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the connections. Claims last until their leases end."""
        ...

    async def claim(self, holds: Sequence[Hold], *, lease_seconds: float) -> list[Claim]:
        """Take the keys that are free; each key in one atomic step.

        A hold that is claimed again is `CLAIMED`, with a whole lease, unless it was finished meanwhile.
        """
        ...

    async def extend(self, holds: Sequence[Hold], *, lease_seconds: float) -> list[bool]:
        """Give claims a whole lease from now; False where it is the caller's no more: it ran out, or another has it."""
        ...

    async def finish(self, holds: Sequence[Hold], *, ttl_seconds: float) -> list[bool]:
        """Record that what the keys stand for has been done; False where another has the key or has finished it.

        A claim that ran out is finished all the same while nobody else has the key: what was done has been done.
        A finish that stands keeps its time.
        """
        ...

    async def release(self, holds: Sequence[Hold]) -> list[bool]:
        """Free the keys; False where there was nothing of the caller's to free, or it is finished."""
        ...


def key_prefix(namespace: str, queue: str) -> str:
    """The prefix of one queue's keys.

    Braces would put all of them on one shard of a Cluster, so they are escaped, as is whatever stands between parts.
    """
    return f"{DEFAULT_PREFIX}{quote(namespace, safe='')}:{quote(queue, safe='')}:"


def stored_key(prefix: str, key: str) -> str:
    """The name under which a key is stored; a long one is hashed, and what could be one of ours, or can't be sent."""
    encoded = key.encode(errors="surrogatepass")
    is_ours = key.startswith((_HASHED, _FAILURES))
    if len(encoded) <= _MAX_KEY_BYTES and not is_ours and not _SURROGATE.search(key):
        return prefix + key
    return f"{prefix}{_HASHED}{hashlib.sha256(encoded).hexdigest()}"


def stored_failures(prefix: str, message_id: str) -> str:
    """The name under which it is stored how often a message has failed: no key's."""
    return f"{prefix}{_FAILURES}{message_id}"
