"""The command ``headrace``: one module per subcommand, or per noun.

Exit status: 0 done, 1 refused or failed, 2 wrong usage or settings, 3 the backend can't be reached.
"""

from __future__ import annotations

import click

from headrace.cli.dlq import dlq
from headrace.cli.enqueue import enqueue
from headrace.cli.jobs import jobs
from headrace.cli.migrate import migrate
from headrace.cli.options import block
from headrace.cli.queues import queues
from headrace.cli.recover import recover_stuck
from headrace.cli.worker import worker


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=block(
        "Which database",
        "--dsn postgresql://… or --binding DIRECTORY",
        "HEADRACE_DSN          in the environment",
        "SERVICE_BINDING_ROOT  where a pod has its bindings",
    )
    + block(
        "Exit status",
        "0  done",
        "1  refused or failed: no such queue or job, missing rights, another version",
        "2  wrong usage, settings or payload; nothing was done",
        "3  the database can't be reached: try again later",
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


for command in (enqueue, worker, queues, jobs, dlq, recover_stuck, migrate):
    main.add_command(command)

__all__ = ["main"]
