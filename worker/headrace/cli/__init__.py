"""The command ``headrace``: one module per subcommand.

Exit status: 0 done, 1 refused or failed, 2 wrong usage or settings, 3 the backend can't be reached.
"""

from __future__ import annotations

import click

from headrace.cli.enqueue import enqueue
from headrace.cli.migrate import migrate
from headrace.cli.worker import worker


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="headrace", message="headrace %(version)s")
def main() -> None:
    """Background jobs: run workers, enqueue jobs, keep the tables."""


main.add_command(enqueue)
main.add_command(migrate)
main.add_command(worker)

__all__ = ["main"]
