"""Jobs as Python functions of an `App`."""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import inspect
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from headrace import logs
from headrace.app import App, AppError, Context, DeadLetter, Retry, Snooze
from headrace.runtime.failures import failure_of
from headrace.runtime.handlers import HandlerError, Terms
from headrace.runtime.outcome import COMPLETED, Completed, Failed, GivenUp, Outcome, Snoozed, clipped
from headrace.runtime.payloads import INVALID_PAYLOAD, InvalidPayloadError, decoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from headrace.app import Declaration
    from headrace.job import Job
    from headrace.runtime.handlers.python_processes import Processes


class PythonHandler:
    """Runs an `App`'s functions: async ones on the event loop, others in threads, or in processes where they say so.

    A thread can't be stopped. When a job in one times out, is cancelled or has to be handed back, what becomes of it is
    decided without it, but all that it holds stays held until the function has returned: its slot, its lease, and so
    its group and its keys. A process is killed.

    Parameters
    ----------
    app
        The application.
    threads
        How many functions may run in threads at a time.

    Raises
    ------
    HandlerError
        When the payload of a declared job can't be validated as annotated.
    """

    def __init__(self, app: App, *, threads: int) -> None:
        try:
            self._jobs = {name: (declared, decoder(declared)) for name, declared in app.jobs.items()}
        except AppError as error:
            raise HandlerError(str(error)) from error
        self._terms = {name: _terms(declared, decode) for name, (declared, decode) in self._jobs.items()}
        self._threads = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="headrace-job")
        self._processes: Processes | None = None

    def terms(self, name: str) -> Terms | None:
        """See `Handler`."""
        return self._terms.get(name)

    async def run(self, job: Job, context: Callable[[], Context]) -> Outcome:
        """See `Handler`."""
        declaration, decode = self._jobs[job.name]
        try:
            payload = decode(job)
        except InvalidPayloadError as error:
            return GivenUp(INVALID_PAYLOAD, clipped(str(error)))
        if declaration.in_process:
            return await self._in_process(declaration, job, payload)
        arguments = (payload, context()) if declaration.takes_context else (payload,)
        try:
            if declaration.is_async:
                await declaration.function(*arguments)
                return COMPLETED
            call = partial(contextvars.copy_context().run, _returned_by, declaration.function, *arguments)
            result = await self._in_thread(call)
            if inspect.isawaitable(result):
                await result
        except asyncio.CancelledError:
            raise
        # sys.exit() in a job, too, ends the job and not the worker.
        except BaseException as error:  # noqa: BLE001 - whatever a job does is its own failure
            return outcome_of(error)
        return COMPLETED

    async def _in_thread(self, call: Callable[[], Any]) -> Any:
        work = self._threads.submit(call)
        returned = asyncio.wrap_future(work)
        try:
            return await asyncio.shield(returned)
        except asyncio.CancelledError:
            if work.cancel():
                raise  # It has not begun.
            while not returned.done():
                # However often it is told to stop: the thread can't be.
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([returned])
            returned.exception()  # Looked at, so that asyncio does not complain: it was decided without it.
            raise

    async def _in_process(self, declaration: Declaration, job: Job, payload: Any) -> Outcome:
        from headrace.runtime.handlers.python_processes import (  # noqa: PLC0415 - only who uses them pays for them
            ProcessDiedError,
            Processes,
        )

        if self._processes is None:
            self._processes = Processes()
        try:
            outcome = await self._processes.run(_attempt, declaration.function, payload, job, declaration.takes_context)
        except ProcessDiedError as error:
            return Failed(str(error))
        except Exception as error:  # noqa: BLE001 - what can't be pickled can fail in any way
            return Failed(clipped(f"it can't be run in a process: {type(error).__name__}: {error}"))
        # There is one completion; this one is a copy.
        return COMPLETED if isinstance(outcome, Completed) else outcome

    def drain(self) -> None:
        """See `Handler`."""

    async def close(self) -> None:
        """See `Handler`."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._processes is not None:
            self._processes.close()


def outcome_of(error: BaseException) -> Outcome:
    """What an exception that a handler raised says of its job."""
    match error:
        case DeadLetter():
            return GivenUp(clipped(str(error)))
        case Snooze():
            return Snoozed(error.delay_seconds)
        case Retry():
            return Failed(clipped(str(error)), delay_seconds=error.delay_seconds, error_type="Retry")
        case _:
            return failure_of(error)


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
        hint = " (is it installed, or in the current directory, or on PYTHONPATH?)" if missing else ""
        raise HandlerError(f"app {reference}: {type(error).__name__}: {error}{hint}") from error
    if not isinstance(found, App):
        raise HandlerError(f"app {reference}: is a {type(found).__name__}, must be a headrace.App")
    return found


def _terms(declaration: Declaration, decode: Callable[[Job], Any]) -> Terms:
    key_of = declaration.idempotency_key

    def idempotency_key(job: Job) -> str | None:
        try:
            payload = decode(job)
        except InvalidPayloadError:
            return None  # It will be dead-lettered.
        assert key_of is not None
        key = key_of(payload)
        # No key for one job must not be one key for all of them.
        return None if key is None or key == "" else f"{job.name}:{key}"

    return Terms(
        retry=declaration.retry,
        timeout_seconds=declaration.timeout_seconds,
        max_concurrent=declaration.max_concurrent,
        idempotency_key=idempotency_key if key_of is not None else None,
    )


def _attempt(function: Callable[..., Any], payload: Any, job: Job, takes_context: bool) -> Outcome:
    """One attempt, within its process."""
    logs.set_job(job)
    arguments = (payload, Context(job)) if takes_context else (payload,)
    try:
        result = function(*arguments)
        if inspect.isawaitable(result):
            asyncio.run(_awaited(result))
    except BaseException as error:  # noqa: BLE001 - as above
        return outcome_of(error)
    return COMPLETED


def _returned_by(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function returns, within its thread."""
    try:
        return function(*arguments)
    except (StopIteration, GeneratorExit) as error:
        # No future takes the one, and no coroutine that waits the other: the job would never end.
        raise RuntimeError(f"the function raised {type(error).__name__}") from error


async def _awaited(result: Any) -> None:
    await result
