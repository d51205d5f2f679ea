"""How numbers are said in messages."""

from __future__ import annotations

from collections.abc import Sequence


def workers(number: int) -> str:
    """So many workers."""
    return "1 worker" if number == 1 else f"{number} workers"


def one_or_named(names: Sequence[str], of: int) -> str:
    """These queues, of so many that the pool has: an only one needs no name."""
    return "the queue" if of == 1 else f"queue {', '.join(names)}"
