"""What an application declares: `App`, its jobs, and what a handler may see and say."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from headrace.queues.base import UnsupportedCapabilityError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from headrace.job import Job, NewJob

    Function = TypeVar("Function", bound=Callable[..., Any])


class DeadLetterError(Exception):
    """Raised by a handler: this job can never succeed, keep it in the dead-letter queue and don't try again."""


class AppError(ValueError):
    """A declaration that can't work; the message names the job and the fix."""


async def _complete_nothing(connection: Any) -> None:
    _complete_nothing_sync(connection)


def _complete_nothing_sync(connection: Any) -> None:
    raise UnsupportedCapabilityError(f"nothing here completes jobs on a {type(connection).__qualname__}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a handler with a second parameter gets beside the payload.

    A handler whose effects are in the queue's own database can commit them together with the job's completion, so that
    they happen exactly once, whatever dies when: it opens a transaction, does its work, and calls `complete` with the
    connection last, before it commits. Then it returns as ever.
    """

    job: Job
    enqueue: Callable[[Sequence[NewJob]], Awaitable[list[str]]]
    """Enqueue more jobs into the same queue (from async handlers)."""
    complete: Callable[[Any], Awaitable[None]] = _complete_nothing
    """Complete the job within the transaction that is open on a connection of asyncpg, psycopg or SQLAlchemy (async).

    Raises `LeaseLostError` where somebody else has the job by now: let it pass, and the transaction is rolled back."""
    complete_sync: Callable[[Any], None] = _complete_nothing_sync
    """The same, in handlers that are no coroutines, for connections of psycopg, SQLAlchemy or Django."""

    @property
    def attempt(self) -> int:
        """1 for the first run."""
        return self.job.attempt

    @property
    def headers(self) -> Mapping[str, str]:
        """The job's headers."""
        return self.job.headers


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """A declared job."""

    name: str
    function: Callable[..., Any]
    is_async: bool
    """Else it runs in a thread."""
    takes_context: bool


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

    def job(self, name: str) -> Callable[[Function], Function]:
        """Declare the function that runs jobs of this name.

        The function takes the payload (decoded, where it is JSON; else bytes) and, if it has a second parameter, a
        `Context`. An async function runs on the worker's event loop and must not block it; any other runs in a thread.
        Returning completes the job; `DeadLetterError` gives it up; any other exception retries it.

        Parameters
        ----------
        name
            The job's name. The empty name stands for jobs without an envelope.

        Raises
        ------
        AppError
            When the name is taken, or the function can't be called with a payload.
        """

        def declare(function: Function) -> Function:
            if name in self._declarations:
                other = self._declarations[name].function
                raise AppError(f"job {name!r} is declared twice, first by {other.__module__}.{other.__qualname__}")
            self._declarations[name] = Declaration(
                name=name,
                function=function,
                is_async=inspect.iscoroutinefunction(function),
                takes_context=_count_parameters(name, function) > 1,
            )
            return function

        return declare


def _count_parameters(name: str, function: Callable[..., Any]) -> int:
    parameters = inspect.signature(function).parameters.values()
    positional = [
        parameter
        for parameter in parameters
        if parameter.kind in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD}
    ]
    required = [parameter for parameter in parameters if parameter.default is parameter.empty]
    required = [parameter for parameter in required if parameter.kind is not parameter.VAR_KEYWORD]
    if not positional or len(required) > 2 or any(parameter.kind is parameter.KEYWORD_ONLY for parameter in required):
        raise AppError(f"job {name!r}: its function must take (payload) or (payload, context)")
    # A second parameter with a default is the function's own business.
    return sum(parameter.default is parameter.empty for parameter in positional)
