"""Who is asked when. Pure: time and chance are arguments. Seconds are those of a monotonic clock."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from headrace_operator.core.model import ObjectKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from headrace_operator.core.model import QueueDepth
    from headrace_operator.core.provider import Pace

SLEEPING_SECONDS = 20.0
"""How often a queue is counted that has no workers and nothing for any, while its backend tells of new jobs."""

LONGEST_SECONDS = 20.0
"""No queue is read more rarely: what a JobQueue's status and alerts say of it is at most 30 s old."""

MOST_QUEUES = 200
"""So many queues are counted by one question at most."""

_GATHER = 0.25
"""Who is due within this part of its period comes along, so that queues of a backend are asked together."""

_FIRST_NEWS_SECONDS = 0.02
"""News of a burst of jobs come together: one question for all."""

_NEWS_SECONDS = 0.5
"""How soon after a question news lead to another."""

_DUE_SOON_SECONDS = 0.05
"""How long after a delayed job is due its queue is counted."""

_FIRST_REST_SECONDS = 15.0
_LONGEST_REST_SECONDS = 240.0
"""For so long no exact count is tried of a queue whose count took too long."""


def period_seconds(pace: Pace, interval_seconds: float | None, depth: QueueDepth, *, is_listening: bool) -> float:
    """For how long a count is good.

    Parameters
    ----------
    pace
        How often the backend lets its queues be counted.
    interval_seconds
        As the queue's pools want it; None where none of them has workers.
    is_listening
        Whether the backend tells of new jobs in this queue.
    """
    if interval_seconds is not None:
        period = min(interval_seconds, LONGEST_SECONDS)
    elif is_listening and is_idle(depth):
        period = SLEEPING_SECONDS
    else:
        period = pace.unscaled_seconds
    if depth.next_due_seconds is not None:
        period = min(period, max(depth.next_due_seconds, 0.0) + _DUE_SOON_SECONDS)
    return max(period, pace.shortest_seconds)


def is_idle(depth: QueueDepth) -> bool:
    """Whether there is nothing to do or to wait for, so that it is new jobs that count."""
    return not (depth.ready or depth.in_flight)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rests:
    """How long to rest after failures in a row."""

    first_seconds: float
    longest_seconds: float

    def seconds(self, failures: int, chance: float) -> float:
        """The rest after the `failures`-th failure: doubled each time, and by `chance` (0 to 1) up to a half less."""
        longest = min(self.first_seconds * 2.0 ** min(failures - 1, 32), self.longest_seconds)
        return longest * (1 - chance / 2)


class Breaker:
    """Lets one be asked that failed, but more and more rarely."""

    def __init__(self, rests: Rests) -> None:
        self._rests = rests
        self.failures = 0
        """In a row."""
        self.closed_until = -math.inf

    @property
    def is_broken(self) -> bool:
        """Whether the last attempt failed."""
        return self.failures > 0

    def lets_pass(self, now: float) -> bool:
        """Whether it may be asked now."""
        return now >= self.closed_until

    def failed(self, now: float, chance: float) -> None:
        """It was asked in vain."""
        self.failures += 1
        self.closed_until = now + self._rests.seconds(self.failures, chance)

    def succeeded(self) -> None:
        """It has answered."""
        self.failures = 0
        self.closed_until = -math.inf

    def give_another_chance(self) -> None:
        """Something has changed: it may be asked at once, and again soon if that fails."""
        self.succeeded()


@dataclass(slots=True)
class _Turn:
    """One queue's place in a schedule."""

    due_at: float
    gathers_from: float
    """From then on it comes along with others that are due."""
    news_at: float = math.inf
    """When it is due because of news, be it that it is just being read."""
    heard_at: float = -math.inf
    """When it was read last upon news."""
    company: int = MOST_QUEUES
    """How many queues at most are counted at once with it: fewer after a count that took too long."""
    slow_counts: Breaker = field(
        default_factory=lambda: Breaker(Rests(first_seconds=_FIRST_REST_SECONDS, longest_seconds=_LONGEST_REST_SECONDS))
    )


class Schedule:
    """When each queue of one backend is to be read."""

    def __init__(self, pace: Pace) -> None:
        self._gather = _GATHER if pace.gathers else 0.0
        self._turns: dict[ObjectKey, _Turn] = {}

    def follow(self, queue: ObjectKey, now: float) -> None:
        """Read it, beginning now."""
        self._turns[queue] = _Turn(due_at=now, gathers_from=now)

    def forget(self, queue: ObjectKey) -> None:
        """Read it no more."""
        self._turns.pop(queue, None)

    def next_at(self) -> float:
        """When somebody is due; infinity where nobody ever is."""
        return min((min(turn.due_at, turn.news_at) for turn in self._turns.values()), default=math.inf)

    def take_due(self, now: float) -> Sequence[ObjectKey]:
        """Whose turn it is; they have no other until told what came of it."""
        if self.next_at() > now:
            return ()
        due = []
        for queue, turn in self._turns.items():
            if turn.news_at <= now + _FIRST_NEWS_SECONDS:
                turn.heard_at, turn.news_at = now, math.inf
            elif turn.gathers_from > now:
                continue
            turn.due_at = turn.gathers_from = math.inf
            due.append(queue)
        return due

    def read(self, queue: ObjectKey, now: float, *, period_seconds: float, age_seconds: float = 0.0) -> float:
        """It was read: a count that was so old then, and is good for a period. Gives when it is due again."""
        turn = self._turns.get(queue)
        if turn is None:
            return math.inf
        # What is old when it comes is not good for as long; but nothing makes it be asked twice as often.
        period_seconds = max(period_seconds - age_seconds, period_seconds / 2)
        turn.due_at = now + period_seconds
        turn.gathers_from = turn.due_at - self._gather * period_seconds
        return min(turn.due_at, turn.news_at)

    def postpone(self, queue: ObjectKey, until: float) -> None:
        """It could not be read, and need not be tried before."""
        if turn := self._turns.get(queue):
            turn.due_at = turn.gathers_from = until

    def hear(self, queue: ObjectKey, now: float) -> float:
        """There is news of it. Gives when it is due."""
        turn = self._turns.get(queue)
        if turn is None:
            return math.inf
        turn.news_at = min(turn.news_at, max(now + _FIRST_NEWS_SECONDS, turn.heard_at + _NEWS_SECONDS))
        return min(turn.due_at, turn.news_at)

    def counted(self, queue: ObjectKey) -> None:
        """An exact count came in time."""
        if turn := self._turns.get(queue):
            turn.company = min(turn.company * 2, MOST_QUEUES)
            turn.slow_counts.succeeded()

    def took_too_long(self, queues: Sequence[ObjectKey], now: float, chance: float) -> None:
        """These were counted by one question, which took too long: one of them may be the culprit."""
        for queue in queues:
            if turn := self._turns.get(queue):
                turn.company = max(len(queues) // 2, 1)
                if len(queues) == 1:
                    turn.slow_counts.failed(now, chance)

    def may_count(self, queue: ObjectKey, now: float) -> bool:
        """Whether an exact count of it is worth trying."""
        turn = self._turns.get(queue)
        return turn is not None and turn.slow_counts.lets_pass(now)

    def is_suspect(self, queues: Sequence[ObjectKey]) -> bool:
        """Whether counting one of them may have taken too long before."""
        return any(self._turns[queue].company < MOST_QUEUES for queue in queues if queue in self._turns)

    def questions(self, queues: Iterable[ObjectKey]) -> Iterator[Sequence[ObjectKey]]:
        """The queues as they are counted together: those first that have never taken too long."""
        sociable = sorted(
            ((self._turns[queue].company, queue) for queue in queues if queue in self._turns), reverse=True
        )
        place = 0
        while place < len(sociable):
            # The first one tolerates the most; how many come with it is for the least sociable of them to say.
            size = 1
            while place + size < len(sociable) and size + 1 <= sociable[place + size][0]:
                size += 1
            yield [queue for _, queue in sociable[place : place + size]]
            place += size
