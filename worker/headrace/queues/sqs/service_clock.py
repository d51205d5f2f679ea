"""The service's clock, as messages tell it: that decides what is due, not a machine whose clock may be wrong."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from headrace.queues.clock import lease_clock

_LASTS_SECONDS = 600.0


class ServiceClock:
    """Learns what time it is from messages that have just been received for the first time.

    An answer that was long on its way makes it late; so the earliest of the last minutes holds.
    """

    def __init__(self) -> None:
        self._ahead_seconds: float | None = None
        """Of the clock that leases are trusted by."""
        self._learned_at = 0.0

    def learn(self, received_at: float) -> None:
        """A message was received at this moment, in seconds of Unix time, and its answer is here."""
        now = lease_clock()
        ahead_seconds = received_at - now
        is_old = now - self._learned_at > _LASTS_SECONDS
        if self._ahead_seconds is None or is_old or ahead_seconds > self._ahead_seconds:
            self._ahead_seconds = ahead_seconds
            self._learned_at = now

    def seconds(self) -> float:
        """The time there, in seconds of Unix time; that of here, where nothing was learned yet."""
        return time.time() if self._ahead_seconds is None else lease_clock() + self._ahead_seconds

    def now(self) -> datetime:
        """The same as a moment."""
        return datetime.fromtimestamp(self.seconds(), UTC)
