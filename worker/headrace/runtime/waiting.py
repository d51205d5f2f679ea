"""Jobs that were taken and wait for a slot, or for their name's turn."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from headrace.runtime.attempt import Fate
from headrace.runtime.limited_names import LimitedNames

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from headrace.queues.base import Delivery
    from headrace.runtime.attempt import Attempt


class Waiting:
    """Who is next. Pure: no clock, no queue."""

    def __init__(self) -> None:
        self.line: deque[Attempt] = deque()
        """Those that could run but for a free slot, as far as is known."""
        self._bytes = 0
        self.names = LimitedNames()

    def __len__(self) -> int:
        return len(self.line) + self.names.kept

    @property
    def payload_bytes(self) -> int:
        """How large the payloads of all these are."""
        return self._bytes

    def add(self, attempt: Attempt) -> bool:
        """One more; False where its name has no room for it, and it is to go back."""
        if attempt.terms.max_concurrent is not None and not self.names.take(attempt):
            return False
        self.line.append(attempt)
        self._bytes += len(attempt.delivery.job.payload)
        return True

    def next(self, may_start: Callable[[Delivery], bool] | None, refused: list[Attempt]) -> Attempt | None:
        """The next that runs; those before it that may not start at all are stopped, and added to `refused`.

        Without a `may_start` all may.
        """
        line = self.line
        while line:
            attempt = line.popleft()
            delivery = attempt.delivery
            is_limited = attempt.terms.max_concurrent is not None
            if may_start is not None and not may_start(delivery):
                if is_limited:
                    self.names.leave(attempt)
                attempt.stop(Fate.HANDED_BACK)
                refused.append(attempt)
                self._bytes -= len(delivery.job.payload)
            elif not is_limited or self.names.start(attempt):
                self._bytes -= len(delivery.job.payload)
                return attempt
        return None

    def ended(self, attempt: Attempt) -> None:
        """One of a limited name that ran has ended: it may be another's turn."""
        if (following := self.names.end(attempt)) is not None:
            self.line.appendleft(following)

    def all(self) -> list[Attempt]:
        """All that wait, the longest waiting first but for names' turns."""
        return [*self.line, *self.names.waiting()]

    def remove(self, attempts: Collection[Attempt]) -> None:
        """These wait no longer."""
        for attempt in attempts:
            if attempt.terms.max_concurrent is not None:
                self.names.leave(attempt)
            self._bytes -= len(attempt.delivery.job.payload)
        gone = {id(attempt) for attempt in attempts if attempt.fate is Fate.WAITING}
        if gone:
            self.line = deque(attempt for attempt in self.line if id(attempt) not in gone)

    def oldest_taken_at(self) -> float | None:
        """Since when the one that has waited longest does."""
        return min((attempt.taken_at for attempt in self.all()), default=None)

    def stale(self, too_old: float) -> list[Attempt]:
        """All that have waited since then; where that is so of the next to run, it is so of all behind it."""
        if self.line and self.line[0].taken_at <= too_old:
            return self.all()
        return [attempt for attempt in self.all() if attempt.taken_at <= too_old]
