"""The clock that leases are trusted by."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_CLOCK = getattr(time, "CLOCK_BOOTTIME", None)

lease_clock: Callable[[], float] = time.monotonic if _CLOCK is None else partial(time.clock_gettime, _CLOCK)
"""Seconds that only grow, and go on while the machine is suspended, where it can tell.

Others count a lease on their own clocks: with one that stands still here it would be trusted for longer than it lasts.
"""
