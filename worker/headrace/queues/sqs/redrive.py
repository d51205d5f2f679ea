"""What people do with dead letters: look at them, put them back, remove them.

A redrive sends the job anew and then deletes its letter, so that nothing is lost whatever dies when: a job whose letter
was not deleted may run twice, as any job may. Broken off, it is begun again: what was put back is dead no more.

The service has a move task of its own (``StartMessageMoveTask``), which is not used. It knows no filter, moves at most
500 a second, one queue at a time, whatever dies meanwhile included, and tells nobody how many in the end; what it moves
keeps the expiry that the job died of where the service itself had given it up. It is there for people all the same: a
letter of ours is marked as a job that starts anew, so what the console's redrive puts back has all its attempts again.
It needs a destination: letters that were sent here name no queue that they came from.
Neither is a whole queue purged by ``PurgeQueue``: that deletes letters that come within the next minute, too, which
nobody has seen.
"""

from __future__ import annotations

import asyncio
import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from headrace.queues.errors import QueueError
from headrace.queues.pace import Pace
from headrace.queues.sqs.calls import may_help_again
from headrace.queues.sqs.capabilities import MAX_MESSAGE_BYTES
from headrace.queues.sqs.letters import is_meant, packs, read, revived
from headrace.queues.sqs.place import MAX_MESSAGES
from headrace.queues.sqs.walk import Walk

if TYPE_CHECKING:
    from collections.abc import Mapping

    from headrace.queues.inspection import JobFilter, JobRecord, Purge, Redrive
    from headrace.queues.sqs.calls import Calls
    from headrace.queues.sqs.letters import Letter
    from headrace.queues.sqs.messages import Outgoing

Result = TypeVar("Result")

_MOST_IN_HAND = 80
# With a rate, so many seconds' worth: far less than what is in hand stays hidden.
_SECONDS_IN_HAND = 60

_DELETES = 3
_DELETE_AGAIN_SECONDS = 0.5


@dataclass(slots=True)
class _Moved:
    """What became of letters, by their messages' ids."""

    done: list[str] = field(default_factory=list)
    """Put back."""
    failed: list[tuple[str, QueueError]] = field(default_factory=list)
    """Dead still."""
    doubled: list[tuple[str, QueueError]] = field(default_factory=list)
    """Put back, and the letter is still there."""

    def add(self, other: _Moved) -> None:
        self.done += other.done
        self.failed += other.failed
        self.doubled += other.doubled


class LetterBox:
    """The dead-letter queue of one queue.

    Parameters
    ----------
    calls
        By which the service is called, open: of the queue that jobs go back to.
    url
        The dead-letter queue's.
    queue
        What the queue is called by people.
    """

    def __init__(self, calls: Calls, url: str, queue: str) -> None:
        self._calls = calls
        self._url = url
        self._queue = queue

    async def letters(self, which: JobFilter, limit: int) -> list[JobRecord]:
        """The first letters that are found and meant, the newest of them first."""
        found: list[Letter] = []
        sought = _Sought(which, self._calls.address.name, self._queue)
        async with Walk(self._calls, self._url) as walk:
            # Without a condition, what is seen is wanted: nothing else need be hidden.
            while len(found) < limit and not sought.is_over:
                most = _MOST_IN_HAND if sought.is_choosy else min(_MOST_IN_HAND, limit - len(found))
                if not (messages := await walk.more(most)):
                    break
                found += sought.among(messages)
        found.sort(key=lambda letter: letter.died_at, reverse=True)
        return [letter.record for letter in found[:limit]]

    async def redrive(self, change: Redrive) -> int:
        """Put letters back; returns how many.

        Raises
        ------
        QueueError
            When some were not, or their letters are still there. It says how many were.
        """
        pace, rate = Pace(change.per_second), change.per_second
        in_hand = _MOST_IN_HAND if rate is None else min(_MOST_IN_HAND, max(1, int(rate * _SECONDS_IN_HAND)))
        sought = _Sought(change.which, self._calls.address.name, self._queue)
        names: dict[str, str] = {}
        all_moved = _Moved()
        async with Walk(self._calls, self._url) as walk:
            try:
                while not sought.is_over and (messages := await walk.more(in_hand)):
                    letters = {letter.id: letter for letter in sought.among(messages)}
                    moved = await self._move_all(walk, letters, pace if rate is not None else None)
                    all_moved.add(moved)
                    for message_id, _ in (*moved.failed, *moved.doubled):
                        names[message_id] = letters[message_id].record.job.id
                    if moved.failed and not moved.done:
                        break  # Nothing goes: nothing will.
            except QueueError as error:
                raise _told(error, f"{len(all_moved.done)} jobs were put back before") from None
        _complain(all_moved, names)
        return len(all_moved.done)

    async def purge(self, change: Purge) -> int:
        """Delete letters for good; returns how many.

        Raises
        ------
        QueueError
            When some were not. It says how many were.
        """
        sought = _Sought(change.which, self._calls.address.name, self._queue)
        done = 0
        async with Walk(self._calls, self._url) as walk:
            try:
                while not sought.is_over and (messages := await walk.more(_MOST_IN_HAND)):
                    outcomes = await walk.delete([letter.id for letter in sought.among(messages)])
                    done += outcomes.count(None)
                    for outcome in outcomes:
                        if outcome is not None:
                            raise outcome
            except QueueError as error:
                raise _told(error, f"{done} dead jobs were removed before") from None
        return done

    async def _move_all(self, walk: Walk, letters: Mapping[str, Letter], pace: Pace | None) -> _Moved:
        """Some letters in hand: all at once, or as many at a time as there are turns."""
        sent = [revived(letter.message, self._queue)._replace(id=letter.id) for letter in letters.values()]
        moved = _Moved()
        if pace is None:
            tens = packs(sent, most=MAX_MESSAGES, most_bytes=MAX_MESSAGE_BYTES)
            for part in await _to_the_end(asyncio.gather(*[self._move(walk, ten) for ten in tens])):
                moved.add(part)
        else:
            while sent:
                turns = await pace.turn(min(len(sent), MAX_MESSAGES))
                for ten in packs(sent[:turns], most=MAX_MESSAGES, most_bytes=MAX_MESSAGE_BYTES):
                    moved.add(await _to_the_end(asyncio.ensure_future(self._move(walk, ten))))
                sent = sent[turns:]
        return moved

    async def _move(self, walk: Walk, pack: list[Outgoing]) -> _Moved:
        outcomes = await self._calls.ten("SendMessageBatch", [dict(one.entry) for one in pack])
        done = [one.id for one, outcome in zip(pack, outcomes, strict=True) if outcome is None]
        failed = [(one.id, outcome) for one, outcome in zip(pack, outcomes, strict=True) if outcome is not None]
        left: list[tuple[str, QueueError]] = []
        undeleted = done
        for again in range(_DELETES):
            await asyncio.sleep(again * _DELETE_AGAIN_SECONDS)
            outcomes = await walk.delete(undeleted)
            left = [(one, outcome) for one, outcome in zip(undeleted, outcomes, strict=True) if outcome is not None]
            undeleted = [one for one, _ in left]
            if not any(may_help_again(outcome) for _, outcome in left):
                break
        return _Moved(done, failed, left)


class _Sought:
    """Tells which of the letters that a walk brings are meant."""

    def __init__(self, which: JobFilter, name: str, queue: str) -> None:
        self._which = which
        self._name = name
        self._queue = queue
        self._now = datetime.now(UTC)
        self._missing = None if which.ids is None else set(which.ids)
        self.is_choosy = any(
            condition is not None for condition in (which.ids, which.name, which.reason, which.older_than_seconds)
        )

    @property
    def is_over(self) -> bool:
        """Whether nothing else can be meant."""
        return self._which.state not in {None, "dead"} or (self._missing is not None and not self._missing)

    def among(self, messages: list[dict[str, Any]]) -> list[Letter]:
        meant = []
        for message in messages:
            letter = read(message, self._queue)
            if letter.source in {"", self._name} and is_meant(letter.record, self._which, self._now):
                meant.append(letter)
                if self._missing is not None:
                    self._missing.discard(letter.record.job.id)
        return meant


def _complain(moved: _Moved, names: dict[str, str]) -> None:
    """Raise where not all went well; `names` has the jobs' ids by their messages'."""
    if moved.doubled:
        message_id, error = moved.doubled[0]
        raise _told(
            error,
            f"{len(moved.done)} jobs were put back, but the dead letters of {len(moved.doubled)} are still there, the "
            f"first of job {names[message_id]}: purge these by id, or the next redrive brings them again",
        )
    if moved.failed:
        message_id, error = moved.failed[0]
        raise _told(
            error,
            f"{len(moved.done)} jobs were put back, {len(moved.failed)} stay dead, the first is {names[message_id]}",
        )


async def _to_the_end(work: asyncio.Future[Result]) -> Result:
    """Whoever is told to stop stops when this is done: what was sent is deleted."""
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise


def _told(error: QueueError, words: str) -> QueueError:
    """The same error, with what was done before."""
    told = copy.copy(error)
    told.args = (f"{error} ({words})",)
    return told
