"""What standard queues in SQS can do."""

from __future__ import annotations

from headrace.queues.capabilities import Capabilities

MAX_MESSAGE_BYTES = 1024 * 1024
"""Of a message's body and attributes, and of all messages in one call."""

MAX_DELAY_SECONDS = 900.0
"""The longest ``DelaySeconds`` of a message."""

MAX_VISIBILITY_SECONDS = 43_200.0
"""The longest time for which a message can be invisible, counted from when it was received."""

_ENVELOPE_BYTES = 1024
"""Kept free beside a payload; whoever sends more headers than that hears from `envelope.refuse_oversized`."""

CAPABILITIES = Capabilities(
    ordered=False,
    priorities=False,
    groups=False,
    fairness=True,
    expiry=True,
    max_enqueue_delay_seconds=MAX_DELAY_SECONDS,
    max_retry_delay_seconds=MAX_VISIBILITY_SECONDS,
    max_payload_bytes=MAX_MESSAGE_BYTES - _ENVELOPE_BYTES,
    deduplicates_unfinished=False,
    max_deduplication_window_seconds=0.0,
    max_hold_seconds=MAX_VISIBILITY_SECONDS,
    attempts="failures",
    atomic_batches=False,
    fenced=False,
    cancellation=False,
    keeps_errors=False,
    pausing=False,
    skips_names=False,
    transactions=False,
)
