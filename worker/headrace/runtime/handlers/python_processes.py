"""Functions in processes of their own: for work that keeps a CPU busy, or that may have to be killed."""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from headrace import logs

if TYPE_CHECKING:
    from collections.abc import Callable

    Result = TypeVar("Result")

_PR_SET_PDEATHSIG = 1


class ProcessDiedError(Exception):
    """The process ended before its function did: killed, out of memory, or crashed in native code."""


class _GoneError(Exception):
    """The process ended while it waited for a call: nothing was called."""


class _Lane:
    """One process, used by one call after another."""

    def __init__(self) -> None:
        # Spawned: a copy of a process with threads and an event loop is no safe place.
        told = (os.getpid(), logs.configuration())
        self._executor = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _settle_in, told)
        self._pid: int | None = None

    async def run(self, call: Callable[..., Result], *arguments: object) -> Result:
        try:
            if self._pid is None:
                self._pid = await asyncio.wrap_future(self._executor.submit(os.getpid))
            try:
                future = self._executor.submit(call, *arguments)
            except BrokenProcessPool:
                raise _GoneError from None
            return await asyncio.wrap_future(future)
        except BrokenProcessPool:
            raise ProcessDiedError(
                "the process that ran it died: it was killed, ran out of memory, or crashed in native code"
            ) from None

    def kill(self) -> None:
        """End it, with whatever it has started."""
        if self._pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)
        self.leave()

    def leave(self) -> None:
        """No call will come: it ends by itself."""
        self._executor.shutdown(wait=False, cancel_futures=True)


class Processes:
    """Runs functions in processes, each call alone in one; a process is used again until a call had to be killed.

    As many run as there are calls at a time.
    """

    def __init__(self) -> None:
        self._idle: list[_Lane] = []

    async def run(self, call: Callable[..., Result], *arguments: object) -> Result:
        """Call an importable function with what can be pickled. Cancelled, it kills the process.

        Raises
        ------
        ProcessDiedError
            When the process died.
        """
        lane = self._idle.pop() if self._idle else _Lane()
        try:
            result = await lane.run(call, *arguments)
        except _GoneError:
            lane.kill()
            return await self.run(call, *arguments)
        except (asyncio.CancelledError, ProcessDiedError):
            lane.kill()
            raise
        except BaseException:
            self._idle.append(lane)
            raise
        self._idle.append(lane)
        return result

    def close(self) -> None:
        """No call will come."""
        for lane in self._idle:
            lane.leave()
        self._idle.clear()


def _settle_in(parent: int, logging: tuple[int, logs.LogFormat] | None) -> None:
    """In the new process: a group of its own, that ends with the worker's process and not by the terminal's Ctrl-C."""
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    if logging is not None:
        logs.configure(*logging)
