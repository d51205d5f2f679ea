"""What a job's first attempt raises, where it fails: the same for every contestant. Standard library only."""

from __future__ import annotations


def fail(number: int) -> None:
    """Raise, from a few calls down, as a handler's dependency would."""
    _ask_the_dependency(number)


def _ask_the_dependency(number: int) -> None:
    try:
        _connect(number)
    except ConnectionError as error:
        raise RuntimeError(f"order {number} could not be sent") from error


def _connect(number: int) -> None:
    raise ConnectionRefusedError(f"nobody listens for order {number}")
