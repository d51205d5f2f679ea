"""The time that leases are measured in: how much of it has passed, in suspended sleep, too."""

from __future__ import annotations

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def elapsed_seconds() -> float:
    """Seconds since some moment in the past, never going back.

    Unlike `time.monotonic`, it goes on while the machine is suspended, as leases do in the backend (where the system
    has such a clock: Linux).
    """
    return time.clock_gettime(_CLOCK)
