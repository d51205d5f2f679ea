"""What the subcommands share: the connection's options, log lines, and errors as exit statuses."""

from __future__ import annotations

import functools
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from headrace.queues.errors import QueueError, QueueUnavailableError
from headrace.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNAVAILABLE = 3


def connection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--dsn``, ``--schema`` and ``--ca``: how to reach the database."""
    dsn_help = (
        "postgresql://USER:PASSWORD@HOST:PORT/DATABASE, or sqs://HOST/ACCOUNT/NAME. Rather set HEADRACE_DSN: an option "
        "shows in the process list."
    )
    file = click.Path(exists=True, dir_okay=False, path_type=Path)
    for option in (
        click.option("--ca", type=file, help="CA certificate (PEM); the server is verified against it."),
        click.option("--schema", help="The schema that holds the queues. Defaults to headrace."),
        click.option("--dsn", help=dsn_help),
    ):
        command = option(command)
    return command


@contextmanager
def exit_statuses() -> Iterator[None]:
    """Turn known errors into one line and an exit status."""
    try:
        yield
    except SettingsError as error:
        for problem in error.problems:
            click.echo(f"headrace: {problem}", err=True)
        sys.exit(EXIT_USAGE)
    except QueueUnavailableError as error:
        click.echo(f"headrace: {error}", err=True)
        sys.exit(EXIT_UNAVAILABLE)
    except QueueError as error:
        click.echo(f"headrace: {error}", err=True)
        sys.exit(EXIT_FAILED)


def with_exit_statuses(command: Callable[..., Any]) -> Callable[..., Any]:
    """`exit_statuses`, as a decorator."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with exit_statuses():
            return command(*args, **kwargs)

    return wrapped
