"""Slots that the queues of one process share: those named first come first.

A queue that comes later takes jobs once all before it were looked at and had none, and what has been taken already
starts in the same order. So of two queues with jobs that could start, the first gets every slot that becomes free. No
job is stopped for another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

PATIENCE_SECONDS = 5.0
"""For so long others wait for what a queue says that comes before them; it may be out of reach."""


def _nothing() -> None:
    """There is nobody yet."""


class Share:
    """One queue's part in shared slots: as much as those before it leave.

    Whoever runs its jobs sets `running`, `fill` and `look_again`.
    """

    def __init__(self, slots: SharedSlots, before: tuple[Share, ...], count: int) -> None:
        self.count = count
        """How many of its jobs run at a time."""
        self._slots = slots
        self._before = before
        self.running: Callable[[], int] = lambda: 0
        """How many of its jobs run."""
        self.fill = _nothing
        """Starts what it has taken, as far as slots are free."""
        self.look_again = _nothing
        """Looks whether it may take more jobs, or fewer."""
        self.may_have_more = False
        """Whether its queue may hold jobs that could start now."""
        self._patience: asyncio.TimerHandle | None = None

    @property
    def free(self) -> int:
        """How many more of its jobs may run."""
        return min(self.count - self.running(), self._slots.free)

    @property
    def may_take(self) -> bool:
        """Whether none that comes before it may have jobs for the slots that are free."""
        return not any(share.may_have_more and not share.leaves_slots for share in self._before)

    @property
    def leaves_slots(self) -> bool:
        """Whether slots are free that it may not take, since as many of its jobs run as ever may."""
        return self.running() >= self.count and self._slots.free > 0

    @property
    def keeps_others_waiting(self) -> bool:
        """Whether others take no jobs before it is known that there are none here."""
        return self.may_have_more and self._slots.last is not self

    def expect(self) -> None:
        """There may be jobs: others wait until its queue was looked at."""
        self._note(more=True)

    def found(self, jobs: int) -> None:
        """Its queue was looked at, and gave so many jobs. After some there may be more."""
        self._note(more=jobs > 0)

    def began(self) -> None:
        """Jobs of its queue have begun: from slots that it leaves, others may take."""
        if self.leaves_slots:
            self._slots.look_again(besides=self)

    def can_not_take(self) -> None:
        """Whatever its queue holds: it takes none for now."""
        self._note(more=False)

    def freed(self) -> None:
        """Slots have become free: whoever comes first starts what waits for one."""
        self._slots.fill()

    def _note(self, *, more: bool) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        if more and self._slots.last is not self:
            self._patience = asyncio.get_running_loop().call_later(PATIENCE_SECONDS, self._lose_patience)
        if more is not self.may_have_more:
            self.may_have_more = more
            self._slots.look_again(besides=self)

    def _lose_patience(self) -> None:
        # While no slot is free, nobody looks.
        self._note(more=self._slots.free <= 0)


class SharedSlots:
    """So many slots, for all queues of a process together."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._shares: list[Share] = []

    @property
    def free(self) -> int:
        """How many are free."""
        return self._count - sum(share.running() for share in self._shares)

    @property
    def last(self) -> Share:
        """Who comes last."""
        return self._shares[-1]

    def share(self, at_most: int | None = None) -> Share:
        """The part of one queue more, which comes after all others, and has so many of them at the most."""
        count = self._count if at_most is None else min(at_most, self._count)
        made = Share(self, tuple(self._shares), count)
        self._shares.append(made)
        return made

    def fill(self) -> None:
        """Start what waits for a slot, in the queues' order; and let all look whether there is room for more."""
        for share in self._shares:
            share.fill()
        for share in self._shares:
            share.look_again()

    def look_again(self, *, besides: Share) -> None:
        """Others may take more, or fewer."""
        for share in self._shares:
            if share is not besides:
                share.look_again()
