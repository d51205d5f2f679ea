"""The command ``headrace``: one module per subcommand, or per noun.

Exit status: 0 done, 1 refused or failed, 2 wrong usage or settings, 3 the backend can't be reached.
"""

from __future__ import annotations

from importlib import import_module

import click

from headrace.cli.options import block

# Each in a module of its own.
_COMMANDS = {
    "dlq": "dlq",
    "enqueue": "enqueue",
    "jobs": "jobs",
    "migrate": "migrate",
    "queues": "queues",
    "recover-stuck": "recover",
    "worker": "worker",
}


class _Commands(click.Group):
    """Imports a command when it is asked for: a worker that starts need not wait for all the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """See `click.Group`."""
        return sorted({*_COMMANDS, *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """See `click.Group`."""
        if cmd_name in _COMMANDS and cmd_name not in self.commands:
            module = import_module(f"headrace.cli.{_COMMANDS[cmd_name]}")
            self.add_command(getattr(module, cmd_name.replace("-", "_")))
        return super().get_command(ctx, cmd_name)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=block(
        "Which database, or which queue in SQS",
        "--dsn postgresql://…, --dsn sqs://… or --binding DIRECTORY",
        "HEADRACE_DSN          in the environment",
        "SERVICE_BINDING_ROOT  where a pod has its bindings",
    )
    + block(
        "Exit status",
        "0  done",
        "1  refused or failed: no such queue or job, missing rights, another version",
        "2  wrong usage, settings or payload; nothing was done",
        "3  the database or SQS can't be reached: try again later",
    )
    + block(
        "Example",
        "headrace migrate --queue thumbnails",
        """headrace enqueue thumbnails resize --payload '{"picture": 17}'""",
        "headrace queues list",
        "headrace dlq redrive thumbnails --reason RetriesExhausted",
    ),
)
@click.version_option(package_name="headrace", message="headrace %(version)s")
def main() -> None:
    """Background jobs: enqueue them, run them, look after them."""


__all__ = ["main"]
