"""How a command reaches the queues: by option, by environment, or by a binding's directory."""

from __future__ import annotations

import asyncio
import functools
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from headrace.cli.common import connection_options, with_exit_statuses
from headrace.queues import inspector_from_url
from headrace.queues.inspection import require
from headrace.settings import Binding, queue_binding
from headrace.settings.table import CONNECTION, POSTGRES_CA, SCHEMA

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Answer = TypeVar("Answer")
Role = TypeVar("Role")


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """What the command line says of the way; what it leaves out, the environment says."""

    dsn: str | None = field(default=None, repr=False)
    schema: str | None = None
    ca: Path | None = None
    directory: Path | None = None

    def binding(self, queue: str | None = None) -> Binding:
        """Where the database is; with a queue, the binding of that queue where there are several.

        Raises
        ------
        SettingsError
            Where nothing says how to reach the database.
        """
        if self.dsn and self.directory:
            raise click.UsageError("--dsn and --binding: give one of them")
        options = {
            CONNECTION.path: self.dsn,
            SCHEMA.path: self.schema,
            POSTGRES_CA.path: str(self.ca) if self.ca else None,
        }
        environ = {"SERVICE_BINDING_ROOT": str(self.directory)} if self.directory else os.environ
        return queue_binding(environ, options, queue=queue, needs_queue=queue is not None)

    def ask(
        self, role: type[Role], question: Callable[[Role], Awaitable[Answer]], *, queue: str | None = None
    ) -> Answer:
        """What an inspector of this role answers.

        Raises
        ------
        UnsupportedCapabilityError
            Where the backend has none; nothing was connected to.
        """
        binding = self.binding(queue)

        async def answer() -> Answer:
            inspector = inspector_from_url(binding.dsn, **binding.inspector_options)
            asked = require(inspector, role)
            async with inspector:
                return await question(asked)

        return asyncio.run(answer())


def with_connection(command: Callable[..., Any]) -> Callable[..., Any]:
    """The connection's options, passed on as a `Connection`; and errors as exit statuses."""

    @click.option(
        "--binding",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="A binding's directory (Service Binding specification). Defaults to what $SERVICE_BINDING_ROOT holds.",
    )
    @connection_options
    @functools.wraps(command)
    @with_exit_statuses
    def wrapped(
        *args: Any, dsn: str | None, schema: str | None, ca: Path | None, binding: Path | None, **kwargs: Any
    ) -> Any:
        return command(*args, connection=Connection(dsn=dsn, schema=schema, ca=ca, directory=binding), **kwargs)

    return wrapped
