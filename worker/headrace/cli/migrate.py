"""``headrace migrate``: make or upgrade the tables, and a queue in them, without an operator."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from headrace.cli.common import connection_options, environment, print_json, read_ca, with_exit_statuses
from headrace.queues import require_postgres
from headrace.queues.base import Owner, QueueSettings
from headrace.settings import connection_binding

if TYPE_CHECKING:
    from pathlib import Path

    from headrace.queues.base import Provisioned


@click.command()
@click.option("--queue", help="Also make this queue, or change its settings. It then belongs to no JobQueue.")
@click.option(
    "--max-retries", type=click.IntRange(min=0), default=3, show_default=True, help="Retries after the first attempt."
)
@click.option(
    "--visibility-timeout",
    type=click.FloatRange(min=1),
    default=1800.0,
    show_default=True,
    help="Seconds that a receiver without heartbeats holds a job.",
)
@click.option(
    "--message-retention",
    type=click.FloatRange(min=1),
    help="Seconds after which a job that never started expires. Defaults to never.",
)
@click.option("--dead-letter/--no-dead-letter", default=True, show_default=True, help="Keep jobs that are given up.")
@click.option(
    "--dead-letter-retention",
    type=click.FloatRange(min=0, min_open=True),
    default=14.0,
    show_default=True,
    help="Days to keep them.",
)
@click.option("--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@connection_options
@with_exit_statuses
def migrate(
    queue: str | None,
    max_retries: int,
    visibility_timeout: float,
    message_retention: float | None,
    dead_letter: bool,
    dead_letter_retention: float,
    output: str,
    dsn: str | None,
    schema: str | None,
    ca: Path | None,
) -> None:
    """Bring a schema's tables to this version; with --queue, make that queue too."""
    binding = connection_binding(environment({"HEADRACE_DSN": dsn, "BACKGROUND_JOBS__POSTGRES__SCHEMA": schema}))
    require_postgres()
    from headrace.queues.postgres import Place, PostgresProvisioner  # noqa: PLC0415 - after the check

    provisioner = PostgresProvisioner(
        Place(dsn=binding.dsn, schema=binding.schema, ca_certificates=read_ca(ca) or binding.ca_certificates)
    )
    settings = QueueSettings(
        visibility_timeout_seconds=visibility_timeout,
        max_retries=max_retries,
        message_retention_seconds=message_retention,
        dead_letter_enabled=dead_letter,
        dead_letter_retention_days=dead_letter_retention,
    )

    async def apply() -> Provisioned:
        if queue is None:
            return await provisioner.migrate()
        return await provisioner.ensure(queue, settings, Owner(namespace="", name=queue, uid=""))

    done = asyncio.run(apply())
    if output == "json":
        print_json(
            {
                "schema": binding.schema,
                "schema_version": done.schema_version,
                "queue": queue,
                "changed": done.changed,
                "details": done.details,
            }
        )
    else:
        click.echo(f"schema {binding.schema} is at version {done.schema_version}: {done.details}")
