"""``headrace migrate``: make or upgrade the tables, a queue in them, and the rights on them, without an operator."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from headrace.cli.connection import Connection, with_connection
from headrace.cli.options import FiniteRange, QueueName, block, output_option
from headrace.cli.output import print_json
from headrace.job import MAX_DELAY_SECONDS
from headrace.queues import BACKENDS, backend_of, require_packages
from headrace.queues.base import Owner, QueueSettings
from headrace.queues.errors import UnsupportedCapabilityError

if TYPE_CHECKING:
    from headrace.queues.base import Provisioned


@click.command(
    short_help="Make or upgrade tables, queues and rights.",
    epilog=block(
        "Example",
        "headrace migrate --queue thumbnails --max-retries 5",
        "headrace migrate --grant-producer shop --grant-worker workers --grant-reader operator --create-roles",
        "headrace migrate --public-wrappers",
    ),
)
@click.option(
    "--queue",
    type=QueueName(),
    help="Also make this queue, or change its settings (to defaults, unless given). It then belongs to no JobQueue.",
)
@click.option(
    "--max-retries", type=click.IntRange(0, 999), default=3, show_default=True, help="Retries after the first attempt."
)
@click.option(
    "--visibility-timeout",
    type=FiniteRange(min=1, max=604800),
    default=1800.0,
    show_default=True,
    help="Seconds that a receiver without heartbeats holds a job.",
)
@click.option(
    "--message-retention",
    type=FiniteRange(min=1, max=MAX_DELAY_SECONDS),
    help="Seconds after which a job that never started expires. Defaults to never.",
)
@click.option(
    "--completed-retention",
    type=FiniteRange(min=0, max=MAX_DELAY_SECONDS),
    default=0.0,
    show_default=True,
    help="Seconds to keep finished jobs, so that they can be looked up.",
)
@click.option("--dead-letter/--no-dead-letter", default=True, show_default=True, help="Keep jobs that are given up.")
@click.option(
    "--dead-letter-retention",
    type=FiniteRange(min=0, min_open=True, max=3650),
    default=14.0,
    show_default=True,
    help="Days to keep them.",
)
@click.option(
    "--grant-producer", "producers", metavar="ROLE", multiple=True, help="This role may enqueue, and read no job."
)
@click.option(
    "--grant-worker", "workers", metavar="ROLE", multiple=True, help="This role may do all that a worker does."
)
@click.option("--grant-reader", "readers", metavar="ROLE", multiple=True, help="This role may count jobs.")
@click.option("--create-roles", is_flag=True, help="Make roles that do not exist, without a password.")
@click.option(
    "--public-wrappers",
    is_flag=True,
    help="Make background_jobs and recover_stuck_background_jobs in schema public, too.",
)
@output_option
@with_connection
def migrate(
    queue: str | None,
    max_retries: int,
    visibility_timeout: float,
    message_retention: float | None,
    completed_retention: float,
    dead_letter: bool,
    dead_letter_retention: float,
    producers: tuple[str, ...],
    workers: tuple[str, ...],
    readers: tuple[str, ...],
    create_roles: bool,
    public_wrappers: bool,
    connection: Connection,
    *,
    as_json: bool,
) -> None:
    """Bring a schema's tables to this version; with --queue, make that queue too; with --grant-…, grant rights.

    Safe to repeat, and while workers run. Roles are granted what they need and no more, and find the schema last in
    their search_path, so that `SELECT * FROM background_jobs` works unqualified and no table of yours is hidden.
    """
    if create_roles and not (producers or workers or readers):
        raise click.UsageError("--create-roles: name the roles, by --grant-producer, --grant-worker or --grant-reader")
    binding = connection.binding()
    backend = backend_of(binding.dsn)
    require_packages(backend)
    if backend is not BACKENDS["postgresql"]:
        raise UnsupportedCapabilityError(f"nothing to migrate: {backend.example} queues have no tables")
    from headrace.queues.postgres import (  # noqa: PLC0415 - after the check
        Grants,
        Place,
        PostgresProvisioner,
        PostgresRoles,
    )

    place = Place(dsn=binding.dsn, schema=binding.schema, ca_certificates=binding.ca_certificates)
    settings = QueueSettings(
        visibility_timeout_seconds=visibility_timeout,
        max_retries=max_retries,
        message_retention_seconds=message_retention,
        completed_retention_seconds=completed_retention,
        dead_letter_enabled=dead_letter,
        dead_letter_retention_days=dead_letter_retention,
    )
    grants = Grants(producers=producers, workers=workers, readers=readers)

    def tell(done: Provisioned) -> None:
        if not as_json:
            click.echo(f"schema {binding.schema} is at version {done.facts['schema_version']}: {done.details}")

    async def apply() -> dict[str, Any]:
        provisioner = PostgresProvisioner(place)
        if queue is None:
            done = await provisioner.migrate()
        else:
            done = await provisioner.ensure(queue, settings, Owner(namespace="", name=queue, uid=""))
        tell(done)
        report: dict[str, Any] = {
            "schema": binding.schema,
            "schema_version": done.facts["schema_version"],
            "queue": queue,
            "changed": done.changed,
            "details": done.details,
        }
        if grants:
            report["roles"] = await PostgresRoles(place).grant(grants, create=create_roles)
            if not as_json:
                for line in report["roles"]:
                    click.echo(line)
        if public_wrappers:
            made = await PostgresRoles(place).make_public_wrappers()
            report["public_wrappers"] = "made" if made else "there already"
            if not as_json:
                click.echo(f"wrappers in schema public: {report['public_wrappers']}")
        return report

    report = asyncio.run(apply())
    if as_json:
        print_json(report)
