"""What an application declares: `App`, its jobs, and what a handler may see and say."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from headrace.job import MAX_DELAY_SECONDS, InvalidJobError, NewJob
from headrace.queues.base import Progress
from headrace.queues.errors import UnsupportedCapabilityError
from headrace.retry import RetryPolicy, is_number

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from headrace.job import Job
    from headrace.queues.base import Enqueued

    Function = TypeVar("Function", bound=Callable[..., Any])


_MAX_PROGRESS_LENGTH = 200


class AppError(ValueError):
    """A declaration that can't work; the message names the job and the fix."""


# What a handler raises to say how its job goes on is no error of its own, and named for what it says.


class Retry(Exception):  # noqa: N818
    """Raised by a handler: the attempt failed; try again.

    Parameters
    ----------
    reason
        Why, for people to read.
    after
        Seconds until the next attempt. Defaults to what the retry policy says.
    """

    def __init__(self, reason: str = "", *, after: Seconds | None = None) -> None:
        super().__init__(reason or "the handler asked for another attempt")
        self.delay_seconds = None if after is None else _seconds("Retry(after=…)", after)


class DeadLetter(Exception):  # noqa: N818
    """Raised by a handler: this job can never succeed; keep it in the dead-letter queue and don't try again.

    Parameters
    ----------
    reason
        Why, for people to read.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or "the handler gave it up")


class Snooze(Exception):  # noqa: N818
    """Raised by a handler: nothing failed, but it is too early; run the job again later. No attempt is charged.

    Parameters
    ----------
    after
        Seconds until then.
    """

    def __init__(self, after: Seconds) -> None:
        super().__init__(after)
        self.delay_seconds = _seconds("Snooze(…)", after)


Seconds = float | timedelta


def _seconds(what: str, given: Seconds) -> float:
    seconds = given.total_seconds() if isinstance(given, timedelta) else given
    if not is_number(seconds) or not 0 <= seconds <= MAX_DELAY_SECONDS:
        raise ValueError(
            f"{what}: {given!r} must be a number of seconds, 0 or more and at most {MAX_DELAY_SECONDS}, or a timedelta"
        )
    return float(seconds)


class Run(Protocol):
    """The worker's side of a `Context`: one attempt under way."""

    @property
    def is_cancelled(self) -> bool:
        """See `Context.is_cancelled`."""
        ...

    def enqueue(self, jobs: Sequence[NewJob]) -> Awaitable[list[Enqueued]]:
        """See `Context.enqueue`."""
        ...

    def complete_in(self, connection: Any) -> Awaitable[None]:
        """See `Context.complete`."""
        ...

    def complete_in_sync(self, connection: Any) -> None:
        """See `Context.complete_sync`."""
        ...

    def extend(self, seconds: float) -> None:
        """See `Context.extend`."""
        ...

    def report(self, progress: Progress) -> None:
        """See `Context.progress`."""
        ...


class _Detached:
    """Nobody behind a context: what needs the worker is refused."""

    is_cancelled = False

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:  # noqa: ARG002
        raise _detached("enqueue")

    async def complete_in(self, connection: Any) -> None:  # noqa: ARG002
        raise _detached("complete")

    def complete_in_sync(self, connection: Any) -> None:  # noqa: ARG002
        raise _detached("complete")

    def extend(self, seconds: float) -> None:  # noqa: ARG002
        raise _detached("extend")

    def report(self, progress: Progress) -> None:  # noqa: ARG002
        raise _detached("progress")


def _detached(what: str) -> UnsupportedCapabilityError:
    return UnsupportedCapabilityError(
        f"{what}: no worker stands behind this context: the job runs in a process of its own, or in a test"
    )


class Context:
    """What a handler with a second parameter gets beside the payload.

    A handler whose effects are in the queue's own database can commit them together with the job's completion, so that
    they happen exactly once, whatever dies when: it opens a transaction, does its work, and calls `complete` with the
    connection last, before it commits. Then it returns as ever.

    Parameters
    ----------
    job
        The job.
    run
        The worker's side. Defaults to none: then what needs the worker raises `UnsupportedCapabilityError`.
    """

    __slots__ = ("_run", "job")

    def __init__(self, job: Job, run: Run | None = None) -> None:
        self.job = job
        self._run: Run = run or _Detached()

    @property
    def attempt(self) -> int:
        """1 for the first run."""
        return self.job.attempt

    @property
    def headers(self) -> Mapping[str, str]:
        """The job's headers."""
        return self.job.headers

    @property
    def is_cancelled(self) -> bool:
        """Whether the job has been stopped: it was cancelled, ran too long, its lease is lost, or the worker leaves.

        An async handler is interrupted then. One in a thread can't be: where it may run long, it asks now and then, and
        returns. Whatever it returns, its outcome has been decided.
        """
        return self._run.is_cancelled

    async def enqueue(self, jobs: Sequence[NewJob]) -> list[Enqueued]:
        """Enqueue more jobs into the same queue (from async handlers); see `Queue.enqueue`."""
        return await self._run.enqueue(jobs)

    async def complete(self, connection: Any) -> None:
        """Complete the job within the transaction that is open on a connection of asyncpg, psycopg or SQLAlchemy.

        Raises
        ------
        LeaseLostError
            When somebody else has the job by now: let it pass, and the transaction is rolled back.
        UnsupportedCapabilityError
            When the queue's backend is no database, and has no transactions.
        """
        await self._run.complete_in(connection)

    def complete_sync(self, connection: Any) -> None:
        """The same, in handlers that are no coroutines, for connections of psycopg, SQLAlchemy or Django."""
        self._run.complete_in_sync(connection)

    def extend(self, seconds: Seconds) -> None:
        """Let this attempt run so long from now, whatever its time limit was. From any thread."""
        self._run.extend(_seconds("extend(…)", seconds))

    def progress(self, fraction: float | None = None, message: str = "") -> None:
        """Let people see how far the job is, within a second or so (``headrace jobs show``). From any thread.

        Parameters
        ----------
        fraction
            0 to 1. Defaults to nothing that can be said.
        message
            Such as "page 2 of 5"; at most 200 characters are kept.
        """
        if fraction is not None and not (is_number(fraction) and 0 <= fraction <= 1):
            raise ValueError(f"progress({fraction!r}): must be from 0 to 1")
        self._run.report(Progress(fraction=fraction, message=str(message or "")[:_MAX_PROGRESS_LENGTH]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """A declared job."""

    name: str
    function: Callable[..., Any]
    is_async: bool
    takes_context: bool
    in_process: bool
    """Whether it runs in a process of its own, which can be killed; else on the event loop (async) or in a thread."""
    payload_type: Any = Any
    """What the payload is validated as; maybe still a name, as annotations can be."""
    retry: RetryPolicy | None = None
    timeout_seconds: float | None = None
    max_concurrent: int | None = None
    idempotency_key: Callable[[Any], str | None] | None = None


class App:
    """The jobs of an application.

    Examples
    --------
    >>> app = App()
    >>> @app.job("resize")
    ... async def resize(payload): ...
    """

    def __init__(self) -> None:
        self._declarations: dict[str, Declaration] = {}

    @property
    def jobs(self) -> Mapping[str, Declaration]:
        """What has been declared, by name."""
        return self._declarations

    def job(
        self,
        name: str,
        *,
        retry: RetryPolicy | None = None,
        timeout: Seconds | None = None,
        max_concurrent: int | None = None,
        process: bool | None = None,
        idempotency_key: Callable[[Any], str | None] | None = None,
    ) -> Callable[[Function], Function]:
        """Declare the function that runs jobs of this name.

        The function takes the payload and, if it has a second parameter, a `Context`. An async function runs on the
        worker's event loop and must not block it; any other runs in a thread. Returning completes the job; `DeadLetter`
        gives it up, `Retry` and any other exception retries it, `Snooze` runs it again later.

        The payload is what the first parameter is annotated as: a dataclass, a pydantic model, a msgspec Struct, or
        anything else that msgspec validates; bytes are the payload as it came. A payload that is nothing of the kind is
        dead-lettered before the function is called. Without an annotation it is decoded where it is JSON, else bytes.

        Parameters
        ----------
        name
            The job's name. The empty name stands for jobs without an envelope.
        retry
            How long a failed attempt waits, and how many there are. Defaults to the pool's policy.
        timeout
            How many seconds an attempt may run; then it is stopped and has failed. Defaults to the pool's limit. A
            function that is no coroutine runs in a process then, since a thread can't be stopped.
        max_concurrent
            How many jobs of this name one worker runs at a time. Defaults to as many as it has slots. Those beyond are
            handed back for a moment: many of them are better off in a queue, and a pool, of their own.
        process
            Whether to run in a process of its own: for work that keeps a CPU busy. Payload and function must be
            importable there; the context can't enqueue or complete. Defaults to what `timeout` needs.
        idempotency_key
            From the payload, what stands for this job's effect: of jobs with one key, one runs to its end. Where it is
            None or empty, and by default, the producer's key (header ``idempotency-key``), else the job's id.

        Raises
        ------
        AppError
            When the name is taken, the function can't be called with a payload, or a value makes no sense.
        """
        _check_name(name)
        rules = {
            "retry must be a RetryPolicy": retry is None or isinstance(retry, RetryPolicy),
            "max_concurrent must be a whole number, 1 or more": max_concurrent is None
            or (type(max_concurrent) is int and max_concurrent >= 1),
            "process must be True or False": process is None or isinstance(process, bool),
            "idempotency_key must be a function of the payload": idempotency_key is None or callable(idempotency_key),
        }
        for rule, is_kept in rules.items():
            if not is_kept:
                raise AppError(f"job {name!r}: {rule}")
        try:
            timeout_seconds = None if timeout is None else _seconds("timeout", timeout)
        except ValueError as error:
            raise AppError(f"job {name!r}: {error}") from None
        if timeout_seconds == 0:
            raise AppError(f"job {name!r}: timeout must be more than 0")

        def declare(function: Function) -> Function:
            if name in self._declarations:
                other = self._declarations[name].function
                raise AppError(f"job {name!r} is declared twice, first by {other.__module__}.{other.__qualname__}")
            is_async = inspect.iscoroutinefunction(function)
            payload_type, takes_context = _parameters(name, function)
            self._declarations[name] = Declaration(
                name=name,
                function=function,
                is_async=is_async,
                takes_context=takes_context,
                in_process=process if process is not None else timeout is not None and not is_async,
                payload_type=payload_type,
                retry=retry,
                timeout_seconds=timeout_seconds,
                max_concurrent=max_concurrent,
                idempotency_key=idempotency_key,
            )
            return function

        return declare


def _check_name(name: object) -> None:
    """Raise where no job can have this name."""
    if callable(name):
        raise AppError('App.job takes the job\'s name: write @app.job("resize")')
    try:
        NewJob(name=name)  # type: ignore[arg-type]
    except InvalidJobError as error:
        raise AppError(str(error)) from None


def _parameters(name: str, function: Callable[..., Any]) -> tuple[Any, bool]:
    """The payload's annotation, and whether the function takes a context beside it."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise AppError(f"job {name!r}: its function must take (payload) or (payload, context): {error}") from None
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise AppError(f"job {name!r}: its function yields: called, it would do nothing; return instead")
    positional = [
        parameter
        for parameter in parameters
        if parameter.kind in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD}
    ]
    required = [parameter for parameter in parameters if parameter.default is parameter.empty]
    required = [parameter for parameter in required if parameter.kind is not parameter.VAR_KEYWORD]
    if not positional or len(required) > 2 or any(parameter.kind is parameter.KEYWORD_ONLY for parameter in required):
        raise AppError(f"job {name!r}: its function must take (payload) or (payload, context)")
    annotation = positional[0].annotation
    # A second parameter with a default is the function's own business.
    takes_context = sum(parameter.default is parameter.empty for parameter in positional) > 1
    return Any if annotation is inspect.Parameter.empty else annotation, takes_context
