"""Secrets that specs refer to: read by name, remembered for less than a minute, and told of when they change.

There is no right to list or to watch them. What is in use is read again before a minute is over, so that a rotated
password shows by then; each Secret is read once for all who use it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from headrace_operator.core.model import AwaitedError, ObjectKey, OperatorError
from headrace_operator.core.provider import SecretKey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from datetime import datetime

    from headrace_operator.reconcile.ports import Clock, Cluster

logger = logging.getLogger(__name__)

REMEMBERED = timedelta(seconds=57)
"""What is as old is read again."""

DOUBTED = timedelta(seconds=5)
"""As long is remembered at first what won't do (a Secret is missing, a password is refused), and twice as long each
time: it is likely to be mended soon."""

_DOUBT_STANDS = 2 * REMEMBERED

_SOONER = (0.75, 1.0)
"""Of these times; at random, so that what was read together is not read together for ever."""

_AT_ONCE = timedelta(seconds=1)
"""As young, a reading is fresh for whoever asks for a fresh one: a hundred who fail together read once."""

_UNUSED = timedelta(hours=1)
"""Who has not asked for so long uses it no more: objects are looked at several times as often."""

_ROUND_SECONDS = 1.0
_READS_AT_A_TIME = 8


class SecretUser(NamedTuple):
    """An object whose spec refers to Secrets of its namespace."""

    kind: str
    key: ObjectKey


class SecretValue(NamedTuple):
    """What stands under a Secret's key. It is never logged, and `repr` does not show it."""

    content: bytes
    version: str
    """Of the Secret: where it is another, something in the Secret has changed."""

    def __repr__(self) -> str:
        return "SecretValue(…)"


@dataclass(slots=True, kw_only=True)
class _Remembered:
    """One Secret."""

    keys: set[str] = field(default_factory=set)
    """Those that are asked for: of a Secret of a megabyte the rest is not kept."""
    optional: set[str] = field(default_factory=set)
    """Those of them that nobody minds to be missing."""
    users: dict[SecretUser, datetime] = field(default_factory=dict)
    """Who uses it, and when they asked last."""
    values: dict[str, bytes] = field(default_factory=dict, repr=False)
    version: str | None = None
    """None where there is no such Secret."""
    read_at: datetime | None = None
    due_at: datetime | None = None
    doubted_at: datetime | None = None
    """When what it holds did not do for somebody the last time. It stands for a while, whatever somebody else makes of
    the Secret meanwhile: those who try in vain every few seconds would have it read anew each time."""
    wanting: int = 0
    """How many times in a row it was read, and would not do."""
    reading: asyncio.Task[None] | None = None

    @property
    def patience(self) -> timedelta:
        """How long to wait before what won't do is read again."""
        return min(DOUBTED * 2.0 ** min(self.wanting, 8), REMEMBERED)


class Secrets:
    """Reads Secrets; inside `watching`, what is in use is read anew by itself.

    Parameters
    ----------
    on_change
        Called with each user of a Secret that has come, changed or gone.
    """

    def __init__(
        self, cluster: Cluster, clock: Clock, on_change: Callable[[SecretUser], None] = lambda _: None
    ) -> None:
        self._cluster = cluster
        self._clock = clock
        self._on_change = on_change
        self._remembered: dict[ObjectKey, _Remembered] = {}
        self._used: dict[SecretUser, set[ObjectKey]] = {}

    async def read(self, user: SecretUser, name: str, key: str, *, refresh: bool = False) -> SecretValue:
        """What stands under a key of a Secret in the user's namespace.

        Parameters
        ----------
        refresh
            Whether to ask the API anew, since somebody has refused what it said before, say.

        Raises
        ------
        AwaitedError
            ``SecretNotFound`` or ``SecretKeyMissing``: what is missing may come, and then the user is told.
        """
        value = await self.find(user, SecretKey(name, key), refresh=refresh)
        assert value is not None, "it is not optional"
        return value

    async def find(self, user: SecretUser, wanted: SecretKey, *, refresh: bool = False) -> SecretValue | None:
        """As `read`; None where the key is optional and the Secret has none with a value."""
        now = self._clock.now()
        secret = ObjectKey(user.key.namespace, wanted.name)
        entry = self._remembered.setdefault(secret, _Remembered())
        entry.users[user] = now
        self._used.setdefault(user, set()).add(secret)
        if not wanted.is_optional:
            entry.optional.discard(wanted.key)
        elif wanted.key not in entry.keys:
            entry.optional.add(wanted.key)
        if not _is_young(entry, wanted.key, now, refresh=refresh):
            entry.keys.add(wanted.key)
            await self._read(secret, entry)
        if entry.version is None:
            raise AwaitedError(
                "SecretNotFound",
                f"namespace {secret.namespace} has no Secret {wanted.name}: create it, or name another one",
            )
        content = entry.values.get(wanted.key)
        if content:
            return SecretValue(content, entry.version)
        if wanted.is_optional:
            return None
        raise AwaitedError(
            "SecretKeyMissing",
            f"Secret {wanted.name} has no key {wanted.key} with a value: add it, or name another key",
        )

    def doubt(self, user: SecretUser) -> None:
        """What the user has read may be the reason why something did not do."""
        for secret in self._used.get(user, ()):
            entry = self._remembered[secret]
            entry.doubted_at = now = self._clock.now()
            if entry.due_at is not None:
                entry.due_at = min(entry.due_at, now + entry.patience)

    def forget(self, user: SecretUser) -> None:
        """The user is gone."""
        for secret in self._used.pop(user, ()):
            self._leave(user, secret)

    def _leave(self, user: SecretUser, secret: ObjectKey) -> None:
        entry = self._remembered[secret]
        del entry.users[user]
        if not entry.users:
            del self._remembered[secret]

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Read what is in use anew, inside the block, before anybody has to wait for it."""
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(self._watch(), name="secrets")
            try:
                yield
            finally:
                watch.cancel()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_ROUND_SECONDS)
            now = self._clock.now()
            for secret, entry in list(self._remembered.items()):
                for user in _idle(entry, now):
                    # It may use another one by now.
                    self._used[user].discard(secret)
                    self._leave(user, secret)
            due = [each for each in self._remembered.items() if each[1].due_at is not None and each[1].due_at <= now]
            for start in range(0, len(due), _READS_AT_A_TIME):
                some = due[start : start + _READS_AT_A_TIME]
                await asyncio.gather(*(self._read_anew(secret, entry) for secret, entry in some))

    async def _read_anew(self, secret: ObjectKey, entry: _Remembered) -> None:
        try:
            await self._read(secret, entry)
        except OperatorError as failure:
            # Whoever needs it is told; the last reading stands until the next.
            logger.debug("A Secret could not be read: %s", failure.message)

    async def _read(self, secret: ObjectKey, entry: _Remembered) -> None:
        """Ask the API; those who want to know at the same time share the answer."""
        if entry.reading is None:
            entry.reading = asyncio.create_task(self._ask(secret, entry), name=f"secret-{secret}")
            entry.reading.add_done_callback(lambda done: _end_reading(entry, done))
        # One who stops waiting must not stop the others.
        await asyncio.shield(entry.reading)

    async def _ask(self, secret: ObjectKey, entry: _Remembered) -> None:
        asked_at = self._clock.now()
        # Were it to fail, it would be due again then.
        entry.due_at = asked_at + DOUBTED
        found = await self._cluster.secret(secret)
        version = None if found is None else found.version
        is_change, is_first = entry.version != version, entry.read_at is None
        entry.version = version
        entry.values = {} if found is None else {key: found.data[key] for key in entry.keys if key in found.data}
        is_doubted = entry.doubted_at is not None and asked_at - entry.doubted_at < _DOUBT_STANDS
        will_do = not is_doubted and all(entry.values.get(key) for key in entry.keys - entry.optional)
        entry.wanting = 0 if will_do or is_change else entry.wanting + 1
        patience = REMEMBERED if will_do else entry.patience
        entry.read_at, entry.due_at = asked_at, asked_at + patience * random.uniform(*_SOONER)  # noqa: S311
        if is_change and not is_first:
            for user in list(entry.users):
                self._on_change(user)


def _is_young(entry: _Remembered, key: str, now: datetime, *, refresh: bool) -> bool:
    """Whether what is remembered will do."""
    if entry.read_at is None or entry.due_at is None or key not in entry.keys:
        return False
    return now - entry.read_at < _AT_ONCE if refresh else now < entry.due_at


def _idle(entry: _Remembered, now: datetime) -> list[SecretUser]:
    return [user for user, asked_at in entry.users.items() if now - asked_at > _UNUSED]


def _end_reading(entry: _Remembered, reading: asyncio.Task[None]) -> None:
    entry.reading = None
    if not reading.cancelled():
        # Those who wait are told of a failure; where nobody does any more, nobody needs to know.
        reading.exception()
