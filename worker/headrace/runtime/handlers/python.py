"""Jobs as Python functions of an `App`."""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import inspect
import json
import os
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from headrace.app import App, DeadLetterError
from headrace.job import JSON_CONTENT_TYPE
from headrace.runtime.handlers import HandlerError
from headrace.runtime.outcome import COMPLETED, Failed, GivenUp, Outcome, clipped

if TYPE_CHECKING:
    from collections.abc import Callable

    from headrace.app import Context
    from headrace.job import Job


class PythonHandler:
    """Runs an `App`'s functions: async ones on the event loop, others in threads.

    A thread can't be stopped. When a job in one times out or its lease is lost, its outcome is decided without it, and
    the slot stays taken until the function returns.

    Parameters
    ----------
    app
        The application.
    threads
        How many functions may run in threads at a time.
    """

    def __init__(self, app: App, *, threads: int) -> None:
        self._jobs = app.jobs
        self._threads = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="headrace-job")
        self._abandoned = 0

    @property
    def abandoned(self) -> int:
        """See `Handler`."""
        return self._abandoned

    def knows(self, name: str) -> bool:
        """See `Handler`."""
        return name in self._jobs

    async def run(self, job: Job, context: Callable[[], Context]) -> Outcome:
        """See `Handler`."""
        declaration = self._jobs[job.name]
        try:
            payload = _decode(job)
        except ValueError as error:
            return GivenUp(clipped(f"the payload is no {job.content_type}: {error}"))
        arguments = (payload, context()) if declaration.takes_context else (payload,)
        try:
            if declaration.is_async:
                await declaration.function(*arguments)
                return COMPLETED
            result = await self._in_thread(partial(contextvars.copy_context().run, declaration.function, *arguments))
            if inspect.isawaitable(result):
                await result
        except DeadLetterError as error:
            return GivenUp(clipped(str(error) or "the handler gave it up"))
        # sys.exit() in a job ends the job, not the worker.
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a job does is its own failure
            return Failed(clipped(_describe(error)), clipped("".join(traceback.format_exception(error))))
        return COMPLETED

    async def _in_thread(self, call: Callable[[], Any]) -> Any:
        future = asyncio.get_running_loop().run_in_executor(self._threads, call)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if not future.done():
                self._abandoned += 1
                future.add_done_callback(self._returned)
            raise

    def _returned(self, future: asyncio.Future[Any]) -> None:
        self._abandoned -= 1
        if not future.cancelled():
            future.exception()  # Looked at, so that asyncio does not complain: the outcome was decided without it.

    def drain(self) -> None:
        """See `Handler`."""

    async def close(self) -> None:
        """See `Handler`."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def load_app(reference: str) -> App:
    """Import the `App` that ``module:attribute`` names.

    Raises
    ------
    HandlerError
        When there is none.
    """
    module_name, _, attribute = reference.partition(":")
    # As `python -m` does: an app beside the current directory is found without being installed.
    if (here := os.getcwd()) not in sys.path:  # noqa: PTH109 - a string is what sys.path holds
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == module_name.partition(".")[0]
        hint = " (is it in the image, and its directory on PYTHONPATH?)" if missing else ""
        raise HandlerError(f"app {reference}: {type(error).__name__}: {error}{hint}") from error
    if not isinstance(found, App):
        raise HandlerError(f"app {reference}: is a {type(found).__name__}, must be a headrace.App")
    return found


def _decode(job: Job) -> Any:
    content_type = job.content_type
    if content_type == JSON_CONTENT_TYPE or content_type.partition(";")[0].strip() == JSON_CONTENT_TYPE:
        # As text: to guess the encoding would take longer than to parse most payloads.
        return json.loads(job.payload.decode())
    return job.payload


def _describe(error: BaseException) -> str:
    """The error and where it came from, without our own frames."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename != __file__ and "concurrent/futures" not in frame.filename]
    where = f" ({own[-1].filename}:{own[-1].lineno} in {own[-1].name})" if own else ""
    return f"{type(error).__name__}: {error}{where}"
