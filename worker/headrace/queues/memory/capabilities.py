"""What queues in memory can do: all that the port knows but transactions."""

from __future__ import annotations

from headrace.job import MAX_DELAY_SECONDS
from headrace.queues.capabilities import Capabilities

CAPABILITIES = Capabilities(
    ordered=True,
    priorities=True,
    groups=True,
    fairness=False,
    expiry=True,
    deduplicates_unfinished=True,
    max_deduplication_window_seconds=MAX_DELAY_SECONDS,
    attempts="failures",
    atomic_batches=True,
    fenced=True,
    cancellation=True,
    keeps_errors=True,
    pausing=True,
    skips_names=True,
    transactions=False,
)
