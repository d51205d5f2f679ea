"""What one worker's polls have seen of a queue. Pure: the time is an argument, in seconds of a monotonic clock.

A long poll asks all of the service's machines, and is answered as soon as there is a message. One that comes back empty
is proof that for as long as it lasted there was nothing to receive, whatever the counts say meanwhile.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from headrace.queues.base import WITNESS_SECONDS, Witnessed

if TYPE_CHECKING:
    from collections.abc import Sequence


class Witness:
    """Is told of each poll when it began, once it has ended; says what was seen.

    Told by one thread, asked by any.
    """

    def __init__(self) -> None:
        self._full_at = float("-inf")
        """When a poll ended last that brought something, or failed."""
        self._empty_since: float | None = None
        """When the first of the empty polls in a row began: those after the last that was none."""
        self._empty_at = float("-inf")
        """When the last of them ended."""
        self._ages: deque[tuple[float, float]] = deque()
        """When something came, and the greatest age of it: later ones that are greater leave none before them."""

    def poll_ended(self, began: float, now: float, ages_seconds: Sequence[float]) -> None:
        """A poll came back, with jobs of these ages, or empty. Only of one that has waited can the latter be said."""
        if ages_seconds:
            self._look_anew(now)
            self._note_age(now, max(0.0, *ages_seconds))
            return
        if self._empty_since is None:
            # What another poll brought meanwhile was there for this one, too.
            self._empty_since = max(began, self._full_at)
        self._empty_at = now

    def poll_failed(self, now: float) -> None:
        """A poll brought no answer: nothing is known any more."""
        self._look_anew(now)

    def witnessed(self, now: float, *, held: int) -> Witnessed:
        """What is to be told now, where so many jobs are held."""
        # Both may be changed by another thread meanwhile: each is read once.
        since, ages = self._empty_since, list(self._ages)
        is_recent = now - self._empty_at <= WITNESS_SECONDS
        return Witnessed(
            held=held,
            empty_for_seconds=now - since if since is not None and is_recent else None,
            oldest_age_seconds=max((age for at, age in ages if now - at <= WITNESS_SECONDS), default=0.0),
        )

    def _look_anew(self, now: float) -> None:
        self._full_at = now
        self._empty_since = None

    def _note_age(self, now: float, age_seconds: float) -> None:
        ages = self._ages
        while ages and ages[-1][1] <= age_seconds:
            ages.pop()
        while ages and now - ages[0][0] > WITNESS_SECONDS:
            ages.popleft()
        ages.append((now, age_seconds))
