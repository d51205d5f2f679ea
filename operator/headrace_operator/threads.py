"""The event loop's threads, in which names that can't be resolved hold up nobody else.

An event loop resolves host names in its default executor, which has few threads; with a resolver that doesn't answer,
each lookup holds one for half a minute, long after whoever asked has given up. Some tens of databases with such names
would keep all others, and the Kubernetes API, waiting for a thread.
"""

from __future__ import annotations

import socket
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_Result = TypeVar("_Result")

MOST_LOOKUPS = 256
"""So many names are looked up at a time; of a further one it is said at once that it can't be."""

MOST_FAILING_LOOKUPS = 192
"""So many of them are names that could not be resolved the last time: with more of those than there is room for, names
that can be are still looked up."""

_REMEMBERED_FAILURES = 10_000


class LoopThreads(ThreadPoolExecutor):
    """A default executor that looks each name up in a thread of its own: one at a time, for all who ask meanwhile."""

    def __init__(self) -> None:
        super().__init__(thread_name_prefix="loop")
        self._lookups: dict[object, Future[Any]] = {}
        self._failed: dict[object, None] = {}
        """What could not be resolved the last time, oldest first."""
        self._lookups_lock = threading.Lock()

    def submit(self, fn: Callable[..., _Result], /, *args: Any, **kwargs: Any) -> Future[_Result]:
        """See `concurrent.futures.Executor`."""
        # As event loops call it; what else there is to do in threads is done in those of the pool.
        if getattr(fn, "__name__", "") in ("getaddrinfo", "_getaddrinfo_debug"):
            return self._look_up(fn, args)
        return super().submit(fn, *args, **kwargs)

    def _look_up(self, look_up: Callable[..., _Result], args: tuple[Any, ...]) -> Future[_Result]:
        with self._lookups_lock:
            if args in self._lookups:
                return self._lookups[args]
            future: Future[_Result] = Future()
            future.set_running_or_notify_cancel()
            if not self._has_room_for(args):
                future.set_exception(socket.gaierror(socket.EAI_AGAIN, "too many names can't be resolved just now"))
                return future
            self._lookups[args] = future

        def run() -> None:
            try:
                found = look_up(*args)
            except BaseException as error:  # noqa: BLE001 - it is whoever asked whom it concerns
                self._ended(args, failed=True)
                future.set_exception(error)
            else:
                self._ended(args, failed=False)
                future.set_result(found)

        # A daemon: a name that is being looked up must not keep the process from ending.
        threading.Thread(target=run, name=f"look-up-{args[0]}", daemon=True).start()
        return future

    def _has_room_for(self, args: tuple[Any, ...]) -> bool:
        if len(self._lookups) >= MOST_LOOKUPS:
            return False
        return args not in self._failed or sum(each in self._failed for each in self._lookups) < MOST_FAILING_LOOKUPS

    def _ended(self, args: tuple[Any, ...], *, failed: bool) -> None:
        with self._lookups_lock:
            del self._lookups[args]
            self._failed.pop(args, None)
            if failed:
                self._failed[args] = None
                if len(self._failed) > _REMEMBERED_FAILURES:
                    del self._failed[next(iter(self._failed))]
