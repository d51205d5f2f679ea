"""What a person sees while the harness works: one line a step with its time, and a sign of life in the long ones."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

# Often enough that nobody takes a compile of minutes for a hang, seldom enough for a CI log.
_SIGN_OF_LIFE_SECONDS = 30.0


def say(message: str) -> None:
    print(f"· {message}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def step(title: str, *, hint: str = "") -> Iterator[None]:
    """Tell that `title` begins, that it still goes on, and how long it took; `hint` says what to expect."""
    begun = time.monotonic()
    over = threading.Event()

    def elapsed() -> str:
        return f"{time.monotonic() - begun:.0f} s"

    def show_life() -> None:
        while not over.wait(_SIGN_OF_LIFE_SECONDS):
            say(f"{title}: still at it after {elapsed()}")

    if hint:
        say(f"{title} ({hint})")
    life = threading.Thread(target=show_life, daemon=True)
    life.start()
    try:
        yield
    except BaseException:
        say(f"{title}: failed after {elapsed()}")
        raise
    else:
        say(f"{title}: done in {elapsed()}")
    finally:
        over.set()
        life.join()
