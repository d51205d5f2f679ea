"""The time."""

from __future__ import annotations

from datetime import UTC, datetime


class SystemClock:
    """Fills `reconcile.ports.Clock`."""

    def now(self) -> datetime:
        """The wall clock, in UTC."""
        return datetime.now(UTC)
