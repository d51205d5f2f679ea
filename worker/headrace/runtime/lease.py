"""Keeping the worker's lease: one heartbeat for all that it holds.

When the backend can't be reached the lease runs out there, and others take the jobs. So a worker that could not report
stops its jobs by itself, shortly before: nobody ever runs a job that somebody else may be running.
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import TYPE_CHECKING

from headrace.queues.base import HEARTBEAT_SECONDS, LEASE_SECONDS, LeaseLostError, QueueError

if TYPE_CHECKING:
    from collections.abc import Callable

    from headrace.queues.base import Queue

log = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0

TRUSTED_SHARE = 0.9
"""Of a lease, how much its holder may rely on: stopping jobs takes a moment, and two clocks never agree entirely."""


class LeaseKeeper:
    """Extends the lease, and says when it is lost.

    Parameters
    ----------
    queue
        Whose lease.
    on_lost
        Called when the lease is gone: what was held belongs to others.
    on_out_of_reach
        Called when the lease can't be relied on any more, but may still be there: stop, and hand back.
    on_cancelled
        Called with the ids of held jobs that somebody has cancelled.
    on_extended
        Called each time the lease has been extended.
    heartbeat_seconds
        How often. Defaults to `HEARTBEAT_SECONDS`.
    lease_seconds
        How long the lease lasts. Defaults to `LEASE_SECONDS`.
    """

    def __init__(
        self,
        queue: Queue,
        *,
        on_lost: Callable[[], None],
        on_out_of_reach: Callable[[], None],
        on_cancelled: Callable[[frozenset[str]], None],
        on_extended: Callable[[], None],
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self._queue = queue
        self._on_lost = on_lost
        self._on_out_of_reach = on_out_of_reach
        self._on_cancelled = on_cancelled
        self._on_extended = on_extended
        self._heartbeat_seconds = heartbeat_seconds
        self._trust_seconds = lease_seconds * TRUSTED_SHARE
        self._trusted_until = 0.0
        self._answers: bool | None = None
        self.held = asyncio.Event()
        """Set while the lease can be relied on."""

    @property
    def backend_answers(self) -> bool:
        """Whether the last heartbeat got through."""
        return self._answers is True

    @property
    def is_trusted(self) -> bool:
        """Whether the lease can be relied on at this moment, though the process may have been paused just now."""
        return self.held.is_set() and monotonic() < self._trusted_until

    async def run(self) -> None:
        """Keep the lease, until cancelled."""
        while True:
            # Not the loop's clock, which stands still between two of its turns.
            started = monotonic()
            patience = self._heartbeat_seconds
            if self.held.is_set():
                patience = min(patience, max(0.0, self._trusted_until - started))
            try:
                async with asyncio.timeout(patience):
                    cancelled = await self._queue.keep_alive()
            except LeaseLostError as error:
                log.warning("lease lost queue=%s: %s", self._queue.name, error)
                self.held.clear()
                self._on_lost()
                continue
            except (QueueError, TimeoutError) as error:
                self._unanswered(str(error) or "no answer in time", monotonic())
                pause = min(_RETRY_SECONDS, self._heartbeat_seconds)
            else:
                if not self._answers:
                    log.info("lease held queue=%s", self._queue.name)
                self._answers = True
                self._on_extended()
                # Counted from before the call: the backend's clock started in between.
                self._trusted_until = started + self._trust_seconds
                self.held.set()
                pause = self._heartbeat_seconds
                if cancelled:
                    self._on_cancelled(cancelled)
            if self.held.is_set():
                pause = min(pause, self._trusted_until - monotonic())
            await asyncio.sleep(max(0.0, pause))

    def _unanswered(self, error: str, now: float) -> None:
        if self._answers is not False:
            log.warning("heartbeat unanswered queue=%s: %s", self._queue.name, error)
        self._answers = False
        if self.held.is_set() and now >= self._trusted_until:
            log.warning("lease out of reach queue=%s: stopping its jobs before others take them", self._queue.name)
            self.held.clear()
            self._on_out_of_reach()
