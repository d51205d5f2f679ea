"""Where the jobs of a queue in memory stand, and which comes next. No step costs more than the logarithm of them."""

from __future__ import annotations

import heapq
from collections import Counter
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet
    from datetime import datetime

    from headrace.queues.memory.entries import Entry, Standing

Key = TypeVar("Key", bound="int | datetime")


class _Heap(Generic[Key]):
    """Jobs by a key, smallest first, then oldest. What has moved on is passed over, and now and then swept out."""

    def __init__(self, is_current: Callable[[Entry, Key], bool]) -> None:
        self._is_current = is_current
        self._items: list[tuple[Key, int, int, Entry]] = []
        self._pushed = 0
        self._sweep_at = 64

    def push(self, key: Key, entry: Entry) -> None:
        self._pushed += 1
        # The count of pushes keeps entries, which have no order, from being compared.
        heapq.heappush(self._items, (key, entry.number, self._pushed, entry))
        if len(self._items) > self._sweep_at:
            self._items = [item for item in self._items if self._is_current(item[3], item[0])]
            heapq.heapify(self._items)
            self._sweep_at = max(64, 2 * len(self._items))

    def first(self) -> tuple[Key, int] | None:
        """The first one's key and number; None where nothing stands here."""
        while self._items:
            key, number, _, entry = self._items[0]
            if self._is_current(entry, key):
                return key, number
            heapq.heappop(self._items)
        return None

    def peek(self) -> Entry | None:
        """The first one, left where it stands."""
        return None if self.first() is None else self._items[0][3]

    def pop(self) -> Entry:
        """The first one; call `first` before."""
        return heapq.heappop(self._items)[3]

    def entries(self) -> list[Entry]:
        """All of them, in order."""
        items = sorted(item for item in self._items if self._is_current(item[3], item[0]))
        return list({item[1]: item[3] for item in items}.values())


class _Group:
    """The jobs of one group: the head, and who waits behind it. Who is the head stays it until it is gone."""

    def __init__(self) -> None:
        self.head: Entry | None = None
        self.behind: _Heap[int] = _Heap(lambda entry, _: entry.standing == "blocked")


class Order:
    """Where each job stands."""

    def __init__(self) -> None:
        self.counts: Counter[Standing] = Counter()
        """How many jobs stand where."""
        self.overdue: dict[int, Entry] = {}
        """Jobs that nobody holds and that were not started in time, wherever they stand."""
        self._ready: _Heap[int] = _Heap(lambda entry, _: entry.standing == "ready")
        self._aside: dict[str, _Heap[int]] = {}
        """Ready jobs that were passed over for their name's sake, so that each is passed over once only."""
        self._suspects: _Heap[int] = _Heap(lambda entry, _: entry.standing == "suspect")
        self._startable: _Heap[datetime] = _Heap(_is_startable)
        self._delayed: _Heap[datetime] = _Heap(
            lambda entry, run_at: entry.standing == "delayed" and entry.job.run_at == run_at
        )
        self._expiring: _Heap[datetime] = _Heap(_may_expire)
        self._groups: dict[str, _Group] = {}

    def put(self, entry: Entry, now: datetime) -> None:
        """A job that is new here, is held no longer, or whose time has changed: to where it belongs now."""
        if entry.is_expired(now):
            self.overdue[entry.number] = entry
        elif entry.job.expires_at is not None and entry.job.attempt == 0:
            self._expiring.push(entry.job.expires_at, entry)
        if (name := entry.job.group) is not None:
            group = self._groups.setdefault(name, _Group())
            if group.head is None:
                group.head = entry
            if group.head is not entry:
                self._move(entry, "blocked")
                group.behind.push(0, entry)
                return
        self._stand(entry, now)

    def take(self, entry: Entry) -> None:
        """Somebody holds it now."""
        self.overdue.pop(entry.number, None)
        self._move(entry, "running")

    def drop(self, entry: Entry, now: datetime) -> None:
        """It is gone: the next of its group comes forward."""
        self.overdue.pop(entry.number, None)
        self._move(entry, None)
        name = entry.job.group
        if name is None or (group := self._groups[name]).head is not entry:
            return
        if group.behind.first() is None:
            del self._groups[name]
        else:
            group.head = group.behind.pop()
            self._stand(group.head, now)

    def is_head(self, entry: Entry) -> bool:
        """Whether no other job of its group comes first."""
        return entry.job.group is None or self._groups[entry.job.group].head is entry

    def advance(self, now: datetime) -> None:
        """What has fallen due is ready, what has expired is overdue."""
        while (due := self._delayed.first()) is not None and due[0] <= now:
            self._stand(self._delayed.pop(), now)
        while (late := self._expiring.first()) is not None and late[0] <= now:
            entry = self._expiring.pop()
            self.overdue[entry.number] = entry
            if entry.standing in {"ready", "suspect"}:
                self._move(entry, "overdue")

    def choose(self, limit: int, without: AbstractSet[str]) -> list[Entry]:
        """Up to so many ready jobs, highest priority first, then oldest."""
        for name in [name for name, heap in self._aside.items() if heap.first() is None]:
            del self._aside[name]
        heaps = [self._ready, *(heap for name, heap in self._aside.items() if name not in without)]
        chosen: list[Entry] = []
        while len(chosen) < limit:
            firsts = [(first, place) for place, heap in enumerate(heaps) if (first := heap.first()) is not None]
            if not firsts:
                break
            entry = heaps[min(firsts)[1]].pop()
            if entry.job.name in without:
                self._aside.setdefault(entry.job.name, self._like_ready()).push(-entry.job.priority, entry)
            else:
                self.take(entry)
                chosen.append(entry)
        return chosen

    def choose_suspect(self, without: AbstractSet[str]) -> Entry | None:
        """The suspect that comes first."""
        chosen = self._suspects.peek()
        if chosen is not None and chosen.job.name in without:
            chosen = next((entry for entry in self._suspects.entries() if entry.job.name not in without), None)
        if chosen is not None:
            self.take(chosen)
        return chosen

    def first_startable_at(self) -> datetime | None:
        """When the oldest job that could start now fell due; None where there is none."""
        first = self._startable.first()
        return None if first is None else first[0]

    def next_due_at(self) -> datetime | None:
        """When the next delayed job falls due; None without one."""
        first = self._delayed.first()
        return None if first is None else first[0]

    @staticmethod
    def _like_ready() -> _Heap[int]:
        return _Heap(lambda entry, _: entry.standing == "ready")

    def _stand(self, entry: Entry, now: datetime) -> None:
        if entry.job.run_at > now:
            self._move(entry, "delayed")
            self._delayed.push(entry.job.run_at, entry)
        elif entry.is_expired(now):
            self._move(entry, "overdue")
        else:
            is_suspect = entry.is_suspect
            self._move(entry, "suspect" if is_suspect else "ready")
            (self._suspects if is_suspect else self._ready).push(-entry.job.priority, entry)
            self._startable.push(entry.job.run_at, entry)

    def _move(self, entry: Entry, to: Standing | None) -> None:
        if entry.standing is not None:
            self.counts[entry.standing] -= 1
        entry.standing = to
        if to is not None:
            self.counts[to] += 1


def _is_startable(entry: Entry, since: datetime) -> bool:
    return entry.standing in {"ready", "suspect"} and entry.job.run_at == since


def _may_expire(entry: Entry, at: datetime) -> bool:
    return entry.standing not in {None, "running"} and entry.job.attempt == 0 and entry.job.expires_at == at
