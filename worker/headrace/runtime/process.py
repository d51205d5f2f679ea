"""One worker process: its workers and endpoints, the signals that stop it, and its end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from headrace.health import Pulse, serving

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headrace.idempotency.base import IdempotencyStore
    from headrace.metrics import Metrics
    from headrace.runtime.worker import Worker

log = logging.getLogger(__name__)

EXIT_FAILED = 1

# A pod's grace is its drain timeout and 30 s; whatever hangs by then must not wait for the kill.
_STOP_SECONDS = 27.0
# Workers that share a process leave together, so that nothing runs on here which others have begun by then.
_LEAVE_SECONDS = 5.0


class Process:
    """Runs workers until it is told to stop by a signal (SIGTERM or SIGINT).

    SIGUSR1 beforehand lets them take nothing more: they finish what runs, and are stopped at once when they have.

    Parameters
    ----------
    metrics
        What to publish.
    metrics_host, metrics_port
        Where; port 0 is any free one.
    stuck_after_seconds
        How long the event loop may stand before the process counts as stuck.
    drain_timeout_seconds
        How long workers let their jobs run once they are told to stop.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        metrics_host: str,
        metrics_port: int,
        stuck_after_seconds: float,
        drain_timeout_seconds: float,
    ) -> None:
        self._metrics = metrics
        self._metrics_host = metrics_host
        self._metrics_port = metrics_port
        self._stuck_after_seconds = stuck_after_seconds
        self._workers: Sequence[Worker] = ()
        self._at_work = 0
        self._all_drained = asyncio.Event()
        self._watchdog = threading.Timer(drain_timeout_seconds + _STOP_SECONDS, leave, [EXIT_FAILED])
        self._watchdog.daemon = True

    async def run(self, workers: Sequence[Worker], stores: Sequence[IdempotencyStore]) -> None:
        """Work until stopped. Raises only what is a fault of the worker's own, and what its endpoints need.

        Parameters
        ----------
        workers
            Made with `leaving` as what they await before they abandon jobs.
        stores
            What they use; opened and closed here.

        Raises
        ------
        IdempotencyConfigurationError
            When a store answers that will not do.
        HealthServerError
            When the address can't be served.
        """
        self._workers = workers
        self._at_work = len(workers)
        pulse = Pulse(stuck_after_seconds=self._stuck_after_seconds, on_stall=self._metrics.event_loop_stalled)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGUSR1, self._take_no_more)
        with serving(
            self._metrics_host,
            self._metrics_port,
            is_stuck=lambda: pulse.is_stuck,
            is_ready=lambda: all(worker.is_ready for worker in workers),
            metrics=self._metrics.render,
            depths=self._metrics.render_depths,
        ) as port:
            log.info("serving metrics port=%d", port)
            beating = asyncio.create_task(pulse.run())
            try:
                async with AsyncExitStack() as stack:
                    for store in stores:
                        await stack.enter_async_context(store)
                    async with asyncio.TaskGroup() as group:
                        for worker in workers:
                            group.create_task(self._run(worker))
                if deaf := sum(worker.running for worker in workers):
                    # Others may run them by now, and the event loop would wait for them without end.
                    log.warning("leaving %d jobs behind that are deaf to being stopped", deaf)
                    leave(0)
            finally:
                beating.cancel()
                self._watchdog.cancel()

    async def leaving(self) -> None:
        """Wait until every worker has drained, or is about to abandon what does not stop."""
        self._drained()
        try:
            async with asyncio.timeout(_LEAVE_SECONDS):
                await self._all_drained.wait()
        except TimeoutError:
            pass

    async def _run(self, worker: Worker) -> None:
        await worker.run()
        if not worker.running:
            self._drained()

    def _drained(self) -> None:
        self._at_work -= 1
        if self._at_work <= 0:
            self._all_drained.set()

    def _take_no_more(self) -> None:
        for worker in self._workers:
            worker.take_no_more()

    def _stop(self) -> None:
        for worker in self._workers:
            worker.stop()
        if self._watchdog.ident is None:
            self._watchdog.start()


def leave(status: int) -> None:
    """End the process whatever still runs in it."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(status)
