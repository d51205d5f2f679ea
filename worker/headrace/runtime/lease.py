"""Keeping the worker's lease: one heartbeat for all that it holds.

When the backend can't be reached the lease runs out there, and others take the jobs. So a worker that could not report
stops its jobs by itself, shortly before: nobody ever runs a job that somebody else may be running.

Heartbeats don't depend on what handlers do to the event loop: while it stands, a thread sends them, see `Aside`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Protocol

from headrace.queues.answer_limit import AnswerLimit
from headrace.queues.base import HEARTBEAT_SECONDS, KeepsAliveAside
from headrace.queues.clock import lease_clock as now
from headrace.queues.errors import QueueError, SchemaVersionError

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from headrace.queues.base import DeliveryKey, Queue

log = logging.getLogger(__name__)

_FIRST_RETRY_SECONDS = 0.05
_LAST_RETRY_SECONDS = 1.0

TRUSTED_SHARE = 0.9
"""Of a lease, how much its holder may rely on: stopping jobs takes a moment, and two clocks never agree entirely."""


class Holder(Protocol):
    """Who holds jobs under the lease."""

    def lease_extended(self) -> None:
        """The lease is held, for another while."""
        ...

    def jobs_lost(self, keys: AbstractSet[DeliveryKey]) -> None:
        """These belong to others."""
        ...

    def jobs_cancelled(self, keys: AbstractSet[DeliveryKey]) -> None:
        """Somebody has cancelled these."""
        ...

    def lease_out_of_reach(self) -> None:
        """The lease can't be relied on any more, but may still be there: stop, and hand back."""
        ...


class LeaseKeeper:
    """Extends the lease, and says what is lost.

    Parameters
    ----------
    queue
        Whose lease.
    holder
        Is told.
    heartbeat_seconds
        How often. Defaults to `HEARTBEAT_SECONDS`.
    """

    def __init__(
        self,
        queue: Queue,
        holder: Holder,
        *,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        self._queue = queue
        self._holder = holder
        self._heartbeat_seconds = heartbeat_seconds
        self._trust_seconds = queue.lease_seconds * TRUSTED_SHARE
        self._trusted_until = 0.0
        self._answers: bool | None = None
        self._is_outgrown = False
        self.is_held = False
        """Whether the lease can be relied on, as of the last heartbeat."""

    @property
    def backend_answers(self) -> bool:
        """Whether the last heartbeat got through."""
        return self._answers is True

    @property
    def is_trusted(self) -> bool:
        """Whether the lease can be relied on at this moment, though the process may have been paused just now."""
        return self.is_held and now() < self._trusted_until

    def extended_since(self, started: float) -> None:
        """A heartbeat that was begun at this moment has got through. From any thread."""
        # Counted from before the call: the backend's clock started in between.
        self._trusted_until = max(self._trusted_until, started + self._trust_seconds)

    async def run(self) -> None:
        """Keep the lease, until cancelled."""
        retry_seconds = 0.0
        while True:
            # Not the loop's clock, which stands still between two of its turns.
            started = now()
            patience = self._heartbeat_seconds
            if self.is_held:
                patience = min(patience, max(0.0, self._trusted_until - started))
            try:
                # A handler may have blocked the loop meanwhile: an answer that is there is one.
                async with AnswerLimit(patience):
                    kept = await self._queue.keep_alive()
            except SchemaVersionError as error:
                self.outgrown(error)
                pause = self._heartbeat_seconds
            except (QueueError, TimeoutError) as error:
                self._unanswered(str(error) or "no answer in time")
                # At first at once: a session that ended is no backend that is away.
                retry_seconds = min(max(2 * retry_seconds, _FIRST_RETRY_SECONDS), _LAST_RETRY_SECONDS)
                pause = min(retry_seconds, self._heartbeat_seconds)
            else:
                self._answered(started)
                # First what is lost: nothing is to be said of that.
                if kept.lost:
                    log.warning("jobs lost to others queue=%s count=%d", self._queue.name, len(kept.lost))
                    self._holder.jobs_lost(kept.lost)
                if kept.cancelled:
                    self._holder.jobs_cancelled(kept.cancelled)
                pause = self._heartbeat_seconds
                retry_seconds = 0.0
            if self.is_held:
                pause = min(pause, self._trusted_until - now())
            await asyncio.sleep(max(0.0, pause))

    def outgrown(self, error: SchemaVersionError) -> None:
        """The backend has changed beyond this worker: it works no more until it is replaced, or the change undone."""
        if not self._is_outgrown:
            log.error("handing everything back and waiting queue=%s: %s", self._queue.name, error)
        self._is_outgrown = True
        self._answers = False
        if self.is_held:
            self.is_held = False
            self._holder.lease_out_of_reach()

    def _answered(self, started: float) -> None:
        if not self._answers:
            log.info("lease held queue=%s", self._queue.name)
        self._answers = True
        self._is_outgrown = False
        self.extended_since(started)
        self.is_held = True
        self._holder.lease_extended()

    def _unanswered(self, error: str) -> None:
        if self._answers is not False:
            log.warning("heartbeat unanswered queue=%s: %s", self._queue.name, error)
        self._answers = False
        if self.is_held and now() >= self._trusted_until:
            log.warning("lease out of reach queue=%s: stopping its jobs before others take them", self._queue.name)
            self.is_held = False
            self._holder.lease_out_of_reach()


class Aside:
    """Sends heartbeats from a thread while the event loop stands, and only then.

    A handler that blocks the loop would else lose the lease, and with it all jobs of its worker, itself included: they
    would run twice. A loop that stands for too long is given up: its process wants a restart.

    Parameters
    ----------
    queue
        Whose lease.
    keeper
        Is told of heartbeats that got through.
    heartbeat_seconds
        How often.
    stuck_after_seconds
        After so long the loop is given up.
    """

    def __init__(
        self, queue: KeepsAliveAside, keeper: LeaseKeeper, *, heartbeat_seconds: float, stuck_after_seconds: float
    ) -> None:
        self._queue = queue
        self._keeper = keeper
        self._heartbeat_seconds = heartbeat_seconds
        self._stuck_after_seconds = stuck_after_seconds
        self._last_turn = now()
        self._complained = False

    async def run(self) -> None:
        """Watch over the loop that this runs on, until cancelled."""
        ended = threading.Event()
        thread = threading.Thread(target=self._watch, args=(ended,), name="headrace-heartbeat", daemon=True)
        thread.start()
        try:
            while True:
                self._last_turn = now()
                self._complained = False
                await asyncio.sleep(self._heartbeat_seconds / 5)
        finally:
            ended.set()

    def _watch(self, ended: threading.Event) -> None:
        interval_seconds = self._heartbeat_seconds / 5
        looked_at = now()
        while not ended.wait(interval_seconds):
            stood_seconds = now() - self._last_turn
            stood_too = now() - looked_at > 2 * interval_seconds
            looked_at = now()
            # The loop's own heartbeat may be as old as they get when it stops. Where this thread stood as well, the
            # loop may be about to turn.
            if stood_too or stood_seconds < 3 * interval_seconds or not self._keeper.is_held:
                continue
            if stood_seconds < self._stuck_after_seconds:
                self._beat()
                ended.wait(self._heartbeat_seconds - interval_seconds)
                looked_at = now()

    def _beat(self) -> None:
        started = now()
        try:
            asyncio.run(asyncio.wait_for(self._queue.keep_alive_aside(), self._heartbeat_seconds))
        except (QueueError, TimeoutError) as error:
            if not self._complained:
                log.warning("no heartbeat from beside a blocked event loop: %s", str(error) or "no answer")
            self._complained = True
        except Exception:  # The thread goes on: the next heartbeat may still save the lease.
            log.exception("no heartbeat from beside a blocked event loop")
        else:
            self._keeper.extended_since(started)
