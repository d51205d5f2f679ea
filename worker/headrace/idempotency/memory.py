"""Idempotency in this process's memory: the reference for every store, and a real one for tests of handlers.

Nothing survives the process, and nothing is shared beyond it. All calls belong to one event loop.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace.idempotency.base import DEFAULT_PREFIX, Claim, ClaimState, stored_key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self

    from headrace.idempotency.base import Hold


@dataclass(frozen=True, slots=True)
class Record:
    """A key that is not free."""

    token: str
    is_finished: bool
    ends_at: float


class MemoryIdempotencyStore:
    """See `headrace.idempotency.base.IdempotencyStore`.

    Parameters
    ----------
    records
        What is stored; stores that share it are clients of one server. Defaults to nothing yet, shared with nobody.
    clock
        Seconds that never go back. Defaults to the machine's.
    """

    may_evict = False

    def __init__(
        self,
        *,
        prefix: str = DEFAULT_PREFIX,
        records: dict[str, Record] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._prefix = prefix
        self._records = {} if records is None else records
        self._clock = clock

    async def __aenter__(self) -> Self:
        """Nothing is to be connected."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is to be released."""

    async def claim(self, holds: Sequence[Hold], *, lease_seconds: float) -> list[Claim]:
        """See the port."""
        return [self._claim(hold, lease_seconds) for hold in holds]

    def _claim(self, hold: Hold, lease_seconds: float) -> Claim:
        key, record = self._find(hold)
        if record is not None and record.is_finished:
            return Claim(ClaimState.FINISHED, 0.0)
        if record is not None and record.token != hold.token:
            return Claim(ClaimState.IN_PROGRESS, record.ends_at - self._clock())
        self._records[key] = self._record(hold, lease_seconds)
        return Claim(ClaimState.CLAIMED, 0.0)

    async def extend(self, holds: Sequence[Hold], *, lease_seconds: float) -> list[bool]:
        """See the port."""
        return [self._extend(hold, lease_seconds) for hold in holds]

    def _extend(self, hold: Hold, lease_seconds: float) -> bool:
        key, record = self._find(hold)
        if not _is_running(record, hold):
            return False
        self._records[key] = self._record(hold, lease_seconds)
        return True

    async def finish(self, holds: Sequence[Hold], *, ttl_seconds: float) -> list[bool]:
        """See the port."""
        return [self._finish(hold, ttl_seconds) for hold in holds]

    def _finish(self, hold: Hold, ttl_seconds: float) -> bool:
        key, record = self._find(hold)
        if record is None or _is_running(record, hold):
            self._records[key] = self._record(hold, ttl_seconds, is_finished=True)
            return True
        return record.is_finished and record.token == hold.token

    async def release(self, holds: Sequence[Hold]) -> list[bool]:
        """See the port."""
        return [self._release(hold) for hold in holds]

    def _release(self, hold: Hold) -> bool:
        key, record = self._find(hold)
        if not _is_running(record, hold):
            return False
        del self._records[key]
        return True

    def _find(self, hold: Hold) -> tuple[str, Record | None]:
        key = stored_key(self._prefix, hold.key)
        record = self._records.get(key)
        if record is not None and record.ends_at <= self._clock():
            del self._records[key]
            record = None
        return key, record

    def _record(self, hold: Hold, seconds: float, *, is_finished: bool = False) -> Record:
        return Record(hold.token, is_finished, self._clock() + seconds)


def _is_running(record: Record | None, hold: Hold) -> bool:
    return record is not None and not record.is_finished and record.token == hold.token
