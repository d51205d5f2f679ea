"""How a command reaches the queues: by option, by environment, or by a binding's directory."""

from __future__ import annotations

import asyncio
import functools
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from headrace.cli.common import connection_options, read_ca, with_exit_statuses
from headrace.queues import inspector_from_url
from headrace.settings import Binding, connection_binding, queue_binding

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from headrace.queues.base import Inspector

Answer = TypeVar("Answer")

_DSN = "HEADRACE_DSN"
_OTHER_DSN = "BACKGROUND_JOBS__POSTGRES__CONNECTIONSTRING"
_SCHEMA = "BACKGROUND_JOBS__POSTGRES__SCHEMA"


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
        environ = dict(os.environ)
        files: dict[str, str] = {}
        if self.directory is not None:
            for name in (_DSN, _OTHER_DSN, _SCHEMA):
                environ.pop(name, None)
            if (self.directory / "uri").is_file():
                files = _read(self.directory)
                environ |= {_DSN: files["uri"], _SCHEMA: files.get("schema", "")}
            else:
                environ["SERVICE_BINDING_ROOT"] = str(self.directory)
        if self.dsn is not None:
            environ[_DSN] = self.dsn
        if self.schema is not None:
            environ[_SCHEMA] = self.schema
        found = queue_binding(environ, queue=queue) if queue else connection_binding(environ)
        ca_certificates = read_ca(self.ca) or files.get("ca.crt") or found.ca_certificates
        return replace(found, ca_certificates=ca_certificates)

    def ask(self, question: Callable[[Inspector], Awaitable[Answer]], *, queue: str | None = None) -> Answer:
        """What an inspector answers."""
        binding = self.binding(queue)

        async def answer() -> Answer:
            inspector = inspector_from_url(binding.dsn, schema=binding.schema, ca_certificates=binding.ca_certificates)
            async with inspector:
                return await question(inspector)

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


def _read(directory: Path) -> dict[str, str]:
    """A binding's entries, a file each."""
    files = (directory / name for name in ("uri", "schema", "ca.crt"))
    try:
        return {file.name: file.read_text("utf-8").strip() for file in files if file.is_file()}
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"--binding {directory}: can't be read: {error}") from None
