"""The clock that leases are trusted by."""

from __future__ import annotations

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", None)


def lease_seconds() -> float:
    """Seconds that only grow, and go on while the machine is suspended, where it can tell.

    Others count a lease on their own clocks: one that stands still here would be trusted for longer than it lasts.
    """
    return time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)
