"""Which place's depth is a queue's: the one where it was last found to be in order."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from headrace_operator.core.model import ObjectKey
    from headrace_operator.core.provider import Place
    from headrace_operator.reconcile.ports import Clock, Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """The place whose depth is read, since when, and for which errand its binding was looked at."""

    place: Place
    since: datetime
    bound_for: datetime | None = None
    """When the errand ended after which the binding was brought about."""


class FollowedPlaces:
    """Has one place a queue sampled.

    Parameters
    ----------
    wake_pools
        Called with a queue that is sampled at another place from now on.
    """

    def __init__(self, sampling: Sampling, clock: Clock, wake_pools: Callable[[ObjectKey], None]) -> None:
        self._sampling = sampling
        self._clock = clock
        self._wake_pools = wake_pools
        self._followed: dict[ObjectKey, Followed] = {}

    def get(self, queue: ObjectKey) -> Followed | None:
        """What is followed of a queue."""
        return self._followed.get(queue)

    def follow(self, queue: ObjectKey, place: Place) -> Followed:
        """From now on this place's depth is the queue's, and no other's."""
        followed = self._followed.get(queue)
        if followed is not None and followed.place == place:
            return followed
        followed = self._followed[queue] = Followed(place=place, since=self._clock.now())
        self._sampling.follow(queue, place)
        self._wake_pools(queue)
        return followed

    def bound(self, queue: ObjectKey, place: Place, ended_at: datetime | None) -> bool:
        """The binding names this place since an errand that ended then; returns whether that is news."""
        followed = self.follow(queue, place)
        self._followed[queue] = replace(followed, bound_for=ended_at)
        return followed.bound_for != ended_at

    def forget(self, queue: ObjectKey) -> None:
        """The queue is gone, or another of its name has come."""
        self._followed.pop(queue, None)
        self._sampling.forget(queue)
